"""The training loop that every trained recommender shares: batches, early stop on validation, checkpoints."""

import hashlib
import logging
import os
import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor
from torch.nn import functional

from schemas.errors import UserError
from schemas.lineage import canonical_json
from schemas.training import TrainingConfig
from trainers.data import Dataset
from trainers.evaluation import Ranking, Rows, evaluate
from trainers.scores import Embeddings, _choose_filter_weight, embedding_scorer

logger = logging.getLogger(__name__)
epochs_logger = logger.getChild("epochs")
"""A line an epoch; of its own, so that who shows a bar can do without."""

FORMAT = 1
"""Bumped when a checkpoint's content or the meaning of a model's parameters changes."""


class Batch(NamedTuple):
    """Rows of users, of one training item of each, and of one item each has not chosen in training; (batch,) int64.

    `negatives` is -1 for a user who has chosen every item.
    """

    users: Tensor
    items: Tensor
    negatives: Tensor


def gather(x: Tensor, rows: Tensor) -> Tensor:
    """`x[rows]` for rows that may come twice: their gradients are added in one order, not as threads come to them."""
    return functional.embedding(rows, x)


class EmbeddingModel(torch.nn.Module, ABC):
    """What the loop asks of a model."""

    name: str

    def begin_epoch(self, rng: np.random.Generator) -> None:
        """Called before an epoch's first step, for what changes by epoch."""

    @abstractmethod
    def loss(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Named terms of one step; "loss" is the one that is minimised."""

    @abstractmethod
    def embeddings(self) -> Embeddings:
        """Vectors whose dot product is the score, without gradients."""


@dataclass
class Fitted:
    """The outcome of `fit`: the embeddings of the best epoch, and the curve (epoch, metric, value).

    `filter_weight` is η of the score: the configuration's, or the one that validation chose.
    """

    embeddings: Embeddings
    filter_weight: float
    best_epoch: int
    epochs: int
    validation: float
    curve: list[tuple[int, str, float]]
    seconds: float
    parameters: int


def fit(
    model: EmbeddingModel,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Fitted:
    """Train until validation has not improved for `config.patience` evaluations, and keep the best epoch's embeddings.

    Epoch n's batches, negatives and draws depend on the seed and n alone, so a run that goes on from a checkpoint ends
    with the numbers of an unbroken one.

    Args:
        checkpoint: file that the state is kept in; read first if it is of this very run (data, configuration, model).
        on_epoch: told the epoch (from 1) and its loss terms and validation metric.
    Raises: UserError: no validation interaction, or a loss that is not finite.
    """
    if not len(dataset.valid):
        raise UserError(
            "validation split: early stopping needs at least 1 interaction, found 0. Choose an ingest.split that holds "
            "some out (per_user, leave_one_out), or name some `valid` in a split of your own."
        )
    device = torch_device(config.device)
    model.to(device)
    decay = 0.0 if getattr(config, "published", False) else config.weight_decay
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, weight_decay=decay, fused=True)
    state = _State(model, optimizer, run_key(model.name, dataset, config), checkpoint)
    sampler = NegativeSampler(dataset)
    while state.epoch < config.max_epochs and state.stale < config.patience:
        started = time.perf_counter()
        state.epoch += 1
        terms = _train_epoch(model, optimizer, sampler, dataset, config, state.epoch, device)
        if state.epoch % config.evaluate_every == 0 or state.epoch == config.max_epochs:
            terms |= _validate(model, dataset, config, state)
        state.curve += [(state.epoch, name, value) for name, value in terms.items()]
        state.seconds += time.perf_counter() - started
        state.save(least_seconds=config.checkpoint_seconds)
        epochs_logger.info(
            "%s epoch %d: %s", model.name, state.epoch, ", ".join(f"{k} {v:.4f}" for k, v in terms.items())
        )
        if on_epoch is not None:
            on_epoch(state.epoch, terms)
    state.save(least_seconds=0.0)
    count = sum(p.numel() for p in parameters)
    best = Embeddings(*state.best)
    weight, value = config.filter_weight, state.best_value
    if weight is None:
        weight, value = _choose_filter_weight(best, value, dataset, config)
        logger.info("%s: filter weight %g chosen on validation, %.4f", model.name, weight, value)
    return Fitted(best, weight, state.best_epoch, state.epoch, value, state.curve, state.seconds, count)


def torch_device(name: str) -> torch.device:
    """The device asked for; "auto" is the first of `CM3_DEVICE`, else CUDA where there is one.

    Raises: UserError: no such device here.
    """
    if name == "auto":
        named = os.environ.get("CM3_DEVICE", "").split(",")[0]
        name = named or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device (or CM3_DEVICE): expected auto, cpu or cuda[:N] as this machine has, found {name!r}: {error}"
        ) from error


def matrix_precision(name: str, device: torch.device) -> torch.dtype:
    """The precision asked for; "auto" is bfloat16 where the processor multiplies it, which is twice as fast there."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def run_key(model: str, dataset: Dataset, config: BaseModel | None, **more: Any) -> str:
    """SHA-256 (hex) of everything that the trained numbers depend on, and of what else the caller's do."""
    record = {
        "format": FORMAT,
        "model": model,
        "config": config.model_dump(mode="json", exclude={"checkpoint_seconds", "top_k"}) if config else {},
        "data": dataset.fingerprint,
        "torch": torch.__version__,
    }
    return hashlib.sha256(canonical_json(record | more).encode()).hexdigest()


class NegativeSampler:
    """For each training pair an item that its user has not chosen in training, uniform over all such items."""

    def __init__(self, dataset: Dataset) -> None:
        pairs, self.n_items = dataset.train, len(dataset.items)
        self.chosen = np.bincount(pairs[:, 0], minlength=len(dataset.users))
        self.offset = np.concatenate([[0], np.cumsum(self.chosen)])
        place = np.arange(len(pairs)) - self.offset[pairs[:, 0]]
        # p_j - j counts the items not chosen before the j-th chosen one: non-decreasing within a user.
        self.width = self.n_items + 1
        self.gaps = pairs[:, 0] * self.width + pairs[:, 1] - place

    def draw(self, users: Rows, rng: np.random.Generator) -> Rows:
        """One item row for each user row; -1 for a user who has chosen every item.

        The r-th item not chosen, r uniform, is r plus the chosen ones before it: one binary search, no rejection.
        """
        left = self.n_items - self.chosen[users]
        r = np.minimum((rng.random(len(users)) * left).astype(np.int64), left - 1)
        before = np.searchsorted(self.gaps, users * self.width + r, side="right") - self.offset[users]
        return np.where(left > 0, r + before, -1)


def batches(
    dataset: Dataset, sampler: NegativeSampler, size: int, rng: np.random.Generator
) -> Iterator[tuple[Rows, ...]]:
    """The training pairs in random order as (users, items, negatives), the last batch as short as it comes."""
    pairs = dataset.train[rng.permutation(len(dataset.train))]
    negatives = sampler.draw(pairs[:, 0], rng)
    for start in range(0, len(pairs), size):
        part = slice(start, start + size)
        yield pairs[part, 0], pairs[part, 1], negatives[part]


def _train_epoch(
    model: EmbeddingModel,
    optimizer: torch.optim.Optimizer,
    sampler: NegativeSampler,
    dataset: Dataset,
    config: TrainingConfig,
    epoch: int,
    device: torch.device,
) -> dict[str, float]:
    """One pass over the training pairs. Returns the mean of each loss term over the steps."""
    rng = np.random.Generator(np.random.Philox(key=np.array([config.seed, epoch], np.uint64)))
    model.train()
    model.begin_epoch(rng)
    history: list[Tensor] = []
    names: list[str] = []
    for users, items, negatives in batches(dataset, sampler, config.batch_size, rng):
        batch = Batch(*(torch.from_numpy(rows).to(device) for rows in (users, items, negatives)))
        terms = model.loss(batch, rng)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(terms["loss"])
        optimizer.step()
        names = list(terms)
        history.append(torch.stack([term.detach() for term in terms.values()]))
    steps = torch.stack(history).double().cpu().numpy()
    _refuse_divergence(model.name, names, steps, epoch)
    return dict(zip(names, steps.mean(axis=0).tolist(), strict=True))


def _refuse_divergence(name: str, terms: list[str], steps: NDArray[np.float64], epoch: int) -> None:
    bad = np.argwhere(~np.isfinite(steps))
    if len(bad):
        step = bad[0, 0]
        column = bad[bad[:, 0] == step][-1, 1]  # the terms follow their sum
        raise UserError(
            f"training {name}: expected finite numbers, found {terms[column]} = {steps[step, column]} "
            f"at epoch {epoch}, step {step + 1} of {len(steps)}. "
            "Lower learning_rate or gamma, and check the features' scale."
        )


def _validate(model: EmbeddingModel, dataset: Dataset, config: TrainingConfig, state: "_State") -> dict[str, float]:
    model.eval()
    embeddings = Embeddings(*(part.detach() for part in model.embeddings()))
    if not all(bool(torch.isfinite(part).all()) for part in embeddings):
        raise UserError(
            f"training {model.name}: expected finite embeddings, found NaN or infinity after epoch {state.epoch}. "
            "Lower learning_rate or gamma, and check the features' scale."
        )
    rule = config.evaluation.for_selection()
    ranking: Ranking = evaluate(embedding_scorer(embeddings, dataset, config), dataset, "valid", rule)
    value = ranking.values[rule.selection_metric, rule.selection_k]
    state.stale += 1
    if value > state.best_value:
        state.best_value, state.best_epoch, state.stale = value, state.epoch, 0
        state.best = [part.detach().clone() for part in embeddings]
    return {f"valid_{rule.selection_metric}@{rule.selection_k}": value}


class _State:
    """What a restart needs: parameters, optimiser, the best embeddings so far, the curve and the clock."""

    def __init__(self, model: EmbeddingModel, optimizer: torch.optim.Optimizer, key: str, path: Path | None) -> None:
        self.model, self.optimizer, self.key, self.path = model, optimizer, key, path
        self.epoch, self.stale, self.best_epoch, self.best_value = 0, 0, 0, -1.0
        self.best: list[Tensor] = []
        self.curve: list[tuple[int, str, float]] = []
        self.seconds = 0.0
        self.saved_at, self.saved_epoch = time.monotonic(), 0
        if path is not None and path.exists():
            self._load(path)

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
        for name in ("epoch", "stale", "best_epoch", "best_value", "best", "curve", "seconds"):
            setattr(self, name, saved[name])
        self.saved_epoch = self.epoch
        logger.info("%s goes on after epoch %d from %s", self.model.name, self.epoch, path)

    def save(self, least_seconds: float) -> None:
        """Write the state unless that was done less than `least_seconds` ago; a reader sees the old file or the new."""
        if self.path is None or self.saved_epoch == self.epoch or time.monotonic() - self.saved_at < least_seconds:
            return
        names = ("key", "epoch", "stale", "best_epoch", "best_value", "best", "curve", "seconds")
        state = {name: getattr(self, name) for name in names}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with draft.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError of torch's
            draft.unlink(missing_ok=True)
            raise UserError(
                f"checkpoint {self.path}: cannot be written ({error}). Free space there and run again: training goes "
                "on from the last one that was."
            ) from error
        self.saved_at, self.saved_epoch = time.monotonic(), self.epoch
