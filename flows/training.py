"""Train CM3 on published tables and publish what it made."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.machine import use_threads
from pipeline.progress import Advance, track
from pipeline.published import Published
from pipeline.store import Store, digest
from schemas.lineage import Lineage, TableVersion
from schemas.training import CM3Config, TrainingTables
from trainers import cm3

STAGE_VERSION = 2
OUTPUTS = {
    "embeddings/items": "items",
    "embeddings/users": "users",
    "item_weights": "item_weights",
    "recommendations": "recommendations",
    "metrics": "metrics",
    "epochs": "epochs",
}
"""Published table → the trainer's name for it."""
FEATURES = "features/"
"""Prefix of the names of feature tables."""


def run(*, store: Store, tables: Mapping[str, TableVersion], config: CM3Config) -> Published:
    """Train, or return the tables of an earlier training with the same inputs and configuration.

    A killed training goes on from its last checkpoint, which lies in the store's scratch folder until all is published.

    Args:
        tables: see `inputs`.
    """
    # Where a training runs and how often it saves does not change its result.
    settings = config.model_dump(mode="json", exclude={"device", "checkpoint_seconds"})
    read = {name: version.version for name, version in tables.items()}
    lineages = {
        table: Lineage(
            dataset=tables["interactions"].dataset,
            table=table,
            stage="train",
            stage_version=STAGE_VERSION,
            config=settings,
            inputs=read,
            encoder="cm3",
        )
        for table in OUTPUTS
    }
    versions = {table: version for table in OUTPUTS if (version := store.find(lineages[table]))}
    if len(versions) == len(OUTPUTS):
        return Published(versions)
    use_threads()  # rounding varies with the number of threads: use the same one whatever this process did before
    work = store.scratch(f"training/{digest(lineages['epochs'].key())}")
    with track("training, at most", total=config.max_epochs, unit="epochs", part="epoch") as advance:
        result = cm3.run(
            tables=paths(tables),
            output=work,
            config=config,
            checkpoint=work / "checkpoint.pt",
            on_epoch=Epochs(advance),
        )
    versions = {table: publish(store, Path(result.files[name]), lineages[table]) for table, name in OUTPUTS.items()}
    shutil.rmtree(work)
    return Published(versions, {"epochs": result.epochs})


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
