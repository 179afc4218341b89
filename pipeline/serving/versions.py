"""What one serving process has loaded of what the follower prepared."""

import asyncio
import logging
import os
import signal
import time
from pathlib import Path

from pipeline.serving.follower import STATE
from pipeline.serving.model import Model
from pipeline.serving.scoring import Scoring
from schemas.serving import Entry, State

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.1
STALE_SECONDS = 30.0
"""Since the follower's last look, from which on it counts as stuck."""


class Loaded:
    """One version in memory, and the queue of those who ask it for scores. An answer is made from one of these alone,
    so that no answer mixes versions."""

    def __init__(self, folder: Path, entry: Entry) -> None:
        self.entry = entry
        self.model = Model(folder / entry.folder, entry.never_shown)
        self.scoring = Scoring(self.model)


class Versions:
    """The versions served at this moment, by data set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = State()
        self._stamp: tuple[int, int] | None = None
        self._loaded: dict[str, Loaded] = {}

    def __getitem__(self, dataset: str) -> Loaded | None:
        return self._loaded.get(dataset)

    def refresh(self) -> None:
        """Read the follower's state if it has changed, load what it names, and let go of what it does not; what is
        loaded answers meanwhile."""
        file = self.folder / STATE
        try:
            status = file.stat()
            if (stamp := (status.st_ino, status.st_mtime_ns)) == self._stamp:
                return
            self.state = State.model_validate_json(file.read_text())
            for dataset, entry in self.state.datasets.items():
                self._load(dataset, entry)
            named = {dataset for dataset, entry in self.state.datasets.items() if entry.folder}
            self._loaded = {dataset: loaded for dataset, loaded in self._loaded.items() if dataset in named}
        except FileNotFoundError:
            return  # before the first look, or a folder that went while it was opened: the next state names another
        self._stamp = stamp

    def _load(self, dataset: str, entry: Entry) -> None:
        present = self._loaded.get(dataset)
        same = present and (present.entry.folder, present.entry.never_shown) == (entry.folder, entry.never_shown)
        if not entry.folder or same:
            return
        try:
            self._loaded[dataset] = Loaded(self.folder, entry)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:  # of this machine's own files
            logger.error("%s: version %s cannot be loaded: %s", dataset, entry.version, error)

    async def keep_fresh(self, parent: int) -> None:
        """Refresh until cancelled; end this process when its parent has gone, which would tell it nothing more."""
        while True:
            await asyncio.to_thread(self.refresh)
            await asyncio.sleep(REFRESH_SECONDS)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)

    def served(self) -> dict[str, str]:
        """Data set → version, of those that have one."""
        return {dataset: loaded.model.about.version for dataset, loaded in sorted(self._loaded.items())}

    def problems(self) -> dict[str, str]:
        """What is wrong, by data set; "" for the store as a whole."""
        problems = {name: entry.problem for name, entry in self.state.datasets.items() if entry.problem}
        if self.state.problem:
            problems[""] = self.state.problem
        elif self.state.looked and (age := time.time() - self.state.looked) > STALE_SECONDS:
            problems[""] = f"The store was looked at {age:.0f} seconds ago; its registry does not answer."
        return problems
