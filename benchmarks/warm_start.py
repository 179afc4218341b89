"""What a training gains that begins with yesterday's parameters: `python -m benchmarks.warm_start STORE DATASET`.

Yesterday lacks one in twenty of today's training interactions, and one in fifty of its users and items whole. Three
trainings of today are compared: a cold one; one that begins with the parameters that yesterday's training measured, its
new users' rows drawn anew; and one that begins with those that it published, which have seen everything of yesterday,
what today holds out too. All are judged on the same validation and test interactions.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.of_store import asked, core
from pipeline.machine import use_threads
from schemas.training import CM3Config
from trainers.cm3.build import build
from trainers.cm3.model import CM3
from trainers.data import Dataset
from trainers.evaluation import evaluate
from trainers.fit import FittedModel, fit, refit
from trainers.item_weights.term import choose_weights, with_weights

NEW_INTERACTIONS, NEW_ROWS = 20, 50
"""One in so many interactions, and users and items, is new today."""
K = 20
PER_USER = ("user_blocks", "user_fusion")
"""Parameters with a row per user; items have none of their own."""


@dataclass(frozen=True)
class Outcome:
    """A training of today: how long it took, and how well what it kept ranks the test interactions."""

    fitted: FittedModel
    cpu_seconds: float
    vectors: float
    whole: float

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Epoch and validation, before the graph filter's weight is chosen."""
        return [(epoch, value) for epoch, name, value in self.fitted.curve if name.startswith("valid_")]

    def epochs_to(self, target: float) -> int | None:
        """The first epoch whose validation reached `target`."""
        return next((epoch for epoch, value in self.curve if value >= target), None)


def main() -> None:
    """Print one line per start and seed."""
    options = asked(__doc__)
    use_threads()
    today = core(options.store, options.dataset)
    print(
        f"{options.dataset}: {len(today.users):,} users, {len(today.items):,} items, {len(today.train):,} interactions"
    )
    for seed in range(options.seeds):
        config = options.trainer.model_copy(update={"seed": seed})
        target = None
        for start, model in starts(today, config):
            outcome = trained(model, today, config)
            target = max(value for _, value in outcome.curve) if target is None else target
            print(
                f"seed {seed}  {start:24s} epochs {outcome.fitted.epochs:3d}  best {outcome.fitted.best_epoch:3d}  "
                f"to the cold start's best {outcome.epochs_to(target) or '-':>3}  CPU {outcome.cpu_seconds:6.1f} s  "
                f"valid {max(value for _, value in outcome.curve):.4f}  test NDCG@{K} {outcome.vectors:.4f}, "
                f"with item weights {outcome.whole:.4f}",
                flush=True,
            )


def starts(today: Dataset, config: CM3Config) -> Iterator[tuple[str, CM3]]:
    """Today's network, cold and with yesterday's parameters."""
    rng = np.random.default_rng(config.seed)
    new_users = rng.integers(NEW_ROWS, size=len(today.users)) == 0
    new_items = rng.integers(NEW_ROWS, size=len(today.items)) == 0
    is_old = rng.integers(NEW_INTERACTIONS, size=len(today.train)) > 0

    def of_old(pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        of_both: NDArray[np.bool_] = ~new_users[pairs[:, 0]] & ~new_items[pairs[:, 1]]
        return of_both

    held_out = {split: today.pairs(split)[of_old(today.pairs(split))] for split in ("valid", "test")}
    yesterday = replace(today, train=today.train[is_old & of_old(today.train)], **held_out)
    yield "cold", build(today, config)
    measured = build(yesterday, config)
    fitted = fit(measured, yesterday, config)
    yield "yesterday's measured", started(measured, new_users, today, config)
    everything = yesterday.all_for_training()
    published = build(everything, config)
    refit(published, everything, config, fitted.best_epoch)
    yield "yesterday's published", started(published, new_users, today, config)


def started(before: CM3, new_users: NDArray[np.bool_], today: Dataset, config: CM3Config) -> CM3:
    """Today's network with the parameters of `before`; those of new users as they are drawn."""
    model = build(today, config)
    drawn = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.load_state_dict(before.state_dict())
    new = torch.from_numpy(new_users)
    with torch.no_grad():
        for name in PER_USER:
            model.get_parameter(name)[new] = drawn[name][new]
    return model


def trained(model: CM3, today: Dataset, config: CM3Config) -> Outcome:
    """Train, and rank the test interactions."""
    begun = time.process_time()
    fitted = fit(model, today, config)
    seconds = time.process_time() - begun
    scorer = fitted.score.scorer(fitted.embeddings, today)
    assert config.item_weights is not None
    _, weights = choose_weights(today, scorer, config.item_weights, config.evaluation)
    vectors, whole = (
        evaluate(ranked, today, "test", config.evaluation).values["ndcg", K]
        for ranked in (scorer, with_weights(scorer, weights, today.matrix("train")))
    )
    return Outcome(fitted, seconds, vectors, whole)


if __name__ == "__main__":
    main()
