"""Race: `cm3 serve` against the bare product and top k that a user's scores cost.

100,000 users and items, 257 numbers wide. Requests come 200 a second, whether earlier ones are answered or not, to one
serving process on all cores. Asked is what the published lists hold (k = 10), and what must be scored (k = 100 of
lists of 50). The peer is one user after the other: `items @ user` and `argpartition`, in NumPy. Costs are CPU seconds
of the serving process, HTTP and JSON included; latencies stand in the cases' names.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import httpx
import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks import measure
from pipeline.store import Store
from schemas import tables as contract
from schemas.lineage import Lineage

USERS = ITEMS = 100_000
WIDTH, TOP_K, CHOSEN, WEIGHTS, NEIGHBORS = 257, 50, 20, 20, 10
RATE, SECONDS, TURNS = 200, 10, 3
BARE = 100
"""Products that the peer is timed by."""
LISTED, SCORED = 10, 100
SEED = 5


def main(quick: bool) -> dict[str, Any]:
    """Run the race; `quick` has a fifth of the users and items, and shorter turns."""
    users, items = (USERS // 5, ITEMS // 5) if quick else (USERS, ITEMS)
    seconds = SECONDS // 5 if quick else SECONDS
    with tempfile.TemporaryDirectory() as folder:
        vectors = publish(Store(f"{folder}/store"), users, items)
        with served(folder) as (url, process):
            cases = [race(url, process, vectors, k, users, seconds, 1 if quick else TURNS) for k in (LISTED, SCORED)]
    return measure.result("serve", cases, "numpy", "fastapi", "uvicorn")


def race(
    url: str,
    process: psutil.Process,
    vectors: tuple[NDArray[np.float32], NDArray[np.float32]],
    k: int,
    users: int,
    seconds: int,
    turns: int,
) -> dict[str, Any]:
    """One case: requests for the best `k` of users at random."""
    asyncio.run(load(f"{url}/v1/shop/recommend", k, users, 1))  # loads what a first request loads
    measured, latencies = [], []
    for _ in range(turns):
        cpu = sum(process.cpu_times()[:2])
        started = time.perf_counter()
        times = asyncio.run(load(f"{url}/v1/shop/recommend", k, users, seconds))
        wall = time.perf_counter() - started
        cpu = sum(process.cpu_times()[:2]) - cpu
        rss = process.memory_info().rss / (1 << 20)
        peer = bare(*vectors, k)
        share = len(times) / BARE
        theirs = measure.Cost(peer.cpu * share, peer.wall * share, peer.rss)
        measured.append((measure.Cost(cpu, wall, rss), theirs))
        latencies += times
    low, high = np.percentile(latencies, (50, 95)) * 1000
    what = "published" if k <= TOP_K else "scored"
    name = f"{RATE}/s, k = {k} ({what}), median {low:.1f} ms, p95 {high:.1f} ms"
    case = measure.case(name, measured, "product and top k", RATE * seconds, "requests per CPU-second")
    return case | {"p50_ms": low, "p95_ms": high, "peer_ms": measured[0][1].wall / (RATE * seconds) * 1000}


async def load(url: str, k: int, users: int, seconds: int) -> list[float]:
    """Ask at a fixed rate, from first to last; returns each request's seconds, counted from when it was due."""
    chosen = np.random.default_rng(SEED).integers(0, users, RATE * seconds)
    begin = time.perf_counter()

    async def ask(number: int) -> float:
        due = begin + number / RATE
        await asyncio.sleep(due - time.perf_counter())
        async with session.get(f"{url}/{user_id(int(chosen[number]))}?k={k}") as answer:
            body = await answer.read()
            if answer.status != 200 or body.count(b'"rank"') != k:
                raise RuntimeError(f"{answer.status}: {body[:200]!r}")
        return time.perf_counter() - due

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return list(await asyncio.gather(*map(ask, range(len(chosen)))))


