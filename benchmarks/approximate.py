"""Race: the ten nearest neighbours of every item of a large catalogue, approximately, against faiss at equal recall.

Ours is the search of the similarity stage above `approximate_above` items: clusters, the choice of how many each item
is compared with, the search, exact scores and the recall measured. The peers have the same vectors in memory: IVF-Flat
searched query by query and list by list (`faiss.contrib.big_batch_search`), with about as many lists as we have
clusters and with four times the root of the items, and HNSW. Building is included; how many lists or links a peer must
visit to reach our recall is found beforehand on the sample on which recall is measured, at no charge. Each contestant
has one thread, so CPU-seconds do not depend on who else is at work.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure
from benchmarks.similarity import DIM, TOLERANCE, K, prepared

TAIL = 0.8
"""Topics are drawn with sizes that fall as rank ** -0.8: of a million items the largest topic has 4 %, half of the
topics fewer than a hundred items."""
SAMPLE = 1000
"""Items on which recall is measured."""
QUERIES = 65536
"""Queries at a time."""
PEERS = {
    "IVF, by lists, n / 1,000 lists": ("lists", "thousand"),
    "IVF, by lists, 4 √n lists": ("lists", "root"),
    "IVF, n / 1,000 lists": ("queries", "thousand"),
    "IVF, 4 √n lists": ("queries", "root"),
    "HNSW, 16 links": ("hnsw", "16"),
    "HNSW, 32 links": ("hnsw", "32"),
}

Floats = NDArray[np.float32]


def main(quick: bool) -> dict[str, Any]:
    """Run the race; only the smallest size has every peer, the others the faster form of IVF and of HNSW; `quick` has
    62,500 items with these two."""
    by_list, *_, links, _ = PEERS
    few = (by_list, links)
    fields = {62_500: few} if quick else {62_500: tuple(PEERS), 250_000: few, 1_000_000: few}
    with tempfile.TemporaryDirectory(prefix="cm3-approximate-") as scratch:
        cases = [case for n, peers in fields.items() for case in race(Path(scratch), n, peers)]
    return measure.result("approximate", cases, "torch", "numpy", "faiss-cpu")


def race(folder: Path, n: int, peers: tuple[str, ...]) -> list[dict[str, Any]]:
    """Ours, then each peer at our recall."""
    cases = []
    with prepared(folder, n, TAIL) as data:
        ours = contestant("ours", data)
        recall = ours.output["recall"]
        for name in peers:
            peer = contestant(*PEERS[name], data, recall)
            case = measure.case(f"{n:,} x {DIM}, approximate", [(ours, peer)], f"faiss {name}")
            visited = {"peer_visited": peer.output["visited"], "peer_recall": peer.output["recall"]}
            cases.append(case | {"recall": recall} | visited)
    return cases


def contestant(*arguments: object) -> measure.Cost:
    """One contestant in a separate process, on one thread."""
    return measure.contestant("approximate", *arguments, threads=1)


def ours(data: Path) -> dict[str, Any]:
    """Our search on the published vectors, read beforehand."""
    from pipeline.similarity import neighbours
    from pipeline.similarity.vectors import read
    from pipeline.store import Store
    from schemas.similarity import SimilarityConfig

    store = Store(data / "store")
    vectors = {"text": read(store, store.latest("bench", "features/text"))}
    config = SimilarityConfig(k=K, approximate_above=0)
    cost = measure.timed(lambda: neighbours.nearest(vectors, {"text": 1.0}, config, None))
    graph: neighbours.Graph = cost.output
    edges = graph.edges[0]
    sample, kth = truth(data)
    found = edges.values.reshape(-1, K)[graph.layout.position[sample]]
    return {"cpu": cost.cpu, "wall": cost.wall, "recall": share(found, kth), "measured": graph.measured}


def peer(kind: str, size: str, data: Path, recall: float) -> dict[str, Any]:
    """A faiss index of this kind, visiting as little as reaches this recall on the sample."""
    matrix = np.load(data / "vectors.npy")
    sample, kth = truth(data)
    built = measure.timed(lambda: hnsw(matrix, int(size)) if kind == "hnsw" else ivf(matrix, size))
    index: Any = built.output
    limit = index.ntotal if kind == "hnsw" else index.nlist
    visits = [K + 1] if kind == "hnsw" else [1]
    while visits[-1] < limit:
        visits.append(min(max(visits[-1] + 1, int(visits[-1] * 1.1)), limit))
    search = by_lists if kind == "lists" else by_queries

    def visit(count: int) -> None:
        if kind == "hnsw":
            index.hnsw.efSearch = count
        else:
            index.nprobe = count

    for count in visits:
        visit(count)
        reached = share(without_itself(index.search(matrix[sample], K + 1)[0]), kth)
        if reached >= recall:
            break
    searched = measure.timed(lambda: search(index, matrix))
    reached = share(without_itself(searched.output[sample]), kth)
    cost = {"cpu": built.cpu + searched.cpu, "wall": built.wall + searched.wall}
    return cost | {"build_cpu": built.cpu, "visited": count, "recall": reached}


def ivf(matrix: Floats, size: str) -> Any:
    """Trained on 64 items per list, as ours, with faiss's own number of iterations."""
    import faiss

    lists = max(len(matrix) // 1000, 1) if size == "thousand" else int(4 * len(matrix) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = 0
    index.train(matrix[:: max(len(matrix) // (lists * 64), 1)])
    index.add(matrix)
    return index


def hnsw(matrix: Floats, links: int) -> Any:
    """With faiss's own effort of building (efConstruction 40)."""
    import faiss

    index = faiss.IndexHNSWFlat(DIM, links, faiss.METRIC_INNER_PRODUCT)
    index.add(matrix)
    return index


def by_queries(index: Any, matrix: Floats) -> Floats:
    """(n, K + 1) similarities of every item's nearest, itself among them."""
    parts = [index.search(matrix[start : start + QUERIES], K + 1)[0] for start in range(0, len(matrix), QUERIES)]
    return np.concatenate(parts)


def by_lists(index: Any, matrix: Floats) -> Floats:
    """As `by_queries`; each list is compared with all its queries in one matrix product."""
    from faiss.contrib import big_batch_search

    search: Any = big_batch_search.big_batch_search
    similarity: Floats = search(index, matrix, K + 1, method="knn_function")[0]
    return similarity


def truth(data: Path) -> tuple[NDArray[np.int64], Floats]:
    """The sample's rows in `vectors.npy`, and the similarity of each one's K-th nearest other."""
    import faiss

    matrix = np.load(data / "vectors.npy", mmap_mode="r")
    sample = np.sort(np.random.default_rng(7).choice(len(matrix), SAMPLE, replace=False))
    if not (data / "truth.npy").exists():
        similarity, _ = faiss.knn(matrix[sample], np.asarray(matrix), K + 1, metric=faiss.METRIC_INNER_PRODUCT)
        np.save(data / "truth.npy", similarity[:, K])
    return sample, np.load(data / "truth.npy")


def without_itself(similarity: Floats) -> Floats:
    """(n, K) of (n, K + 1): an item is its own nearest, wherever its list was visited."""
    return similarity[:, 1:]


def share(found: Floats, kth: Floats) -> float:
    """Of the similarities found, the share at least as high as the K-th true one: the recall."""
    return float((found >= kth[:, None] - TOLERANCE).mean())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["ours", data]:
            measure.print_cost(**ours(Path(data)))
        case [kind, size, data, recall]:
            measure.print_cost(**peer(kind, size, Path(data), float(recall)))
