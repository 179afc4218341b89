"""Race: texts and pictures to vectors, per CPU-second.

Texts against `SentenceTransformer.encode`, pictures against a DataLoader, the stage against the bare model, and a
second run against the first; items of both and texts behind a server are in `encode_kinds`.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import encode_kinds, measure
from benchmarks.encode_stage import (
    SPECS,
    make_pictures,
    make_texts,
    measured,
    publish_texts,
    race,
    stage_pictures,
    stage_texts,
    wait_for_gpu,
)
from pipeline import machine
from pipeline.encoders import load, offline
from pipeline.encoders.base import ImageEncoder, TextEncoder
from pipeline.encoders.bfloat16 import Bfloat16Linear
from pipeline.encoders.transforms import prepare_picture
from pipeline.features import stage as features
from pipeline.machine import one_thread_each, side_by_side
from pipeline.store import Store


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
        *encode_kinds.cases(quick, repeats),
    ]
    result = measure.result("encode", cases, "torch", "sentence-transformers", "timm", "transformers")
    result["machine"] |= {"threads": machine.threads(), "dtype": machine.resolve_dtype("auto")}
    return result


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
