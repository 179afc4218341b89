"""What a measurement on real data is asked for: STORE DATASET, and how CM3 is trained there."""

import argparse
from pathlib import Path

from flows import training
from pipeline.store import Store
from schemas.training import CM3Config
from trainers.data import Dataset, load


def asked(description: str | None) -> argparse.Namespace:
    """The command line: store, dataset, seeds, trainer."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("store", type=Path)
    parser.add_argument("dataset")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trainer", type=CM3Config.model_validate_json, default=CM3Config())
    return parser.parse_args()


def core(store: Path, dataset: str) -> Dataset:
    """The core of a data set's latest tables."""
    place = Store(store)
    names = [name for name in place.tables(dataset) if name.startswith("features/")]
    tables = {name: place.latest(dataset, name) for name in ("interactions", "similarity", *names)}
    return load(training.paths(tables)).core()
