"""Race: the item weights of a drawn shop, whole: chosen on validation, solved, borrowed by cold items, written.

A shop of n items has n users, 20 n interactions and vectors 384 wide, all drawn. Items belong to topics of 200: their
vectors lie around the topic's (32 latent dimensions, with noise), and a user chooses five in six items from three
topics, by the items' popularity, the others from everywhere. Popularity and users' activity are log-normal; one item in
fifty is cold. Peers, at 12,000 items: the exact closed forms, whose matrices are dense, and SANSA, which approximates
the one without content. Each size runs in a separate process.
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import numpy as np

from benchmarks import measure

if TYPE_CHECKING:  # the process that only starts contestants needs no torch
    from trainers.data import Dataset
    from trainers.evaluation import Scorer

SIZES, QUICK = (15_625, 62_500, 250_000, 1_000_000), (4_000, 16_000)
EACH = 20
"""Interactions per user and per item."""
TOPIC, TOPICS = 200, 3
"""Items per topic, topics per user."""
WIDTH, LATENT = 384, 32
CHUNK = 16_384
COLD = 50
"""One item in so many has no interactions."""


EXACT, RIDGE = 12_000, (2.0, 100.0)
"""Items of the race against other solvers, and the α and λ that all of them take."""
SPEAKERS = 200
"""Weights per item: of ours at most, and of SANSA's factors on average."""
SANSA = ("sansa==1.1.0", "scikit-sparse==0.4.16")
"""Its packages; the second is compiled against CHOLMOD (Debian's libsuitesparse-dev)."""


def main(quick: bool) -> dict[str, Any]:
    """Run the race; `quick` takes small sizes, and does without the peers at 12,000 items."""
    sizes = QUICK if quick else SIZES
    costs = [measure.contestant("weights", "whole", n) for n in sizes]
    cases = [] if quick else against(EXACT)
    cases.append(measure.growth("items", sizes, costs))
    for n, cost in zip(sizes, costs, strict=True):
        cases += [part(n, name, spent) for name, spent in cost.output["phases"].items()]
        cases += [part(n, f"columns, {name}", {"cpu": cpu}) for name, cpu in cost.output["columns"].items()]
    return measure.result("weights", cases, "torch", "numpy", "scipy", "faiss-cpu")


def part(n: int, name: str, spent: dict[str, float]) -> dict[str, Any]:
    """One phase of the shop of `n` items."""
    spent = {"cpu_s" if key == "cpu" else "wall_s" if key == "wall" else "peak_rss_mb": v for key, v in spent.items()}
    return {"case": f"{n:,} items, {name}", "unit": "CPU-seconds", "ours": spent["cpu_s"]} | spent


def against(n: int) -> list[dict[str, Any]]:
    """One setting solved for `n` items: ours, the exact closed form, and SANSA, which sees no content."""
    cases = []
    names = {"exact": "content-ease, dense inverse", "ease": "ease, dense inverse", "sansa": "SANSA, no content"}
    ours = measure.contestant("weights", "solve", "ours", n)
    for name, peer in names.items():
        try:
            theirs = measure.contestant("weights", "solve", name, n)
        except RuntimeError as error:
            print(f"{peer} is left out: {error}", file=sys.stderr)
            continue
        quality = {"ndcg@20": ours.output["ndcg@20"], "peer_ndcg@20": theirs.output["ndcg@20"]}
        figures = "validation NDCG@20 {ndcg@20:.4f} to {peer_ndcg@20:.4f}".format(**quality)
        cases.append(measure.case(f"{n:,} items, one setting, {figures}", [(ours, theirs)], peer) | quality)
    return cases


