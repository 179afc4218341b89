"""Race: read, filter to the 5-core, split and publish 10 million interactions, against pandas.

Both read the same CSV and JSON Lines, drop repeated and unknown interactions, filter to the fixed point, split by the
protocol and write Parquet; both must keep the same rows and hold out the same number. There are two pandas peers: one
splits user by user, as published preprocessing does, and one is vectorised throughout, the best of its kind.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks import measure

ROOT = Path(__file__).parent.parent
CONTESTANTS = ROOT / "benchmarks" / "contestants"
SEED = 5


def main(quick: bool) -> dict[str, Any]:
    """Run the race; `quick` takes one million interactions instead of ten."""
    rows, repeats = (1_000_000, 1) if quick else (10_000_000, 3)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw(folder / "raw", rows)
        cases = [race(folder, rows, 1 if way == "loop" else repeats, way) for way in ("loop", "vectorised")]
        cases.append(growth(folder, rows))
    return measure.result("ingest", cases, "polars", "pyarrow", "numpy", "pandas")


def draw(folder: Path, rows: int) -> None:
    """`items.jsonl` and `interactions.csv` like Amazon's: few popular items, most users with few interactions."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(SEED)
    users, items = rows // 7, rows // 60
    user = (users * generator.beta(0.7, 1.6, rows)).astype(np.int64)
    item = (items * generator.beta(0.4, 1.8, rows)).astype(np.int64)
    pl.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "rating": generator.integers(1, 6, rows).astype(np.float32),
            "timestamp": generator.integers(1_000_000_000, 1_500_000_000, rows),
        }
    ).with_columns(
        pl.format("A{}X", pl.col("user_id").cast(pl.String).str.zfill(12)).alias("user_id"),
        pl.format("B{}", pl.col("item_id").cast(pl.String).str.zfill(9)).alias("item_id"),
    ).write_csv(folder / "interactions.csv")
    pl.DataFrame({"number": np.arange(items)}).select(
        pl.format("B{}", pl.col("number").cast(pl.String).str.zfill(9)).alias("item_id"),
        pl.format("Thing number {}", "number").alias("title"),
        pl.lit("Something useful for the home, made well and sold often.").alias("description"),
    ).write_ndjson(folder / "items.jsonl")


def race(folder: Path, rows: int, repeats: int, way: str) -> dict[str, Any]:
    """Ours and the peer in turns, per CPU-second of the whole process. Fails if they keep different rows."""
    turns = [(contestant("ours", folder), contestant(way, folder)) for _ in range(repeats)]
    if any(ours.output != theirs.output for ours, theirs in turns):
        raise RuntimeError(f"the contestants disagree: {turns[0][0].output} and {turns[0][1].output}")
    name = f"{rows:,} interactions: read, 5-core, split, publish"
    measured = measure.case(name, turns, f"pandas ({way})", rows, "interactions per CPU-second")
    walls = [theirs.wall / ours.wall for ours, theirs in turns]
    return measured | {"wall_ratio": sorted(walls)[len(walls) // 2], "kept": turns[0][0].output}


def growth(folder: Path, rows: int) -> dict[str, Any]:
    """At 1/16, 1/4 and all of the rows."""
    sizes, costs = (rows // 16, rows // 4, rows), []
    for size in sizes:
        part = folder / f"growth-{size}"
        draw(part / "raw", size)
        costs.append(contestant("ours", part))
    draw(folder / "start-up" / "raw", 600)
    return measure.growth("interactions", sizes, costs, start_up=contestant("ours", folder / "start-up"))


def contestant(name: str, folder: Path) -> measure.Cost:
    """A contestant, "ours" or one of the pandas peers, on `folder`/raw in a separate process."""
    script, argument = ("ingest_ours.py", str(ROOT)) if name == "ours" else ("ingest_pandas.py", name)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(CONTESTANTS / script), f"{scratch}/output", str(folder / "raw"), argument]
        return measure.spawn(command, folder=Path(scratch))
