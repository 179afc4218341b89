"""How near users and items that came after training come to a full one: `python -m benchmarks.fold_in STORE DATASET`.

One in ten users, then one in ten items, is hidden from a training whole. Its model gives them vectors from their
training interactions (items also from none), and their test interactions are ranked. Beside it: a training that saw
them, and what is left without any vector of theirs.
"""

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch

from benchmarks.of_store import asked, core
from schemas.training import CM3Config
from trainers.baselines.popularity import popularity
from trainers.cm3.deliver import of_catalogue
from trainers.cm3.train import Measured, measure
from trainers.cm3.trained import TrainedModel
from trainers.data import SPLITS, Dataset
from trainers.evaluation import Scorer, evaluate
from trainers.item_weights.fit import item_weights
from trainers.item_weights.term import with_weights
from trainers.scores import Embeddings, dot_products

HIDDEN = 10
K = 20


def main() -> None:
    """Print one line per case and seed."""
    options = asked(__doc__)
    dataset = core(options.store, options.dataset)
    print(f"{options.dataset}: {len(dataset.users):,} users, {len(dataset.items):,} items; {K} of a list, test split")
    for seed in range(options.seeds):
        config = options.trainer.model_copy(update={"seed": seed, "refit": False})
        whole = measure(dataset, config)
        scorer = _scorer(whole, dataset, config)
        for case, figures in (*_users(dataset, config, scorer, seed), *_items(dataset, config, scorer, seed)):
            print(f"seed {seed}  {case:45s}" + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()))


def _scorer(measured: Measured, dataset: Dataset, config: CM3Config) -> Scorer:
    """What was measured, as it ranks."""
    vectors = measured.fitted.score.publish(measured.fitted.embeddings, dataset)
    return with_weights(dot_products(vectors), _weights(measured, dataset, config), dataset.matrix("train"))


def _weights(measured: Measured, dataset: Dataset, config: CM3Config) -> sp.csr_matrix:
    assert measured.choice is not None
    assert config.item_weights is not None
    return item_weights(dataset, measured.choice, config.item_weights, torch.get_num_threads()).matrix


def _users(dataset: Dataset, config: CM3Config, whole: Scorer, seed: int) -> list[tuple[str, dict[str, float]]]:
    hidden = np.arange(len(dataset.users)) % HIDDEN == seed
    row = np.cumsum(~hidden) - 1
    seen = replace(
        dataset,
        users=[name for name, out in zip(dataset.users, hidden, strict=True) if not out],
        **{
            split: np.stack([row[pairs[:, 0]], pairs[:, 1]], axis=1)[~hidden[pairs[:, 0]]]
            for split, pairs in ((split, dataset.pairs(split)) for split in SPLITS)
        },
    )
    measured = measure(seen, config)
    model = TrainedModel.of(measured.model, seen, measured.fitted.score, None)
    items = measured.fitted.score.publish(measured.fitted.embeddings, seen).items
    folded = model.vectors(dataset).users
    average = folded[torch.from_numpy(~hidden)].mean(0).expand_as(folded)
    weights, chosen = _weights(measured, seen, config), dataset.matrix("train")
    judged = replace(dataset, test=dataset.test[hidden[dataset.test[:, 0]]])
    cases = {"trained on": whole}
    for name, users in (("folded in", folded), ("average user", average)):
        vectors = dot_products(Embeddings(users, items))
        cases[name] = with_weights(vectors, weights, chosen)
        cases[f"{name}, vectors alone"] = vectors
    cases["popularity"] = popularity(dataset)
    return [(f"new users: {name}", _figures(scorer, judged, config)) for name, scorer in cases.items()]


def _items(dataset: Dataset, config: CM3Config, whole: Scorer, seed: int) -> list[tuple[str, dict[str, float]]]:
    hidden = np.arange(len(dataset.items)) % HIDDEN == seed
    seen = replace(dataset, **{split: dataset.pairs(split)[~hidden[dataset.pairs(split)[:, 1]]] for split in SPLITS})
    core = seen.core()
    measured = measure(core, config)
    model = TrainedModel.of(measured.model, core, measured.fitted.score, None)
    judged = replace(dataset, test=dataset.test[hidden[dataset.test[:, 1]]])
    chosen = dataset.matrix("train")
    weights = _weights(measured, seen, config)
    old = torch.from_numpy(~hidden)
    cases = {"trained on": whole}
    for name, today in (("with interactions", dataset), ("from content alone", seen)):
        published = of_catalogue(model, measured.fitted.embeddings, core, seen)
        published.items[~old] = model.vectors(today).items[~old]
        vectors = dot_products(published)
        cases[name] = with_weights(vectors, weights, chosen)
        cases[f"{name}, vectors alone"] = vectors
    return [(f"new items: {name}", _figures(scorer, judged, config)) for name, scorer in cases.items()]


def _figures(scorer: Scorer, dataset: Dataset, config: CM3Config) -> dict[str, float]:
    values = evaluate(scorer, dataset, "test", config.evaluation).values
    return {f"{metric}@{K}": values[metric, K] for metric in ("ndcg", "recall")}


if __name__ == "__main__":
    main()