def solve_once(name: str, n: int) -> dict[str, Any]:
    """One contestant's cost, and its figure over all validation users and items of the shop of `n` items."""
    from pipeline.machine import use_threads
    from schemas.baselines import ContentEASEConfig, EASEConfig
    from schemas.training import EvaluationConfig, ItemWeightsConfig
    from trainers.baselines.ease import content_ease, ease
    from trainers.evaluation import evaluate
    from trainers.item_weights.choose import Choice
    from trainers.item_weights.fit import item_weights
    from trainers.item_weights.ridge import Ridge
    from trainers.item_weights.term import with_weights

    threads, dataset, (alpha, penalty) = use_threads(), draw(n), RIDGE
    forget_peak()
    if name == "sansa":
        cost, scorer = sansa(dataset, penalty)
    elif name == "ours":
        choice = Choice({"text": 1.0}, Ridge(alpha, penalty), 1.0, None, 0.0)
        cost = measure.timed(lambda: item_weights(dataset, choice, ItemWeightsConfig(), threads))
        scorer = with_weights(None, cost.output.matrix, dataset.matrix("train"))
    elif name == "exact":
        config = ContentEASEConfig(l2=penalty, alpha=alpha)
        cost = measure.timed(lambda: content_ease(dataset, config))
        scorer = cost.output
    else:
        cost = measure.timed(lambda: ease(dataset, EASEConfig(l2=penalty)))
        scorer = cost.output
    rule = EvaluationConfig().for_selection()
    ranking = evaluate(scorer, dataset, "valid", rule)
    return {"cpu": cost.cpu, "wall": cost.wall, "rss": cost.rss, "ndcg@20": ranking.values["ndcg", 20]}


