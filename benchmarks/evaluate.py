"""Race: metrics of ranked lists at Baby's size, against libraries' evaluators and a loop over users.

Recall, NDCG, precision and MAP at 5, 10, 20 and 50. All get the same lists of 50 items for 19,445 users and the same
held-out items, and must give the same means: ranx (compiled), Cornac (its metric objects, user by user) and our own
loop, as lean as plain Python gets. The ranking itself (one matrix product and a top k) is the same for all and left
out. RecBole is not raced: its last version, 1.2.1, uses names that numpy 2 no longer has (`np.float_`) and needs its
own torch.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import measure
from trainers.evaluation import Relevant, accuracy

USERS, ITEMS, HELD_OUT, LENGTH = 19_445, 7_050, 21_682, 50
CUTOFFS = (5, 10, 20, 50)
METRICS = ("recall", "precision", "ndcg", "map")
SEED = 3
PEERS = ("ranx", "cornac")
CONTESTANTS = Path(__file__).parent / "contestants"
Lists = NDArray[np.int64]


def main(quick: bool) -> dict[str, Any]:
    """Run the race; `quick` takes one turn per library instead of five."""
    ranked, pairs = draw(USERS)
    name = f"metrics of {USERS:,} users"
    turns = [(measure.timed(lambda: ours(ranked, pairs)), measure.timed(lambda: loop(ranked, pairs))) for _ in range(3)]
    agree(turns)
    cases = [measure.case(name, turns, "lean loop over users", USERS, "users per CPU-second")]
    python = measure.peer_python(*PEERS)
    with tempfile.TemporaryDirectory() as scratch:
        files = [f"{scratch}/{file}.npy" for file in ("ranked", "pairs")]
        for file, array in zip(files, (ranked, pairs), strict=True):
            np.save(file, array)
        for peer in PEERS:
            command = [str(python), str(CONTESTANTS / "evaluate_peers.py"), peer, *files, json.dumps(CUTOFFS)]
            turns = [(measure.timed(lambda: ours(ranked, pairs)), library(command)) for _ in range(1 if quick else 5)]
            agree(turns)
            cases.append(measure.case(name, turns, peer, USERS, "users per CPU-second"))
    sizes = (USERS // 16, USERS // 4, USERS)
    cases.append(measure.growth("users", sizes, [grown(size) for size in sizes]))
    versions = {peer: measure.peer_version(python, peer) for peer in PEERS}
    return measure.result("evaluate", cases, "numpy", **versions)


def library(command: list[str]) -> measure.Cost:
    """A library's cost, timed by itself, and its means."""
    cost = measure.spawn(command)
    return measure.Cost(cost.output["cpu"], cost.output["wall"], cost.rss, cost.output["means"])


def agree(turns: list[measure.Turn]) -> None:
    """Check that every mean which both computed is the same."""
    for ours, theirs in turns:
        for name, value in theirs.output.items():
            np.testing.assert_allclose(ours.output[name], value, rtol=1e-9, err_msg=name)


def grown(users: int) -> measure.Cost:
    """Ours for this many users, in a separate process."""
    return measure.contestant("evaluate", users)


def draw(users: int) -> tuple[Lists, Lists]:
    """Seeded lists (users, 50) without repeats, and held-out (user, item) pairs (n, 2)."""
    generator = np.random.default_rng(SEED)
    ranked = np.stack([generator.choice(ITEMS, LENGTH, replace=False) for _ in range(users)])
    held = HELD_OUT * users // USERS
    user, place = generator.integers(0, users, held), generator.integers(0, LENGTH * 4, held)
    hit = ranked[user, np.minimum(place, LENGTH - 1)]
    item = np.where(place < LENGTH, hit, generator.integers(0, ITEMS, held))
    return ranked, np.unique(np.stack((user, item), axis=1), axis=0)


def ours(ranked: Lists, pairs: Lists) -> dict[str, float]:
    """Our evaluator's own functions."""
    relevant = Relevant(pairs, ITEMS)
    values = accuracy(relevant.contains(ranked[relevant.users]), relevant.counts, CUTOFFS)
    return {f"{metric}@{k}": float(each.mean()) for (metric, k), each in values.items() if metric in METRICS}


def loop(ranked: Lists, pairs: Lists) -> dict[str, float]:
    """A loop over users with one set of relevant items per user; every metric at every cut-off by its definition."""
    relevant: dict[int, set[int]] = {}
    for user, item in pairs.tolist():
        relevant.setdefault(user, set()).add(item)
    totals = {f"{metric}@{k}": 0.0 for metric in METRICS for k in CUTOFFS}
    for user, wanted in relevant.items():
        hits = [item in wanted for item in ranked[user].tolist()]
        for k in CUTOFFS:
            places = [place for place, hit in enumerate(hits[:k]) if hit]
            ideal = sum(1 / np.log2(place + 2) for place in range(min(len(wanted), k)))
            totals[f"recall@{k}"] += len(places) / len(wanted)
            totals[f"precision@{k}"] += len(places) / k
            totals[f"ndcg@{k}"] += sum(1 / np.log2(place + 2) for place in places) / ideal
            totals[f"map@{k}"] += sum((i + 1) / (place + 1) for i, place in enumerate(places)) / len(wanted)
    return {name: total / len(relevant) for name, total in totals.items()}


if __name__ == "__main__":
    drawn = draw(int(sys.argv[1]))
    cost = measure.timed(lambda: ours(*drawn))
    measure.print_cost(cost.cpu, cost.wall)
