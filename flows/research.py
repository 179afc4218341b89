"""Comparisons and searches on the tables of a data set's last run."""

import json
import shutil
from contextlib import ExitStack
from typing import Any

from flows import summary, training
from pipeline.machine import use_threads
from pipeline.progress import Advance, track
from pipeline.store import Store, digest
from schemas.lineage import Lineage, TableVersion
from schemas.training import CM3Config, ComparisonConfig, ComparisonRow, Grid, TuningConfig, TuningResult
from trainers import compare as comparison
from trainers import tune as tuning

STAGE_VERSION = 1


def compare(store: Store, dataset: str, config: ComparisonConfig) -> tuple[list[ComparisonRow], str]:
    """Train and compare; the table is published as `comparison`.

    Finished trainings stay in the store's scratch folder: run again, only what is new is trained.

    Returns:
        The rows, best first, and the path of the published table.
    """
    tables = _inputs(store, dataset)
    config = comparison.name_all(config)
    lineage = Lineage(
        dataset=dataset,
        table="comparison",
        stage="compare",
        stage_version=STAGE_VERSION,
        config=config.model_dump(mode="json"),
        inputs={name: version.version for name, version in tables.items()},
    )
    use_threads()
    output = store.scratch(f"comparison/{digest(lineage.key())}")
    with _Bar("comparison", "trainings") as bar:
        rows = comparison.run(
            tables=training.paths(tables),
            output=output,
            finished=store.scratch("trainings"),
            config=config,
            on_plan=bar.plan,
            on_run=lambda label, seed, value: bar.advance(1, note=f"{label}, seed {seed}: {value:.4f}"),
        )
    published = training.publish(store, output / "comparison.parquet", lineage)
    shutil.rmtree(output)
    return rows, published.path


def tune(store: Store, dataset: str, config: TuningConfig) -> TuningResult:
    """Search; a stopped search goes on with its study in the store's scratch folder."""
    tables = _inputs(store, dataset)
    use_threads()
    with _Bar("tuning", "trials") as bar:
        return tuning.run(
            tables=training.paths(tables),
            output=store.scratch(f"tuning/{dataset}"),
            config=config,
            on_plan=bar.plan,
            on_trial=lambda _, value, __: bar.advance(1, note="stopped early" if value is None else f"{value:.4f}"),
        )


def trained_with(store: Store, dataset: str, searched: Grid | None = None) -> dict[str, Any]:
    """The trainer configuration of the run that made the tables, as far as it differs from the defaults.

    Args:
        searched: parameters that a search will choose, which are left out; None: CM3's own grid, {} for no search.
    """
    stages = summary.last(store, dataset).stages
    name = next((stage.version for stage in stages if stage.table == "embeddings/items"), None)
    if name is None:
        return {}
    settings = json.loads(store.get(dataset, "embeddings/items", name).lineage["cm3.config"])
    defaults = CM3Config().model_dump(mode="json")
    left_out = {*(CM3Config.grid if searched is None else searched), "seed"}
    return {key: value for key, value in settings.items() if key not in left_out and value != defaults.get(key)}


class _Bar(ExitStack):
    """A progress bar that is shown once its length is planned."""

    def __init__(self, description: str, unit: str) -> None:
        super().__init__()
        self.description, self.unit = description, unit
        self.advance: Advance

    def plan(self, total: int) -> None:
        """Show it."""
        self.advance = self.enter_context(track(self.description, total=total, unit=self.unit))


def _inputs(store: Store, dataset: str) -> dict[str, TableVersion]:
    """What a training reads, of the data set's last finished run."""
    stages = summary.last(store, dataset).stages
    return training.inputs({stage.table: store.get(dataset, stage.table, stage.version) for stage in stages})
