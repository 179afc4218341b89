"""The main job, in the order of the data. Which tables each stage takes, and which it publishes:

    ingest      the source's files                      → items, interactions, quality
    images      items, quality                          → images, and gallery where items have further pictures;
                                                          quality, with rows about pictures
    captions    images                                  → captions
    features    items; images and gallery; or captions  → features/<name>
    similarity  features/*, interactions                → similarity
    semantic    features/<name>, if asked for           → semantic_ids/<name>, semantic_codebooks/<name>
    train       interactions, features/*, similarity    → embeddings/*, item_weights, recommendations, metrics,
                                                          epochs, model
    embed       the same, and model                     → embeddings/*, item_weights, recommendations; instead of
                                                          train, where a re-extraction does not train
    report      all of them                             → an HTML page
    registry    all of them                             → a registered version

The functions here only wire. Each stage is called through `call`, so that the same body runs in-process (`plain`) or as
Prefect tasks (`flows.ingest_and_train`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flows import clusters, figures, training
from flows.exclusive import alone
from flows.recorder import Call, Recorder, Tables, plain
from flows.summary import last
from pipeline import captions, features, images, ingest, registry, report, semantic_ids, similarity
from pipeline.addresses import host_and_port
from pipeline.captions import load as caption_load
from pipeline.cluster import Cluster
from pipeline.encoders import load
from pipeline.features import imported
from pipeline.ingest.sources import in_place
from pipeline.registry import client
from pipeline.report import encoders, index
from pipeline.store import Store, digest
from schemas.contracts import Verdict
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from schemas.images import ImagesConfig
from schemas.lineage import TableVersion, canonical_json
from schemas.registry import Registered
from schemas.report import ReportConfig
from schemas.run import FeatureParameters, RunParameters, RunSummary, StageRecord
from schemas.sources import FileSource

NOT_LOGGED = {"registry", "report", "cluster", "store", "contracts", "accept"}
"""Parameters that decide nothing about a version's content: the registry does not log them."""


def run(*, parameters: RunParameters, call: Call = plain) -> RunSummary:
    """Bring one catalogue from raw files to a registered version and its report.

    Raises:
        UserError: anything the user can mend; earlier versions stay readable, finished work is kept.
        ContractError: the new tables break a contract; `latest` and the champion stay as they are.
    """
    dataset = parameters.dataset
    record = Recorder(call, parameters)
    store = record.store
    client.ready(store, dataset, parameters.registry)
    with (
        record.running(),
        alone(store, dataset),
        in_place(parameters.source, store) as source,
    ):
        tables = refresh(store, source, parameters, record)
        check_interactions(store, tables, parameters)
        tables |= train(store, tables, parameters, record)
        return conclude(store, tables, parameters, record)


def refresh(
    store: Store, source: FileSource, parameters: FeatureParameters, record: Recorder, *, items_only: bool = False
) -> Tables:
    """Every table that follows from the catalogue and the models alone, up to the similarity graph. They become the
    latest together, after the contracts of all of them were kept.

    Without `interactions`, if none are left to train on, or with `items_only`, for which they are not even needed.
    """
    ingest.check(store=store, source=source, items_only=items_only)
    record.call("models", check_models, parameters=parameters)
    tables = record(
        "ingest",
        ingest.run,
        store=store,
        dataset=parameters.dataset,
        source=source,
        config=parameters.ingest,
        items_only=items_only,
        limit=parameters.limit,
    )
    with clusters.connection(parameters.cluster) as cluster:
        tables |= record(
            "images",
            images.run,
            store=store,
            items=tables["items"],
            config=reachable(parameters.images, source),
            quality=tables["quality"],
            cluster=cluster,
        )
        tables |= extract_features(store, tables, parameters, record, cluster)
        check_content(store, tables)
        tables |= record(
            "similarity",
            similarity.run,
            store=store,
            features=features_of(tables),
            interactions=tables.get("interactions"),
            config=parameters.similarity,
            cluster=cluster,
        )
    for name in parameters.semantic_ids.features:
        tables |= record(
            f"semantic_ids/{name}",
            semantic_ids.run,
            store=store,
            feature=tables[f"features/{name}"],
            config=parameters.semantic_ids,
        )
    record.release()
    return tables


def check_content(store: Store, tables: Tables) -> None:
    """Refuse a catalogue of which not one item has a vector, before its tables become the latest.

    Raises:
        UserError: it says what the items lack.
    """
    every = features_of(tables)
    for version in every.values():
        batches = store.batches(version, ["content_hash"])
        if any(batch["content_hash"].null_count < len(batch) for batch in batches):
            return
    texts = sum(len(batch) - batch["text"].null_count for batch in store.batches(tables["items"], ["text"]))
    pictures = Counter(store.read(tables["images"], ["status"])["status"].to_pylist())
    raise UserError(
        f"{tables['items'].dataset}: none of the {tables['items'].rows:,} items has a vector of {', '.join(every)}. "
        f"{texts:,} have words; pictures: {', '.join(f'{n:,} {status}' for status, n in pictures.most_common())}. Name "
        "the columns of words and pictures in the source's mapping, or other features. Earlier versions stay latest."
    )


