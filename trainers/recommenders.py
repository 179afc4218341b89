"""Every recommender by name: its configuration and how it is fitted."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from schemas.baselines import (
    BM3Config,
    BPRConfig,
    ContentEASEConfig,
    ContentKNNConfig,
    DirectAUConfig,
    EASEConfig,
    FREEDOMConfig,
    ItemKNNConfig,
    LightGCNConfig,
    MGCNConfig,
    PopularityConfig,
    RandomConfig,
    VBPRConfig,
)
from schemas.errors import UserError
from schemas.training import (
    CM3Config,
    EvaluationConfig,
    GraphFilterConfig,
    ItemWeightsConfig,
    RecommenderConfig,
    TrainingConfig,
)
from trainers.baselines.collaborative import BPR, DirectAU, LightGCN
from trainers.baselines.content_knn import content_knn
from trainers.baselines.ease import content_ease, ease
from trainers.baselines.item_knn import item_knn
from trainers.baselines.mgcn import MGCN
from trainers.baselines.multimodal import BM3, FREEDOM, VBPR
from trainers.baselines.popularity import popularity
from trainers.baselines.random_ranking import random_ranking
from trainers.cm3.build import build as build_cm3
from trainers.data import Dataset
from trainers.evaluation import Scorer, selection
from trainers.fit import EmbeddingModel, OnEpoch, fit
from trainers.graph_filter import graph_filter
from trainers.item_weights.term import choose_weights, item_weights_alone, with_weights


class FittedRecommender(NamedTuple):
    """What any recommender gives: its scorer, its selection metric on validation, and what it cost."""

    scorer: Scorer
    validation: float
    seconds: float
    parameters: int


@dataclass(frozen=True)
class Recommender:
    """One row of the registry. It has either `build` or `score`.

    Attributes:
        config: the model of its parameters.
        build: makes the network of a recommender that is trained.
        score: makes the scorer of a recommender that is not trained.
        cold: whether that scorer tells items that nobody chose apart.
    """

    name: str
    config: type[RecommenderConfig]
    build: Callable[[Dataset, Any], EmbeddingModel] | None = None
    score: Callable[[Dataset, Any], Scorer] | None = None
    cold: bool = False

    def configure(self, values: Mapping[str, Any]) -> RecommenderConfig:
        """The configuration with these values. Raises: UserError: an unknown name or a value out of range."""
        try:
            return self.config(**values)
        except ValidationError as error:
            first = error.errors()[0]
            parameter = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{self.name}: {parameter}: {first['msg']}, found {first['input']!r}. "
                f"Its parameters: {sorted(self.config.model_fields) or 'none'}"
            ) from error

    def fit(
        self,
        dataset: Dataset,
        config: RecommenderConfig,
        evaluation: EvaluationConfig,
        *,
        checkpoint: Path | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> FittedRecommender:
        """Train, or just prepare, and judge on validation."""
        if self.build is not None and isinstance(config, TrainingConfig):
            config = config.model_copy(update={"evaluation": evaluation})
            model = self.build(dataset, config)
            fitted = fit(model, dataset, config, checkpoint=checkpoint, on_epoch=on_epoch)
            scorer, validation = fitted.score.scorer(fitted.embeddings, dataset), fitted.validation
            started = time.perf_counter()
            if isinstance(config, CM3Config) and config.item_weights is not None:
                _, weights = choose_weights(dataset, scorer, config.item_weights, evaluation)
                scorer = with_weights(scorer, weights, dataset.matrix("train"))
                validation = selection(scorer, dataset, evaluation)
            seconds = fitted.seconds + time.perf_counter() - started
            return FittedRecommender(scorer, validation, seconds, fitted.parameters)
        assert self.score is not None
        started = time.perf_counter()
        scorer = self.score(dataset, config)
        seconds = time.perf_counter() - started
        return FittedRecommender(scorer, selection(scorer, dataset, evaluation), seconds, 0)


RECOMMENDERS = {
    row.name: row
    for row in (
        Recommender("random", RandomConfig, score=lambda dataset, _: random_ranking(dataset), cold=True),
        Recommender("popularity", PopularityConfig, score=lambda dataset, _: popularity(dataset)),
        Recommender("content-knn", ContentKNNConfig, score=content_knn, cold=True),
        Recommender("item-knn", ItemKNNConfig, score=item_knn),
        Recommender("graph-filter", GraphFilterConfig, score=graph_filter),
        Recommender("ease", EASEConfig, score=ease),
        Recommender("content-ease", ContentEASEConfig, score=content_ease, cold=True),
        Recommender("item-weights", ItemWeightsConfig, score=item_weights_alone, cold=True),
        Recommender("bpr", BPRConfig, build=BPR),
        Recommender("lightgcn", LightGCNConfig, build=LightGCN),
        Recommender("directau", DirectAUConfig, build=DirectAU),
        Recommender("vbpr", VBPRConfig, build=VBPR),
        Recommender("freedom", FREEDOMConfig, build=FREEDOM),
        Recommender("bm3", BM3Config, build=BM3),
        Recommender("mgcn", MGCNConfig, build=MGCN),
        Recommender("cm3", CM3Config, build=build_cm3),
    )
}
"""The one list of recommenders, in the order of a comparison."""


def recommender(name: str) -> Recommender:
    """The recommender of that name. Raises: UserError: there is none."""
    if name not in RECOMMENDERS:
        raise UserError(f"recommender: expected one of {sorted(RECOMMENDERS)}, found {name!r}")
    return RECOMMENDERS[name]
