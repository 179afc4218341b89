"""By what validation judges weights: the selection metric of some users among some items, at several factors."""

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from schemas.training import EvaluationConfig, ItemWeightsConfig
from trainers.data import Dataset
from trainers.evaluation import Relevant, Scorer, accuracy
from trainers.item_weights.nearest import Rows

FEW = 2
"""Relevant items per list up to which counting takes less time than sorting; each takes a copy of the list's scores."""


def sample(wanted: Rows, count: int, most: int) -> Rows:
    """All rows below `count`, or where they are more than `most` the wanted ones and others drawn evenly, ascending."""
    if count <= most:
        return np.arange(count)
    others = np.setdiff1d(np.arange(count), wanted)
    return np.sort(np.concatenate([wanted, evenly(others, max(0, most - len(wanted)))]))


def evenly(rows: Rows, most: int) -> Rows:
    """`most` of these rows at equal distances, or all where there are no more."""
    return rows if len(rows) <= most else rows[np.arange(most) * len(rows) // most]


class Judge:
    """Ranks some items for some users, again and again: a sample of a large catalogue, all of a small one.

    The sample's items are all validation items of its users and others drawn evenly, so that its figures are comparable
    with each other, not with those over all items.
    """

    def __init__(
        self, dataset: Dataset, base: Scorer | None, rule: EvaluationConfig, config: ItemWeightsConfig
    ) -> None:
        self.users = evenly(np.unique(dataset.valid[:, 0]), config.judged_users)
        pairs = dataset.valid[np.isin(dataset.valid[:, 0], self.users)]
        self.items = sample(np.unique(pairs[:, 1]), len(dataset.items), config.judged_items)
        self.key, self.rule = (rule.selection_metric, rule.selection_k), rule
        self.interactions = dataset.matrix("train")[self.users]
        column = np.full(len(dataset.items), -1)
        column[self.items] = np.arange(len(self.items))
        pairs = np.stack([np.searchsorted(self.users, pairs[:, 0]), column[pairs[:, 1]]], axis=1)
        self.line, self.column = pairs[np.argsort(pairs[:, 0], kind="stable")].T
        self.relevant = Relevant(pairs, len(self.items))
        self.taken = self.interactions[:, self.items]
        self.base = None if base is None else self._scores(base)
        self.spread = 0.0 if self.base is None else float(self.base.std(axis=1).mean())
        if self.base is not None:  # whatever is added to them, they stay last
            self._leave_out_taken(self.base, slice(0, len(self.users)))

    def _scores(self, base: Scorer) -> NDArray[np.float32]:
        items = torch.from_numpy(self.items)
        return np.concatenate([base(self.users[rows])[:, items].float().cpu().numpy() for rows in self._blocks()])

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, len(self.users), self.rule.block):
            yield slice(start, min(start + self.rule.block, len(self.users)))

    def _leave_out_taken(self, scores: NDArray[np.float32], rows: slice) -> None:
        """Put what these users chose in training last, (n, items), in place."""
        taken = self.taken[rows]
        scores[np.repeat(np.arange(len(scores)), np.diff(taken.indptr)), taken.indices] = -np.inf

    def values(self, weights: sp.csr_matrix, parts: tuple[float, ...]) -> dict[float, float]:
        """Factor of the weights → the selection metric with it, the factors in the order of `parts`.

        Memory: beside the base's scores as many of the weights, (users, items) float32.

        Args:
            weights: (items, items), unscaled.
            parts: of the score's spread over a user's items: 0 leaves the weights out, 0.5 gives them as much as the
                base has. Without a base they stand alone, by factor 1.
        """
        narrow = weights[:, self.items]
        terms = [(self.interactions[rows] @ narrow).toarray() for rows in self._blocks()]
        factors = [1.0] if self.base is None else self._factors(terms, parts)
        sums = dict.fromkeys(factors, 0.0)
        for rows, term in zip(self._blocks(), terms, strict=True):
            if self.base is None:
                self._leave_out_taken(term, rows)
            for factor in sums:
                scores = term
                if self.base is not None:
                    scores = np.float32(factor) * term
                    scores += self.base[rows]
                sums[factor] += self._sum(rows, scores)
        return {factor: total / len(self.users) for factor, total in sums.items()}

    def _factors(self, terms: list[NDArray[np.float32]], parts: tuple[float, ...]) -> list[float]:
        spread = float(np.mean([term.std(axis=1).mean() for term in terms]))
        ratio = self.spread / spread if spread else 0.0
        return [ratio * part / (1 - part) for part in parts]

    def _sum(self, rows: slice, scores: NDArray[np.float32]) -> float:
        """Of the metric over these users, (n, items) scores given."""
        metric, k = self.key
        hits = self._hits(rows, scores, min(k, scores.shape[1]))
        relevant = self.relevant.number(np.arange(rows.start, rows.stop))
        return float(accuracy(hits, relevant, (k,))[metric, k].sum())

    def _hits(self, rows: slice, scores: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
        """Whether the item at each of the first `k` places is relevant to its user, (n, k).

        A relevant item's place is the number of items with a higher score. Counting those takes less time than sorting
        where an eighth of the items rules most out. Lists in which others have the same score are sorted, and all are
        where more than `FEW` relevant items per list are left.
        """
        mine = slice(*np.searchsorted(self.line, [rows.start, rows.stop]))
        line = self.line[mine] - rows.start
        score, place = scores[line, self.column[mine]], np.zeros(len(line), np.int64)
        for some in (scores[:, : scores.shape[1] // 8], scores):
            place = np.count_nonzero(some[line] > score[:, None], axis=1)
            line, score, place = (of[place < k] for of in (line, score, place))
            if len(line) > FEW * len(scores):
                return self._sorted(rows.start + np.arange(len(scores)), scores, k)
        hits = np.zeros((len(scores), k), np.bool_)
        hits[line, place] = True
        equal = np.unique(line[np.count_nonzero(scores[line] == score[:, None], axis=1) > 1])
        hits[equal] = self._sorted(rows.start + equal, scores[equal], k)
        return hits

    def _sorted(self, lines: Rows, scores: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
        """As `_hits`, of any users, by sorting."""
        top = torch.topk(torch.from_numpy(scores), k, dim=1).indices.numpy()
        return self.relevant.contains(top, lines)
