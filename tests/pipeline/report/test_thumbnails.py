"""Pictures within a budget."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.report.thumbnails import Thumbnails
from pipeline.store import Store
from schemas import tables as contract
from schemas.lineage import TableVersion
from tests.support.published import publish


def photographs(store: Store, count: int, side: int = 128) -> TableVersion:
    """Pictures as hard to compress as photographs, the last two the same, and one that is no picture."""
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        if number < count - 1:
            rough = random.integers(0, 255, (side // 4, side // 4, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        rows.append({"item_id": f"i{number}", "status": "ok", "image": buffer.getvalue(), "sha256": None})
        rows[-1]["sha256"] = str(hash(buffer.getvalue()))
    rows.append({"item_id": "broken", "status": "ok", "image": b"not a picture", "sha256": "0"})
    return publish(store, "images", pa.Table.from_pylist(rows, schema=contract.IMAGES), config={"n": count})


@pytest.mark.parametrize("budget", [400_000, 80_000, 60_000])
def test_pictures_shrink_until_they_fit_their_budget(store: Store, budget: int) -> None:
    images = photographs(store, 40)
    thumbnails = Thumbnails.read(store, images, {f"i{n}" for n in range(40)} | {"broken"}, 128)
    encoded = thumbnails.encode(budget)
    assert budget / 4 < sum(map(len, encoded)) <= budget


def test_equal_pictures_are_kept_once_and_broken_or_unwanted_ones_left_out(store: Store) -> None:
    thumbnails = Thumbnails.read(store, photographs(store, 10), {"i7", "i8", "i9", "broken"}, 64)
    assert len(thumbnails.encode(1_000_000)) == 2
    assert thumbnails.place == {"i7": 0, "i8": 1, "i9": 1}
