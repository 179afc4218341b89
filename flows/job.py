"""The main job, in the order of the data. Which tables each stage takes, and which it publishes:

    ingest      the source's files                      → items, interactions, quality
    images      items                                   → images, and gallery where items have further pictures
    captions    images                                  → captions
    features    items; images and gallery; or captions  → features/<name>
    similarity  features/*, interactions                → similarity
    train       interactions, features/*, similarity    → embeddings/*, item_weights, recommendations, metrics,
                                                          epochs
    report      all of them                             → an HTML page
    registry    all of them                             → a registered version

The functions here only wire. Each stage is called through `call`, so that the same body runs in-process (`plain`) or as
Prefect tasks (`flows.ingest_and_train`).
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flows import clusters, training
from flows.exclusive import alone
from flows.recorder import Call, Recorder, Tables, plain
from flows.summary import last
from pipeline import captions, features, images, ingest, log_fields, registry, report, similarity
from pipeline.addresses import host_and_port
from pipeline.captions import load as caption_load
from pipeline.cluster import Cluster
from pipeline.encoders import load
from pipeline.features import imported
from pipeline.ingest.sources import in_place
from pipeline.registry import client, promotion
from pipeline.store import Store, digest
from schemas.errors import UserError
from schemas.images import ImagesConfig
from schemas.lineage import TableVersion, canonical_json
from schemas.report import ReportConfig
from schemas.run import FeatureParameters, RunParameters, RunSummary, StageRecord
from schemas.sources import FileSource


def run(*, parameters: RunParameters, call: Call = plain) -> RunSummary:
    """Bring one catalogue from raw files to a registered version and its report.

    Raises:
        UserError: anything the user can mend; earlier versions stay readable, finished work is kept.
    """
    store = Store(parameters.store)
    client.ready(store, parameters.source.dataset, parameters.registry)
    record = Recorder(call)
    dataset = parameters.source.dataset
    with (
        log_fields.about(run=record.started, dataset=dataset),
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
    """Every table that follows from the catalogue and the models alone, up to the similarity graph.

    Without `interactions`, if none are left to train on, or with `items_only`, for which they are not even needed.
    """
    ingest.check(store=store, source=source, items_only=items_only)
    record.call("models", check_models, parameters=parameters)
    tables = record(
        "ingest",
        ingest.run,
        store=store,
        dataset=source.dataset,
        source=source,
        config=parameters.ingest,
        items_only=items_only,
    )
    with clusters.connection(parameters.cluster) as cluster:
        tables |= record(
            "images",
            images.run,
            store=store,
            items=tables["items"],
            config=reachable(parameters.images, source),
            cluster=cluster,
        )
        tables |= extract_features(store, tables, parameters, record, cluster)
        tables |= record(
            "similarity",
            similarity.run,
            store=store,
            features=features_of(tables),
            interactions=tables.get("interactions"),
            config=parameters.similarity,
            cluster=cluster,
        )
    return tables


def check_interactions(store: Store, tables: Tables, parameters: RunParameters) -> None:
    """Refuse to train on nothing; the features are published by then.

    Raises:
        UserError: no interaction is left; it says what was dropped by which rule.
    """
    if "interactions" in tables:
        return
    of_items = ("item_", "duplicate_item")
    rows = store.read(tables["quality"]).to_pylist()
    dropped = [r for r in rows if r["action"] == "dropped" and not r["rule"].startswith(of_items)]
    why = ", ".join(f"{r['rule']} {r['count']:,}" for r in dropped) or "the file has no rows"
    limits = {"core_k": parameters.ingest.core_k, "min_rating": parameters.ingest.min_rating}
    now = " or ".join(f"ingest.{name} (now {limit:g})" for name, limit in limits.items() if limit is not None)
    raise UserError(
        f"{tables['items'].dataset}: nothing to train on: no interaction is left ({why}). Items, features and the "
        f"similarity graph are published; no embeddings were made, and earlier versions stay as they are. Lower {now}, "
        "give more interactions, or run `extract`, which needs none."
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
        source, gallery = encoded_from(name, parameters, {**tables, **made})
        made |= record(
            f"features/{name}",
            features.run,
            store=store,
            source=source,
            gallery=gallery,
            name=name,
            spec=parameters.encoder(name),
            cluster=cluster,
        )
    for name, config in parameters.imported.items():
        made |= record(f"features/{name}", imported.run, store=store, items=tables["items"], name=name, config=config)
    return made


def encoded_from(
    feature: str, parameters: FeatureParameters, tables: Mapping[str, TableVersion]
) -> tuple[TableVersion, TableVersion | None]:
    """The table that a feature's encoder reads and, if it reads pictures, the items' further pictures, if any."""
    if feature == "caption":
        return tables["captions"], None
    if parameters.encoder(feature).modality == "text":
        return tables["items"], None
    return tables["images"], tables.get("gallery")


def train(store: Store, tables: Mapping[str, TableVersion], parameters: RunParameters, record: Recorder) -> Tables:
    """What CM3 makes of them: embeddings, recommendations, metrics, epochs."""
    return record("train", training.run, store=store, tables=training.inputs(tables), config=parameters.trainer)


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


def conclude(store: Store, tables: Tables, parameters: RunParameters, record: Recorder) -> RunSummary:
    """Report, register and write the record of the run."""
    dataset = tables["items"].dataset
    address = put_report(store, tables, parameters, record, previous_tables(store, dataset))
    registered = record.call(
        "registry",
        registry.run,
        store=store,
        tables=tables,
        config=parameters.registry,
        report=address,
        parameters=parameters.model_dump(mode="json", exclude={"registry", "report", "cluster", "store"}),
    )
    metrics = store.read(tables["metrics"])
    cutoffs = [k for k in parameters.trainer.evaluation.cutoffs if k in (10, 20)]
    summary = RunSummary(
        dataset=dataset,
        started=record.started,
        seconds=time.monotonic() - record.clock,
        stages=tuple(record.stages),
        encoded=record.encoded,
        coverage=promotion.coverage(store, tables),
        test={f"ndcg@{k}": promotion.value(metrics, "cm3", "test", "ndcg", k) for k in cutoffs},
        popularity={f"ndcg@{k}": promotion.value(metrics, "popularity", "test", "ndcg", k) for k in cutoffs},
        registered=f"{registered.number} ({registered.alias or 'no alias'})",
        report=f"{store.uri}/{address}",
    )
    for name in ("latest", record.started):
        store.put(f"{dataset}/_runs/{name}.json", summary.model_dump_json(indent=2).encode())
    return summary


def put_report(
    store: Store, tables: Tables, parameters: FeatureParameters, record: Recorder, previous: Tables | None
) -> str:
    """Render the report, unless the store already has it for these tables; returns its address.

    Args:
        previous: the tables of the run to compare with.
    """
    dataset = tables["items"].dataset
    address = report_address(tables, parameters.report)
    if not store.fs.exists(f"{store.root}/{address}"):
        page = record.call(
            "report",
            report.run,
            store=store,
            tables=tables,
            output=store.scratch("report") / f"{dataset}.html",
            config=parameters.report,
            previous=previous,
        )
        store.put(address, page.read_bytes())
    return address


def report_address(tables: Mapping[str, TableVersion], config: ReportConfig) -> str:
    """The report's address in the store. It depends only on the tables' versions and the config, so an unchanged run
    finds its report."""
    content = canonical_json([config.model_dump(mode="json"), {name: v.version for name, v in tables.items()}])
    return f"{tables['items'].dataset}/_reports/{digest(content)}.html"


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
