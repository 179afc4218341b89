"""Train CM3 on published tables and publish what it made: tables, and the trained model."""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows import processes
from pipeline import never_shown
from pipeline.cluster import Cluster
from pipeline.machine import use_threads
from pipeline.progress import Advance, track
from pipeline.published import Published
from pipeline.store import Store, digest
from pipeline.system import large_tensors_kept
from schemas.lineage import Lineage, TableVersion
from schemas.model import DESCRIPTION, MODEL, TENSORS, EmbeddingTables, ModelTables
from schemas.training import CM3Config, TrainingTables

STAGE_VERSION = 4
OUTPUTS = {
    "embeddings/items": "items",
    "embeddings/users": "users",
    "item_weights": "item_weights",
    "recommendations": "recommendations",
    "metrics": "metrics",
    "epochs": "epochs",
}
"""Published table → the trainer's name for it."""
RECOMMENDATIONS = "recommendations"
FEATURES = "features/"
"""Prefix of the names of feature tables."""


def run(
    *, store: Store, tables: Mapping[str, TableVersion], config: CM3Config, cluster: Cluster | None = None
) -> Published:
    """Train, or return the tables of an earlier training with the same inputs and configuration.

    A killed training goes on from its last checkpoint, which lies in the store's scratch folder until all is published.

    Args:
        tables: see `inputs`.
        cluster: its workers solve the item weights.
    """
    read = {name: version.version for name, version in tables.items()}
    dataset = tables["interactions"].dataset
    hidden = sorted(never_shown.read(store, dataset))
    lineages = {
        table: Lineage(
            dataset=dataset,
            table=table,
            stage="train",
            stage_version=STAGE_VERSION,
            config=settings(config),
            inputs=read | never_shown_input(table, hidden),
            encoder="cm3",
        )
        for table in (*OUTPUTS, MODEL)
    }
    versions = {table: version for table in lineages if (version := store.find(lineages[table]))}
    if lineages.keys() - versions.keys() == {RECOMMENDATIONS}:  # another list of what is never shown
        lists = {RECOMMENDATIONS: lineages[RECOMMENDATIONS]}
        return Published(versions | apply(store, tables, versions, lists, hidden, config.device))
    if len(versions) == len(lineages):
        return Published(versions)
    from trainers import cm3  # torch: whoever only asks for `inputs` does without

    use_threads()  # rounding varies with the number of threads: use the same one whatever this process did before
    work = store.scratch(f"training/{dataset}/{digest(lineages['epochs'].key())}")
    with (
        large_tensors_kept(),
        track("training", total=config.max_epochs, unit="epochs", part="epoch", at_most=True) as advance,
    ):
        workers = None if cluster is None else cluster.map_shared
        train = partial(cm3.run, workers=workers) if config.processes == 1 else processes.run
        result = train(
            tables=paths(tables),
            output=work,
            config=config,
            never_shown=hidden,
            checkpoint=work / "checkpoint.pt",
            on_epoch=Epochs(advance),
        )
    versions = {table: publish(store, Path(result.files[name]), lineages[table]) for table, name in OUTPUTS.items()}
    files = [Path(result.trained) / name for name in (DESCRIPTION, TENSORS)]
    versions[MODEL] = store.publish_files(lineages[MODEL], files, result.parameters)
    shutil.rmtree(work)
    return Published(versions, {"epochs": result.epochs})


def settings(config: CM3Config) -> dict[str, Any]:
    """What a training's result depends on: not where it runs, which changes it by rounding, nor how often it saves."""
    return config.model_dump(mode="json", exclude={"device", "checkpoint_seconds", "processes"})


def never_shown_input(table: str, hidden: Sequence[str]) -> dict[str, str]:
    """What the list of items that are never shown adds to the inputs of a table: only the lists depend on it."""
    return {"never_shown": digest("\n".join(hidden))} if hidden and table == RECOMMENDATIONS else {}


def apply(
    store: Store,
    tables: Mapping[str, TableVersion],
    trained: Mapping[str, TableVersion],
    lineages: Mapping[str, Lineage],
    hidden: Sequence[str],
    device: str,
) -> dict[str, TableVersion]:
    """Publish the tables in `lineages` as a trained model makes them of today's.

    Args:
        tables: today's, see `inputs`.
        trained: the model, and the embeddings and item weights of its training.
        hidden: ids of items that stand in no list.
    """
    from trainers import cm3  # as in `run`

    use_threads()  # as in `run`
    lists = lineages[RECOMMENDATIONS]
    work = store.scratch(f"embed/{lists.dataset}/{digest(lists.key())}")
    given = EmbeddingTables(today=paths(tables), trained=model_tables(trained))
    files = cm3.embed(tables=given, output=work, never_shown=hidden, device=device)
    made = {table: publish(store, Path(files[OUTPUTS[table]]), lineage) for table, lineage in lineages.items()}
    shutil.rmtree(work)
    return made


def inputs(tables: Mapping[str, TableVersion]) -> dict[str, TableVersion]:
    """Those of a run's tables that a training reads: interactions, every feature and the similarity graph."""
    features = {name: version for name, version in tables.items() if name.startswith(FEATURES)}
    return {"interactions": tables["interactions"], **features, "similarity": tables["similarity"]}


def paths(tables: Mapping[str, TableVersion]) -> TrainingTables:
    """The same tables, as trainers take them."""
    return TrainingTables(
        interactions=tables["interactions"].path,
        features={name.removeprefix(FEATURES): t.path for name, t in tables.items() if name.startswith(FEATURES)},
        similarity=tables["similarity"].path,
    )


def model_tables(trained: Mapping[str, TableVersion]) -> ModelTables:
    """A model and the tables of its training, as trainers take them."""
    items, users, weights = (trained[name].path for name in ("embeddings/items", "embeddings/users", "item_weights"))
    return ModelTables(model=trained[MODEL].path, items=items, users=users, item_weights=weights)


class Epochs:
    """Advances a bar by the trainer's epochs, the first of which is not 1 after a restart from a checkpoint."""

    def __init__(self, advance: Advance) -> None:
        self.advance, self.epoch, self.best = advance, 0, 0.0

    def __call__(self, epoch: int, terms: dict[str, float]) -> None:
        """Called by the trainer after each epoch."""
        self.best = max([self.best, *(value for name, value in terms.items() if name.startswith("valid_"))])
        self.advance(epoch - self.epoch, note=f"best {self.best:.4f}")
        self.epoch = epoch


def publish(store: Store, file: Path, lineage: Lineage) -> TableVersion:
    """Publish one Parquet file that a trainer wrote."""
    parquet = pq.ParquetFile(file)
    with store.writer(parquet.schema_arrow.remove_metadata(), lineage) as writer:
        for batch in parquet.iter_batches():
            writer.write(pa.Table.from_batches([batch]).replace_schema_metadata(None))
    return writer.version
