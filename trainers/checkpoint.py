"""The state of a training, kept in one file so that a killed run goes on."""

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

logger = logging.getLogger(__name__)

FORMAT = 5
"""Bumped when a checkpoint's content or the meaning of a model's parameters changes."""


def run_key(model: str, dataset: Dataset, config: BaseModel, **more: Any) -> str:
    """SHA-256 (hex) of everything that the trained numbers depend on, and of `more` that the caller's depend on."""
    record = {
        "format": FORMAT,
        "model": model,
        "config": config.model_dump(mode="json", exclude={"checkpoint_seconds", "top_k"}),
        "data": dataset.fingerprint,
        "torch": torch.__version__,
    }
    return hashlib.sha256(canonical_json(record | more).encode()).hexdigest()


class TrainingState:
    """What a restart needs: parameters, optimiser, what the best epoch left, the curve and the clock.

    Args:
        name: the model's, for log lines.
        key: of the run; a file with another key is ignored.
        path: file to read first and to save in; None keeps the state in memory only.
    """

    FIELDS = ("key", "epoch", "stale", "best_epoch", "best_value", "best", "best_parameters", "curve", "seconds")

    def __init__(
        self, name: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer, key: str, path: Path | None
    ) -> None:
        self.name, self.model, self.optimizer, self.key, self.path = name, model, optimizer, key, path
        self.epoch, self.stale, self.best_epoch, self.best_value = 0, 0, 0, -1.0
        self.best: list[Tensor] = []
        self.best_parameters: dict[str, Tensor] = {}
        self.curve: list[tuple[int, str, float]] = []
        self.seconds = 0.0
        self.saved_at, self.saved_epoch = time.monotonic(), 0
        if path is not None and path.exists():
            self._load(path)

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
        if self.path is None or self.saved_epoch == self.epoch or time.monotonic() - self.saved_at < least_seconds:
            return
        state = {field: getattr(self, field) for field in self.FIELDS}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with draft.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            draft.unlink(missing_ok=True)
            raise UserError(
                f"checkpoint {self.path}: cannot be written ({error}). Free space there and run again: training goes "
                "on from the last checkpoint that was written."
            ) from error
        self.saved_at, self.saved_epoch = time.monotonic(), self.epoch

    def _load(self, path: Path) -> None:
        device = next(self.model.parameters()).device
        try:
            saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
            logger.warning("checkpoint %s cannot be read (%s); training starts anew", path, error)
            return
        if saved.get("key") != self.key:
            logger.info("checkpoint %s is of other data or another configuration; training starts anew", path)
            return
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for field in self.FIELDS:
            setattr(self, field, saved[field])
        self.saved_epoch = self.epoch
        logger.info("%s goes on after epoch %d from %s", self.name, self.epoch, path)
