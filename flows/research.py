"""Comparisons and searches on the tables of a data set's last run."""

import shutil
from contextlib import ExitStack

from flows import summary, training
from pipeline.machine import use_threads
from pipeline.progress import Advance, track
from pipeline.store import Store, digest
from schemas.lineage import Lineage, TableVersion
from schemas.training import ComparisonConfig, ComparisonRow, TuningConfig, TuningResult
from trainers import compare as comparison
from trainers import tune as tuning

STAGE_VERSION = 1


def compare(store: Store, dataset: str, config: ComparisonConfig) -> tuple[list[ComparisonRow], str]:
    """Train and compare; the result is published as the table `comparison`.

    Finished trainings stay in the store's scratch folder, so another comparison trains only what is new.

    Returns:
        The rows, best first, and the path of the published table.
    """
    interactions, features, similarity = _inputs(store, dataset)
    lineage = Lineage(
        dataset=dataset,
        table="comparison",
        stage="compare",
        stage_version=STAGE_VERSION,
        config=config.model_dump(mode="json"),
        inputs={v.table: v.version for v in (interactions, *features.values(), similarity)},
    )
    use_threads()
    output = store.scratch(f"comparison/{digest(lineage.key())}")
    with _Bar("comparison", "trainings") as bar:
        rows = comparison.run(
            interactions=interactions.path,
            features={name: version.path for name, version in features.items()},
            similarity=similarity.path,
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
    """Search hyper-parameters, continuing the study in the store's scratch folder if there is one."""
    interactions, features, similarity = _inputs(store, dataset)
    use_threads()
    with _Bar("tuning", "trials") as bar:
        return tuning.run(
            interactions=interactions.path,
            features={name: version.path for name, version in features.items()},
            similarity=similarity.path,
            output=store.scratch(f"tuning/{dataset}"),
            config=config,
            on_plan=bar.plan,
            on_trial=lambda _, value, __: bar.advance(1, note="stopped early" if value is None else f"{value:.4f}"),
        )


class _Bar(ExitStack):
    """A progress bar that starts once the trainer has planned its work."""

    def __init__(self, description: str, unit: str) -> None:
        super().__init__()
        self.description, self.unit = description, unit
        self.advance: Advance

    def plan(self, total: int) -> None:
        """Show the bar, `total` units long."""
        self.advance = self.enter_context(track(self.description, total=total, unit=self.unit))


def _inputs(store: Store, dataset: str) -> tuple[TableVersion, dict[str, TableVersion], TableVersion]:
    """Interactions, features by name, and the similarity graph of the last finished run."""
    tables = {s.table: store.get(dataset, s.table, s.version) for s in summary.last(store, dataset).stages}
    features = {name.removeprefix("features/"): v for name, v in tables.items() if name.startswith("features/")}
    return tables["interactions"], features, tables["similarity"]