def sansa(dataset: "Dataset", penalty: float) -> "tuple[measure.Cost, Scorer]":
    """SANSA's cost and scorer, fitted in its own environment."""
    import scipy.sparse as sp
    import torch

    python, script = measure.peer_python(*SANSA), Path(__file__).parent / "contestants" / "weights_sansa.py"
    interactions = dataset.matrix("train")
    with tempfile.TemporaryDirectory() as folder:
        sp.save_npz(Path(folder) / "train.npz", interactions)
        density = SPEAKERS / len(dataset.items)
        command = [str(python), str(script), f"{folder}/train.npz", f"{folder}/weights", str(penalty), str(density)]
        output = measure.spawn(command).output
        first, second = (sp.load_npz(Path(folder) / f"weights-{place}.npz") for place in (0, 1))

    def scorer(users: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((interactions[users] @ first @ second).toarray().astype(np.float32))

    return measure.Cost(output["cpu"], output["wall"], output["rss"], output), scorer


def draw(n: int) -> "Dataset":
    """The shop of `n` items."""
    from trainers.data import Dataset, Modality

    rng = np.random.default_rng(0)
    topic_of = np.arange(n) // TOPIC
    popularity = rng.lognormal(0, 1.5, n)
    popularity[rng.random(n) < 1 / COLD] = 0
    ends = np.cumsum(popularity)
    starts = np.concatenate([[0], ends])[np.arange(0, n + TOPIC, TOPIC).clip(0, n)]
    activity = rng.lognormal(np.log(1.15 * EACH) - 0.32, 0.8, n).clip(5, 1000).astype(np.int64)
    user = np.repeat(np.arange(n), activity)
    liked = rng.integers(0, topic_of[-1] + 1, (n, TOPICS))[user, rng.integers(0, TOPICS, len(user))]
    from_topic = rng.random(len(user)) < 5 / 6
    low, high = np.where(from_topic, starts[liked], 0), np.where(from_topic, starts[liked + 1], ends[-1])
    item = np.searchsorted(ends, low + rng.random(len(user)) * (high - low), side="right").clip(0, n - 1)
    shuffled = rng.permutation(n)  # else neighbours would lie side by side
    keys = np.unique(user * n + shuffled[item])
    held = rng.random(len(keys)) < 1 / EACH
    train, valid = (np.stack([part // n, part % n], axis=1) for part in (keys[~held], keys[held]))
    matrix = np.empty((n, WIDTH), np.float32)
    centres = rng.standard_normal((topic_of[-1] + 1, LATENT), dtype=np.float32)
    projection = rng.standard_normal((LATENT, WIDTH), dtype=np.float32)
    for start in range(0, n, CHUNK):
        topics = topic_of[start : start + CHUNK]
        latent = centres[topics] + 0.5 * rng.standard_normal((len(topics), LATENT), dtype=np.float32)
        noise = rng.standard_normal((len(topics), WIDTH), dtype=np.float32)
        matrix[shuffled[start : start + CHUNK]] = latent @ projection + noise
    ids = [f"u{row:07d}" for row in range(n)], [f"i{row:07d}" for row in range(n)]
    features = {"text": Modality("text", matrix, np.ones(n, np.bool_))}
    return Dataset(*ids, train, valid, np.zeros((0, 2), np.int64), features, None)


class Phases:
    """CPU and wall seconds and peak memory of the parts of a run, by wrapping the functions that do them.

    A part within another one counts to the outer one alone.
    """

    def __init__(self) -> None:
        self.costs: dict[str, dict[str, float]] = {}
        self.inner: dict[str, float] = {}
        self.by_children = 0.0
        self.current: str | None = None
        self.lock = threading.Lock()

    def outer(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A part that is called from the main thread."""

        def measured(*arguments: Any, **named: Any) -> Any:
            if self.current is not None:
                return function(*arguments, **named)
            self.current = name
            forget_peak()
            started = children()
            cost = measure.timed(lambda: function(*arguments, **named))
            ended = children()
            by_children = max(0.0, ended.cpu - started.cpu)  # those that ended meanwhile had no work any longer
            self.current = None
            self.by_children += by_children
            before = self.costs.get(name, {"cpu": 0.0, "wall": 0.0, "rss": 0.0})
            self.costs[name] = {
                "cpu": before["cpu"] + cost.cpu + by_children,
                "wall": before["wall"] + cost.wall,
                "rss": max(before["rss"], cost.rss + ended.rss),
            }
            return cost.output

        return measured

    def of_thread(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A part of the solution of one column; its CPU-seconds alone, of the columns that are published. Measured
        where threads of this process solve them."""

        def measured(*arguments: Any) -> Any:
            started = time.thread_time()
            output = function(*arguments)
            if self.current == "columns":
                with self.lock:
                    self.inner[name] = self.inner.get(name, 0.0) + time.thread_time() - started
            return output

        return measured

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, the parts are measured."""
        from trainers.item_weights import candidates, fit, ridge

        outer = {
            "content": (fit, "content_of"),
            "content neighbours": (candidates, "nearest"),
            "columns": (fit, "_solved"),
            "own weight of lenders": (fit, "_choose_themselves"),
            "lenders of cold items": (fit, "nearest_warm"),
            "cold columns": (fit, "borrow"),
        }
        inner = {
            "co-counts": (candidates.Candidates, "_chosen_together"),
            "common users among candidates": (ridge, "_common_users"),
            "likeness among candidates": (ridge, "_alike"),
            "ridge": (ridge, "_regress"),
        }
        with ExitStack() as stack:
            for wrap, parts in ((self.outer, outer), (self.of_thread, inner)):
                for name, (owner, attribute) in parts.items():
                    stack.enter_context(patch.object(owner, attribute, wrap(name, getattr(owner, attribute))))
            yield


class Children(NamedTuple):
    """What the processes that solve columns, which go on for a while, have used: CPU-seconds, and memory now in MiB."""

    cpu: float
    rss: float


def children() -> Children:
    """Those of this process."""
    import psutil

    cpu, memory = 0.0, 0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            cpu, memory = cpu + times.user + times.system, memory + child.memory_full_info().uss
    return Children(cpu, memory / (1 << 20))


def forget_peak() -> None:
    """Let the process's peak memory be that from now on, where the system allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def contest(n: int) -> dict[str, Any]:
    """Choose, solve and write the weights of a shop of `n` items beside popularity."""
    import hashlib

    from pipeline.machine import use_threads
    from schemas.training import EvaluationConfig, ItemWeightsConfig
    from trainers.baselines.popularity import popularity
    from trainers.item_weights.choose import choose
    from trainers.item_weights.fit import item_weights
    from trainers.output import item_weights_tables, write_tables

    threads, dataset, config = use_threads(), draw(n), ItemWeightsConfig()
    phases = Phases()
    with tempfile.TemporaryDirectory() as folder, phases.watching():
        started, cpu = time.perf_counter(), time.process_time()
        choice = phases.outer("choosing", choose)(dataset, popularity(dataset), EvaluationConfig(), config, threads)
        weights = item_weights(dataset, choice, config, threads)
        write = phases.outer("writing", write_tables)
        files = write({"item_weights": item_weights_tables(weights.matrix, dataset.items)}, Path(folder))
        cpu, wall = time.process_time() - cpu + phases.by_children, time.perf_counter() - started
        digest = hashlib.sha256(Path(files["item_weights"]).read_bytes()).hexdigest()
    return {
        "cpu": cpu,
        "wall": wall,
        "phases": phases.costs,
        "columns": phases.inner,
        "interactions": len(dataset.train) + len(dataset.valid),
        "weights": weights.matrix.nnz,
        "choice": [choice.ridge.alpha, choice.ridge.penalty, choice.factor, choice.kept, choice.validation],
        "themselves": weights.themselves,
        "digest": digest,
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["whole", size]:
            measure.print_cost(**contest(int(size)))
        case ["solve", name, size]:
            print(json.dumps(solve_once(name, int(size))))
