"""Runs of the main job in processes of their own, which can be watched and killed."""

import logging
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import polars as pl

from pipeline.registry import client
from pipeline.store import Store
from schemas.demo import DemoConfig
from schemas.errors import UserError
from schemas.model import MODEL
from schemas.run import DemoParameters, RunSummary
from schemas.training import CM3Config
from tests.support.warm import CONTEXT

DEADLINE = 300.0


def demo(folder: Path) -> DemoParameters:
    """A run that takes seconds and saves a checkpoint after every epoch."""
    return DemoParameters(
        store=str(folder),
        demo=DemoConfig(items=40, users=60),
        features=("sentence", "vision"),
        trainer=CM3Config(max_epochs=20, dim=8, checkpoint_seconds=0, device="cpu"),
    )


class Run:
    """One run of the demo in a child process."""

    def __init__(self, parameters: DemoParameters) -> None:
        self.lines: list[str] = []
        registry = Path(parameters.store, "_mlflow", "mlflow.db")
        if not registry.exists():
            registry.parent.mkdir(parents=True, exist_ok=True)
            client.make_database(registry)  # here it is copied
        self._pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_child, args=(parameters, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def saw(self, line: str) -> bool:
        """Whether the run has logged a line that begins with `line`."""
        while self._pipe.poll():
            try:
                self.lines.append(self._pipe.recv())
            except EOFError:
                break
        return any(seen.startswith(line) for seen in self.lines)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds while the run is alive."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            if not self.process.is_alive() and not condition():
                self.saw("")
                raise AssertionError(f"the run ended first: {self.lines[-8:]}")
            assert time.monotonic() < deadline, self.lines[-5:]
            time.sleep(0.002)

    def kill(self) -> None:
        """kill -9; fails if the run had ended before."""
        self.process.kill()
        self.process.join(DEADLINE)
        assert self.process.exitcode == -9, f"the run was over: {self.lines[-5:]}"

    def finish(self) -> RunSummary:
        """Wait for the end of a run that succeeds."""
        while not self.saw("SUMMARY ") and self.process.is_alive():
            self._pipe.poll(1)
        self.process.join(DEADLINE)
        assert self.saw("SUMMARY "), self.lines[-5:]
        return RunSummary.model_validate_json(self.lines[-1].removeprefix("SUMMARY "))


def _child(parameters: DemoParameters, pipe: Connection) -> None:
    os.environ["CM3_THREADS"] = "1"  # as the stack's processes: in float32 their number moves the last bits
    import torch

    from flows import job

    torch.set_num_threads(1)
    handler = logging.Handler()
    handler.emit = lambda record: pipe.send(record.getMessage())  # type: ignore[method-assign]
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for room in ("flows", "pipeline", "trainers"):
        logging.getLogger(room).setLevel(logging.INFO)
    try:
        pipe.send("SUMMARY " + job.run(parameters=parameters).model_dump_json())
    except UserError as error:
        pipe.send(f"REFUSED {error}")
    os._exit(0)


def contents(store: Store, summary: RunSummary) -> dict[str, pl.DataFrame]:
    """Every table of a run, without the columns that hold the address of the demo's server; of the model its files."""
    tables = {}
    for stage in summary.stages:
        version = store.get(summary.dataset, stage.table, stage.version)
        if stage.table == MODEL:
            tables[stage.table] = pl.DataFrame(sorted(version.files.items()), ["file", "sha256"], orient="row")
            continue
        parts = [store.fs.cat_file(f"{store.inside(version.path)}/{name}") for name in sorted(version.files)]
        tables[stage.table] = pl.concat(map(pl.read_parquet, parts)).drop("image_url", "url", strict=False)
    return tables


def shards(folder: Path, cache: str) -> int:
    """Finished shards in the caches whose name fits the pattern."""
    return len(list(folder.glob(f"_cache/{cache}/**/*.parquet")))


def same(actual: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    """Fail unless both runs made the same tables."""
    assert actual.keys() == expected.keys()
    for name, table in expected.items():
        assert actual[name].equals(table), name
