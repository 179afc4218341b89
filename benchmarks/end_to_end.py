"""Race: a drawn catalogue from raw files over HTTP to the registered version, against the models' own time.

The peer is the work that no implementation can avoid, timed inside the same run: the encoders' forward passes, the
products of similarities and of scores, the training steps (loss, backward, optimiser), and the graph's products,
singular vectors and linear systems. A second run on the unchanged catalogue is raced against the first. A server in a
separate process serves the catalogue.
"""

import asyncio
import csv
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from benchmarks import measure
from benchmarks.pictures import Answers
from schemas.training import CM3Config

P = ParamSpec("P")
R = TypeVar("R")
USERS_PER_ITEM, CHOICES = 2, 8
SIDE = 192
"""Pixels, as in the demo."""


def main(quick: bool) -> dict[str, Any]:
    """Run the race; `quick` takes 1,600 items and 10 epochs, not 20,000 items trained until validation stops it."""
    sizes = (100, 400, 1600) if quick else (1250, 5000, 20_000)
    epochs = 10 if quick else CM3Config().max_epochs
    with tempfile.TemporaryDirectory(prefix="cm3-end-to-end-") as scratch:
        runs = [run(Path(scratch) / str(size), size, epochs) for size in sizes]
    (first, second), costs = runs[-1], [first for first, _ in runs]
    cases = [
        whole(sizes[-1], first),
        *stages(first),
        measure.case("unchanged catalogue again", [(second, first)], "first run"),
        measure.growth("items", sizes, costs),
    ]
    return measure.result("end-to-end", cases, "torch", "polars", "pyarrow", "prefect")


def whole(items: int, cost: measure.Cost) -> dict[str, Any]:
    """The run's wall time against the models' part of it; the ratio is at most 1."""
    model = sum(cost.output["model"].values())
    return {
        "case": f"{items:,} items, all stages",
        "unit": "seconds",
        "ours": cost.wall,
        "peer": model,
        "peer_name": "model and matrix work",
        "ratio": model / cost.wall,
        "other_share": 1 - model / cost.wall,
        "cpu_s": cost.cpu,
        "wall_s": cost.wall,
        "peak_rss_mb": cost.rss,
    }


def stages(cost: measure.Cost) -> list[dict[str, Any]]:
    """The same per stage."""
    model = cost.output["model"]
    return [
        {
            "case": f"stage {name}",
            "unit": "seconds",
            "ours": seconds,
            "wall_s": seconds,
            "peer": model.get(name),
            "peer_name": "model and matrix work" if name in model else None,
            "ratio": model[name] / seconds if name in model else None,
        }
        for name, seconds in cost.output["stages"].items()
    ]


def run(folder: Path, items: int, epochs: int) -> measure.Turn:
    """Draw a catalogue, run it into an empty store with at most `epochs` epochs, and run it again."""
    write(folder / "raw", items)
    with served(folder / "raw") as base:
        first, second = (measure.contestant("end_to_end", "run", base, folder / "store", epochs) for _ in range(2))
    kept, vectors = first.output["kept"], first.output["vectors"]
    if second.output["encoded"] or vectors != 2 * kept or kept < 0.99 * items:
        raise RuntimeError(
            f"{kept} of {items} items, {vectors} vectors by two features; then {second.output['encoded']} encoded again"
        )
    return first, second


