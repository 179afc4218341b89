"""On a GPU: bfloat16 by default, the processor's vectors up to rounding, one process per device."""

import numpy as np
import pytest

from pipeline import machine
from pipeline.encoders import load
from pipeline.encoders.base import ImageEncoder, TextEncoder
from pipeline.encoders.many_devices import ManyDevices
from schemas.encoders import PRESETS, EncoderSpec
from tests.support.gpu import needs_cuda

pytestmark = needs_cuda
PRESET = PRESETS["offline"].encoders
SPECS = {
    "sentence": PRESET["sentence"],
    "vision": PRESET["vision"],
    "clip": PRESET["clip"],
    "clip, texts": PRESET["clip"].model_copy(update={"kind": "open_clip_text"}),
}
TEXTS = [f"a {'very ' * (n % 40)}red mug, number {n}" for n in range(300)]


def vectors(spec: EncoderSpec, drawings: list[bytes]) -> tuple[str, np.ndarray]:
    encoder = load.load(spec)
    if isinstance(encoder, ImageEncoder):
        return encoder.fingerprint.dtype, encoder.encode([encoder.preprocess(picture) for picture in drawings])
    return encoder.fingerprint.dtype, encoder.encode(TEXTS)


@pytest.mark.parametrize("name", SPECS)
def test_bfloat16_is_the_default_and_the_vectors_are_the_processors(
    name: str, drawings: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CM3_DEVICE", "cpu")
    _, expected = vectors(SPECS[name].model_copy(update={"dtype": "float32"}), drawings)
    monkeypatch.delenv("CM3_DEVICE")
    assert machine.device().type == "cuda"
    dtype, actual = vectors(SPECS[name], drawings)
    assert dtype == "bfloat16"
    assert (actual * expected).sum(axis=1).min() >= 0.999
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_neighbours_in_the_batch_do_not_move_a_vector(dtype: str) -> None:
    encoder = load.load(PRESET["sentence"].model_copy(update={"dtype": dtype}))
    assert isinstance(encoder, TextEncoder)
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS[::10]])
    assert (together[::10] * alone).sum(axis=1).min() > 1 - 1e-5


def test_one_process_per_device(drawings: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """One GPU named twice stands for two."""
    monkeypatch.setenv("CM3_DEVICE", "cuda:0,cuda:0")
    both = load.load(PRESET["vision"])
    assert isinstance(both, ManyDevices)
    monkeypatch.setenv("CM3_DEVICE", "cuda:0")
    alone = load.load(PRESET["vision"])
    assert isinstance(alone, ImageEncoder)
    pixels = [both.preprocess(picture) for picture in drawings]
    assert (both.encode(pixels) * alone.encode(pixels)).sum(axis=1).min() > 1 - 1e-5
