"""Apple's GPU is used if its vectors are the processor's. No machine of these tests has one: a name stands for it."""

import logging
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import machine
from pipeline.encoders import load, on_apple
from pipeline.encoders.base import Encoder
from schemas.encoders import PRESETS
from tests.support.published import jpeg
from tests.support.real_models import TEXTS, encoder_of

PRESET = PRESETS["offline"].encoders


class Moved:
    """A real encoder whose vectors move by `angle` (radians) on MPS."""

    def __init__(self, real: Any, angle: float) -> None:
        self.device = machine.encoder_device().type
        self._real, self._angle = real, angle if self.device == "mps" else 0.0
        self.preprocess = getattr(real, "preprocess", None)

    def encode(self, contents: Any) -> Any:
        self.forwards = machine.forwards_at_once()
        vectors = self._real.encode(contents)
        across = np.roll(vectors, 1, axis=1) * np.resize([1, -1], vectors.shape[1])
        across -= (across * vectors).sum(axis=1, keepdims=True) * vectors
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        return np.cos(self._angle) * vectors + np.sin(self._angle) * across


@pytest.fixture(autouse=True)
def a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sentence", "vision"):  # loaded on the processor, before
        encoder_of(PRESET[name].model_copy(update={"dtype": "float32"}))
    monkeypatch.delenv("CM3_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.parametrize("feature", ["sentence", "vision"])
@pytest.mark.parametrize(("angle", "device"), [(0.0, "mps"), (1e-3, "mps"), (1e-2, "cpu"), (np.nan, "cpu")])
def test_vectors_decide_where_a_model_computes(
    feature: str, angle: float, device: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "threads", lambda: 3)
    spec = PRESET[feature].model_copy(update={"dtype": "float32"})

    def make() -> Encoder:
        moved: Any = Moved(encoder_of(spec), angle)
        return moved

    with caplog.at_level(logging.WARNING):
        encoder: Any = on_apple.load(make, spec)
    assert encoder.device == device
    assert ("on MPS the cosine" in caplog.text) == (device == "cpu")
    encoder.encode(TEXTS if feature == "sentence" else [encoder.preprocess(jpeg((9, 99, 9)))])
    assert encoder.forwards == (3 if device == "cpu" else 1), "threads suit the device that computes"
    assert machine.encoder_device().type == "mps"


def test_a_model_that_mps_cannot_compute_is_loaded_on_the_processor(caplog: pytest.LogCaptureFixture) -> None:
    """This machine's torch cannot compute anything there."""
    spec = PRESET["sentence"].model_copy(update={"dtype": "float32"})
    with caplog.at_level(logging.WARNING):
        encoder: Any = load.load(spec)
    assert "computes on the processor: MPS cannot compute it" in caplog.text
    alone: Any = encoder_of(spec)
    np.testing.assert_allclose(encoder.encode(TEXTS), alone.encode(TEXTS), atol=1e-6)
