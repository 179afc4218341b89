"""Run the CM3 trainer on published tables, and publish its output."""

import logging
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
from schemas.training import CM3Config
from trainers import cm3

logger = logging.getLogger(__name__)

STAGE_VERSION = 1
OUTPUTS = {
    "embeddings/items": "items",
    "embeddings/users": "users",
    "recommendations": "recommendations",
    "metrics": "metrics",
    "epochs": "epochs",
}
"""Published table → its name in the trainer's result."""


def run(
    *,
    store: Store,
    interactions: TableVersion,
    features: Mapping[str, TableVersion],
    similarity: TableVersion,
    config: CM3Config,
) -> Published:
    """Train, or find what was trained from the same inputs with the same configuration.

    A killed training goes on from its last checkpoint, which lies in the store's scratch folder until every table is
    published. Counts `epochs`.
    """
    inputs = {v.table: v.version for v in (interactions, *features.values(), similarity)}
    # Neither the device nor the time between checkpoints is part of the key.
    settings = config.model_dump(mode="json", exclude={"device", "checkpoint_seconds"})
    lineages = {
        table: Lineage(
            dataset=interactions.dataset,
            table=table,
            stage="train",
            stage_version=STAGE_VERSION,
            config=settings,
            inputs=inputs,
            encoder="cm3",
        )
        for table in OUTPUTS
    }
    finished = {table: version for table in OUTPUTS if (version := store.find(lineages[table]))}
    if len(finished) == len(OUTPUTS):
        return Published(finished)
    use_threads()  # rounding varies with the thread count, so it must not depend on what this process ran before
    work = store.scratch(f"training/{digest(lineages['epochs'].key())}")
    with track("training, at most", total=config.max_epochs, unit="epochs", part="epoch") as advance:
        result = cm3.run(
            interactions=interactions.path,
            features={name: version.path for name, version in features.items()},
            similarity=similarity.path,
            output=work,
            config=config,
            checkpoint=work / "checkpoint.pt",
            on_epoch=Epochs(advance),
        )
    published = {table: publish(store, Path(result.files[name]), lineages[table]) for table, name in OUTPUTS.items()}
    shutil.rmtree(work)
    return Published(published, {"epochs": result.epochs})


class Epochs:
    """Advances a bar with the trainer's epochs, the first of which follows the last checkpoint."""

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
