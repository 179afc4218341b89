"""Race: a drawn catalogue from raw files over HTTP to the registered version, against the models' own time.

The peer is what cannot be left out: the encoders' forward passes, the products of similarities and of scores, the steps
of the training (loss, backward, optimiser), the graph's products, its singular vectors and its linear systems, timed
inside the same run.
The rest is ours to keep small. A second run over the unchanged catalogue is raced against the first. The catalogue
comes from a server in a process of its own.
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
from typing import Any

from benchmarks import measure
from benchmarks.pictures import Answers
from schemas.training import CM3Config

USERS_AN_ITEM, CHOICES = 2, 8
SIDE = 192
"""Pixels; the demo's own size."""


def main(quick: bool) -> dict[str, Any]:
    """Run the race; `quick` takes 1,600 items and 10 epochs, not 20,000 and as many as validation asks for."""
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
    """The run's wall time against the models' within it; the ratio is at most 1."""
    model = sum(cost.told["model"].values())
    return {
        "case": f"{items:,} items, all stages", "unit": "seconds", "ours": cost.wall, "peer": model,
        "peer_name": "model and matrix work", "ratio": model / cost.wall, "other_share": 1 - model / cost.wall,
        "cpu_s": cost.cpu, "wall_s": cost.wall, "peak_rss_mb": cost.rss,
    }  # fmt: skip


def stages(cost: measure.Cost) -> list[dict[str, Any]]:
    """The same by stage."""
    model = cost.told["model"]
    return [
        {
            "case": f"stage {name}", "unit": "seconds", "ours": seconds, "wall_s": seconds,
            "peer": model.get(name), "peer_name": "model and matrix work" if name in model else None,
            "ratio": model[name] / seconds if name in model else None,
        }
        for name, seconds in cost.told["stages"].items()
    ]  # fmt: skip


def run(folder: Path, items: int, epochs: int) -> measure.Turn:
    """Draw a catalogue, run it into an empty store with so many epochs at most, and run it again."""
    write(folder / "raw", items)
    with served(folder / "raw") as base:
        first, second = (measure.contestant("end_to_end", "run", base, folder / "store", epochs) for _ in range(2))
    kept, vectors = first.told["kept"], first.told["vectors"]
    if second.told["encoded"] or vectors != 2 * kept or kept < 0.99 * items:
        raise RuntimeError(
            f"{kept} of {items} items, {vectors} vectors by two features; then {second.told['encoded']} encoded anew"
        )
    return first, second


def write(folder: Path, items: int) -> None:
    """`items.jsonl`, `interactions.csv` and `images/`: drawn products, each user drawn to two kinds."""
    from pipeline.demo import catalogue, words
    from schemas.demo import DemoConfig

    (folder / "images").mkdir(parents=True)
    chance, config = random.Random(0), DemoConfig()
    products = [catalogue.attributes(chance) for _ in range(items)]
    with (folder / "items.jsonl").open("w") as file:
        for number, product in enumerate(products):
            title = f"{words.title(product.kind, product.colour, product.pattern, chance, config)} {number}"
            text = words.description(product.kind, product.pattern, product.brand, chance)
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
        for user in range(USERS_AN_ITEM * items):
            liked = [number for kind in chance.sample(sorted(kinds), 2) for number in kinds[kind]]
            wanted = set(chance.sample(liked, min(6, len(liked)))) | set(chance.sample(range(items), CHOICES - 6))
            order = chance.sample(sorted(wanted), len(wanted))  # the last ones are held out
            out.writerows([f"U{user:06d}", f"I{number:06d}", 1_600_000_000 + at] for at, number in enumerate(order))


def _draw(folder: Path, product: Any, seed: int) -> None:
    from pipeline.demo import catalogue

    catalogue.draw(product, seed, SIDE).save(folder / "images" / f"{seed}.jpg", quality=88)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder over loopback HTTP, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.end_to_end", "serve", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


class ModelTime:
    """Wall seconds by stage during which a model or matrix product is at work, in whichever threads."""

    def __init__(self) -> None:
        self.stage, self.at_work, self.since = "", 0, 0.0
        self.lock = threading.Lock()
        self.seconds: dict[str, float] = defaultdict(float)
        self.stages: dict[str, float] = {}

    def around(self, owner: Any, name: str) -> None:
        """Time a function wherever it is called through `owner`."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            with self.lock:
                if not self.at_work:
                    self.since = time.perf_counter()
                self.at_work += 1
            try:
                return function(*arguments, **named)
            finally:
                with self.lock:
                    self.at_work -= 1
                    if not self.at_work:
                        self.seconds[self.stage] += time.perf_counter() - self.since

        setattr(owner, name, timed)

    def call(self, name: str, function: Callable[..., Any], /, **arguments: Any) -> Any:
        """How `flows.job` runs a stage."""
        self.stage, begun = name, time.perf_counter()
        result = function(**arguments)
        self.stages[name] = time.perf_counter() - begun
        return result


def contest(base: str, store: str, epochs: str) -> dict[str, Any]:
    """The main job in this process, timed."""
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
        raw=base, name="drawn", store=store, models="offline", features=("sentence", "vision"),
        trainer=CM3Config(batch_size=8192, max_epochs=int(epochs)),
    )  # fmt: skip
    cost = measure.timed(lambda: job.run(parameters=parameters, call=model.call))
    counted = [stage.counts for stage in cost.told.stages]
    return {
        "cpu": cost.cpu, "wall": cost.wall, "stages": model.stages, "model": dict(model.seconds),
        "encoded": sum(cost.told.encoded.values()),
        "kept": next(stage.rows for stage in cost.told.stages if stage.table == "items"),
        "vectors": sum(each["encoded"] + each["reused"] for each in counted if "reused" in each),
    }  # fmt: skip


async def serve(folder: Path) -> None:
    """Serve until terminated or left alone, from memory: it shares the cores of the pipeline that asks."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answers(files.get), "127.0.0.1", 0)
    print("http://{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(Path(sys.argv[2])))
    else:
        measure.tell(**contest(*sys.argv[2:]))
