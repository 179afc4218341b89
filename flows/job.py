"""The main job, in the order of the data: catalogue → pictures → features → similarity → CM3 → registry → report.

`run` only wires. Each stage is called through `call`, so that the same body runs in-process (`plain`) or as Prefect
tasks (`flows.ingest_and_train`).
"""

import logging
import time
from collections.abc import Iterable, Mapping

from flows import catalogues, clusters, train
from flows.exclusive import alone
from flows.recorder import Call, Recorder, plain
from flows.summary import last
from pipeline import log_fields, report, similarity
from pipeline.captions import load as caption_load
from pipeline.captions import stage as captions
from pipeline.cluster import Cluster
from pipeline.encoders import load
from pipeline.features import imported as vectors
from pipeline.features import stage as features
from pipeline.images import stage as images
from pipeline.ingest import stage as ingest
from pipeline.registry import promotion
from pipeline.registry import stage as registry
from pipeline.store import Store, digest
from schemas.errors import UserError
from schemas.lineage import TableVersion, canonical_json
from schemas.registry import Registered
from schemas.report import ReportConfig
from schemas.run import RunParameters, RunSummary, StageRecord

logger = logging.getLogger(__name__)


def run(*, parameters: RunParameters, call: Call = plain) -> RunSummary:
    """Bring one catalogue from raw files to a registered version and its report.

    Raises:
        UserError: anything the user can mend; what was published before stays readable, finished work is kept.
    """
    store = Store(parameters.store)
    registry.check(store, parameters.registry)
    record = Recorder(store, call)
    dataset = catalogues.dataset(parameters)
    with (
        log_fields.about(run=record.started, dataset=dataset),
        alone(store, dataset),
        catalogues.opened(parameters, store) as catalogue,
    ):
        tables, extracted = refresh(store, catalogue, parameters, record)
        tables |= trained(store, tables, extracted, parameters, record)
        return conclude(store, tables, parameters, record)


def refresh(
    store: Store, catalogue: catalogues.Opened, parameters: RunParameters, record: "Recorder"
) -> tuple[dict[str, TableVersion], dict[str, TableVersion]]:
    """Every table that follows from the catalogue and the models alone, up to the similarity graph.

    Returns:
        All tables by name; and of them the features, by the feature's name.
    """
    record.call("models", check_models, parameters=parameters)
    raw = record(
        "ingest", ingest.run, store=store, dataset=catalogue.source.dataset, source=catalogue.source,
        config=parameters.ingest,
    )  # fmt: skip
    tables = {"items": raw.items, "interactions": raw.interactions, "quality": raw.quality}
    with clusters.opened(parameters.cluster) as cluster:
        fetched = record(
            "images", images.fetch, store=store, items=raw.items, config=catalogue.images, cluster=cluster
        )  # fmt: skip
        tables |= fetched.tables
        extracted = extract_features(store, tables, parameters, record, cluster)
        tables["similarity"] = record(
            "similarity", similarity.run, store=store, features=extracted, config=parameters.similarity,
            interactions=tables["interactions"], cluster=cluster,
        )  # fmt: skip
    return tables, extracted


def trained(
    store: Store,
    tables: dict[str, TableVersion],
    extracted: dict[str, TableVersion],
    parameters: RunParameters,
    record: "Recorder",
) -> dict[str, TableVersion]:
    """What CM3 makes of them: embeddings, recommendations, metrics, epochs."""
    made: dict[str, TableVersion] = record(
        "train", train.run, store=store, interactions=tables["interactions"], features=extracted,
        similarity=tables["similarity"], config=parameters.trainer,
    )  # fmt: skip
    return made


def check_models(parameters: RunParameters) -> None:
    """Make sure that every model, and every file of imported vectors, is there and whole before the first item; fetches
    or unpacks models that are not here yet.

    Raises:
        UserError: a model or file is missing, damaged or not reachable.
    """
    for name in parameters.features:
        load.fingerprint(parameters.encoder(name))
    if "caption" in parameters.features:
        caption_load.fingerprint(parameters.caption_spec())
    for config in parameters.imported.values():
        vectors.read(config)


