"""Killed at any moment, extraction resumes where it was; and it needs no more memory for a larger catalogue."""

import os
import random
import resource
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import features
from pipeline.encoders.base import Vectors
from pipeline.features import stage
from pipeline.store import Store
from schemas.encoders import PRESETS, EncoderSpec
from schemas.lineage import TableVersion
from schemas.tables import ITEMS
from tests.support.published import identity, jpeg, publish, publish_images
from tests.support.warm import CONTEXT

VISION = PRESETS["offline"].encoders["vision"].model_copy(update={"batch_size": 4})
KILLS = 10
WIDTH = 384


pytestmark = pytest.mark.slow


def extract_and_report(uri: str, source: TableVersion, events: Connection) -> None:
    """Encode with a real model; send one byte before each step, between which a kill may fall."""
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    stage.IMAGE_SHARD = 6

    def reported(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            events.send_bytes(b".")
            return function(*args, **options)

        return call

    os.fsync = reported(os.fsync)
    os.replace = reported(os.replace)
    pq.ParquetWriter.write_table = reported(pq.ParquetWriter.write_table)
    stage._Work._keep = reported(stage._Work._keep)
    features.run(store=Store(uri), source=source, name="vision", spec=VISION)
    events.send_bytes(b"done")


def run_until(uri: str, source: TableVersion, event: int | None) -> bool:
    """Start a run and kill it with SIGKILL after `event` steps; tell whether it finished."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=extract_and_report, args=(uri, source, theirs))
    child.start()
    theirs.close()
    steps, finished = 0, False
    while not finished and (event is None or steps < event):
        try:
            finished = ours.recv_bytes() == b"done"
        except EOFError:
            break
        steps += 1
    child.kill()  # also one that has finished: threads of libraries can keep a forked process from its end
    child.join()
    return finished


def test_ten_kills_leave_no_half_file_and_the_same_bytes_as_an_unbroken_run(tmp_path: Path) -> None:
    pictures = [(f"i{i}", jpeg((i * 7 % 256, i * 13 % 256, 90), side=20 + i) if i % 9 else None) for i in range(40)]
    unbroken, broken = Store(tmp_path / "unbroken"), Store(tmp_path / "broken")
    source = publish_images(unbroken, pictures)
    assert run_until(unbroken.uri, source, None)

    source = publish_images(broken, pictures)
    moments = random.Random(7)
    for _ in range(KILLS):
        finished = run_until(broken.uri, source, moments.randint(1, 9))
        for path in [*Path(broken.root).glob("_cache/**/*.parquet"), *Path(broken.root).glob("shop/**/*.parquet")]:
            if path.is_file():
                pq.read_metadata(path)
        assert finished or not broken.versions("shop", "features/vision")
    run_until(broken.uri, source, None)

    expected, version = unbroken.latest("shop", "features/vision"), broken.latest("shop", "features/vision")
    assert version.files == expected.files, "SHA-256 of every file, by name"
    broken.verify(version)


class Noise:
    """A `TextEncoder` that costs nothing, so that what is measured is the pipeline."""

    def __init__(self) -> None:
        self.fingerprint = identity("noise")
        self.dim = WIDTH

    def encode(self, texts: Sequence[str]) -> Vectors:
        return np.random.default_rng(len(texts)).normal(size=(len(texts), WIDTH)).astype(np.float32)

    def cut(self, texts: Sequence[str]) -> list[bool]:
        return [False] * len(texts)


def extract_and_measure(uri: str, source: TableVersion, answer: Connection) -> None:
    spec = EncoderSpec(kind="sentence", model="/noise")
    published = features.run(store=Store(uri), source=source, name="noise", spec=spec, encoder=Noise())
    rows = published.tables["features/noise"].rows
    answer.send((rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def test_peak_memory_does_not_grow_with_the_catalogue(tmp_path: Path) -> None:
    def peak(items: int) -> int:
        store = Store(tmp_path / str(items))
        rows = [{"item_id": str(i), "categories": [], "text": f"item {i} " * 20} for i in range(items)]
        source = publish(store, "items", pa.Table.from_pylist(rows, schema=ITEMS), config=items)
        ours, theirs = CONTEXT.Pipe(duplex=False)
        child = CONTEXT.Process(target=extract_and_measure, args=(store.uri, source, theirs))
        child.start()
        theirs.close()
        encoded, kilobytes = ours.recv()
        child.join()
        assert encoded == items
        return int(kilobytes)

    small, large = peak(1_000), peak(100_000)
    vectors = 100_000 * WIDTH * 4 / 1024
    assert large < small + 0.6 * vectors, f"{small / 1024:.0f} MB for 1,000 items, {large / 1024:.0f} MB for 100,000"
