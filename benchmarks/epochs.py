"""An epoch of CM3 at the size of Amazon Electronics, drawn, and what steps of several batches do to quality.

`python -m benchmarks.epochs STORE DATASET` trains on a data set of a store, by its feature `sentence`: with a step per
batch; with a tenth as many steps, of ten batches each; and with such steps no larger than those of one batch. It prints
a line of JSON per training.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.tastes import Size, draw

ELECTRONICS = Size(192_403, 63_001, 1_254_441, {"image": 512, "text": 384})
ALL = 1_000_000
"""More steps than an epoch has batches: one batch each."""
SHARE = 10


def race(steps: int) -> dict[str, Any]:
    """Ours beside a propagation for each batch, an epoch's CPU-seconds as of `steps` steps."""
    turn = (contestant(1, None, steps), contestant(1, ALL, steps))
    return measure.case(f"Electronics drawn, {ELECTRONICS}, an epoch", [turn], "a propagation per batch")


def growth(steps: int) -> dict[str, Any]:
    """An epoch at a sixteenth, a fourth and the whole of the users, items and interactions."""
    factors = (16, 4, 1)
    costs = [contestant(factor, None, steps) for factor in factors]
    return measure.growth("interactions, an epoch", [ELECTRONICS.shrunk(factor).train for factor in factors], costs)


def contestant(factor: int, steps_per_epoch: int | None, steps: int) -> measure.Cost:
    """In a separate process, on one thread."""
    return measure.contestant("epochs", factor, steps_per_epoch or "default", steps, threads=1)


def contest(factor: int, steps_per_epoch: int | None, steps: int) -> dict[str, Any]:
    """The trainer's own steps after four that warm up; their cost times the number of steps in an epoch."""
    import numpy as np
    import torch

    from pipeline.machine import use_threads
    from pipeline.system import large_tensors_kept
    from schemas.training import CM3Config
    from trainers.cm3.build import build
    from trainers.fit import Batch, add_gradients, batches_of_steps
    from trainers.negatives import NegativeSampler, batches

    use_threads()
    config = CM3Config(**({} if steps_per_epoch is None else {"steps_per_epoch": steps_per_epoch}))
    dataset, rng = draw(ELECTRONICS.shrunk(factor)), np.random.default_rng(0)
    model, sampler = build(dataset, config), NegativeSampler(dataset)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    count = -(-len(dataset.train) // config.batch_size)
    stream = (Batch(*map(torch.from_numpy, rows)) for rows in batches(dataset, sampler, config.batch_size, rng))
    groups = batches_of_steps(stream, count, config.steps_per_epoch)
    with large_tensors_kept():
        for step, group in zip(range(4 + steps), groups, strict=False):
            if step == 4:
                cpu, wall = time.process_time(), time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            add_gradients(model, group, rng)
            optimizer.step()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    share = min(count, config.steps_per_epoch) / steps
    return {"cpu": cpu * share, "wall": wall * share, "steps": min(count, config.steps_per_epoch)}


def quality(store: Path, dataset: str) -> None:
    """One training per line: steps per epoch, learning rate, its best validation and what it took."""
    from flows import training
    from pipeline.machine import use_threads
    from pipeline.store import Store
    from pipeline.system import large_tensors_kept
    from schemas.training import CM3Config
    from trainers.cm3.build import build
    from trainers.data import load
    from trainers.fit import fit

    use_threads()
    place = Store(str(store))
    names = ("interactions", "similarity", "features/sentence")
    data = load(training.paths({name: place.latest(dataset, name) for name in names}))
    batch_size = 512
    count = -(-len(data.train) // batch_size)
    for steps, rate in ((count, 1e-3), (count // SHARE, 1e-3), (count // SHARE, 1e-3 / SHARE**0.5)):
        config = CM3Config(
            dim=32, batch_size=batch_size, steps_per_epoch=steps, learning_rate=rate, filter_weight=0, patience=8
        )
        started = time.process_time()
        with large_tensors_kept():
            fitted = fit(build(data, config), data, config)
        line = {
            "steps_per_epoch": steps,
            "learning_rate": rate,
            "validation": round(fitted.validation, 4),
            "best_epoch": fitted.best_epoch,
            "steps": fitted.best_epoch * steps,
            "cpu": round((time.process_time() - started) * fitted.best_epoch / fitted.epochs, 1),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [store, dataset]:
            quality(Path(store), dataset)
        case [factor, steps_per_epoch, steps]:
            most = None if steps_per_epoch == "default" else int(steps_per_epoch)
            measure.print_cost(**contest(int(factor), most, int(steps)))