def extract_features(
    store: Store,
    tables: dict[str, TableVersion],
    parameters: RunParameters,
    record: "Recorder",
    cluster: Cluster | None = None,
) -> dict[str, TableVersion]:
    """Every feature asked for or imported, by name; adds them, and the captions they need, to `tables`."""
    extracted = {}
    for name in parameters.features:
        spec = parameters.encoder(name)
        if name == "caption":
            captioned = record(
                "captions", captions.caption, store=store, images=tables["images"], spec=parameters.caption_spec(),
                cluster=cluster,
            )  # fmt: skip
            tables["captions"] = captioned.version
        source = tables["captions" if name == "caption" else "items" if spec.modality == "text" else "images"]
        result = record(
            f"features/{name}", features.extract, store=store, source=source, name=name, spec=spec,
            gallery=tables.get("gallery") if source.table == "images" else None, cluster=cluster,
        )  # fmt: skip
        extracted[name] = tables[f"features/{name}"] = result.version
    for name, config in parameters.imported.items():
        extracted[name] = tables[f"features/{name}"] = record(
            f"features/{name}", vectors.run, store=store, items=tables["items"], name=name, config=config
        )
    return extracted


def conclude(
    store: Store, tables: dict[str, TableVersion], parameters: RunParameters, record: "Recorder"
) -> RunSummary:
    """Report, register and leave the record of the run."""
    dataset = tables["items"].dataset
    address = report_address(tables, parameters.report)
    if not store.fs.exists(f"{store.root}/{address}"):
        page = record(
            "report", report.run, store=store, tables=tables, output=store.scratch("report") / f"{dataset}.html",
            config=parameters.report, previous=previous_tables(store, dataset),
        )  # fmt: skip
        store.put(address, page.read_bytes())
    registered: Registered = record(
        "registry", registry.run, store=store, tables=tables, config=parameters.registry,
        artifacts={"report.html": f"{store.root}/{address}"},
        parameters=parameters.model_dump(mode="json", exclude={"registry", "report", "cluster"}),
    )  # fmt: skip
    metrics = store.read(tables["metrics"])
    shown = [k for k in parameters.trainer.evaluation.cutoffs if k in (10, 20)]
    summary = RunSummary(
        dataset=dataset,
        started=record.started,
        seconds=time.monotonic() - record.clock,
        stages=tuple(record.stages),
        encoded=record.encoded,
        coverage=promotion.coverage(store, tables),
        test={f"ndcg@{k}": registry.value(metrics, "cm3", "test", "ndcg", k) for k in shown},
        popularity={f"ndcg@{k}": registry.value(metrics, "popularity", "test", "ndcg", k) for k in shown},
        registered=f"{registered.number} ({registered.alias or 'no alias'})",
        report=f"{store.uri}/{address}",
    )
    for name in ("latest", record.started):
        store.put(f"{dataset}/_runs/{name}.json", summary.model_dump_json(indent=2).encode())
    return summary


def report_address(tables: Mapping[str, TableVersion], config: ReportConfig) -> str:
    """Where the report of just these tables lies in the store: a run that changed nothing finds it there."""
    content = canonical_json([config.model_dump(mode="json"), {name: v.version for name, v in tables.items()}])
    return f"{tables['items'].dataset}/_reports/{digest(content)}.html"


def previous_tables(store: Store, dataset: str) -> dict[str, TableVersion] | None:
    """The tables of the last run that trained; None where there was none, or garbage collection took one of them."""
    try:
        return recorded(store, dataset, last(store, dataset).stages)
    except UserError:
        return None


def recorded(store: Store, dataset: str, stages: Iterable[StageRecord]) -> dict[str, TableVersion]:
    """The tables that a run's record names.

    Raises:
        UserError: one of them is no longer there.
    """
    return {stage.table: store.get(dataset, stage.table, stage.version) for stage in stages}
