"""Killed at any moment, extraction goes on where it was; and it needs no more memory for a larger catalogue."""

import multiprocessing
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

from pipeline import store
from pipeline.encoders.base import Vectors
from pipeline.features import stage as features
from pipeline.store import Store
from schemas.encoders import PRESETS, EncoderSpec
from schemas.lineage import Lineage, TableVersion
from schemas.tables import ITEMS
from tests.support.published import identity, jpeg, publish_images

VISION = PRESETS["offline"].encoders["vision"].model_copy(update={"batch_size": 4})
KILLS = 10
WIDTH = 384


@pytest.fixture(scope="module")
def children() -> Any:
    """Processes made from one that has imported everything and run nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.pipeline.features.test_survival", "pipeline.encoders.timm"])
    return context


def extract_and_report(uri: str, source: TableVersion, events: Connection) -> None:
    """Encode with a real model, one byte down the pipe at each step a kill could fall between."""
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    features.IMAGE_SHARD = 6

    def reported(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            events.send_bytes(b".")
            return function(*args, **options)

        return call

    os.fsync = reported(os.fsync)
    os.replace = reported(os.replace)
    store.pq.ParquetWriter.write_table = reported(pq.ParquetWriter.write_table)
    features._Work._keep = reported(features._Work._keep)
    features.run(store=Store(uri), source=source, name="vision", spec=VISION)
    events.send_bytes(b"done")


def run_until(children: Any, uri: str, source: TableVersion, event: int | None) -> bool:
    """Start a run; kill it with SIGKILL after `event` steps. Whether it finished."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = children.Process(target=extract_and_report, args=(uri, source, theirs))
    child.start()
    theirs.close()
    seen, finished = 0, False
    while not finished and (event is None or seen < event):
        try:
            finished = ours.recv_bytes() == b"done"
        except EOFError:
            break
        seen += 1
    if not finished:
        child.kill()
    child.join()
    return finished


def test_ten_kills_leave_no_half_file_and_the_same_bytes_as_an_unbroken_run(tmp_path: Path, children: Any) -> None:
    pictures = [(f"i{i}", jpeg((i * 7 % 256, i * 13 % 256, 90), side=20 + i) if i % 9 else None) for i in range(40)]
    unbroken, broken = Store(tmp_path / "unbroken"), Store(tmp_path / "broken")
    source = publish_images(unbroken, pictures)
    assert run_until(children, unbroken.uri, source, None)

    source = publish_images(broken, pictures)
    moments = random.Random(7)
    for _ in range(KILLS):
        finished = run_until(children, broken.uri, source, moments.randint(1, 9))
        for path in [*Path(broken.root).glob("_cache/**/*.parquet"), *Path(broken.root).glob("shop/**/*.parquet")]:
            if path.is_file():
                pq.read_metadata(path)
        assert finished or not broken.versions("shop", "features/vision")
    run_until(children, broken.uri, source, None)

    expected, found = unbroken.latest("shop", "features/vision"), broken.latest("shop", "features/vision")
    assert found.files == expected.files, "SHA-256 of every file, by name"
    broken.verify(found)


class Noise:
    """A `TextEncoder` that costs nothing, so that what is measured is the pipeline."""

    def __init__(self) -> None:
        self.fingerprint = identity("noise")
        self.dim = WIDTH

    def encode(self, texts: Sequence[str]) -> Vectors:
        return np.random.default_rng(len(texts)).normal(size=(len(texts), WIDTH)).astype(np.float32)


def publish_many(uri: str, items: int) -> TableVersion:
    lineage = Lineage(dataset="shop", table="items", stage="test", stage_version=1, config={"items": items})
    with Store(uri).writer(ITEMS, lineage) as writer:
        for start in range(0, items, 1000):
            rows = [
                {"item_id": str(i), "categories": [], "text": f"item {i} " * 20}
                for i in range(start, min(start + 1000, items))
            ]
            writer.write(pa.Table.from_pylist(rows, schema=ITEMS))
    assert writer.version is not None
    return writer.version


def extract_and_measure(uri: str, items: int, answer: Connection) -> None:
    source = publish_many(uri, items)
    spec = EncoderSpec(kind="sentence", model="/noise")
    version = features.run(store=Store(uri), source=source, name="noise", spec=spec, encoder=Noise())
    answer.send((version.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def test_peak_memory_does_not_grow_with_the_catalogue(tmp_path: Path, children: Any) -> None:
    def peak(items: int) -> int:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        child = children.Process(target=extract_and_measure, args=(str(tmp_path / str(items)), items, theirs))
        child.start()
        theirs.close()
        rows, kilobytes = ours.recv()
        child.join()
        assert rows == items
        return int(kilobytes)

    small, large = peak(1_000), peak(100_000)
    assert large < 1.2 * small, f"{small / 1024:.0f} MB for 1,000 items, {large / 1024:.0f} MB for 100,000"