def check_interactions(store: Store, tables: Tables, parameters: RunParameters) -> None:
    """Refuse to train on nothing; the features are published by then.

    Raises:
        UserError: no interaction is left; it says what was dropped by which rule.
    """
    if "interactions" in tables:
        return
    of_items = ("item_", "duplicate_item", "picture_")
    rows = store.read(tables["quality"]).to_pylist()
    dropped = [r for r in rows if r["action"] == "dropped" and not r["rule"].startswith(of_items)]
    why = ", ".join(f"{r['rule']} {r['count']:,}" for r in dropped) or "the file has no rows"
    rules = " ".join(row["rule"] for row in dropped)
    limits = (
        ("core_k", "_core", parameters.ingest.core_k),
        ("min_rating", "rating_below", parameters.ingest.min_rating),
    )
    lower = [f"ingest.{name} (now {limit:g})" for name, rule, limit in limits if rule in rules and limit is not None]
    advice = f"Lower {' or '.join(lower)}, give" if lower else "Give"
    raise UserError(
        f"{tables['items'].dataset}: nothing to train on: no interaction is left ({why}). Items, features and the "
        f"similarity graph are published; no embeddings were made, and earlier versions stay as they are. {advice} "
        "more interactions, or run `extract`, which needs none."
    )


def extract_features(
    store: Store,
    tables: Mapping[str, TableVersion],
    parameters: FeatureParameters,
    record: Recorder,
    cluster: Cluster | None = None,
) -> Tables:
    """Every feature asked for or imported, and the captions that one of them needs."""
    made: Tables = {}
    for name in parameters.features:
        if name == "caption":
            made |= record(
                "captions",
                captions.run,
                store=store,
                images=tables["images"],
                spec=parameters.caption_spec(),
                cluster=cluster,
            )
        made |= record(
            f"features/{name}",
            features.run,
            store=store,
            **encoded_from(name, parameters, {**tables, **made}),
            name=name,
            spec=parameters.encoder(name),
            cluster=cluster,
        )
    for name, config in parameters.imported.items():
        made |= record(f"features/{name}", imported.run, store=store, items=tables["items"], name=name, config=config)
    return made


def encoded_from(feature: str, parameters: FeatureParameters, tables: Mapping[str, TableVersion]) -> dict[str, Any]:
    """The tables that a feature's encoder reads, as the stage `features` names them."""
    if feature == "caption":
        return {"source": tables["captions"]}
    return read_by(parameters.encoder(feature), tables)


def read_by(encoder: EncoderSpec, tables: Mapping[str, TableVersion]) -> dict[str, Any]:
    """The tables of a catalogue that an encoder reads, as the stage `features` names them."""
    match encoder.modality:
        case "text":
            return {"source": tables["items"]}
        case "image":
            return {"source": tables["images"], "gallery": tables.get("gallery")}
        case "multimodal":
            return {"source": tables["items"], "images": tables["images"], "gallery": tables.get("gallery")}


def train(store: Store, tables: Mapping[str, TableVersion], parameters: RunParameters, record: Recorder) -> Tables:
    """What CM3 makes of them: embeddings, recommendations, metrics, epochs, and its model."""
    trainer = parameters.trainer
    # A cluster's workers solve item weights, and only for a training that is one process.
    has_work = trainer.item_weights is not None and trainer.processes == 1
    with clusters.connection(parameters.cluster if has_work else "") as cluster:
        made = record(
            "train",
            training.run,
            store=store,
            tables=training.inputs(tables),
            config=trainer,
            cluster=cluster,
        )
    record.release()
    return made


def features_of(tables: Mapping[str, TableVersion]) -> Tables:
    """Feature name → its table."""
    prefix = "features/"
    return {name.removeprefix(prefix): table for name, table in tables.items() if name.startswith(prefix)}


def check_models(parameters: FeatureParameters) -> None:
    """Check every model and every file of imported vectors before any item is read. Models that are not on this
    machine yet are fetched or unpacked.

    Raises:
        UserError: a model or file is missing, damaged or not reachable.
    """
    for name in parameters.features:
        load.fingerprint(parameters.encoder(name))
    if "caption" in parameters.features:
        caption_load.fingerprint(parameters.caption_spec())
    for config in parameters.imported.values():
        imported.read(config)


