"""Race: items of text and pictures, and texts behind a server, against the same model's bare forward."""

import dataclasses
import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from benchmarks import measure
from benchmarks.encode_stage import (
    make_texts,
    measured,
    pictures,
    publish_pictures,
    publish_texts,
    race,
    stage,
    texts,
    wait_for_gpu,
)
from pipeline import machine
from pipeline.encoders import load, offline, transforms
from pipeline.encoders.base import Inputs, Item
from pipeline.encoders.endpoint import TEXTS_PER_REQUEST
from pipeline.features import stage as features
from pipeline.machine import side_by_side
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.lineage import TableVersion

Sources = dict[str, TableVersion]


def cases(quick: bool, repeats: int) -> list[dict[str, Any]]:
    """Overhead over the bare forward (goal: ratio ≥ 0.95), the second run (goal: ≥ 50), and growth, of both kinds.

    Growth is that of the stage alone: of a model of one layer, and of a server that gives the same vector to all.
    """
    items, served = (48, 256) if quick else (256, 2048)
    first = 1 if quick else 4  # the smallest size, in shards; what the stage keeps of eight is in the larger ones
    with tempfile.TemporaryDirectory() as folder:
        spec, shallow = towers(Path(folder) / "deep"), towers(Path(folder) / "shallow", layers=(1, 1))
        of_items = [
            multimodal_over_bare_model(spec, items, repeats),
            second_run("multimodal, second run", lambda store: publish_items(store, items), spec),
            growth("items", "multimodal", first * features.IMAGE_SHARD, shallow.model),
        ]
    with server() as url:
        of_texts = [
            endpoint_over_bare_model(spec_of(url), served, repeats),
            second_run("endpoint, second run", lambda store: publish_served(store, served), spec_of(url)),
            growth("served texts", "endpoint", first * features.TEXT_SHARD, at(spec_of(url), "/idle/v1")),
        ]
    return of_items + of_texts


def growth(what: str, kind: str, first: int, place: str) -> dict[str, Any]:
    """The stage at 1, 4 and 16 times the size, each in a process of its own.

    Args:
        place: the model's folder, or the server's base URL.
    """
    sizes = (first, 4 * first, 16 * first)
    return measure.growth(what, sizes, [measure.contestant("encode_kinds", kind, size, place) for size in sizes])


def towers(folder: Path, layers: tuple[int, int] = (6, 12)) -> EncoderSpec:
    """A CLIP of random weights with towers of common size: ViT-S/16 at 224 px, and six layers of 384 for texts.

    Args:
        layers: of the text's tower and the picture's.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(offline.unpack("minilm"), model_max_length=128)
    tower = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
    text = tower | {"num_hidden_layers": layers[0], "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    text |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    vision = tower | {"num_hidden_layers": layers[1], "image_size": 224, "patch_size": 16}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=384)).save_pretrained(folder / "clip")
    CLIPProcessor(image_processor=CLIPImageProcessor(), tokenizer=tokenizer).save_pretrained(folder / "clip")
    SentenceTransformer(modules=[Transformer(str(folder / "clip"))], device="cpu").save_pretrained(
        str(folder / "model")
    )
    return EncoderSpec(kind="multimodal", model=str(folder / "model"))


def publish_items(store: Store, count: int) -> Sources:
    """Items of a text and a picture each."""
    return {"source": publish_texts(store, texts(count)), "images": publish_pictures(store, pictures(count))}


def publish_served(store: Store, count: int) -> Sources:
    """Items of a text each."""
    return {"source": publish_texts(store, texts(count))}


def multimodal_over_bare_model(spec: EncoderSpec, count: int, repeats: int) -> dict[str, Any]:
    """The stage against the model's bare forward on the same batches, both without decoding and processors."""
    encoder: Any = load.load(spec)
    read: dict[tuple[str | None, ...], list[Inputs]] = {}
    preprocess = encoder.preprocess

    def remembered(items: list[Item]) -> list[Inputs]:
        key = tuple(item.text for item in items)
        if key not in read:
            read[key] = preprocess(items)
        return read[key]

    encoder.preprocess = remembered
    transforms.read_picture = functools.cache(transforms.read_picture)
    ours = stage(lambda store: publish_items(store, count), spec, count, encoder)
    ours()

    def bare() -> None:
        list(side_by_side(encoder.encode, read.values(), workers=machine.forwards_at_once()))
        wait_for_gpu()

    return race("multimodal, stage", count, ours, bare, "bare forward", repeats)


