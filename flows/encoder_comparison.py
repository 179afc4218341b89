"""Encoders compared on a data set's own items and interactions: each extracts once, the same trainer judges all."""

import contextlib
import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from flows import summary
from flows.exclusive import alone
from flows.job import read_by
from flows.plan.rates import Rates
from flows.recorder import Tables
from flows.research import Bar, learning, publishing
from pipeline import features, similarity
from pipeline.encoders import load
from pipeline.features import speed
from pipeline.features.kept import Kept
from pipeline.machine import use_threads
from pipeline.registry.promotion import covered
from pipeline.report.encoders import verdict
from pipeline.similarity.quality import assess
from pipeline.store import Store
from pipeline.system import large_tensors_kept
from schemas.encoder_comparison import (
    ENCODER_COMPARISON,
    EncoderComparison,
    EncoderComparisonConfig,
    EncoderPair,
    EncoderRow,
)
from schemas.encoders import LOCAL, SERVED, EncoderSpec
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.similarity import SimilarityConfig
from schemas.training import TrainingTables
from trainers import compare_encoders

STAGE_VERSION = 3


def run(store: Store, dataset: str, config: EncoderComparisonConfig) -> EncoderComparison:
    """Extract, train, judge and compare; the table is published as `encoder_comparison`.

    Every content is encoded once, and kept as a run would keep it: a run with the encoder that pays encodes nothing
    again. Finished trainings stay in the store's scratch folder.

    Raises:
        UserError: the last run has no interactions or no table that an encoder reads; a name that is, or is not, a
            feature of that run; a model is missing or damaged; users were forgotten meanwhile, and nothing is
            published.
    """
    store = Store(store.uri, moves_latest=False)  # a run's tables up to the graph move together; nothing moves here
    tables = {
        stage.table: store.get(dataset, stage.table, stage.version) for stage in summary.last(store, dataset).stages
    }
    check(tables, config)
    for spec in filter(None, config.encoders.values()):
        load.fingerprint(spec)  # a missing model ends it before anything is encoded
    with alone(store, dataset):
        made = {name: extracted(store, tables, name, spec) for name, spec in config.encoders.items()}
        vectors = {name: version for name, (version, _, _) in made.items()}
        measures = _neighbours(store, vectors, tables["interactions"])
    lineage = Lineage(
        dataset=dataset,
        table="encoder_comparison",
        stage="compare-encoders",
        stage_version=STAGE_VERSION,
        config=config.trainer.model_dump(mode="json", include={"seeds", "cm3"}),
        inputs={version.table: version.version for version in (*vectors.values(), tables["interactions"])},
    )
    use_threads()
    finished = store.scratch(f"trainings/{dataset}")
    with Bar("encoders", "trainings") as bar, learning(store, tables["interactions"], finished), large_tensors_kept():
        judged, pairs = compare_encoders.run(
            tables=TrainingTables(
                interactions=tables["interactions"].path,
                features={name: version.path for name, version in vectors.items()},
            ),
            finished=finished,
            config=config.trainer,
            on_plan=bar.plan,
            on_run=lambda name, seed, value: bar.advance(1, note=f"{name}, seed {seed}: {value:.4f}"),
        )
    rows = [
        EncoderRow(
            encoder=name,
            model=f"{version.lineage['cm3.encoder']} {version.lineage['cm3.revision'][:12]}".strip(),
            coverage=covered(store, version),
            seconds=made[name][1],
            price=made[name][2],
            bytes=version.size / max(1, version.rows),
            share_a_user=measures.get((name, "share a user")),
            by_chance=measures.get((name, "share a user by chance")),
            **judged[name].model_dump(),
        )
        for name, version in vectors.items()
    ]
    with publishing(store, tables["interactions"], finished):
        published = _publish(store, lineage, rows, pairs)
        store.set_latest(published)
    return EncoderComparison(rows=tuple(rows), pairs=tuple(pairs), verdict=verdict(rows, pairs), path=published.path)


