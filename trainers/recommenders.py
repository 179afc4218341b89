"""Every recommender by name: its configuration, how it is fitted, and the grid it is tuned over."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from schemas.errors import UserError
from schemas.training import (
    BM3Config,
    BPRConfig,
    CM3Config,
    ContentKNNConfig,
    DirectAUConfig,
    EASEConfig,
    EvaluationConfig,
    FREEDOMConfig,
    GraphFilterConfig,
    LightGCNConfig,
    TrainingConfig,
    VBPRConfig,
)
from trainers.baselines.collaborative import BPR, DirectAU, LightGCN
from trainers.baselines.content_knn import content_knn
from trainers.baselines.ease import ease
from trainers.baselines.multimodal import BM3, FREEDOM, VBPR
from trainers.baselines.popularity import popularity
from trainers.cm3.train import build as build_cm3
from trainers.data import Dataset
from trainers.evaluation import Scorer, evaluate
from trainers.fit import EmbeddingModel, fit
from trainers.graph_filter import graph_filter
from trainers.scores import embedding_scorer

OnEpoch = Callable[[int, dict[str, float]], None]
Values = tuple[int | float | str, ...]


class Fit(NamedTuple):
    """A fitted recommender, whatever its kind."""

    scorer: Scorer
    validation: float
    seconds: float
    parameters: int


@dataclass(frozen=True)
class Recommender:
    """One entry of the registry.

    Attributes:
        config: its parameters' model; None where it has none.
        build: makes the network; None for recommenders that are not trained.
        score: makes the scorer of a recommender that is not trained.
        space: the grid it is tuned over, parameter → values.
    """

    name: str
    config: type[BaseModel] | None
    build: Callable[[Any, Dataset], EmbeddingModel] | None = None
    score: Callable[[Dataset, Any], Scorer] | None = None
    space: Mapping[str, Values] | None = None

    def configure(self, values: Mapping[str, Any]) -> BaseModel | None:
        """The configuration with these values. Raises: UserError: an unknown name or a value out of range."""
        if self.config is None:
            if values:
                raise UserError(f"{self.name}: it has no parameters, found {sorted(values)}. Leave them out.")
            return None
        try:
            return self.config(**values)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{self.name}: {field}: {first['msg']}, found {first['input']!r}. "
                f"Its parameters: {sorted(self.config.model_fields)}"
            ) from error

    def fit(
        self,
        dataset: Dataset,
        config: BaseModel | None,
        evaluation: EvaluationConfig,
        *,
        checkpoint: Path | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> Fit:
        """Train, or just prepare, and judge on validation."""
        if self.build is not None and isinstance(config, TrainingConfig):
            config = config.model_copy(update={"evaluation": evaluation})
            model = self.build(config, dataset)
            fitted = fit(model, dataset, config, checkpoint=checkpoint, on_epoch=on_epoch)
            scorer = embedding_scorer(fitted.embeddings, dataset, config, fitted.filter_weight)
            return Fit(scorer, fitted.validation, fitted.seconds, fitted.parameters)
        assert self.score is not None
        started = time.perf_counter()
        scorer = self.score(dataset, config)
        seconds = time.perf_counter() - started
        values = evaluate(scorer, dataset, "valid", evaluation.for_selection()).values
        return Fit(scorer, values[evaluation.selection_metric, evaluation.selection_k], seconds, 0)


_BPR_SPACE: dict[str, Values] = {"regularization": (0.0, 1e-4, 1e-3, 1e-2), "learning_rate": (1e-3, 5e-3)}

RECOMMENDERS = {
    entry.name: entry
    for entry in (
        Recommender("popularity", None, score=lambda dataset, _: popularity(dataset)),
        Recommender("content-knn", ContentKNNConfig, score=content_knn, space={"neighbors": (5, 10, 20, 50, 100)}),
        Recommender(
            "graph-filter",
            GraphFilterConfig,
            score=graph_filter,
            space={"rank": (32, 64, 128, 256), "noise": (0.0, 0.01, 0.02, 0.05, 0.1)},
        ),
        Recommender("ease", EASEConfig, score=ease, space={"l2": (50.0, 100.0, 200.0, 300.0, 500.0, 1000.0)}),
        Recommender("bpr", BPRConfig, build=BPR, space=_BPR_SPACE),
        Recommender("lightgcn", LightGCNConfig, build=LightGCN, space=_BPR_SPACE | {"layers": (2, 3, 4)}),
        Recommender("directau", DirectAUConfig, build=DirectAU, space={"gamma": (0.5, 1.0, 2.0), "layers": (0, 2, 3)}),
        Recommender("vbpr", VBPRConfig, build=VBPR, space=_BPR_SPACE),
        Recommender(
            "freedom",
            FREEDOMConfig,
            build=FREEDOM,
            space={"edge_dropout": (0.0, 0.5, 0.8), "content_weight": (0.0, 1e-3, 1e-1)},
        ),
        Recommender(
            "bm3", BM3Config, build=BM3, space={"layers": (1, 2), "dropout": (0.3, 0.5), "regularization": (0.1, 0.01)}
        ),
        Recommender(
            "cm3",
            CM3Config,
            build=lambda config, dataset: build_cm3(dataset, config),
            space={
                "layers": (3, 4),
                "gamma": (0.5, 0.9),
                "max_sim": (0.8, 1.0),
                "alpha": (0.1, 0.5, 0.9),
                "weight_decay": (0.0, 1e-6),
            },
        ),
    )
}


def recommender(name: str) -> Recommender:
    """The entry of that name. Raises: UserError: there is none."""
    if name not in RECOMMENDERS:
        raise UserError(f"recommender: expected one of {sorted(RECOMMENDERS)}, found {name!r}")
    return RECOMMENDERS[name]