def write(folder: Path, items: int) -> None:
    """Write `items.jsonl`, `interactions.csv` and `images/`: drawn products, and users who prefer two kinds each."""
    from pipeline.demo import catalogue, words
    from schemas.demo import DemoConfig

    (folder / "images").mkdir(parents=True)
    rng, config = random.Random(0), DemoConfig()
    products = [catalogue.attributes(rng) for _ in range(items)]
    with (folder / "items.jsonl").open("w") as file:
        for number, product in enumerate(products):
            title = f"{words.title(product.kind, product.colour, product.pattern, rng, config)} {number}"
            text = words.description(product.kind, product.pattern, product.brand, rng)
            row = {
                "item_id": f"I{number:06d}",
                "title": title,
                "description": text,
                "image_url": f"images/{number}.jpg",
            }
            file.write(json.dumps(row) + "\n")
    with ProcessPoolExecutor() as pool:
        list(pool.map(_draw, [folder] * items, products, range(items), chunksize=64))
    kinds = defaultdict(list)
    for number, product in enumerate(products):
        kinds[product.kind].append(number)
    with (folder / "interactions.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["user_id", "item_id", "timestamp"])
        for user in range(USERS_PER_ITEM * items):
            liked = [number for kind in rng.sample(sorted(kinds), 2) for number in kinds[kind]]
            wanted = set(rng.sample(liked, min(6, len(liked)))) | set(rng.sample(range(items), CHOICES - 6))
            order = rng.sample(sorted(wanted), len(wanted))  # the last ones are held out
            out.writerows([f"U{user:06d}", f"I{number:06d}", 1_600_000_000 + at] for at, number in enumerate(order))


def _draw(folder: Path, product: Any, seed: int) -> None:
    from pipeline.demo import catalogue

    catalogue.draw(product, seed, SIDE).save(folder / "images" / f"{seed}.jpg", quality=88)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the folder over loopback HTTP from a separate process; yields the base URL."""
    command = [sys.executable, "-m", "benchmarks.end_to_end", "serve", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


class ModelTime:
    """Wall seconds per stage during which at least one thread computes a model or matrix product."""

    def __init__(self) -> None:
        self.stage, self.active, self.since = "", 0, 0.0
        self.lock = threading.Lock()
        self.seconds: dict[str, float] = defaultdict(float)
        self.stages: dict[str, float] = {}

    def around(self, owner: Any, name: str) -> None:
        """Time a function wherever it is called through `owner`."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.lock:
                if not self.active:
                    self.since = time.perf_counter()
                self.active += 1
            try:
                return function(*args, **kwargs)
            finally:
                with self.lock:
                    self.active -= 1
                    if not self.active:
                        self.seconds[self.stage] += time.perf_counter() - self.since

        setattr(owner, name, timed)

    def call(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a stage for `flows.job`, and time it."""
        self.stage, started = name, time.perf_counter()
        result = function(*args, **kwargs)
        self.stages[name] = time.perf_counter() - started
        return result


def contest(base: str, store: str, epochs: str) -> dict[str, Any]:
    """Run the main job in this process and time it."""
    import sentence_transformers
    import timm
    import torch

    from flows import job
    from schemas.run import CatalogueParameters
    from trainers import graph_filter
    from trainers.cm3 import model as network
    from trainers.graphs import Graph

    model = ModelTime()
    model.around(sentence_transformers.SentenceTransformer, "forward")
    model.around(timm.models.efficientnet.EfficientNet, "forward")
    model.around(torch, "mm")
    model.around(Graph, "product")
    model.around(graph_filter, "svds")
    model.around(network, "smooth_items")
    model.around(network.CM3, "loss")
    model.around(torch.autograd, "backward")
    model.around(torch.optim.Adam, "step")
    parameters = CatalogueParameters(
        raw=base,
        name="drawn",
        store=store,
        models="offline",
        features=("sentence", "vision"),
        trainer=CM3Config(batch_size=8192, max_epochs=int(epochs)),
    )
    cost = measure.timed(lambda: job.run(parameters=parameters, call=model.call))
    counts = [stage.counts for stage in cost.output.stages]
    return {
        "cpu": cost.cpu,
        "wall": cost.wall,
        "stages": model.stages,
        "model": dict(model.seconds),
        "encoded": sum(cost.output.encoded.values()),
        "kept": next(stage.rows for stage in cost.output.stages if stage.table == "items"),
        "vectors": sum(each.get("encoded", 0) + each["reused"] for each in counts if "reused" in each),
    }


async def serve(folder: Path) -> None:
    """Serve from memory until terminated or stdin closes; it shares its cores with the pipeline that fetches."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answers(files.get), "127.0.0.1", 0)
    print("http://{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(Path(sys.argv[2])))
    else:
        measure.print_cost(**contest(*sys.argv[2:]))
