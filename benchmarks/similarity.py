"""Race: every item's ten nearest neighbours by cosine, per CPU-second, against faiss's exact search.

Ours is the whole stage: it reads the published features, searches, scores and publishes the graph. The peer is
`faiss.knn` alone, on a matrix that is already in memory. Each runs in a separate process on the same vectors (seeded,
of 32 latent dimensions, in topics, with noise). The race fails if our neighbours are farther than the peer's.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import measure

if TYPE_CHECKING:  # would count as the peer's memory
    import pyarrow as pa

K = 10
DIM = 384
CHUNK = 16384
PEER = "faiss.knn"
TOLERANCE = 2e-6
"""float32 rounding between the two: a neighbour that is farther by less than this counts as equal."""


def main(quick: bool) -> dict[str, Any]:
    """Run the race; `quick` leaves out 23,033 and 63,001 items, and takes a smaller growth."""
    sizes = [18_357] if quick else [18_357, 23_033, 63_001]  # Amazon's Sports, Clothing and Electronics
    with tempfile.TemporaryDirectory(prefix="cm3-similarity-") as scratch:
        folder = Path(scratch)
        cases = [race(folder, n, repeats=3) for n in sizes]
        cases.append(update(folder, 18_357))
        cases.append(growth(folder, (2_000, 8_000, 32_000) if quick else (5_000, 20_000, 80_000)))
    return measure.result("similarity", cases, "torch", "numpy", "pyarrow", "faiss-cpu")


def race(folder: Path, n: int, repeats: int) -> dict[str, Any]:
    """Ours and the peer in turns. Fails if our neighbours are farther."""
    with prepared(folder, n) as data:
        turns = [(contestant("ours", data), contestant("faiss", data)) for _ in range(repeats)]
        recall = as_near(data)
    if recall < 1:
        raise RuntimeError(f"{n:,} items: recall {recall} where 1 is expected")
    return measure.case(f"{n:,} x {DIM}, exact", turns, PEER) | {"recall": recall}


def update(folder: Path, n: int) -> dict[str, Any]:
    """One item in a hundred changes: the update against a rebuild. Fails if the two graphs differ."""
    with prepared(folder, n) as data:
        contestant("ours", data)
        updated = contestant("update", data)
    output = updated.output
    rebuilt = measure.Cost(output["rebuild_cpu"], output["rebuild_wall"], updated.rss)
    case = measure.case(f"{n:,} x {DIM}, 1 % changed", [(updated, rebuilt)], "rebuild")
    return case | {"searched": output["searched"]}


def growth(folder: Path, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Exact search at 1, 4 and 16 times the size."""
    costs = []
    for n in sizes:
        with prepared(folder, n) as data:
            costs.append(contestant("ours", data))
    return measure.growth("items", sizes, costs)


