"""The same with pandas: splitting user by user, as published preprocessing does, or vectorised throughout.

Arguments: output folder, raw folder, "loop" or "vectorised". Its last line is that of `ingest_ours.py`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd


def main(output: str, raw: str, way: str) -> None:
    """Read, filter, split, write and count."""
    items = pd.read_json(Path(raw) / "items.jsonl", lines=True, dtype={"item_id": str})
    rows = pd.read_csv(Path(raw) / "interactions.csv", dtype={"user_id": str, "item_id": str})
    rows = rows[rows["item_id"].isin(items["item_id"])]
    rows = rows.sort_values("timestamp", kind="stable").drop_duplicates(["user_id", "item_id"], keep="last")
    rows = k_core(rows, 5)
    rows["split"] = split_by_loop(rows) if way == "loop" else split(rows)
    items = items[items["item_id"].isin(rows["item_id"])]
    folder = Path(output)
    folder.mkdir(parents=True)
    rows.to_parquet(folder / "interactions.parquet", compression="zstd")
    items.to_parquet(folder / "items.parquet", compression="zstd")
    counts = rows["split"].value_counts().sort_index().to_dict()
    print(json.dumps({"items": len(items), "rows": len(rows), **counts}))


def k_core(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """Drop users and items with fewer than k interactions until there are none."""
    while True:
        users = rows["user_id"].map(rows["user_id"].value_counts())
        items = rows["item_id"].map(rows["item_id"].value_counts())
        ok = (users >= k) & (items >= k)
        if ok.all():
            return rows
        rows = rows[ok]


def split_by_loop(rows: pd.DataFrame) -> pd.Series:
    """As `split`, user by user; `rows` are sorted by time."""
    generator = np.random.default_rng(999)
    labels = pd.Series("train", index=rows.index)
    valid: list[int] = []
    test: list[int] = []
    for _, group in rows.groupby("user_id", sort=False):
        places = group.index.to_numpy()
        if len(places) >= 10:
            places = generator.permutation(places)
        tested, held_out = (1, 2) if len(places) < 10 else (len(places) // 5 - len(places) // 10, len(places) // 5)
        test.extend(places[len(places) - tested :])
        valid.extend(places[len(places) - held_out : len(places) - tested])
    labels[valid] = "valid"
    labels[test] = "test"
    return labels


def split(rows: pd.DataFrame) -> pd.Series:
    """Users with fewer than 10 interactions hold out the last two by time; others 10 % and 10 % at random."""
    shuffled = rows.assign(key=np.random.default_rng(999).random(len(rows)))
    count = shuffled.groupby("user_id")["item_id"].transform("size")
    shuffled["key"] = shuffled["key"].where(count >= 10, shuffled["timestamp"])
    shuffled = shuffled.sort_values(["user_id", "key"])
    from_last = shuffled.groupby("user_id").cumcount(ascending=False)
    count = count.reindex(shuffled.index)
    tested = (count // 5 - count // 10).where(count >= 10, 1)
    held_out = (count // 5).where(count >= 10, 2)
    labels = pd.Series("train", index=shuffled.index)
    labels[from_last < held_out] = "valid"
    labels[from_last < tested] = "test"
    return labels.reindex(rows.index)


if __name__ == "__main__":
    main(*sys.argv[1:])
