"""Shared by the races of encoders: texts, pictures, and the stage `features` on a store of its own."""

import atexit
import gc
import io
import itertools
import random
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import torch

from benchmarks import measure
from pipeline import machine
from pipeline.demo import catalogue
from pipeline.encoders.base import Encoder, ImageEncoder, TextEncoder
from pipeline.features import stage as features
from pipeline.store import Store
from schemas.encoders import PRESETS, EncoderSpec
from schemas.lineage import Lineage, TableVersion
from schemas.tables import IMAGES, ITEMS

SPECS = PRESETS["offline"].encoders
WORDS = (  # noqa: SIM905 - a list of forty quoted words is not easier to read
    "gift card box red blue striped dotted mug lamp vase soft large small kitchen birthday holiday set of two with for "
    "the and a ceramic cotton steel handmade vintage modern perfect anyone who loves coffee tea reading garden"
).split()


def texts(count: int) -> Iterator[str]:
    """Product texts as long as a catalogue's: a median of about 25 words, at most 200."""
    rng = random.Random(0)
    lengths = [min(200, max(3, int(rng.lognormvariate(3.2, 0.9)))) for _ in range(count)]
    yield from (f"{i} " + " ".join(rng.choices(WORDS, k=length)) for i, length in enumerate(lengths))


def pictures(count: int) -> Iterator[bytes]:
    """Drawn products as JPEG."""
    for seed in range(count):
        out = io.BytesIO()
        catalogue.draw(catalogue.attributes(random.Random(seed)), seed).save(out, "JPEG")
        yield out.getvalue()


def make_texts(count: int) -> list[str]:
    """All of `texts`."""
    return list(texts(count))


def make_pictures(count: int) -> list[bytes]:
    """All of `pictures`."""
    return list(pictures(count))


def wait_for_gpu() -> None:
    """Wait for the GPU, which computes after the call that starts it has returned."""
    if machine.device().type == "cuda":
        torch.cuda.synchronize()


def stage_texts(contents: list[str], encoder: TextEncoder) -> Callable[[], None]:
    """The stage on a published `items` table; its cache is deleted before every run."""
    return stage(lambda store: {"source": publish_texts(store, contents)}, SPECS["sentence"], len(contents), encoder)


def stage_pictures(contents: list[bytes], encoder: ImageEncoder) -> Callable[[], None]:
    """As `stage_texts`, on an `images` table."""
    return stage(lambda store: {"source": publish_pictures(store, contents)}, SPECS["vision"], len(contents), encoder)


def stage(
    publish_sources: Callable[[Store], dict[str, TableVersion]],
    spec: EncoderSpec,
    count: int,
    encoder: Encoder | None = None,
) -> Callable[[], None]:
    """A run of the features stage with an empty cache and no published vectors."""
    folder = tempfile.mkdtemp(prefix="cm3-encode-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    store = Store(folder)
    sources = publish_sources(store)

    def run() -> None:
        shutil.rmtree(f"{folder}/_cache", ignore_errors=True)
        shutil.rmtree(f"{folder}/bench/features", ignore_errors=True)
        counts = features.run(store=store, **sources, name="raced", spec=spec, encoder=encoder).counts
        assert counts["encoded"] + counts["reused"] == count

    return run


def publish_texts(store: Store, contents: Iterable[str]) -> TableVersion:
    """Publish an `items` table of these texts."""
    rows = ({"item_id": str(i), "categories": [], "text": text} for i, text in enumerate(contents))
    return publish(store, "items", rows, ITEMS)


def publish_pictures(store: Store, contents: Iterable[bytes]) -> TableVersion:
    """Publish an `images` table of these pictures."""
    rows = ({"item_id": str(i), "status": "ok", "image": picture} for i, picture in enumerate(contents))
    return publish(store, "images", rows, IMAGES)


def publish(store: Store, name: str, rows: Iterator[dict[str, Any]], schema: pa.Schema) -> TableVersion:
    """Publish a table as an earlier stage would, in memory that does not grow with it."""
    lineage = Lineage(dataset="bench", table=name, stage="bench", stage_version=1, config={})
    with store.writer(schema, lineage) as writer:
        while part := list(itertools.islice(rows, 256)):
            writer.write(pa.Table.from_pylist(part, schema=schema))
    return writer.version


def race(
    name: str, count: int, ours: Callable[[], None], peer: Callable[[], None], peer_name: str, repeats: int
) -> dict[str, Any]:
    """Both in turns after one warm-up each; items per CPU-second, including child processes."""
    ours()
    peer()
    turns = [(measured(ours), measured(peer)) for _ in range(repeats)]
    return measure.case(name, turns, peer_name, count, "items per CPU-second")


def measured(function: Callable[[], object]) -> measure.Cost:
    """The cost in this process and in the child processes it waits for (the DataLoader's)."""
    gc.collect()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = measure.timed(function)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    children_cpu = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    return measure.Cost(cost.cpu + children_cpu, cost.wall, cost.rss)
