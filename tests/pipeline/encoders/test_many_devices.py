"""One process per device; the processor twice stands for two GPUs."""

import numpy as np
import pytest

from pipeline.encoders import load
from pipeline.encoders.base import ImageEncoder
from pipeline.encoders.many_devices import ManyDevices
from schemas.encoders import PRESETS


@pytest.mark.slow
def test_rows_of_several_processes_come_back_in_order(drawings: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = PRESETS["offline"].encoders["vision"].model_copy(update={"dtype": "float32"})
    monkeypatch.setenv("CM3_DEVICE", "cpu")
    alone = load.load(spec)
    assert isinstance(alone, ImageEncoder)
    monkeypatch.setenv("CM3_DEVICE", "cpu,cpu")
    both = load.load(spec)
    assert isinstance(both, ManyDevices)
    assert both.batch_size == 2 * alone.batch_size
    pixels = [both.preprocess(picture) for picture in drawings[:5]]
    np.testing.assert_allclose(both.encode(pixels), alone.encode(pixels), atol=1e-6)
    assert both.encode(pixels[:1]).shape == (1, 1280)
