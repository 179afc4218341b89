"""Does CM3 gain by training with the item weights in view? `python -m benchmarks.joint STORE DATASET`.

The product trains first and adds the weights to the score afterwards. Beside it, on the same seeds:

- `alignment by rank`: a training pair counts log2(1 + its rank by the weights alone), so what they miss counts most;
- `graph of weights`: an item's neighbours are those whose weights on it are largest, not those most alike in content;
- `centred similarity`: s of the calibration is the cosine of vectors from which the mean of all items was taken.

The first line says how s is distributed over pairs of items; the last ones, each variant's mean on test and its p
against the product (paired t-test over users).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from benchmarks.of_store import asked, core
from schemas.training import CM3Config
from trainers.cm3.losses import alignment
from trainers.cm3.model import CM3, frozen_content, fuse
from trainers.cm3.sphere import unit
from trainers.cm3.train import measure
from trainers.data import Dataset
from trainers.evaluation import Floats
from trainers.fit import Batch, Tables
from trainers.item_weights.term import choose_weights
from trainers.propagated import gather
from trainers.significance import p_value

K = 20
PAIRS = 400_000


def main() -> None:
    """Print one line per variant and seed, and one per variant."""
    options = asked(__doc__)
    dataset = core(options.store, options.dataset)
    low, middle, high = np.quantile(similarities(dataset, options.trainer), (0.1, 0.5, 0.9))
    print(f"s of two items drawn at random: {middle:.2f}, of four in five {low:.2f} to {high:.2f}")
    assert options.trainer.item_weights is not None
    weights = choose_weights(dataset, None, options.trainer.item_weights, options.trainer.evaluation)[1]
    ByRank.importance = torch.from_numpy(np.log2(1 + ranks(dataset, weights)))
    variants: dict[str, dict[str, Any]] = {
        "trained first": {},
        "alignment by rank": {"trainers.cm3.build.CM3": ByRank},
        "graph of weights": {"trainers.cm3.build.item_item_adjacency": lambda *_, k, **__: speakers(weights, k)},
        "centred similarity": {"trainers.cm3.model.frozen_content": centred_content},
    }
    per_user: dict[str, list[Floats]] = {name: [] for name in variants}
    for seed in range(options.seeds):
        config = options.trainer.model_copy(update={"seed": seed})
        for name, changes in variants.items():
            with ExitStack() as stack:
                for place, changed in changes.items():
                    stack.enter_context(patch(place, changed))
                measured = measure(dataset, config)
            print(f"seed {seed}  {name:20s}vectors {measured.fitted.validation:.4f}  whole {measured.validation:.4f}")
            per_user[name].append(measured.rankings[CM3.name]["test"].per_user["ndcg", K])
    product, *_ = (np.mean(runs, axis=0) for runs in per_user.values())
    for name, runs in per_user.items():
        mean = np.mean(runs, axis=0)
        print(f"test    {name:20s}NDCG@{K} {mean.mean():.4f}  p {p_value(mean, product):.2g}")


class ByRank(CM3):
    """CM3 whose alignment weighs each training pair."""

    importance: Tensor
    """(users, items)."""

    @override
    def loss(self, tables: Tables, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """That of CM3, with another alignment."""
        terms = super().loss(tables, batch, rng)
        blocks, items, _, logits = tables
        user, place = torch.unique(batch.users, return_inverse=True)
        users = gather(unit(fuse(blocks[user], logits[user])), place)
        share = self.importance[batch.users, batch.items]
        scale = (share / share.mean()).sqrt()[:, None]  # of vectors, for the square of their distance
        align = alignment(users * scale, unit(items[batch.items]) * scale)
        return terms | {"loss": terms["loss"] - terms["alignment"] + align, "alignment": align}


def ranks(dataset: Dataset, weights: sp.csr_matrix) -> NDArray[np.float32]:
    """Each item's place, from 1, in each user's list by the weights alone."""
    scores = (dataset.matrix("train") @ weights).toarray()
    order = np.argsort(-scores, axis=1, kind="stable")
    places = np.empty(scores.shape, np.float32)
    np.put_along_axis(places, order, np.arange(1, scores.shape[1] + 1, dtype=np.float32)[None], axis=1)
    return places


def speakers(weights: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """Each item itself and the at most k - 1 items with the largest positive weights on it; rows sum to 1."""

    def edges() -> Iterator[tuple[int, int]]:
        columns = weights.tocsc()
        for item in range(weights.shape[1]):
            entries = slice(columns.indptr[item], columns.indptr[item + 1])
            largest = entries.start + np.argsort(-columns.data[entries], kind="stable")[: k - 1]
            yield item, item
            yield from ((item, columns.indices[entry]) for entry in largest if columns.data[entry] > 0)

    rows, neighbors = np.array(list(edges())).T
    counts = np.bincount(rows)
    graph = sp.csr_matrix((1 / counts[rows], (rows, neighbors)), shape=weights.shape)
    return graph.astype(np.float32)


def centred_content(features: list[NDArray[np.float32]], dataset: Dataset, config: CM3Config) -> Tensor:
    """`frozen_content` of features from which their mean was taken."""
    means = [x[feature.present].mean(0) for x, feature in zip(features, dataset.features.values(), strict=True)]
    return frozen_content([x - mean for x, mean in zip(features, means, strict=True)], dataset, config)


def similarities(dataset: Dataset, config: CM3Config) -> NDArray[np.float32]:
    """s of `PAIRS` drawn pairs of different items."""
    content = frozen_content([feature.matrix for feature in dataset.features.values()], dataset, config)
    one, other = np.random.default_rng(0).integers(len(dataset.items), size=(2, PAIRS))
    differ = one != other
    cosines: NDArray[np.float32] = (content[one[differ]] * content[other[differ]]).sum(1).numpy()
    return cosines.clip(config.min_sim, config.max_sim)


if __name__ == "__main__":
    main()
