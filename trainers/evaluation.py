"""Full-ranking evaluation: every item is ranked for every user, training items left out, in blocks of users.

For a user whose relevant items are `R` (those of the split), and the hits `h_1 … h_K` ∈ {0, 1} of the ranked list:

- recall@K     Σ h / |R|
- precision@K  Σ h / K
- hr@K         1 if any h is 1, else 0
- mrr@K        1 / rank of the first hit, 0 without one
- map@K        Σ_i h_i · precision@i / |R|                (TREC's, also ranx's)
- ndcg@K       Σ_i h_i / log2(i + 1)  over  Σ_{i ≤ min(|R|, K)} 1 / log2(i + 1)

each averaged over the users that have relevant items. Of the same users' lists:

- coverage@K   share of all items that are among the first K of at least one list
- novelty@K    mean of −log2((n_i + 1) / (U + 1)) over the first K of all lists; n_i the item's training interactions,
  U the number of users
- recall_train_A_B@K, ndcg_train_A_B@K   as above with R limited to items with A to B training interactions (B empty:
  no upper bound), averaged over the users that have such items; the lists stay the same. Group `0` holds cold items.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.tables import METRICS, RECOMMENDATIONS, conform
from schemas.training import EvaluationConfig
from trainers.data import Dataset

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

Scorer = Callable[[Rows], Tensor]
"""User rows (block,) → a score for every item, (block, items), float32, on any device; higher is better. The caller may
overwrite the tensor."""


USERS_PER_TABLE = 65_536
"""Users whose recommendations go into one Arrow table: the strings of one array are limited to 2 GB."""


@dataclass(frozen=True)
class Ranking:
    """The metrics of one recommender on one split.

    Attributes:
        values: (metric, K) → mean.
        counts: (metric, K) → number of users averaged over.
        per_user: (metric, K) → value of each evaluated user, in the order of `users`; NaN for users left out.
        users: evaluated user rows, ascending.
    """

    values: dict[tuple[str, int], float]
    counts: dict[tuple[str, int], int]
    per_user: dict[tuple[str, int], Floats] = field(repr=False)
    users: Rows = field(repr=False)

    def flat(self) -> dict[str, float]:
        """The means as `{"ndcg@20": …}`."""
        return {f"{metric}@{k}": value for (metric, k), value in self.values.items()}

    def table(self, model: str, seed: int, split: str) -> pa.Table:
        """The means as rows of the metrics table."""
        same = {"model": model, "seed": seed, "split": split}
        rows = [
            {**same, "metric": metric, "k": k, "value": value, "users": self.counts[metric, k]}
            for (metric, k), value in self.values.items()
        ]
        return conform(pa.Table.from_pylist(rows, schema=METRICS), METRICS)


def evaluate(scorer: Scorer, dataset: Dataset, split: str, config: EvaluationConfig) -> Ranking:
    """Rank all items for each user that has relevant ones in `split`, and average the metrics above.

    Lists hold no training items, and no validation items if `split` is "test" and `config.mask_validation`.
    Memory: block × items scores, and one number per user and metric.
    """
    left_out = dataset.matrix("train")
    if split == "test" and config.mask_validation:
        left_out = (left_out + dataset.matrix("valid")).tocsr()
    users = np.unique(dataset.pairs(split)[:, 0])
    lists = rank(scorer, dataset, max(config.cutoffs), config.block, users=users, left_out=left_out)
    return judge(lists, dataset, split, config)


def selection(scorer: Scorer, dataset: Dataset, config: EvaluationConfig) -> float:
    """The selection metric on validation, by which epochs and configurations are chosen.

    Of more than `config.judged_users` users every n-th is judged: ranking all users among all items takes longer than
    an epoch where both are many.
    """
    rule, users = config.for_selection(), np.unique(dataset.valid[:, 0])
    judged = users[:: max(1, -(-len(users) // config.judged_users))]
    part = replace(dataset, valid=dataset.valid[np.isin(dataset.valid[:, 0], judged)])
    return evaluate(scorer, part, "valid", rule).values[rule.selection_metric, rule.selection_k]


def without(base: Scorer, items: Rows) -> Scorer:
    """Scores of `base`, with which these items stand in no list."""

    def scorer(rows: Rows) -> Tensor:
        scores = base(rows)
        scores[:, torch.from_numpy(items).to(scores.device)] = -torch.inf
        return scores

    return scorer if len(items) else base


class Lists(NamedTuple):
    """Ranked lists: user rows (n,), ascending; item rows (n, k), -1 where no item is left; their scores (n, k)."""

    users: Rows
    items: Rows
    scores: NDArray[np.float32]


def rank(
    scorer: Scorer,
    dataset: Dataset,
    k: int,
    block: int = 256,
    *,
    users: Rows | None = None,
    left_out: sp.csr_matrix | None = None,
) -> Lists:
    """The first `k` items of each user.

    Args:
        block: users scored at a time.
        users: user rows, ascending; all users where None.
        left_out: (users, items), the items that stand in no list of the user's; those chosen in training where None.
    """
    users = np.arange(len(dataset.users)) if users is None else users
    k = min(k, len(dataset.items))
    masked = dataset.matrix("train") if left_out is None else left_out
    offsets, columns = masked.indptr.astype(np.int64), masked.indices.astype(np.int64)
    # Allocated before the first block: small arrays between large ones would keep the large ones' memory from reuse.
    ranked, best = np.empty((len(users), k), np.int64), np.empty((len(users), k), np.float32)
    for start in range(0, len(users), block):
        rows = users[start : start + block]
        lengths = offsets[rows + 1] - offsets[rows]
        where = np.repeat(offsets[rows] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        scores = scorer(rows)
        line = torch.from_numpy(np.repeat(np.arange(len(rows)), lengths)).to(scores.device)
        scores[line, torch.from_numpy(columns[where]).to(scores.device)] = -torch.inf
        values, top = torch.topk(scores, k, dim=1)
        ranked[start : start + block] = torch.where(values == -torch.inf, -1, top).cpu().numpy()
        best[start : start + block] = values.cpu().numpy()
    return Lists(users, ranked, best)


def judge(lists: Lists, dataset: Dataset, split: str, config: EvaluationConfig) -> Ranking:
    """As `evaluate`, from ranked lists.

    Args:
        lists: of every user that has relevant items, maybe of others too; no shorter than the largest cut-off.
    """
    relevant = Relevant(dataset.pairs(split), len(dataset.items))
    ranked = lists.items[np.searchsorted(lists.users, relevant.users), : max(config.cutoffs)]
    hits = relevant.contains(ranked)
    per_user = accuracy(hits, relevant.counts, config.cutoffs)
    per_user |= _by_group(hits, ranked, relevant, dataset.item_counts, config)
    values = {key: float(np.nanmean(v)) if np.isfinite(v).any() else 0.0 for key, v in per_user.items()}
    counts = {key: int(np.isfinite(v).sum()) for key, v in per_user.items()}
    for name, value in _catalogue(ranked, dataset, config.cutoffs).items():
        values[name], counts[name] = value, len(relevant.users)
    return Ranking(values, counts, per_user, relevant.users)


def recommend(lists: Lists, dataset: Dataset, k: int, reasons: Rows | None = None) -> pa.Table:
    """The first `k` items of each list.

    Args:
        reasons: rows of the chosen items that speak for each, (users, k, reasons), -1 where there are fewer.
    Returns: rows of the recommendations table, by user and rank; fewer than `k` per user where fewer items are left.
    """
    user_ids, item_ids = pa.array(dataset.users, pa.string()), pa.array(dataset.items, pa.string())
    places = np.arange(1, k + 1, dtype=np.int32)
    tables = []
    for start in range(0, len(lists.users), USERS_PER_TABLE):
        users, items, scores = (part[start : start + USERS_PER_TABLE] for part in lists)
        kept = items[:, :k] >= 0
        columns = {
            "user_id": user_ids.take(pa.array(np.repeat(users, kept.sum(axis=1)))),
            "item_id": item_ids.take(pa.array(items[:, :k][kept])),
            "rank": pa.array(np.broadcast_to(places[: kept.shape[1]], kept.shape)[kept]),
            "score": pa.array(scores[:, :k][kept]),
            "because": _because(
                None if reasons is None else reasons[start : start + USERS_PER_TABLE][kept], kept, item_ids
            ),
        }
        tables.append(pa.table(columns))
    return conform(pa.concat_tables(tables), RECOMMENDATIONS)


def _because(reasons: Rows | None, kept: NDArray[np.bool_], item_ids: pa.Array) -> pa.Array:
    """A list of item ids per recommendation; null where nothing speaks for it."""
    if reasons is None:
        return pa.nulls(int(kept.sum()), pa.list_(pa.string()))
    lengths = (reasons >= 0).sum(axis=1)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(
        offsets, item_ids.take(pa.array(reasons[reasons >= 0])), mask=pa.array(lengths == 0)
    )


class Relevant:
    """The pairs of a split, sorted for vectorised look-up by (user, item)."""

    def __init__(self, pairs: NDArray[np.int64], n_items: int) -> None:
        self.n_items = n_items
        self.keys = np.sort(pairs[:, 0] * n_items + pairs[:, 1])
        self.users, self.counts = np.unique(pairs[:, 0], return_counts=True)

    def number(self, users: Rows) -> Rows:
        """How many relevant items each of these users has, (n,)."""
        if not len(self.users):
            return np.zeros(len(users), np.int64)
        place = np.minimum(np.searchsorted(self.users, users), len(self.users) - 1)
        return np.where(self.users[place] == users, self.counts[place], 0)

    def contains(self, ranked: Rows, users: Rows | None = None) -> NDArray[np.bool_]:
        """(users, k) item rows, -1 for an empty place → whether each is relevant to its user.

        Args:
            users: the rows' users; by default all that have relevant items.
        """
        if not len(self.keys):
            return np.zeros(ranked.shape, np.bool_)
        keys = (self.users if users is None else users)[:, None] * self.n_items + ranked
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        hits: NDArray[np.bool_] = (self.keys[at] == keys) & (ranked >= 0)
        return hits


def accuracy(hits: NDArray[np.bool_], relevant: Rows, cutoffs: tuple[int, ...]) -> dict[tuple[str, int], Floats]:
    """(metric, K) → value of each user.

    Args:
        hits: (users, K), whether the item at each place is relevant.
        relevant: (users,), number of relevant items.
    """
    place = np.arange(1, hits.shape[1] + 1)
    hits_so_far = np.cumsum(hits, axis=1, dtype=np.float64)
    gain = np.cumsum(hits / np.log2(place + 1), axis=1)
    # The ideal list does not end with the catalogue: a cut-off above the number of items counts as it is.
    ideal = np.cumsum(1 / np.log2(np.arange(2, max(cutoffs) + 2)))
    precision_sum = np.cumsum(hits * hits_so_far / place, axis=1)
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.inf)
    result: dict[tuple[str, int], Floats] = {}
    for k in cutoffs:
        at = min(k, hits.shape[1]) - 1
        result["recall", k] = hits_so_far[:, at] / relevant
        result["precision", k] = hits_so_far[:, at] / k
        result["hr", k] = (hits_so_far[:, at] > 0).astype(np.float64)
        result["mrr", k] = np.where(first <= k, 1 / first, 0.0)
        result["map", k] = precision_sum[:, at] / relevant
        result["ndcg", k] = gain[:, at] / ideal[np.minimum(relevant, k) - 1]
    return result


def _by_group(
    hits: NDArray[np.bool_], ranked: Rows, relevant: Relevant, item_counts: Rows, config: EvaluationConfig
) -> dict[tuple[str, int], Floats]:
    """Recall and NDCG with the relevant items limited to one group at a time, grouped by training interactions."""
    lower = (0, *config.cold_bounds)
    group = np.searchsorted(config.cold_bounds, item_counts, side="right")
    users, items = np.divmod(relevant.keys, relevant.n_items)
    line = np.searchsorted(relevant.users, users)
    result: dict[tuple[str, int], Floats] = {}
    for index, low in enumerate(lower):
        high = lower[index + 1] - 1 if index + 1 < len(lower) else None
        name = f"train_{low}" if high == low else f"train_{low}_{'' if high is None else high}"
        counts = np.bincount(line[group[items] == index], minlength=len(relevant.users))
        inside = hits & (group[ranked] == index)
        values = accuracy(inside, np.maximum(counts, 1), config.cutoffs)
        for metric in ("recall", "ndcg"):
            for k in config.cutoffs:
                result[f"{metric}_{name}", k] = np.where(counts > 0, values[metric, k], np.nan)
    return result


def _catalogue(ranked: Rows, dataset: Dataset, cutoffs: tuple[int, ...]) -> dict[tuple[str, int], float]:
    """Coverage and novelty of the lists."""
    surprise = -np.log2((dataset.item_counts + 1) / (len(dataset.users) + 1))
    result = {}
    for k in cutoffs:
        shown = ranked[:, :k][ranked[:, :k] >= 0]
        result["coverage", k] = len(np.unique(shown)) / len(dataset.items)
        result["novelty", k] = float(surprise[shown].mean()) if len(shown) else 0.0
    return result