def check(tables: Mapping[str, TableVersion], config: EncoderComparisonConfig) -> None:
    """Refuse what cannot be compared, before anything is encoded.

    Raises:
        UserError: see `run`.
    """
    if "interactions" not in tables:
        raise UserError("Encoders are judged by what users chose, but the last run had no interactions left.")
    made = sorted(name.removeprefix("features/") for name in tables if name.startswith("features/"))
    for name, spec in config.encoders.items():
        if spec is None and name not in made:
            raise UserError(
                f"encoders: {name!r} is no feature of the last run, which made {', '.join(made)}. Give one of these, "
                "or a YAML file with an encoder."
            )
        if spec is not None and name in made:
            raise UserError(
                f"encoders: the last run has a feature {name!r} of its own. Rename the file, whose name stands for the "
                "encoder."
            )
        if spec is not None and spec.modality != "text" and "images" not in tables:
            raise UserError(f"encoders: {name!r} reads pictures, but the last run had none.")


def extracted(
    store: Store, tables: Tables, name: str, spec: EncoderSpec | None
) -> tuple[TableVersion, float | None, float | None]:
    """The table of an encoder's vectors, encoded unless the store has them, and the seconds and the price of one
    content, as `EncoderRow` has them."""
    if spec is None:
        version = tables[f"features/{name}"]
        return version, *_cost_of_published(store, tables, version)
    made = features.run(store=store, **read_by(spec, tables), name=name, spec=spec)
    version = made.tables[f"features/{name}"]
    store.set_latest(version)  # garbage collection finds a table by its latest version
    if not spec.is_served:
        return version, speed.seconds_per_content(store, spec, **read_by(spec, tables)), 0.0
    asked = Kept(store, load.fingerprint(spec)).asked
    if not asked.contents:  # its vectors came by a batch
        return version, None, None if spec.price_in else 0.0
    return version, asked.seconds / asked.contents, asked.tokens / asked.contents * spec.price_in / 1e6


def _cost_of_published(store: Store, tables: Tables, version: TableVersion) -> tuple[float | None, float | None]:
    """Seconds and price of one content of a published feature. Where the model is loaded here they are measured: a
    run's seconds have the loading in them."""
    kind = json.loads(version.lineage["cm3.config"]).get("kind")
    if kind is None:  # imported
        return 0.0, 0.0
    if kind in SERVED:
        rates = Rates(store, version.dataset)
        rate, basis = rates.per_second(version.table)
        of_a_run = rate if rate and basis.startswith(f"run of {version.dataset},") else None
        return 1 / of_a_run if of_a_run else None, rates.cost_per_content(version.table)
    spec = _spec(version)
    if spec is None:
        return None, 0.0
    read = {"source": tables["captions"]} if version.table == "features/caption" else read_by(spec, tables)
    return speed.seconds_per_content(store, spec, **read), 0.0


def _spec(version: TableVersion) -> EncoderSpec | None:
    """The encoder that a feature's table names; None if this machine has not the same model."""
    config, model = json.loads(version.lineage["cm3.config"]), version.lineage["cm3.encoder"]
    config.pop("pictures", None)  # how those of an item are put together
    with contextlib.suppress(UserError, ValueError):  # the second: the run had an encoder of its own
        spec = EncoderSpec(
            kind=config["kind"],
            model=model,
            revision="" if model.startswith(LOCAL) else version.lineage["cm3.revision"],
            dtype=config["dtype"],
            license=version.lineage.get("cm3.license", ""),
            accept_license=True,  # the run that published the table has
            **config["options"],
        )
        return spec if load.fingerprint(spec).config() == config else None
    return None


def _neighbours(
    store: Store, vectors: Mapping[str, TableVersion], interactions: TableVersion
) -> dict[tuple[str, str], float]:
    """(encoder, measure of `GRAPH_QUALITY`) → value, of each encoder's own nearest neighbours."""
    graph = similarity.run(store=store, features=vectors, config=SimilarityConfig()).tables["similarity"]
    rows = assess(store=store, graph=graph, features=vectors, interactions=interactions).to_pylist()
    return {(row["feature"], row["measure"]): row["value"] for row in rows if row["other"] is None}


def _publish(store: Store, lineage: Lineage, rows: Sequence[EncoderRow], pairs: Sequence[EncoderPair]) -> TableVersion:
    records = [
        row.model_dump()
        | {"pairs": [pair.model_dump(exclude={"encoder"}) for pair in pairs if pair.encoder == row.encoder]}
        for row in rows
    ]
    with store.writer(ENCODER_COMPARISON, lineage) as writer:
        writer.write(pa.Table.from_pylist(records, schema=ENCODER_COMPARISON))
    return writer.version
