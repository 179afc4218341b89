"""Follows a store and its registry, prepares what becomes champion, and tells the serving processes."""

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.registry.recommend import Served
from pipeline.serving import prepare
from pipeline.store import Store, digest, failures
from schemas.errors import UserError
from schemas.lineage import TableVersion, canonical_json
from schemas.serving import Entry, State

logger = logging.getLogger(__name__)

STATE = "state.json"
LOOK_SECONDS = 1.0
"""Between two looks at the registry."""
KEPT = 2
"""Prepared versions kept of each data set: the present one, and the one before, for processes that still open it."""


class Follower:
    """Looks again and again; what cannot be read or is damaged leaves what is served as it is, and what was taken out
    of the store, perhaps because it held forgotten users, is served no longer.

    Args:
        folder: local folder that the serving processes share; one follower writes into it.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.state = State()
        self._prepared: dict[str, list[str]] = {}

    def follow(self, stop: threading.Event) -> None:
        """Look until `stop` is set."""
        while not stop.is_set():
            self.look()
            stop.wait(LOOK_SECONDS)

    def look(self) -> State:
        """Look once, and write the state that the serving processes read."""
        problem, entries = "", dict(self.state.datasets)
        try:
            names = self._datasets()
        except failed() as error:
            problem, names = f"{self.store} cannot be read: {error}", []
        for name in names:
            before = entries.get(name, Entry())
            try:
                entries[name] = self._entry(name, before)
            except failed() as error:
                with contextlib.suppress(*failed()):
                    self._drop(name, self._removed(name, self._prepared.get(name, [])))
                present = before if (self.folder / before.folder).exists() else Entry()
                entries[name] = present.model_copy(update={"problem": str(error)})
            if (now := entries[name].problem) != before.problem:
                logger.warning("%s: %s", name, now or "what was wrong is mended")
        if not problem:
            for name in set(entries).difference(names):
                logger.warning("%s has no recommendations in %s any longer", name, self.store)
                self._drop(name, list(self._prepared.get(name, [])))
                del entries[name]
        self.state = State(looked=time.time(), problem=problem, datasets=entries)
        draft = self.folder / f".{STATE}"
        draft.write_text(self.state.model_dump_json())
        draft.replace(self.folder / STATE)
        return self.state

    def _datasets(self) -> list[str]:
        """Data sets that have recommendations."""
        fs, root = self.store.fs, self.store.root
        names = [str(path).rstrip("/").rpartition("/")[2] for path in fs.ls(root, detail=False)]
        return [
            name
            for name in sorted(names)
            if not name.startswith(("_", ".")) and fs.exists(f"{root}/{name}/recommendations/latest")
        ]

    def _entry(self, dataset: str, before: Entry) -> Entry:
        """What is to be served of a data set, prepared.

        Raises:
            UserError: a table is gone or damaged, or the registry cannot be read.
        """
        served = Served(self.store, dataset)
        tables = consistent(served)
        content = [prepare.FORMAT, served.version, {name: table.version for name, table in tables.items()}]
        folder = f"{dataset}-{digest(canonical_json(content))}"
        if folder != before.folder:
            self._prepare(served, tables, folder)
        self._drop(dataset, self._removed(dataset, self._prepared[dataset][:-1]))
        hidden = prepare.never_shown(self.folder / folder, served.never_shown)
        return Entry(version=served.version, folder=folder, never_shown=hidden)

    def _prepare(self, served: Served, tables: dict[str, TableVersion], name: str) -> None:
        target, kept = self.folder / name, self._prepared.setdefault(served.dataset, [])
        if not target.exists():
            draft = self.folder / f".{name}"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            prepare.prepare(self.store, tables, served.version, draft)
            draft.replace(target)
            logger.info("%s: version %s is prepared", served.dataset, served.version)
        kept[:] = [*(other for other in kept if other != name), name]
        self._drop(served.dataset, kept[:-KEPT])

    def _drop(self, dataset: str, names: list[str]) -> None:
        """Delete prepared versions."""
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            self._prepared[dataset].remove(name)

    def _removed(self, dataset: str, names: list[str]) -> list[str]:
        """Those of the prepared versions that were taken out of the store."""
        return [
            name
            for name in names
            if not self.store.has(dataset, "embeddings/items", prepare.about(self.folder / name).embeddings)
        ]


def failed() -> tuple[type[Exception], ...]:
    """What a store or registry raises that cannot be read, is damaged, or has tables without a column that is read."""
    return UserError, ValueError, KeyError, *failures()


def consistent(served: Served) -> dict[str, TableVersion]:
    """The tables that answers are made from, all of one training.

    Raises:
        UserError: a table is absent, or the latest tables are being replaced at this moment.
    """
    tables = {name: served.table(name) for name in prepare.TRAINED}
    if served.champion is None and not _of_one_training(tables):
        raise UserError(f"The latest tables of {served.dataset} are of several trainings: one is being published.")
    inputs = json.loads(tables["recommendations"].lineage.get("cm3.inputs", "{}"))
    for name in prepare.READ:
        read = served.champion is None and name in inputs
        tables[name] = served.store.get(served.dataset, name, inputs[name]) if read else served.table(name)
    return tables


def _of_one_training(tables: Mapping[str, TableVersion]) -> bool:
    """Whether embeddings and weights were made together, and the lists from them: those may be made anew, alone, for
    another list of what is never shown."""
    lists = tables["recommendations"]
    others = [table for table in tables.values() if table is not lists]
    if len({tuple(table.lineage.get(f"cm3.{part}", "") for part in ("config", "inputs")) for table in others}) > 1:
        return False
    inputs = json.loads(others[0].lineage.get("cm3.inputs", "{}"))
    made = {name: table.version for name, table in tables.items()}
    return all(
        version in (inputs.get(name, version), made.get(name))
        for name, version in json.loads(lists.lineage.get("cm3.inputs", "{}")).items()
        if name != "never_shown"
    )
