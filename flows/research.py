"""Comparisons and searches on the tables of a data set's last run."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flows import summary, training
from flows.exclusive import alone
from pipeline import locks
from pipeline.machine import use_threads
from pipeline.progress import Advance, track
from pipeline.store import Store, digest
from pipeline.system import large_tensors_kept
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.training import CM3Config, ComparisonConfig, ComparisonRow, Grid, TuningConfig, TuningResult
from trainers import compare as comparison
from trainers import lists
from trainers import tune as tuning

STAGE_VERSION = 2


def compare(store: Store, dataset: str, config: ComparisonConfig) -> tuple[list[ComparisonRow], str]:
    """Train and compare; the table is published as `comparison`.

    Finished trainings stay in the store's scratch folder: run again, only what is new is trained.

    Returns:
        The rows, best first, and the path of the published table.
    Raises:
        UserError: there is no finished run; or users were forgotten meanwhile, and nothing is published.
    """
    tables = _inputs(store, dataset)
    config = comparison.name_all(config)
    lineage = Lineage(
        dataset=dataset,
        table="comparison",
        stage="compare",
        stage_version=STAGE_VERSION,
        config=config.model_dump(mode="json"),
        inputs={name: version.version for name, version in tables.items()}
        | {f"lists/{label}": lists.digest(uri) for label, uri in config.lists.items()},
    )
    use_threads()
    output = store.scratch(f"comparison/{dataset}/{digest(lineage.key())}")
    finished = store.scratch(f"trainings/{dataset}")
    with locks.held(store.scratch("comparisons") / output.name), Bar("comparison", "trainings") as bar:
        output.mkdir(exist_ok=True)  # an equal comparison that this one waited for has removed it
        with learning(store, tables["interactions"], output, finished), large_tensors_kept():
            rows = comparison.run(
                tables=training.paths(tables),
                output=output,
                finished=finished,
                config=config,
                on_plan=bar.plan,
                on_run=lambda label, seed, value: bar.advance(1, note=f"{label}, seed {seed}: {value:.4f}"),
            )
        with publishing(store, tables["interactions"], output, finished):
            published = training.publish(store, output / "comparison.parquet", lineage)
        shutil.rmtree(output)
    return rows, published.path


def tune(store: Store, dataset: str, config: TuningConfig) -> TuningResult:
    """Search; a stopped search goes on with its study in the store's scratch folder.

    Raises:
        UserError: as `compare`.
    """
    tables = _inputs(store, dataset)
    use_threads()
    output = store.scratch(f"tuning/{dataset}")
    with Bar("tuning", "trials") as bar, learning(store, tables["interactions"], output), large_tensors_kept():
        result = tuning.run(
            tables=training.paths(tables),
            output=output,
            config=config,
            on_plan=bar.plan,
            on_trial=lambda _, value, __: bar.advance(1, note="stopped early" if value is None else f"{value:.4f}"),
        )
    with publishing(store, tables["interactions"], output):
        return result


@contextmanager
def learning(store: Store, interactions: TableVersion, *work: Path) -> Iterator[None]:
    """The block learns from these interactions for so long that it holds no lock: `cm3 forget` may take them, and
    `work`, the folders that it writes, from under it.

    Raises:
        UserError: the block failed, and they are gone.
    """
    try:
        yield
    except Exception as error:
        with alone(store, interactions.dataset):
            _refuse_forgotten(store, interactions, work, error)
        raise


@contextmanager
def publishing(store: Store, interactions: TableVersion, *work: Path) -> Iterator[None]:
    """The block publishes what was learned from these interactions, and nobody is forgotten meanwhile.

    Raises:
        UserError: they are gone; `work` is removed, which was learned from them.
    """
    with alone(store, interactions.dataset):
        _refuse_forgotten(store, interactions, work)
        yield


def _refuse_forgotten(
    store: Store, interactions: TableVersion, work: tuple[Path, ...], cause: Exception | None = None
) -> None:
    dataset, table, version = interactions.dataset, interactions.table, interactions.version
    if store.has(dataset, table, version):
        return
    for folder in work:
        shutil.rmtree(folder, ignore_errors=True)
    raise UserError(
        f"{dataset}/{table}@{version} was removed while this learned from it (`cm3 forget` or `cm3 gc`): nothing was "
        "published. Start again: it takes the interactions of the last run."
    ) from cause


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


class Bar(ExitStack):
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