def bare(of_users: NDArray[np.float32], of_items: NDArray[np.float32], k: int) -> measure.Cost:
    """The cost of `BARE` users' products and top k, one after the other."""

    def work() -> None:
        for user in of_users[:BARE]:
            scores = of_items @ user
            best = np.argpartition(scores, len(scores) - k)[-k:]
            best[np.argsort(-scores[best])]

    return measure.timed(work)


@contextmanager
def served(folder: str) -> Iterator[tuple[str, psutil.Process]]:
    """`cm3 serve` on the store in `folder`, ready: its address and its serving process."""
    command = [sys.executable, "-m", "flows.cli", "serve", "--store", f"{folder}/store", "--port", "0"]
    environment = os.environ | {"CM3_CACHE": f"{folder}/cache"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        try:
            assert parent.stdout is not None
            url = parent.stdout.readline().split()[0]
            while True:
                try:
                    if httpx.get(f"{url}/readyz", timeout=60).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.2)
            children = psutil.Process(parent.pid).children()
            yield url, max(children, key=lambda child: child.memory_info().rss)
        finally:
            parent.terminate()


def user_id(number: int) -> str:
    """A user's id."""
    return f"u{number:07d}"


def publish(store: Store, users: int, items: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Tables of a drawn training; returns the vectors of users and items."""
    rng = np.random.default_rng(SEED)
    members = pa.array([user_id(n) for n in range(users)])
    names = pa.array([f"i{n:07d}" for n in range(items)])
    vectors = tuple(rng.standard_normal((n, WIDTH), np.float32) for n in (users, items))

    def some(count: int) -> pa.Array:
        return names.take(pa.array(rng.integers(0, items, count)))

    def each(ids: pa.Array, times: int) -> pa.Array:
        return ids.take(pa.array(np.repeat(np.arange(len(ids)), times)))

    def column(rows: NDArray[np.float32], field: pa.Field) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), type=field.type)

    pairs, listed, near = users * CHOSEN, users * TOP_K, items * NEIGHBORS
    content: dict[str, tuple[pa.Schema, dict[str, Any]]] = {
        "items": (contract.ITEMS, {"item_id": names, "title": names, "categories": pa.array([[]] * items)}),
        "interactions": (
            contract.INTERACTIONS,
            {"user_id": each(members, CHOSEN), "item_id": some(pairs), "split": pa.array(["train"] * pairs)},
        ),
        "similarity": (
            contract.similarity(()),
            {"item_id": each(names, NEIGHBORS), "neighbor_id": some(near)}
            | {"rank": pa.array(np.tile(np.arange(1, NEIGHBORS + 1, dtype=np.int32), items))}
            | {"similarity": pa.array(rng.random(near, np.float32))},
        ),
        "item_weights": (
            contract.ITEM_WEIGHTS,
            {"item_id": each(names, WEIGHTS), "chosen_id": some(items * WEIGHTS)}
            | {"weight": pa.array(rng.random(items * WEIGHTS, np.float32))},
        ),
        "recommendations": (
            contract.RECOMMENDATIONS,
            {"user_id": each(members, TOP_K), "item_id": some(listed)}
            | {"rank": pa.array(np.tile(np.arange(1, TOP_K + 1, dtype=np.int32), users))}
            | {"score": pa.array(rng.random(listed, np.float32))},
        ),
    }
    for table, key, ids, rows, schema in (
        ("embeddings/users", "user_id", members, vectors[0], contract.user_embeddings(WIDTH)),
        ("embeddings/items", "item_id", names, vectors[1], contract.item_embeddings(WIDTH)),
    ):
        content[table] = (schema, {key: ids, "embedding": column(rows, schema.field("embedding"))})
    for name, (schema, columns) in content.items():
        lineage = Lineage(dataset="shop", table=name, stage="drawn", stage_version=1, config={"top_k": TOP_K})
        with store.writer(schema, lineage) as writer:
            rows = len(next(iter(columns.values())))
            absent = {field.name: pa.nulls(rows, field.type) for field in schema if field.name not in columns}
            writer.write(pa.table(columns | absent).select(schema.names))
    return vectors


if __name__ == "__main__":
    print(json.dumps(main(quick=True)))