def reachable(images: ImagesConfig, source: FileSource) -> ImagesConfig:
    """Allow the hosts, or the folder, that the source itself names; addresses in its rows get no such trust."""
    hosts = [host for place in (source.raw, source.image_url) if (host := host_and_port(place))]
    folder = None
    if source.raw.startswith("file://"):
        folder = unquote(urlsplit(source.raw).path)
    elif source.raw and "://" not in source.raw:
        folder = str(Path(source.raw).expanduser().absolute())
    update = {"allowed_hosts": (*images.allowed_hosts, *hosts), "file_root": images.file_root or folder}
    return images.model_copy(update=update)


def conclude(
    store: Store,
    tables: Tables,
    parameters: RunParameters,
    record: Recorder,
    logged: Mapping[str, Any] | None = None,
) -> RunSummary:
    """Report, register and write the record of the run; `latest` is that of the last run that trained.

    Args:
        logged: what the registry logs as the run's parameters; None: `parameters`.
    """
    dataset = tables["items"].dataset
    address = put_report(store, tables, parameters, record, previous_tables(store, dataset))
    registered = register(store, tables, parameters, record, address, logged)
    measured = figures.measured(store, tables)
    metrics = store.read(tables["metrics"])
    summary = RunSummary(
        **record.described(),
        **measured.model_dump(),
        popularity={name: figures.value(metrics, "popularity", "test", name) for name in measured.test},
        registered=named(registered),
        champion_kept=kept_because(registered),
        report=f"{store.uri}/{address}",
    )
    trained = any(stage.stage == "train" for stage in record.stages)
    for name in ("latest", record.started) if trained else (record.started,):
        store.put(f"{dataset}/_runs/{name}.json", summary.model_dump_json(indent=2).encode())
    return summary


def register(
    store: Store,
    tables: Tables,
    parameters: RunParameters,
    record: Recorder,
    report: str,
    logged: Mapping[str, Any] | None = None,
) -> Registered:
    """Register the tables as a version.

    Args:
        report: address of its report within the store.
        logged: as in `conclude`.
    """
    return record.call(
        "registry",
        registry.run,
        store=store,
        tables=tables,
        config=parameters.registry,
        report=report,
        parameters=parameters.model_dump(mode="json", exclude=NOT_LOGGED) if logged is None else logged,
    )


def named(version: Registered) -> str:
    """A version's number and alias, e.g. `3 (champion)`."""
    return f"{version.number} ({version.alias or 'no alias'})"


def kept_because(version: Registered) -> str:
    """Why a new version did not become the champion; empty if it did, or is none."""
    return "" if version.reused or version.alias == "champion" else version.reason


def put_report(
    store: Store, tables: Tables, parameters: FeatureParameters, record: Recorder, previous: Tables | None
) -> str:
    """Render the report, unless the store already has it for these tables and the last comparison of encoders; returns
    its address.

    Args:
        previous: the tables of the run to compare with.
    """
    dataset = tables["items"].dataset
    comparison = encoders.latest(store, dataset)
    beside = {} if comparison is None else {comparison.table: comparison}
    address = report_address({**tables, **beside}, parameters.report, record.verdicts)
    if not store.fs.exists(f"{store.root}/{address}"):
        page = record.call(
            "report",
            report.run,
            store=store,
            tables=tables,
            output=store.scratch("report") / f"{dataset}.html",
            config=parameters.report,
            previous=previous,
            verdicts=record.verdicts,
            history=index.HISTORY,
            encoder_comparison=comparison,
        )
        store.put(address, page.read_bytes())
    return address


def report_address(tables: Mapping[str, TableVersion], config: ReportConfig, verdicts: Iterable[Verdict] = ()) -> str:
    """The report's address in the store. It depends only on the tables' versions, the config and which contracts were
    broken, so an unchanged run finds its report."""
    broken = sorted({(verdict.rule, verdict.state) for verdict in verdicts if verdict.state != "kept"})
    versions = {name: version.version for name, version in tables.items()}
    content = canonical_json([report.STAGE_VERSION, config.model_dump(mode="json"), versions, broken])
    return f"{tables['items'].dataset}/{index.REPORTS}/{digest(content)}.html"


def previous_tables(store: Store, dataset: str) -> Tables | None:
    """The tables of the last run that trained; None if there was none, or garbage collection took one of them."""
    try:
        return recorded(store, dataset, last(store, dataset).stages)
    except UserError:
        return None


def recorded(store: Store, dataset: str, stages: Iterable[StageRecord]) -> Tables:
    """The tables that a run's record names.

    Raises:
        UserError: one of them no longer exists.
    """
    return {stage.table: store.get(dataset, stage.table, stage.version) for stage in stages}
