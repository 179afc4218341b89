"""Race: texts and pictures to vectors, per CPU-second.

Texts against `SentenceTransformer.encode`, pictures against a DataLoader, the stage against the bare model, and a
second run against the first.
"""

import atexit
import gc
import io
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from benchmarks import measure
from pipeline import machine
from pipeline.demo import catalogue
from pipeline.encoders import load, offline
from pipeline.encoders.base import ImageEncoder, TextEncoder
from pipeline.encoders.bfloat16 import Bfloat16Linear
from pipeline.encoders.transforms import prepare_picture
from pipeline.features import stage as features
from pipeline.machine import one_thread_each, side_by_side
from pipeline.store import Store
from schemas.encoders import PRESETS, EncoderSpec
from schemas.lineage import Lineage, TableVersion
from schemas.tables import IMAGES, ITEMS

SPECS = PRESETS["offline"].encoders
WORDS = (  # noqa: SIM905 - a list of forty quoted words is not easier to read
    "gift card box red blue striped dotted mug lamp vase soft large small kitchen birthday holiday set of two with for "
    "the and a ceramic cotton steel handmade vintage modern perfect anyone who loves coffee tea reading garden"
).split()


def main(quick: bool) -> dict[str, Any]:
    """Run every case. `quick` is a tenth of the size, with two repeats, and grows to 4,000 texts instead of 100,000."""
    machine.use_threads()
    repeats = 2 if quick else 3
    texts, pictures = make_texts(200 if quick else 2000), make_pictures(48 if quick else 320)
    cases = [
        text_against_sentence_transformers(texts, repeats),
        *([products(repeats)] if machine.cpu_multiplies_bfloat16() else []),
        pictures_against_dataloader(pictures, repeats),
        pipeline_over_bare_model_text(texts, repeats),
        pipeline_over_bare_model_pictures(pictures, repeats),
        second_run(texts),
        growth("texts", (250, 1000, 4000) if quick else (6_250, 25_000, 100_000)),
        growth("pictures", (40, 160, 640) if quick else (250, 1000, 4000)),
    ]
    result = measure.result("encode", cases, "torch", "sentence-transformers", "timm", "transformers")
    result["machine"] |= {"threads": machine.threads(), "dtype": machine.resolve_dtype("auto")}
    return result


def make_texts(count: int) -> list[str]:
    """Product texts as long as a catalogue's: a median of about 25 words, at most 200."""
    rng = random.Random(0)
    lengths = [min(200, max(3, int(rng.lognormvariate(3.2, 0.9)))) for _ in range(count)]
    return [f"{i} " + " ".join(rng.choices(WORDS, k=length)) for i, length in enumerate(lengths)]


def make_pictures(count: int) -> list[bytes]:
    """Drawn products as JPEG."""
    pictures = []
    for seed in range(count):
        out = io.BytesIO()
        catalogue.draw(catalogue.attributes(random.Random(seed)), seed).save(out, "JPEG")
        pictures.append(out.getvalue())
    return pictures


def text_against_sentence_transformers(texts: list[str], repeats: int) -> dict[str, Any]:
    """Ours and `SentenceTransformer.encode(batch_size=32)` in turns, texts per CPU-second; the vectors must agree."""
    encoder = load.load(SPECS["sentence"])
    assert isinstance(encoder, TextEncoder)
    ours = encoder.encode(texts)
    with tempfile.TemporaryDirectory() as folder:
        turns = [
            (measured(lambda: encoder.encode(texts)), measure.contestant("encode", "peer-texts", len(texts), folder))
            for _ in range(repeats)
        ]
        cosine = float((ours * np.load(f"{folder}/vectors.npy")).sum(1).min())
    if cosine < 0.999:
        raise AssertionError(f"our vectors are not the peer's: cosine {cosine:.4f}")
    case = measure.case("text", turns, "SentenceTransformer.encode(32)", len(texts), "items per CPU-second")
    return case | {"min_cosine": cosine}