def endpoint_over_bare_model(spec: EncoderSpec, count: int, repeats: int) -> dict[str, Any]:
    """The stage against a loopback server, and the server's own forward on the same texts: CPU time of both processes,
    so that all that is written and read between them counts."""
    contents = make_texts(count)
    ours = stage(lambda store: publish_served(store, count), spec, count)

    def bare() -> None:
        httpx.post(at(spec, "/bare"), json=contents, timeout=None).raise_for_status()

    ours()
    bare()
    turns = [(with_server(spec, ours), with_server(spec, bare)) for _ in range(repeats)]
    return measure.case("endpoint, stage", turns, "server's bare forward", count, "items per CPU-second")


def with_server(spec: EncoderSpec, function: Callable[[], None]) -> measure.Cost:
    """The cost of a call, and the CPU time that the server took meanwhile."""
    before = httpx.get(at(spec, "/cpu")).json()
    cost = measured(function)
    return dataclasses.replace(cost, cpu=cost.cpu + httpx.get(at(spec, "/cpu")).json() - before)


def at(spec: EncoderSpec, path: str) -> str:
    """An address of the server's, beside `/v1`."""
    return spec.base_url.removesuffix("/v1") + path


def second_run(name: str, publish: Callable[[Store], Sources], spec: EncoderSpec) -> dict[str, Any]:
    """A second run on an unchanged catalogue against the first, which loads the model."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        sources = publish(store)

        def run() -> None:
            features.run(store=store, **sources, name="raced", spec=spec)

        first, second = (with_server(spec, run) if spec.is_served else measured(run) for _ in range(2))
    return measure.case(name, [(second, first)], "first run")


def spec_of(url: str) -> EncoderSpec:
    """The encoder that asks the server."""
    return EncoderSpec(kind="embedding-endpoint", model="minilm", base_url=url)


@contextmanager
def server() -> Iterator[str]:
    """A server of embeddings in a process of its own; its base URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.encode_kinds", "server"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def serve() -> None:
    """MiniLM behind `/v1/embeddings`; `/bare` only computes, in the same batches, and `/idle` gives one vector to all.
    One forward at a time."""
    import uvicorn
    from sentence_transformers import SentenceTransformer
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    machine.use_threads()
    model = SentenceTransformer(str(offline.unpack("minilm")), device=str(machine.device()), local_files_only=True)
    forward = functools.partial(model.encode, batch_size=TEXTS_PER_REQUEST, show_progress_bar=False)
    same: list[float] = forward("a").tolist()

    def response(vectors: list[list[float]]) -> JSONResponse:
        data = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        return JSONResponse({"data": data, "model": "minilm", "usage": {"prompt_tokens": 0}})

    async def embeddings(request: Request) -> JSONResponse:
        return response([vector.tolist() for vector in forward((await request.json())["input"])])

    async def idle(request: Request) -> JSONResponse:
        return response([same] * len((await request.json())["input"]))

    async def bare(request: Request) -> JSONResponse:
        contents = await request.json()
        for start in range(0, len(contents), TEXTS_PER_REQUEST):
            forward(contents[start : start + TEXTS_PER_REQUEST])
        return JSONResponse({})

    async def cpu(_: Request) -> JSONResponse:
        return JSONResponse(time.process_time())

    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": "minilm", "object": "model"}]})

    routes = [
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route("/idle/v1/embeddings", idle, methods=["POST"]),
        Route("/bare", bare, methods=["POST"]),
        Route("/cpu", cpu),
        Route("/v1/models", models),
        Route("/idle/v1/models", models),
    ]
    app = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), host="127.0.0.1", port=0, log_level="warning"))
    listening = app.config.bind_socket()
    listening.listen()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)
    app.run([listening])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["server"]:
            serve()
        case [kind, number, place]:
            machine.use_threads()
            count = int(number)
            if kind == "multimodal":
                spec = EncoderSpec(kind="multimodal", model=place)
                run = stage(lambda store: publish_items(store, count), spec, count)
            else:
                run = stage(lambda store: publish_served(store, count), spec_of(place), count)
            cost = measured(run)
            measure.print_cost(cost.cpu, cost.wall)
