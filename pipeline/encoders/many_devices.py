"""Several GPUs: this process computes on the first, one further process on each other; rows come back in order."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import numpy as np
import torch

from pipeline.encoders.base import Encoder, Vectors
from schemas.encoders import EncoderSpec

_encoder: Any = None
"""The encoder of a worker process."""


class ManyDevices:
    """An `Encoder` that splits its contents among devices, neighbours together.

    Args:
        first: the encoder on this process's device.
        others: names of the other devices.
        load: makes the encoder of `spec` in each further process; a function of a module's top level.
    """

    def __init__(
        self, first: Encoder, spec: EncoderSpec, others: Sequence[str], load: Callable[[EncoderSpec], Encoder]
    ) -> None:
        self._first: Any = first
        self.fingerprint = first.fingerprint
        self.dim = first.dim
        self.batch_size = getattr(first, "batch_size", 1) * (1 + len(others))
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self._workers = [
            ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(load, spec, name))
            for name in others
        ]

    def preprocess(self, content: Any) -> Any:
        """As the first encoder does; decoding stays in this process."""
        return self._first.preprocess(content)

    def cut(self, *contents: Any) -> list[bool]:
        """As the first encoder says."""
        cut: list[bool] = self._first.cut(*contents)
        return cut

    def encode(self, contents: Sequence[Any]) -> Vectors:
        """One row per content, in the order given."""
        size = -(-len(contents) // (1 + len(self._workers)))
        futures: list[Future[Vectors]] = []
        for worker, start in zip(self._workers, range(size, len(contents), size), strict=False):
            futures.append(
                worker.submit(
                    _encode, _converted(list(contents[start : start + size]), torch.Tensor, torch.Tensor.numpy)
                )
            )
        return np.concatenate([self._first.encode(contents[:size]), *(future.result() for future in futures)])


def _converted(content: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    """The same nest of lists, tuples and dictionaries, with every leaf of a kind converted: arrays travel cheaper."""
    if isinstance(content, dict):
        return {name: _converted(value, kind, convert) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_converted(value, kind, convert) for value in content)
    return convert(content) if isinstance(content, kind) else content


def _start(load: Callable[[EncoderSpec], Encoder], spec: EncoderSpec, name: str) -> None:
    global _encoder
    os.environ["CM3_DEVICE"] = name
    _encoder = load(spec)


def _encode(contents: list[Any]) -> Vectors:
    vectors: Vectors = _encoder.encode(_converted(contents, np.ndarray, torch.from_numpy))
    return vectors
