"""Race against the clock: the nightly re-extraction of a catalogue of a million items, unchanged and 1 % changed.

Drawn titles and imported vectors, no pictures, no models: what is left is reading, comparing, publishing and the
graph. Each night is a process of its own, timed from its start. There is no peer; smaller sizes give the growth.
Nothing is encoded, so the index of finished work is measured by itself, against a dictionary.
"""

import json
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.similarity import DIM, vectors

SHARD = 256
"""Keys of a shard of finished work, as the stages write them."""
START_UP = 1000
"""Items whose night is taken for what any night costs: importing, the report's layout."""
NIGHTS = ("first", "unchanged", "1 % changed")


def main(quick: bool) -> dict[str, Any]:
    """Three nights at three sizes; `quick` divides the sizes by sixteen, and the one above which clusters prune."""
    smaller = 16 if quick else 1
    sizes = [size // smaller for size in (62_500, 250_000, 1_000_000)]
    above = 250_000 // smaller
    costs: dict[str, list[measure.Cost]] = {night: [] for night in NIGHTS}
    for n in (START_UP, *sizes):
        with tempfile.TemporaryDirectory(prefix="cm3-catalogue-") as scratch:
            folder = Path(scratch)
            draw(folder, n, changed=0)
            costs["first"].append(night(folder, above))
            costs["unchanged"].append(night(folder, above))
            draw(folder, n, changed=n // 100)
            costs["1 % changed"].append(night(folder, above))
    cases = [measure.growth("items", sizes, costs[name][1:], start_up=costs[name][0]) for name in NIGHTS]
    for name, case in zip(NIGHTS, cases, strict=True):
        case["case"] = f"{name}: {case['case']}"
    cases.append(index(sizes[-1]))
    return measure.result("catalogue", cases, "polars", "pyarrow", "numpy")


def index(n: int) -> dict[str, Any]:
    """Bytes that the cache's index takes per key, and those of a dictionary of the same keys."""
    ours, peer = (measure.contestant("catalogue", kind, n) for kind in ("index", "dictionary"))
    figures = {"ours": ours.output["bytes"] / n, "peer": peer.output["bytes"] / n, "unit": "bytes per key"}
    case = measure.case(f"index of finished work, {n:,} keys", [(ours, peer)], "dict of text")
    return case | figures | {"ratio": figures["peer"] / figures["ours"], "spread": None}


def draw(folder: Path, n: int, changed: int) -> None:
    """`items.jsonl`, `ids.txt` and `vectors.npy`; the first `changed` items are drawn again."""
    words = np.array(
        [
            "lamp",
            "chair",
            "cup",
            "bag",
            "kettle",
            "scarf",
            "tent",
            "radio",
            "drum",
            "clock",
            "vase",
            "rug",
            "red",
            "blue",
            "steel",
            "oak",
        ]
    )
    drawn = np.random.default_rng(3).integers(0, len(words), (n, 6))
    drawn[:changed] = np.random.default_rng(4).integers(0, len(words), (changed, 6))
    with (folder / "items.jsonl").open("w") as items, (folder / "ids.txt").open("w") as ids:
        for number, title in enumerate(words[drawn]):
            item = {"item_id": f"item-{number:08d}", "title": f"{' '.join(title)} {number}", "brand": title[0]}
            items.write(json.dumps(item) + "\n")
            ids.write(f"{item['item_id']}\n")
    matrix = np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(n, DIM))
    start = 0
    for rows in vectors(n):
        matrix[start : start + len(rows)] = rows
        start += len(rows)
    matrix[:changed] = np.random.default_rng(5).standard_normal((changed, DIM), dtype=np.float32)


def night(folder: Path, above: int) -> measure.Cost:
    """One extraction, in a process of its own; clusters prune the graph of more than `above` items."""
    return measure.spawn([sys.executable, "-m", "benchmarks.catalogue", str(folder), str(above)])


def extract(folder: Path, above: int) -> None:
    """What `cm3 extract catalogue` does."""
    from flows import extract
    from schemas.extract import PARAMETERS

    vectors = {"path": str(folder / "vectors.npy"), "ids": str(folder / "ids.txt"), "format": "npy"}
    settings = {"raw": str(folder), "name": "drawn", "features": [], "imported": {"text": vectors}}
    settings["similarity"] = {"approximate_above": above}
    done = extract.run(parameters=PARAMETERS["catalogue"](store=str(folder / "store"), **settings))
    print(json.dumps({stage.table: stage.seconds for stage in done.stages}))


def index_of(kind: str, n: int) -> None:
    """Add `n` keys a shard at a time, and weigh what is then held."""
    from pipeline.key_index import KeyIndex

    def fill() -> KeyIndex | dict[str, int]:
        places: KeyIndex | dict[str, int] = KeyIndex() if kind == "index" else {}
        for first in range(0, n, SHARD):
            keys = [f"{number:064x}" for number in range(first, min(first + SHARD, n))]
            if isinstance(places, KeyIndex):
                places.update(keys, first)
            else:
                places.update(zip(keys, range(first, n), strict=False))
        return places

    cost = measure.timed(fill)
    tracemalloc.start()
    held = fill()
    taken, _ = tracemalloc.get_traced_memory()
    measure.print_cost(cost.cpu, cost.wall, bytes=taken, keys=len(held))


if __name__ == "__main__":
    match sys.argv[1:]:
        case [("index" | "dictionary") as kind, n]:
            index_of(kind, int(n))
        case [folder, above]:
            extract(Path(folder), int(above))
