"""The trained model as files, and what it makes of data that came later."""

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from schemas.errors import UserError
from schemas.model import DESCRIPTION, TENSORS, BorrowedWeights, ModelDescription
from trainers.cm3.build import build
from trainers.cm3.model import CM3, PER_USER, FeatureDirections
from trainers.data import Dataset
from trainers.graph_filter import FilterBasis, filter_basis, fold_in
from trainers.scores import Embeddings, Score


@dataclass(frozen=True)
class TrainedModel:
    """All that gives the published vectors again, from the tables of its training, and new ones from later tables.

    Attributes:
        parameters: the network's, on the CPU; those of users in the order of `users`.
        directions: see `CM3`.
        users: ids of the users that it was trained on, ascending.
        items: ids of the items that it was trained on and somebody chose, ascending: those that others may borrow from.
        filter: the graph filter's basis, its rows in the order of `items`; None where the score has no filter.
    """

    description: ModelDescription
    parameters: dict[str, Tensor]
    directions: FeatureDirections
    users: list[str]
    items: list[str]
    filter: FilterBasis | None

    @classmethod
    def of(cls, network: CM3, dataset: Dataset, score: Score, borrowed: BorrowedWeights | None) -> "TrainedModel":
        """What the training of `network` on `dataset` leaves."""
        chosen = np.flatnonzero(dataset.item_counts > 0)
        basis = filter_basis(dataset, score.filter) if score.filter is not None else None
        return cls(
            description=ModelDescription(
                config=network.config,
                features={name: modality.matrix.shape[1] for name, modality in dataset.features.items()},
                filter_weight=score.filter_weight,
                borrowed=borrowed,
            ),
            parameters={name: part.detach().cpu() for name, part in network.whole_parameters().items()},
            directions=network.directions,
            users=dataset.users,
            items=[dataset.items[row] for row in chosen],
            filter=None if basis is None else basis._replace(items=basis.items[chosen]),
        )

    @property
    def score(self) -> Score:
        """What ranks by its vectors."""
        return replace(Score.of(self.description.config), filter_weight=self.description.filter_weight)

    def network(self, dataset: Dataset) -> CM3:
        """The trained network over the users, items and graphs of `dataset`.

        A user that came after training has no vector of their own: their blocks are zero, so that propagation gives
        them what they chose, and the blocks' shares are the average user's.

        Raises: UserError: the features are others than the model was trained on.
        """
        self._refuse_other_features(dataset)
        network = build(dataset, self.description.config, self.directions)
        row = rows_of(dataset.users, self.users)
        state = dict(self.parameters)
        for name in PER_USER:
            trained = self.parameters[name]
            newcomer = torch.zeros_like(trained[0]) if name == "user_blocks" else trained.mean(0)
            state[name] = torch.where(
                torch.from_numpy(row >= 0).view(-1, *(1,) * newcomer.dim()), trained[np.maximum(row, 0)], newcomer
            )
        network.load_state_dict(state)
        return network.to(network.user_item.weights.device).eval()

    def vectors(self, dataset: Dataset) -> Embeddings:
        """Published vectors of all users and items of `dataset`, each from its content, its neighbours' and its edges.

        Raises: UserError: as `network`.
        """
        filtered = None
        if self.filter is not None:
            row = rows_of(dataset.items, self.items)
            placed = np.where((row >= 0)[:, None], self.filter.items[np.maximum(row, 0)], np.float32(0))
            noise = self.description.config.filter.noise
            filtered = fold_in(self.filter._replace(items=placed), dataset.matrix("train"), noise)
        embeddings = self.network(dataset).embeddings()
        return self.score.publish(Embeddings(*(part.detach() for part in embeddings)), dataset, filtered)

    def _refuse_other_features(self, dataset: Dataset) -> None:
        widths = {name: modality.matrix.shape[1] for name, modality in dataset.features.items()}
        if widths == self.description.features:
            return
        named = [
            ", ".join(f"{name} ({width} numbers)" for name, width in sorted(features.items())) or "none"
            for features in (self.description.features, widths)
        ]
        raise UserError(
            f"model: expected the features that it was trained on, {named[0]}; found {named[1]}. Extract those with "
            "the same encoders, or train again."
        )

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`; equal models give equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"parameters.{name}": part.contiguous() for name, part in self.parameters.items()}
        tensors |= {f"directions.{name}": torch.from_numpy(part) for name, part in self.directions.items()}
        for name, ids in (("users", self.users), ("items", self.items)):
            tensors |= {f"{name}.{part}": torch.from_numpy(array) for part, array in _packed(ids)._asdict().items()}
        if self.filter is not None:
            tensors |= {f"filter.{name}": torch.from_numpy(part) for name, part in self.filter._asdict().items()}
        (folder / DESCRIPTION).write_text(self.description.model_dump_json(indent=2))
        safetensors.torch.save_file(tensors, folder / TENSORS)


def load_model(uri: str, device: str = "auto") -> TrainedModel:
    """Read what `TrainedModel.save` wrote, from a local folder or a URL.

    Args:
        device: what it is applied on, whatever it was trained on.
    Raises: UserError: a file is missing or damaged, or another release wrote it.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        description = ModelDescription(**json.loads(filesystem.cat_file(f"{path}/{DESCRIPTION}")))
        config = description.config.model_copy(update={"device": device})
        tensors = safetensors.torch.load(filesystem.cat_file(f"{path}/{TENSORS}"))
        basis = _named("filter", tensors)
        return TrainedModel(
            description=description.model_copy(update={"config": config}),
            parameters=_named("parameters", tensors),
            directions={name: part.numpy() for name, part in _named("directions", tensors).items()},
            users=_unpacked(_named("users", tensors)),
            items=_unpacked(_named("items", tensors)),
            filter=FilterBasis(**{name: part.numpy() for name, part in basis.items()}) if basis else None,
        )
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (OSError, SafetensorError, ValueError, TypeError, LookupError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
    raise UserError(
        f"model at {uri}: expected {DESCRIPTION} and {TENSORS} as this release writes them, but they cannot be read "
        f"({reason}). Train again, or promote a version whose model is whole."
    )


def rows_of(ids: list[str], among: list[str]) -> NDArray[np.int64]:
    """The row of each id in `among`; -1 where it is not there."""
    rows = pa.compute.index_in(pa.array(ids, pa.string()), pa.array(among, pa.string()))
    return np.asarray(rows.fill_null(-1)).astype(np.int64)


class _Packed(NamedTuple):
    """Ids as safetensors can hold them: their UTF-8 bytes one after the other, and where each begins and ends."""

    bytes: NDArray[np.uint8]
    offsets: NDArray[np.int64]


def _packed(ids: list[str]) -> _Packed:
    encoded = [name.encode() for name in ids]
    offsets = np.concatenate([[0], np.cumsum([len(name) for name in encoded])]).astype(np.int64)
    return _Packed(np.frombuffer(b"".join(encoded), np.uint8).copy(), offsets)


def _unpacked(parts: dict[str, Tensor]) -> list[str]:
    data, offsets = parts["bytes"].numpy().tobytes(), parts["offsets"].tolist()
    return [data[start:end].decode() for start, end in itertools.pairwise(offsets)]


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix.`, without it."""
    return {name.removeprefix(f"{prefix}."): part for name, part in tensors.items() if name.startswith(f"{prefix}.")}