def vectors(n: int, tail: float = 0.0) -> Iterator[np.ndarray]:
    """(n, DIM) float32 rows of length 1 in chunks: topics of 200 items in 32 latent dimensions, with noise.

    Args:
        tail: the topics' sizes fall as rank ** -tail; 200 is then their mean.
    """
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((max(n // 200, 1), 32), dtype=np.float32)
    projection = rng.standard_normal((32, DIM), dtype=np.float32)
    shares = np.arange(1.0, len(topics) + 1) ** -tail
    for start in range(0, n, CHUNK):
        count = min(CHUNK, n - start)
        topic = rng.choice(len(topics), count, p=shares / shares.sum()) if tail else rng.integers(0, len(topics), count)
        latent = topics[topic] + 0.5 * rng.standard_normal((count, 32), dtype=np.float32)
        rows = latent @ projection + rng.standard_normal((count, DIM), dtype=np.float32)
        yield rows / np.linalg.norm(rows, axis=1, keepdims=True)


@contextmanager
def prepared(folder: Path, n: int, tail: float = 0.0) -> Iterator[Path]:
    """A temporary folder with `vectors.npy` and a store that has them as features."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        arguments = ["prepare", scratch, str(n), str(tail)]
        subprocess.run([sys.executable, "-m", "benchmarks.similarity", *arguments], check=True)
        yield Path(scratch)


def contestant(name: str, data: Path) -> measure.Cost:
    """One contestant in a separate process."""
    return measure.contestant("similarity", name, data)


def as_near(data: Path) -> float:
    """Share of our neighbours that are at least as near as faiss's k-th."""
    import polars

    from pipeline.store import Store

    store = Store(data / "store")
    graph = polars.DataFrame(store.read(store.latest("bench", "similarity"), ["item_id", "similarity"]))
    best = graph.sort("item_id", "similarity", descending=[False, True])["similarity"].to_numpy().reshape(-1, K)
    return float((best >= np.load(data / "faiss.npy")[:, K - 1 :] - TOLERANCE).mean())


def prepare(data: Path, n: int, tail: float = 0.0, changed: int = 0) -> None:
    """Write the vectors for faiss and publish them as `features/text`; the first `changed` ones are drawn again."""
    import pyarrow as pa

    from pipeline.store import Store
    from schemas import tables
    from schemas.lineage import Lineage

    lineage = Lineage(
        dataset="bench", table="features/text", stage="draw", stage_version=1, config={"changed": changed}
    )
    schema = tables.features(DIM)
    matrix = np.lib.format.open_memmap(data / "vectors.npy", mode="w+", dtype=np.float32, shape=(n, DIM))
    fresh = np.random.default_rng(1).standard_normal((changed, DIM), dtype=np.float32)
    with Store(data / "store").writer(schema, lineage) as writer:
        start = 0
        for rows in vectors(n, tail):
            if start == 0:
                rows[:changed] = fresh / np.linalg.norm(fresh, axis=1, keepdims=True)
            matrix[start : start + len(rows)] = rows
            ids = pa.array([f"item-{i:08d}" for i in range(start, start + len(rows))])
            embedding = pa.FixedSizeListArray.from_arrays(rows.reshape(-1), type=schema.field("embedding").type)
            writer.write(pa.table([ids, ids, embedding, pa.nulls(len(rows), pa.string())], schema.names))
            start += len(rows)


def build(data: Path, rebuild: bool = True) -> tuple[dict[str, Any], "pa.Table"]:
    """Our stage on the latest features: cost and measured recall, and the rows; `rebuild` deletes earlier graphs."""
    import pandas  # noqa: F401  # pyarrow imports it on first use; imports are not timed, nor are the peer's

    from pipeline import similarity
    from pipeline.store import Store
    from schemas.similarity import SimilarityConfig

    store = Store(data / "store")
    if rebuild:
        shutil.rmtree(data / "store/bench/similarity", ignore_errors=True)
    features = {"text": store.latest("bench", "features/text")}
    cpu, wall = time.process_time(), time.monotonic()
    graph = similarity.run(store=store, features=features, config=SimilarityConfig(k=K)).tables["similarity"]
    cost = {"cpu": time.process_time() - cpu, "wall": time.monotonic() - wall}
    return cost | {"measured": json.loads(graph.lineage["cm3.measured"])}, store.read(graph)


def faiss_knn(data: Path) -> dict[str, Any]:
    """The peer: exact inner product on a matrix in memory; the item itself is dropped."""
    import faiss

    matrix = np.load(data / "vectors.npy")
    cpu, wall = time.process_time(), time.monotonic()
    similarity, _ = faiss.knn(matrix, matrix, K + 1, metric=faiss.METRIC_INNER_PRODUCT)
    cost = {"cpu": time.process_time() - cpu, "wall": time.monotonic() - wall}
    np.save(data / "faiss.npy", similarity[:, 1:])
    return cost


def rebuild_and_update(data: Path) -> dict[str, Any]:
    """Change one item in a hundred, update the published graph, then rebuild it and compare."""
    n = len(np.load(data / "vectors.npy", mmap_mode="r"))
    prepare(data, n, changed=n // 100)
    cost, updated_rows = build(data, rebuild=False)
    rebuild_cost, rebuilt_rows = build(data)
    if not updated_rows.equals(rebuilt_rows):
        raise RuntimeError("the updated graph differs from the rebuilt one")
    rebuilt = {"rebuild_cpu": rebuild_cost["cpu"], "rebuild_wall": rebuild_cost["wall"]}
    return cost | rebuilt | {"searched": cost["measured"]["searched"]}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["prepare", data, n, tail]:
            prepare(Path(data), int(n), float(tail))
        case ["ours", data]:
            measure.print_cost(**build(Path(data))[0])
        case ["update", data]:
            measure.print_cost(**rebuild_and_update(Path(data)))
        case ["faiss", data]:
            measure.print_cost(**faiss_knn(Path(data)))