def peer_texts(count: int, folder: str) -> measure.Cost:
    """The peer as its documentation shows it, in a separate process; writes its vectors into `folder`."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(offline.unpack("minilm")), device=str(machine.device()), local_files_only=True)
    texts = make_texts(count)
    encode = partial(model.encode, texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
    np.save(f"{folder}/vectors.npy", encode())
    return measured(encode)


def products(repeats: int) -> dict[str, Any]:
    """The gain of bfloat16 on this processor: one layer of the text model on a batch of 512 tokens, on one core."""
    linear, tokens, times = torch.nn.Linear(384, 1536), torch.randn(512, 384), 500
    narrow = Bfloat16Linear(linear, bfloat16_output=True)

    @torch.inference_mode()
    def run(layer: torch.nn.Module) -> None:
        for _ in range(times):
            layer(tokens)

    with one_thread_each(1) as pool:

        def turn(layer: torch.nn.Module) -> measure.Cost:
            return pool.submit(measured, partial(run, layer)).result()

        turns = [(turn(narrow), turn(linear)) for _ in range(repeats)]
    work = 2 * times * len(tokens) * linear.weight.numel() // 10**9
    return measure.case("a layer's product in bfloat16", turns, "float32", work, "GFLOP per CPU-second")


def pictures_against_dataloader(pictures: list[bytes], repeats: int) -> dict[str, Any]:
    """Pictures from JPEG to vector: our stage, and a float32 timm model fed by a DataLoader with 2 workers."""
    encoder = load.load(SPECS["vision"])
    assert isinstance(encoder, ImageEncoder)
    ours, count = stage_pictures(pictures, encoder), len(pictures)
    ours()
    turns = [(measured(ours), measure.contestant("encode", "peer-pictures", count)) for _ in range(repeats)]
    return measure.case("images from JPEG", turns, "DataLoader(2)", count, "items per CPU-second")


def peer_pictures(count: int) -> measure.Cost:
    """The peer as its documentation shows it, in a separate process."""
    import timm
    from torch.utils.data import DataLoader

    model = timm.create_model(f"local-dir:{offline.unpack('efficientnet-lite0')}", pretrained=True, num_classes=0)
    model.eval().to(machine.device())
    config: Any = timm.data.resolve_model_data_config(model)  # type: ignore[attr-defined, no-untyped-call]
    transform = timm.data.create_transform(**config, is_training=False)  # type: ignore[attr-defined]
    loader = DataLoader(Decoded(make_pictures(count), transform), batch_size=32, num_workers=2)

    def run() -> None:
        with torch.inference_mode():
            encoded = sum(len(model(batch.to(machine.device()))) for batch in loader)
        assert encoded == count

    run()
    return measured(run)


class Decoded(torch.utils.data.Dataset[torch.Tensor]):
    """The peer's data set: pictures decoded by the model's own transform, in worker processes."""

    def __init__(self, pictures: Sequence[bytes], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.pictures, self.transform = pictures, transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> torch.Tensor:
        return prepare_picture(self.pictures[index], self.transform)


def pipeline_over_bare_model_text(texts: list[str], repeats: int) -> dict[str, Any]:
    """The whole stage against the model's bare forward on tokenized, sorted, padded batches. Goal: ratio ≥ 0.95."""
    encoder: Any = load.load(SPECS["sentence"])
    shards = (texts[start : start + features.TEXT_SHARD] for start in range(0, len(texts), features.TEXT_SHARD))
    batches = [
        {
            name: value.to(machine.device()) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        for shard in shards
        for _, batch in encoder.tokenize(shard)
    ]

    @torch.inference_mode()
    def forward(batch: dict[str, Any]) -> None:
        encoder._model(dict(batch))

    def bare() -> None:
        list(side_by_side(forward, batches, workers=machine.forwards_at_once()))
        wait_for_gpu()

    return race("text, stage", len(texts), stage_texts(texts, encoder), bare, "bare forward", repeats)


def pipeline_over_bare_model_pictures(pictures: list[bytes], repeats: int) -> dict[str, Any]:
    """The stage against the model's bare forward, both without decoding. Goal: ratio ≥ 0.95."""
    encoder: Any = load.load(SPECS["vision"])
    decoded = dict(zip(pictures, map(encoder.preprocess, pictures), strict=True))
    stacked = [
        torch.stack(list(decoded.values())[i : i + encoder.batch_size]).to(machine.device())
        for i in range(0, len(decoded), encoder.batch_size)
    ]
    encoder.preprocess = decoded.__getitem__

    @torch.inference_mode()
    def forward(batch: torch.Tensor) -> None:
        encoder._model(encoder._transform_batch(batch))

    def bare() -> None:
        list(side_by_side(forward, stacked, workers=machine.forwards_at_once()))
        wait_for_gpu()

    return race("images, stage", len(decoded), stage_pictures(pictures, encoder), bare, "bare forward", repeats)


def wait_for_gpu() -> None:
    """Wait for the GPU, which computes after the call that starts it has returned."""
    if machine.device().type == "cuda":
        torch.cuda.synchronize()


def second_run(texts: list[str]) -> dict[str, Any]:
    """A second run on an unchanged catalogue against the first. Goal: at most 2 % of its CPU time, a ratio of 50."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        source = publish_texts(store, texts)

        def run() -> None:
            features.run(store=store, source=source, name="sentence", spec=SPECS["sentence"])

        first, second = measure.timed(run), measure.timed(run)
    return measure.case("second run, unchanged", [(second, first)], "first run")


def growth(what: str, sizes: tuple[int, ...]) -> dict[str, Any]:
    """The stage at 1, 4 and 16 times the size, each in a separate process."""
    return measure.growth(what, sizes, [measure.contestant("encode", what, size) for size in sizes])


def stage_texts(texts: list[str], encoder: TextEncoder) -> Callable[[], None]:
    """The stage on a published `items` table; its cache is deleted before every run."""
    return stage(lambda store: publish_texts(store, texts), SPECS["sentence"], encoder, len(texts))


def stage_pictures(pictures: list[bytes], encoder: ImageEncoder) -> Callable[[], None]:
    """As `stage_texts`, on an `images` table."""
    rows = [{"item_id": str(i), "status": "ok", "image": picture} for i, picture in enumerate(pictures)]
    table = pa.Table.from_pylist(rows, schema=IMAGES)
    return stage(lambda store: publish(store, "images", table), SPECS["vision"], encoder, len(pictures))


def stage(
    publish_source: Callable[[Store], TableVersion], spec: EncoderSpec, encoder: TextEncoder | ImageEncoder, count: int
) -> Callable[[], None]:
    """A run of the features stage with an empty cache and no published vectors."""
    folder = tempfile.mkdtemp(prefix="cm3-encode-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    store = Store(folder)
    source = publish_source(store)

    def run() -> None:
        shutil.rmtree(f"{folder}/_cache", ignore_errors=True)
        shutil.rmtree(f"{folder}/bench/features", ignore_errors=True)
        counts = features.run(store=store, source=source, name="raced", spec=spec, encoder=encoder).counts
        assert counts["encoded"] + counts["reused"] == count

    return run


def publish_texts(store: Store, texts: list[str]) -> TableVersion:
    """Publish an `items` table of these texts."""
    rows = [{"item_id": str(i), "categories": [], "text": text} for i, text in enumerate(texts)]
    return publish(store, "items", pa.Table.from_pylist(rows, schema=ITEMS))


def publish(store: Store, name: str, table: pa.Table) -> TableVersion:
    """Publish a table as an earlier stage would."""
    lineage = Lineage(dataset="bench", table=name, stage="bench", stage_version=1, config={})
    with store.writer(table.schema, lineage) as writer:
        writer.write(table)
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


def grown(kind: str, count: int) -> measure.Cost:
    """The stage on `count` texts or pictures."""
    machine.use_threads()
    encoder: Any = load.load(SPECS["sentence" if kind == "texts" else "vision"])
    make: Any = {"texts": (make_texts, stage_texts), "pictures": (make_pictures, stage_pictures)}[kind]
    return measured(make[1](make[0](count), encoder))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["peer-texts", number, folder]:
            cost = peer_texts(int(number), folder)
        case ["peer-pictures", number]:
            cost = peer_pictures(int(number))
        case [kind, number]:
            cost = grown(kind, int(number))
    measure.print_cost(cost.cpu, cost.wall)
