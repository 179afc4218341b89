"""The state of a training, kept in a file of each process so that a killed run goes on."""

import hashlib
import logging
import os
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from schemas.errors import UserError
from schemas.lineage import canonical_json
from trainers.data import Dataset
from trainers.processes import ALONE, Processes

logger = logging.getLogger(__name__)

FORMAT = 5
"""Bumped when a checkpoint's content or the meaning of a model's parameters changes."""


def run_key(model: str, dataset: Dataset, config: BaseModel, **more: Any) -> str:
    """SHA-256 (hex) of everything that the trained numbers depend on, and of `more` that the caller's depend on."""
    record = {
        "format": FORMAT,
        "model": model,
        "config": config.model_dump(mode="json", exclude={"checkpoint_seconds", "processes", "top_k"}),
        "data": dataset.fingerprint,
        "torch": torch.__version__,
    }
    return hashlib.sha256(canonical_json(record | more).encode()).hexdigest()


class TrainingState:
    """What a restart needs: parameters, optimiser, what the best epoch left, the curve and the clock.

    Args:
        name: the model's, for log lines.
        key: of the run; a file with another key is ignored.
        path: file to read first and to save in; None keeps the state in memory only. Each of several processes has
            two beside it, of its last two saves: one that is killed may not have made the save that another has, and
            all go on from the last epoch that all have saved.
    """

    FIELDS = ("key", "epoch", "stale", "best_epoch", "best_value", "best", "best_parameters", "curve", "seconds")

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        key: str,
        path: Path | None,
        processes: Processes = ALONE,
    ) -> None:
        self.name, self.model, self.optimizer, self.key, self.path = name, model, optimizer, key, path
        self.processes = processes
        self.epoch, self.stale, self.best_epoch, self.best_value = 0, 0, 0, -1.0
        self.best: list[Tensor] = []
        self.best_parameters: dict[str, Tensor] = {}
        self.curve: list[tuple[int, str, float]] = []
        self.seconds = 0.0
        self.saved_at, self.saved_epoch = time.monotonic(), 0
        newest = self._newest()
        if newest is not None:
            self._load(newest)

    def validated(self, value: float, embeddings: tuple[Tensor, Tensor]) -> None:
        """Note this epoch's validation metric; keep its embeddings and parameters if it is the best so far."""
        self.stale += 1
        if value > self.best_value:
            self.best_value, self.best_epoch, self.stale = value, self.epoch, 0
            self.best = [part.detach().clone() for part in embeddings]
            self.best_parameters = {name: part.clone() for name, part in self.model.state_dict().items()}

    def save(self, least_seconds: float) -> None:
        """Write the state unless that was done less than `least_seconds` ago; a reader sees the old file or the new.

        Raises: UserError: the file cannot be written.
        """
        is_due = time.monotonic() - self.saved_at >= least_seconds
        if self.path is None or self.saved_epoch == self.epoch or not self.processes.first(lambda: is_due):
            return
        state = {field: getattr(self, field) for field in self.FIELDS}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        path = self._file(self.path, self.epoch)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with draft.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            draft.unlink(missing_ok=True)
            raise UserError(
                f"checkpoint {path}: cannot be written ({error}). Free space there and run again: training goes "
                "on from the last checkpoint that was written."
            ) from error
        for older in {*self._files(self.path)} - {path, self._file(self.path, self.saved_epoch)}:
            older.unlink()
        self.saved_at, self.saved_epoch = time.monotonic(), self.epoch

    def _file(self, path: Path, epoch: int) -> Path:
        """Where this process saves an epoch."""
        mine = f"{path.name}.{self.processes.rank}-of-{self.processes.count}.{epoch}"
        return path if self.processes.count == 1 else path.with_name(mine)

    def _files(self, path: Path) -> list[Path]:
        """What this process, beside others, has saved."""
        return list(path.parent.glob(f"{path.name}.{self.processes.rank}-of-{self.processes.count}.*"))

    def _newest(self) -> Path | None:
        """The file to go on from."""
        if self.path is None:
            return None
        if self.processes.count == 1:
            return self.path if self.path.exists() else None
        saved = {int(file.name.rpartition(".")[2]) for file in self._files(self.path)}
        common = set.intersection(*self.processes.each_object(saved))
        return self._file(self.path, max(common)) if common else None

    def _load(self, path: Path) -> None:
        saved = self._read(path)
        # One process without its part of the state would go on from other numbers than the rest.
        is_whole = all(self.processes.each_object(saved is not None))
        if saved is None or not is_whole:
            return
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for field in self.FIELDS:
            setattr(self, field, saved[field])
        self.saved_epoch = self.epoch
        logger.info("%s goes on after epoch %d from %s", self.name, self.epoch, path)

    def _read(self, path: Path) -> dict[str, Any] | None:
        device = next(self.model.parameters()).device
        try:
            saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
            logger.warning("checkpoint %s cannot be read (%s); training starts anew", path, error)
            return None
        if saved.get("key") != self.key:
            logger.info("checkpoint %s is of other data or another configuration; training starts anew", path)
            return None
        return saved
