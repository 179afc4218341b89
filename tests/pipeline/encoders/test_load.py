"""One table of adapters; a fingerprint that follows contents and options; what holds for encoders of every kind."""

import pkgutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from pipeline.encoders import load, offline
from pipeline.encoders.base import ImageEncoder, TextEncoder
from pipeline.encoders.load import ADAPTERS
from pipeline.machine import native_bfloat16
from schemas.encoders import PRESETS, EncoderKind, EncoderSpec
from schemas.errors import UserError
from tests.support.real_models import TEXTS, copy_model, cosines, encoder_of, timm_at

PRESET = PRESETS["offline"].encoders


def test_every_kind_has_an_adapter() -> None:
    assert set(ADAPTERS) == set(get_args(EncoderKind))


@pytest.mark.parametrize("kind", get_args(EncoderKind))
def test_an_adapter_reads_what_its_kind_says(kind: EncoderKind) -> None:
    adapter = pkgutil.resolve_name(ADAPTERS[kind].path)
    spec = EncoderSpec.model_construct(kind=kind)
    assert callable(adapter.embed if spec.is_served else adapter.encode)
    assert hasattr(adapter, "preprocess") == (not spec.is_served and spec.modality != "text")


def test_the_fingerprint_follows_contents_and_options_and_not_the_path(tmp_path: Path) -> None:
    folder = copy_model(tmp_path)
    original = load.fingerprint(PRESET["vision"])
    assert load.fingerprint(timm_at(folder)).key() == original.key()
    assert load.fingerprint(timm_at(folder).model_copy(update={"batch_size": 2})).key() == original.key()
    for change in ({"normalize": False}, {"image_size": 128}, {"dtype": "float32"}):
        changed = load.fingerprint(timm_at(folder).model_copy(update=change))
        assert (changed.key() == original.key()) == (change == {"dtype": original.dtype})
    config = folder / "config.json"
    config.write_text(config.read_text().replace("0.875", "0.9"))
    assert load.fingerprint(timm_at(folder)).key() != original.key(), "preprocessing counts"


def test_a_model_of_another_kind_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="could not be loaded as 'timm'"):
        load.load(timm_at(offline.unpack("minilm")))


def test_more_dimensions_than_a_model_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"truncate_dim 5000: vectors of 'offline:minilm' have 384 numbers"):
        load.load(PRESET["sentence"].model_copy(update={"truncate_dim": 5000}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_text_has_the_same_vector_whatever_its_neighbours(dtype: str) -> None:
    encoder = encoder_of(PRESET["sentence"].model_copy(update={"dtype": dtype, "batch_tokens": 128}))
    assert isinstance(encoder, TextEncoder)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    among = encoder.encode([*TEXTS, *(f"neighbour {i} " * i for i in range(12))])[: len(TEXTS)]
    backwards = encoder.encode(TEXTS[::-1])[::-1]
    assert cosines(alone, among).min() > 1 - 1e-5
    assert cosines(alone, backwards).min() > 1 - 1e-5


@pytest.mark.parametrize("feature", ["clip", "vision"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_picture_has_the_same_vector_whatever_its_neighbours(feature: str, dtype: str, drawings: list[bytes]) -> None:
    encoder = encoder_of(PRESET[feature].model_copy(update={"dtype": dtype}))
    assert isinstance(encoder, ImageEncoder)
    pixels = [encoder.preprocess(drawing) for drawing in drawings]
    alone = np.concatenate([encoder.encode([picture]) for picture in pixels])
    assert cosines(alone, encoder.encode(pixels)).min() > 1 - 1e-5


@pytest.mark.parametrize("feature", ["sentence", "clip", "vision"])
def test_bfloat16_keeps_the_direction_of_float32_and_unit_length(feature: str, drawings: list[bytes]) -> None:
    vectors = []
    for dtype in ("float32", "bfloat16"):
        encoder = encoder_of(PRESET[feature].model_copy(update={"dtype": dtype}))
        if isinstance(encoder, ImageEncoder):
            vectors.append(encoder.encode([encoder.preprocess(drawing) for drawing in drawings]))
        else:
            vectors.append(encoder.encode(TEXTS))
    exact, fast = vectors
    assert fast.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(fast, axis=1), 1, atol=1e-6)
    assert np.array_equal(exact, fast) != native_bfloat16(), "bfloat16 is used where the processor has it"
    assert cosines(exact, fast).min() > 0.999
