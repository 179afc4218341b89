"""A picture that too many items have is of none of them; what many have is counted."""

import io
from typing import Any

import pytest
from PIL import Image

from pipeline import features, images
from pipeline.ingest.tally import Quality
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.lineage import TableVersion
from tests.support.chaos_server import ChaosServer
from tests.support.images_stage import publish_urls, quick_config
from tests.support.published import CountingImageEncoder, publish, vectors


def png(size: tuple[int, int], colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def shop(store: Store, server: ChaosServer, alike: int, items: int = 40) -> TableVersion:
    """Items of which the first `alike` have one picture, at an address of each item's own."""
    for number in range(alike):
        server.pictures[f"/good/{number}"] = png((60, 80), "white")
    return publish_urls(store, [server.url(f"/good/{number}") for number in range(items)])


def run(store: Store, items: TableVersion, **changes: Any) -> dict[str, TableVersion]:
    quality = publish(store, "quality", Quality().table())
    config = quick_config(**changes)
    return dict(images.run(store=store, items=items, config=config, quality=quality).tables)


def statuses(store: Store, version: TableVersion) -> list[str]:
    return [row["status"] for row in store.read(version).to_pylist()]


def rules(store: Store, tables: dict[str, TableVersion]) -> dict[tuple[str, str, str], tuple[int, list[str]]]:
    rows = store.read(tables["quality"]).to_pylist() if "quality" in tables else []
    return {(row["source"], row["rule"], row["action"]): (row["count"], row["examples"]) for row in rows}


def test_a_picture_of_many_items_is_a_placeholder_with_its_reason(store: Store, server: ChaosServer) -> None:
    tables = run(store, shop(store, server, 14))
    rows = store.read(tables["images"]).to_pylist()
    assert [row["status"] for row in rows] == ["placeholder"] * 14 + ["ok"] * 26
    assert rows[0]["error"].startswith("14 of 40 items have this picture")
    assert (rows[0]["width"], rows[0]["remark"], rows[20]["remark"]) == (60, "one_colour", None)
    assert rules(store, tables) == {
        ("images", "picture_of_one_colour", "dropped"): (14, ["item 0", "item 1", "item 2"]),
        ("images", "picture_shared_by_many", "dropped"): (14, ["item 0"]),
    }


def test_one_option_keeps_it_and_it_is_counted_all_the_same(store: Store, server: ChaosServer) -> None:
    tables = run(store, shop(store, server, 14), placeholder_share=None)
    assert set(statuses(store, tables["images"])) == {"ok"}
    assert rules(store, tables)["images", "picture_shared_by_many", "kept"] == (14, ["item 0"])


@pytest.mark.parametrize(
    ("alike", "changes", "placeholders"),
    [
        (9, {}, 0),  # too few items, however large their share
        (10, {}, 10),
        (20, {"placeholder_share": 0.5}, 0),  # the share itself is not more than the share
        (21, {"placeholder_share": 0.5}, 21),
        (3, {"placeholder_items": 3, "placeholder_share": 0.05}, 3),
    ],
)
def test_both_the_share_and_the_number_of_items_decide(
    store: Store, server: ChaosServer, alike: int, changes: dict[str, Any], placeholders: int
) -> None:
    tables = run(store, shop(store, server, alike), **changes)
    assert statuses(store, tables["images"]).count("placeholder") == placeholders


def test_a_placeholder_goes_into_no_vector_and_needs_no_second_encoding(store: Store, server: ChaosServer) -> None:
    items, encoder = shop(store, server, 14), CountingImageEncoder()

    def encoded(**changes: Any) -> list[bool]:
        source = run(store, items, **changes)["images"]
        spec = EncoderSpec(kind="timm", model="/counted", batch_size=4)
        published = features.run(store=store, source=source, name="eyes", spec=spec, encoder=encoder)
        return [row != [None] for row in vectors(published.tables["features/eyes"]).values()]

    assert encoded() == [False] * 14 + [True] * 26
    assert len(encoder.seen) == 26
    assert encoded(placeholder_share=None) == [True] * 40
    assert len(encoder.seen) == 27
    assert encoded() == [False] * 14 + [True] * 26
    assert len(encoder.seen) == 27


def test_a_growing_catalogue_is_judged_anew_and_nothing_is_downloaded_again(store: Store, server: ChaosServer) -> None:
    few = run(store, shop(store, server, 9))
    assert (statuses(store, few["images"]).count("placeholder"), "quality" in few) == (0, True)
    asked = server.counts.total()
    more = run(store, shop(store, server, 9 + 3, items=43))
    assert statuses(store, more["images"])[:13] == ["ok"] * 13  # the pictures of items 9 to 11 are known by their URL
    assert server.counts.total() == asked + 3
    server.pictures["/good/50"] = png((60, 80), "white")
    urls = [server.url(f"/good/{number}") for number in range(51)]
    last = run(store, publish_urls(store, urls))
    assert statuses(store, last["images"]).count("placeholder") == 10


def test_a_second_run_finds_every_version_again(store: Store, server: ChaosServer) -> None:
    items = shop(store, server, 14)
    first, again = run(store, items), run(store, items)
    assert {name: version.version for name, version in first.items()} == {
        name: version.version for name, version in again.items()
    }
    assert all(version.reused for version in again.values())
    assert store.latest("shop", "quality").version == first["quality"].version


def test_the_pictures_of_a_gallery_count_for_their_item_once(store: Store, server: ChaosServer) -> None:
    server.pictures["/good/500"] = chart = png((60, 80), "#c0ffee")
    server.pictures["/good/501"] = chart
    sizes = [server.url("/good/500"), server.url("/good/501")]
    urls = [server.url(f"/good/{number}") for number in range(30)]
    galleries = [sizes if number < 12 else [] for number in range(30)]
    tables = run(store, publish_urls(store, urls, galleries), pictures="mean")
    assert statuses(store, tables["images"]) == ["ok"] * 30
    assert statuses(store, tables["gallery"]) == ["placeholder"] * 24
    assert store.read(tables["gallery"])["error"][0].as_py().startswith("12 of 30 items")
    assert ("gallery", "picture_shared_by_many", "dropped") in rules(store, tables)


def test_pictures_that_differ_need_no_row_of_quality(store: Store, server: ChaosServer) -> None:
    assert "quality" not in run(store, shop(store, server, 0))


def test_tiny_pictures_are_counted_and_stay(store: Store, server: ChaosServer) -> None:
    server.pictures["/good/1"] = png((1, 1), "white")
    tables = run(store, publish_urls(store, [server.url("/good/1"), server.url("/good/2")]))
    assert statuses(store, tables["images"]) == ["ok", "ok"]
    assert rules(store, tables) == {("images", "picture_tiny", "kept"): (1, ["item 0"])}
