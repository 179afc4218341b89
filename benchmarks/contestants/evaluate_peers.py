"""Libraries that evaluate rankings: `evaluate_peers.py LIBRARY LISTS PAIRS CUTOFFS` on `.npy` files.

LISTS is (users, length) item rows, best first; PAIRS is (n, 2) held-out (user, item). The last line printed is JSON:
CPU and wall seconds from these arrays to means over users, without imports and compilation, and the means.
"""

import json
import sys
import time

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def with_ranx(lists: Rows, pairs: Rows, cutoffs: list[int]) -> dict[str, float]:
    """ranx: every metric at every cut-off in one compiled call."""
    from ranx import Qrels, Run, evaluate  # type: ignore[import-untyped]

    users = np.unique(pairs[:, 0])
    relevant: dict[str, dict[str, int]] = {str(user): {} for user in users.tolist()}
    for user, item in pairs.tolist():
        relevant[str(user)][str(item)] = 1
    falling = np.linspace(1, 0.5, lists.shape[1]).tolist()
    ranked = {str(u): dict(zip(map(str, lists[u].tolist()), falling, strict=True)) for u in users.tolist()}
    names = [f"{metric}@{k}" for metric in ("recall", "precision", "ndcg", "map") for k in cutoffs]
    return {name: float(value) for name, value in evaluate(Qrels(relevant), Run(ranked), names).items()}


def with_cornac(lists: Rows, pairs: Rows, cutoffs: list[int]) -> dict[str, float]:
    """Cornac: its metric objects per user, as its evaluation calls them. Its MAP needs whole score vectors."""
    from cornac.metrics import NDCG, Precision, Recall  # type: ignore[import-not-found]

    metrics = {f"{kind.__name__.lower()}@{k}": kind(k) for kind in (Recall, Precision, NDCG) for k in cutoffs}
    totals = dict.fromkeys(metrics, 0.0)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    users, starts = np.unique(pairs[:, 0], return_index=True)
    for user, relevant in zip(users.tolist(), np.split(pairs[:, 1], starts[1:]), strict=True):
        for name, metric in metrics.items():
            totals[name] += metric.compute(gt_pos=relevant, pd_rank=lists[user])
    return {name: total / len(users) for name, total in totals.items()}


def main(library: str, lists_file: str, pairs_file: str, cutoffs_json: str) -> None:
    """Warm up on a few users, then time all of them."""
    evaluate = {"ranx": with_ranx, "cornac": with_cornac}[library]
    lists, pairs, cutoffs = np.load(lists_file), np.load(pairs_file), json.loads(cutoffs_json)
    evaluate(lists, pairs[:50], cutoffs)
    cpu, wall = time.process_time(), time.perf_counter()
    means = evaluate(lists, pairs, cutoffs)
    print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "means": means}))


if __name__ == "__main__":
    main(*sys.argv[1:])
