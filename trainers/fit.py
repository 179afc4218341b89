"""The training loop that every trained recommender shares: batches, early stop on validation, checkpoints."""

import itertools
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.errors import TooFewInteractionsError, UserError
from schemas.training import TrainingConfig
from trainers.checkpoint import TrainingState, run_key
from trainers.data import Dataset
from trainers.evaluation import selection
from trainers.negatives import NegativeSampler, batches
from trainers.processes import ALONE, Processes
from trainers.propagated import Table, backward
from trainers.scores import Embeddings, Score, choose_filter_weight

logger = logging.getLogger(__name__)
epochs_logger = logger.getChild("epochs")
"""One log line per epoch, on its own logger so that a progress bar can silence it."""

Tables = Sequence[Table]
OnEpoch = Callable[[int, dict[str, float]], None]
"""Told the epoch (from 1), its loss terms and, where it was validated, the validation metric."""


class Batch(NamedTuple):
    """Rows of users, of one training item of each, and of one item that each has not chosen; (batch,) int64.

    `negatives` is -1 for a user who has chosen every item.
    """

    users: Tensor
    items: Tensor
    negatives: Tensor


class EmbeddingModel(torch.nn.Module, ABC):
    """What the training loop asks of a model.

    Attributes:
        name: as in the tables and logs.
        decayed: whether the configuration's weight decay reaches the optimiser.
        processes: which train it together; then `tables` and `embeddings` are of this process's rows.
        dealt: names of the parameters of which each process has its rows; all have the same of the others.
    """

    name: str
    decayed: bool = True
    processes: Processes = ALONE
    dealt: frozenset[str] = frozenset()

    def begin_epoch(self, rng: np.random.Generator) -> None:
        """Called before the first step of each epoch, for what changes from epoch to epoch."""

    @abstractmethod
    def tables(self, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """What is computed over the whole graph, once a step, with gradients; the losses of its batches read rows."""

    @abstractmethod
    def loss(self, tables: Tables, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Named terms of one batch; "loss" is the one that is minimised.

        Args:
            tables: those of `tables`.
        """

    @abstractmethod
    def embeddings(self) -> Embeddings:
        """The trained vectors, without gradients; `Score` turns them into what is published."""


@dataclass(frozen=True)
class FittedModel:
    """The outcome of `fit`.

    Attributes:
        embeddings: of the best epoch.
        score: what ranks with them; its filter weight is the configuration's, or the one that validation chose.
        validation: the selection metric of `score`.
        curve: (epoch, metric, value).
        seconds: training and validation, over all restarts.
        parameters: trained numbers.
    """

    embeddings: Embeddings
    score: Score
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
    on_epoch: OnEpoch | None = None,
) -> FittedModel:
    """Train until validation has not improved for `config.patience` evaluations. The best epoch's embeddings are
    returned, and its parameters stay in the model.

    Epoch n's batches, negatives and draws depend on the seed and n alone, so a run that goes on from a checkpoint ends
    with the numbers of an unbroken one.

    Where several processes train the model, all call this. The first returns what one process would, but for rounding;
    the others their own rows of the embeddings, and the score as it was configured.

    Args:
        checkpoint: file that keeps the state; read first if it is of this very run (data, configuration, model).
    Raises: UserError: no validation interaction, or a loss that is not finite.
    """
    if not len(dataset.valid):
        raise TooFewInteractionsError(
            "validation split: early stopping needs at least 1 interaction, found 0. Choose an ingest.split that holds "
            "some out (per_user, leave_one_out), or name some `valid` in a split of your own."
        )
    device = torch_device(config.device)
    model.to(device)
    parameters = list(model.parameters())
    decay = config.weight_decay if model.decayed else 0.0
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, weight_decay=decay, fused=True)
    key, processes = run_key(model.name, dataset, config), model.processes
    state = TrainingState(model.name, model, optimizer, key, checkpoint, processes)
    score = Score.of(config)
    sampler = NegativeSampler(dataset)
    while state.epoch < config.max_epochs and state.stale < config.patience:
        started = time.perf_counter()
        state.epoch += 1
        terms = _train_epoch(model, optimizer, sampler, dataset, config, state.epoch, device)
        if state.epoch % config.evaluate_every == 0 or state.epoch == config.max_epochs:
            terms |= _validate(model, score, dataset, config, state)
        state.curve += [(state.epoch, name, value) for name, value in terms.items()]
        state.seconds += time.perf_counter() - started
        state.save(least_seconds=config.checkpoint_seconds)
        epochs_logger.info(
            "%s epoch %d: %s", model.name, state.epoch, ", ".join(f"{k} {v:.4f}" for k, v in terms.items())
        )
        if on_epoch is not None:
            on_epoch(state.epoch, terms)
    state.save(least_seconds=0.0)
    model.load_state_dict(state.best_parameters)
    embeddings, validation = Embeddings(*map(processes.whole, state.best)), state.best_value
    if config.filter_weight is None and processes.leads:
        score, validation = choose_filter_weight(score, validation, embeddings, dataset, config.evaluation)
        logger.info("%s: filter weight %g chosen on validation, %.4f", model.name, score.filter_weight, validation)
    return FittedModel(
        embeddings=embeddings,
        score=score,
        best_epoch=state.best_epoch,
        epochs=state.epoch,
        validation=validation,
        curve=state.curve,
        seconds=state.seconds,
        parameters=_trained_numbers(model),
    )


def refit(
    model: EmbeddingModel,
    dataset: Dataset,
    config: TrainingConfig,
    epochs: int,
    *,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Embeddings:
    """Train for a number of epochs that was chosen before, on data of which nothing is held out; the last embeddings.

    Args:
        checkpoint: as in `fit`, and so are several processes.
    Raises: UserError: a loss that is not finite.
    """
    device = torch_device(config.device)
    model.to(device)
    decay = config.weight_decay if model.decayed else 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, weight_decay=decay, fused=True)
    key = run_key(model.name, dataset, config, epochs=epochs)
    state = TrainingState(model.name, model, optimizer, key, checkpoint, model.processes)
    sampler = NegativeSampler(dataset)
    while state.epoch < epochs:
        state.epoch += 1
        terms = _train_epoch(model, optimizer, sampler, dataset, config, state.epoch, device)
        if state.epoch == epochs:
            model.eval()
            state.best = [part.detach().clone() for part in model.embeddings()]
        state.save(least_seconds=config.checkpoint_seconds)
        epochs_logger.info("%s, all data, epoch %d: loss %.4f", model.name, state.epoch, terms["loss"])
        if on_epoch is not None:
            on_epoch(state.epoch, terms)
    state.save(least_seconds=0.0)
    model.eval()
    # With `published` only the last step gives them, which a restart does not repeat.
    return Embeddings(*map(model.processes.whole, state.best))


def torch_device(name: str) -> torch.device:
    """The device asked for; "auto" is the first of `CM3_DEVICE`, else CUDA if the machine has it, else the CPU.

    Apple's GPU (`mps`) trains nothing: in `CM3_DEVICE` it is meant for the encoders.

    Raises: UserError: the machine has no such device.
    """
    if name == "auto":
        named = os.environ.get("CM3_DEVICE", "").split(",")[0]
        name = "cpu" if named == "mps" else named or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "mps":
        raise UserError("device: Apple's GPU (mps) encodes, and trains nothing. Choose auto or cpu.")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device (or CM3_DEVICE): expected auto, cpu or cuda[:N] as this machine has, found {name!r}: {error}"
        ) from error


def matrix_precision(name: str, device: torch.device) -> torch.dtype:
    """The precision asked for; "auto" is bfloat16 where the hardware multiplies it natively, which is twice as fast."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def _train_epoch(
    model: EmbeddingModel,
    optimizer: torch.optim.Optimizer,
    sampler: NegativeSampler,
    dataset: Dataset,
    config: TrainingConfig,
    epoch: int,
    device: torch.device,
) -> dict[str, float]:
    """One pass over the training pairs. Returns the mean of each loss term over the batches.

    A step of m batches is √m times as large as that of one: its gradient's noise is that much smaller (the square root
    rule for Adam, arXiv 2205.10287). On Amazon Office such steps reached the validation of one-batch steps.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([config.seed, epoch], np.uint64)))
    model.train()
    model.begin_epoch(rng)
    history: list[Tensor] = []
    names: list[str] = []
    stream = (
        Batch(*(torch.from_numpy(rows).to(device) for rows in parts))
        for parts in batches(dataset, sampler, config.batch_size, rng)
    )
    for group in batches_of_steps(stream, -(-len(dataset.train) // config.batch_size), config.steps_per_epoch):
        optimizer.zero_grad(set_to_none=True)
        optimizer.param_groups[0]["lr"] = config.learning_rate * len(group) ** 0.5
        for terms in add_gradients(model, group, rng):
            names = list(terms)
            history.append(torch.stack(list(terms.values())))
        optimizer.step()
    values = torch.stack(history).double().cpu().numpy()
    _refuse_divergence(model.name, names, values, epoch)
    return dict(zip(names, values.mean(axis=0).tolist(), strict=True))


def batches_of_steps(stream: Iterator[Batch], count: int, most: int) -> Iterator[list[Batch]]:
    """The batches of each step: one, or an equal share of all where there are more than `most`.

    Args:
        count: of the batches in `stream`.
    """
    steps = min(count, most)
    for step in range(steps):
        yield list(itertools.islice(stream, count * (step + 1) // steps - count * step // steps))


def add_gradients(model: EmbeddingModel, group: Sequence[Batch], rng: np.random.Generator) -> list[dict[str, Tensor]]:
    """Add the gradients of the mean loss of these batches to the parameters; the terms of each batch.

    The tables over the whole graph are computed once and their backward pass is taken once, after the last batch. With
    one batch the gradients are those of a step that does both for it alone, bit by bit. Several processes take the
    batches in turn, each a different one at the same time.
    """
    processes, history = model.processes, []
    tables = [processes.table(source) for source in model.tables(rng)]
    for start in range(0, len(group), processes.count):
        at_once = group[start : start + processes.count]
        has_batch = processes.rank < len(at_once)
        # Whoever is left without a batch repeats the last one, for nothing: the others read its rows of the tables.
        terms = model.loss(tables, at_once[processes.rank] if has_batch else at_once[-1], rng)
        loss = terms["loss"] / len(group)
        torch.autograd.backward(loss if has_batch else 0 * loss)
        for table in tables:
            table.collect()
        values = processes.each(torch.stack(list(terms.values())).detach())
        history += [dict(zip(terms, row, strict=True)) for row in values[: len(at_once)]]
    backward(tables)
    processes.add_gradients_up(part for name, part in model.named_parameters() if name not in model.dealt)
    return history


def _trained_numbers(model: EmbeddingModel) -> int:
    """The size of all parameters, over all processes."""
    sizes = {name: part.numel() for name, part in model.named_parameters()}
    mine = sum(size for name, size in sizes.items() if name in model.dealt)
    return sum(sizes.values()) - mine + sum(model.processes.each_object(mine))


def _refuse_divergence(name: str, terms: list[str], values: NDArray[np.float64], epoch: int) -> None:
    """Raises: UserError: a term, (batches, terms), is not finite."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = bad[0, 0]
        column = bad[bad[:, 0] == place][-1, 1]  # the terms follow their sum
        raise UserError(
            f"training {name}: expected finite numbers, found {terms[column]} = {values[place, column]} "
            f"at epoch {epoch}, batch {place + 1} of {len(values)}. "
            "Lower learning_rate or gamma, and check the features' scale."
        )


def _validate(
    model: EmbeddingModel, score: Score, dataset: Dataset, config: TrainingConfig, state: TrainingState
) -> dict[str, float]:
    """The validation metric of this epoch, noted in `state`."""
    model.eval()
    embeddings = Embeddings(*(part.detach() for part in model.embeddings()))
    is_finite = all(bool(torch.isfinite(part).all()) for part in embeddings)
    if not all(model.processes.each_object(is_finite)):
        raise UserError(
            f"training {model.name}: expected finite embeddings, found NaN or infinity after epoch {state.epoch}. "
            "Lower learning_rate or gamma, and check the features' scale."
        )
    rule, whole = config.evaluation, Embeddings(*map(model.processes.whole, embeddings))
    value = model.processes.first(lambda: selection(score.scorer(whole, dataset), dataset, rule))
    state.validated(value, embeddings)
    return {f"valid_{rule.selection_metric}@{rule.selection_k}": value}
