"""The main job, in the order of the data: catalogue → pictures → features → similarity → CM3 → registry → report.

`run` only wires. Each stage is called through `call`, so that the same body runs in-process (`plain`) or as Prefect
tasks (`flows.ingest_and_train`).
"""

import logging
import time
from collections.abc import Iterable, Mapping

from flows import catalogues, clusters, training
from flows.exclusive import alone
from flows.recorder import Call, Recorder, plain
from flows.summary import last
from pipeline import captions, features, images, ingest, log_fields, registry, report, similarity
from pipeline.captions import load as caption_load
from pipeline.cluster import Cluster
from pipeline.encoders import load
from pipeline.features import imported
from pipeline.registry import client, promotion
from pipeline.store import Store, digest
from schemas.errors import UserError
from schemas.lineage import TableVersion, canonical_json
from schemas.report import ReportConfig
from schemas.run import RunParameters, RunSummary, StageRecord

logger = logging.getLogger(__name__)

Tables = dict[str, TableVersion]
"""Published tables by name."""


def run(*, parameters: RunParameters, call: Call = plain) -> RunSummary:
    """Bring one catalogue from raw files to a registered version and its report.

    Raises:
        UserError: anything the user can mend; what was published before stays readable, finished work is kept.
    """
    store = Store(parameters.store)
    client.check(store, parameters.registry)
    record = Recorder(store, call)
    dataset = catalogues.dataset(parameters)
    with (
        log_fields.about(run=record.started, dataset=dataset),
        alone(store, dataset),
        catalogues.opened(parameters, store) as catalogue,
    ):
        tables = refresh(store, catalogue, parameters, record)
        tables |= train(store, tables, parameters, record)
        return conclude(store, tables, parameters, record)


def refresh(store: Store, catalogue: catalogues.Opened, parameters: RunParameters, record: Recorder) -> Tables:
    """Every table that follows from the catalogue and the models alone, up to the similarity graph."""
    record.call("models", check_models, parameters=parameters)
    source = catalogue.source
    raw = record(
        "ingest", ingest.run, store=store, dataset=source.dataset, source=source, config=parameters.ingest
    )  # fmt: skip
    tables = dict(raw.tables)
    with clusters.opened(parameters.cluster) as cluster:
        fetched = record(
            "images", images.run, store=store, items=tables["items"], config=catalogue.images, cluster=cluster
        )  # fmt: skip
        tables |= fetched.tables
        tables |= extract_features(store, tables, parameters, record, cluster)
        graph = record(
            "similarity", similarity.run, store=store, features=features_of(tables), config=parameters.similarity,
            interactions=tables["interactions"], cluster=cluster,
        )  # fmt: skip
        tables |= graph.tables
    return tables


def train(store: Store, tables: Mapping[str, TableVersion], parameters: RunParameters, record: Recorder) -> Tables:
    """What CM3 makes of them: embeddings, recommendations, metrics, epochs."""
    trained = record("train", training.run, store=store, tables=training.inputs(tables), config=parameters.trainer)
    return dict(trained.tables)


def features_of(tables: Mapping[str, TableVersion]) -> Tables:
    """Feature name → its table."""
    prefix = "features/"
    return {name.removeprefix(prefix): table for name, table in tables.items() if name.startswith(prefix)}


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
        imported.read(config)


def extract_features(
    store: Store,
    tables: Mapping[str, TableVersion],
    parameters: RunParameters,
    record: Recorder,
    cluster: Cluster | None = None,
) -> Tables:
    """Every feature asked for or imported, and the captions that one of them needs."""
    made: Tables = {}
    for name in parameters.features:
        spec = parameters.encoder(name)
        if name == "caption":
            captioned = record(
                "captions", captions.run, store=store, images=tables["images"], spec=parameters.caption_spec(),
                cluster=cluster,
            )  # fmt: skip
            made |= captioned.tables
            source, gallery = made["captions"], None
        elif spec.modality == "text":
            source, gallery = tables["items"], None
        else:
            source, gallery = tables["images"], tables.get("gallery")
        encoded = record(
            f"features/{name}", features.run, store=store, source=source, name=name, spec=spec, gallery=gallery,
            cluster=cluster,
        )  # fmt: skip
        made |= encoded.tables
    for name, config in parameters.imported.items():
        aligned = record(
            f"features/{name}", imported.run, store=store, items=tables["items"], name=name, config=config
        )  # fmt: skip
        made |= aligned.tables
    return made


def conclude(store: Store, tables: dict[str, TableVersion], parameters: RunParameters, record: Recorder) -> RunSummary:
    """Report, register and leave the record of the run."""
    dataset = tables["items"].dataset
    address = report_address(tables, parameters.report)
    if not store.fs.exists(f"{store.root}/{address}"):
        page = record.call(
            "report", report.run, store=store, tables=tables, output=store.scratch("report") / f"{dataset}.html",
            config=parameters.report, previous=previous_tables(store, dataset),
        )  # fmt: skip
        store.put(address, page.read_bytes())
    registered = record.call(
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
        test={f"ndcg@{k}": promotion.value(metrics, "cm3", "test", "ndcg", k) for k in shown},
        popularity={f"ndcg@{k}": promotion.value(metrics, "popularity", "test", "ndcg", k) for k in shown},
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


def previous_tables(store: Store, dataset: str) -> Tables | None:
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
