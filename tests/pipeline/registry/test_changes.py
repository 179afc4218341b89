"""What changed between two states of a catalogue, as encoders see it."""

import pyarrow as pa
import pytest

from pipeline.registry import changes
from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.tables import IMAGES, INTERACTIONS
from tests.support.published import publish, publish_items


def catalogue(store: Store, statuses: dict[str, str]) -> dict[str, TableVersion]:
    rows = [{"item_id": item, "status": status, "sha256": f"of {item}"} for item, status in statuses.items()]
    return {
        "items": publish_items(store, [(item, "words") for item in statuses]),
        "images": publish(store, "images", pa.Table.from_pylist(rows, schema=IMAGES)),
        "interactions": publish(store, "interactions", INTERACTIONS.empty_table()),
    }


@pytest.mark.parametrize(("status", "changed"), [("ok", 0), ("placeholder", 1)])
def test_a_picture_that_becomes_a_placeholder_is_a_change_though_its_bytes_stay(
    store: Store, status: str, changed: int
) -> None:
    before, after = catalogue(store, {"A": "ok", "B": "ok"}), catalogue(store, {"A": "ok", "B": status})
    assert changes.run(store=store, before=before, after=after).changed == changed
