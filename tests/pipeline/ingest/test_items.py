"""Words become plain text, prices numbers, and only usable picture addresses stay."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest.items import Finisher, text_of
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality
from schemas.errors import UserError

many = settings(max_examples=300, deadline=None)


def test_text_has_its_parts_in_order_and_is_none_without_any() -> None:
    assert text_of("Mug", "Alma", ["Home", "Mugs", "Home"], "Red.") == "Mug\nAlma\nHome, Mugs\nRed."
    assert text_of("", "", [], "") is None


def url_of(image_url="", *, base=None, template="", item_id="a1"):
    quality = Quality()
    finisher = Finisher("items", quality, base, template)
    url = finisher.row(RawItem(item_id, title="x", image_url=image_url))["image_url"]
    return url, [row["rule"] for row in quality.table().to_pylist()]


@pytest.mark.parametrize(
    ("raw", "url", "rule"),
    [
        ("https://host/a.jpg", "https://host/a.jpg", []),
        ("images/a b.jpg", "http://shop/raw/images/a%20b.jpg", []),
        ("", None, []),
        ("//elsewhere/a.jpg", None, ["image_outside_raw"]),
        ("../../a.jpg", None, ["image_outside_raw"]),
        ("/a.jpg", None, ["image_outside_raw"]),
        ("file:///etc/passwd", None, ["image_url_unusable"]),
        ("javascript:alert(1)", None, ["image_url_unusable"]),
        ("https://host/a b.jpg", None, ["image_url_unusable"]),
    ],
)
def test_addresses_relative_to_a_url(raw, url, rule) -> None:
    assert url_of(raw, base="http://shop/raw/") == (url, rule)


def test_relative_address_without_a_place_is_counted() -> None:
    assert url_of("images/a.jpg") == (None, ["image_url_unusable"])


def test_template_overrides_and_quotes_the_id() -> None:
    assert url_of("https://h/x.jpg", template="https://cdn/{item_id}.jpg", item_id="a/b c") == (
        "https://cdn/a%2Fb%20c.jpg",
        [],
    )
    assert url_of(base="http://shop/", template="img/{item_id}.jpg") == ("http://shop/img/a1.jpg", [])


def test_files_are_inside_the_folder_whether_there_or_not(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a 1.jpg").write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    base = folder.as_uri() + "/"
    assert url_of("images/a 1.jpg", base=base) == ((folder / "images" / "a 1.jpg").as_uri(), [])
    assert url_of("images/b.jpg", base=base) == ((folder / "images" / "b.jpg").as_uri(), [])
    assert url_of("../secret.jpg", base=base) == (None, ["image_outside_raw"])
    assert url_of(base=base, template="images/{item_id}.jpg", item_id="a 1")[1] == []
    assert url_of(base=base, template="images/{item_id}.jpg", item_id="../../secret") == (None, ["image_outside_raw"])
    for unusable in ("x" * 300, "x/" * 3000, "\ud800"):
        assert url_of(unusable, base=base) == (None, ["image_url_unusable"])


@given(st.text(max_size=30) | st.text("/.:\\%?#h tp\0", max_size=30))
@many
def test_any_address_gives_one_inside_or_none(raw) -> None:
    url, _ = url_of(raw, base="http://shop/raw/")
    assert url is None or url.startswith(("http://shop/raw/", "http://", "https://"))
    assert raw.startswith("http") or url is None or url.startswith("http://shop/raw/")


def rows_of(items, *, require=()):
    quality = Quality()
    rows = Finisher("items", quality, "http://shop/").rows(items, require=require)
    return [row["title"] for row in rows], [(row["rule"], row["examples"]) for row in quality.table().to_pylist()]


def test_the_first_of_items_with_one_id_becomes_a_row() -> None:
    items = [RawItem("a", title="A"), RawItem("a", title="Again"), RawItem("b", title="B")]
    assert rows_of(items) == (["A", "B"], [("duplicate_item", ["a"])])


def test_items_without_what_is_required_are_counted_by_the_first_thing_that_they_lack() -> None:
    items = [RawItem("a", title="A", image_url="a.jpg"), RawItem("b", title="B"), RawItem("c")]
    lacking = [("item_without_image", ["b"]), ("item_without_title", ["c"])]
    words = ("neither_words_nor_picture", ["c"])
    assert rows_of(items, require=("title", "image")) == (["A"], [lacking[0], words, lacking[1]])


def test_items_without_a_single_id_are_refused() -> None:
    with pytest.raises(UserError, match="items: no record has an id"):
        rows_of([])


def pictures_of(image_url="", *gallery_urls, template=""):
    quality = Quality()
    finisher = Finisher("items", quality, "http://shop/raw/", template)
    row = finisher.row(RawItem("a1", title="x", image_url=image_url, gallery_urls=list(gallery_urls)))
    return row["image_url"], row["gallery_urls"], [entry["rule"] for entry in quality.table().to_pylist()]


def test_a_gallery_keeps_its_order_and_repeats_neither_itself_nor_the_main_picture() -> None:
    base = "http://shop/raw/"
    assert pictures_of("a.jpg", "c.jpg", " a.jpg ", "b.jpg", "", "c.jpg") == (
        base + "a.jpg",
        [base + "c.jpg", base + "b.jpg"],
        [],
    )
    assert pictures_of("a.jpg", "a.jpg") == pictures_of("a.jpg") == (base + "a.jpg", None, [])


def test_unusable_addresses_of_a_gallery_are_counted_and_the_others_stay() -> None:
    assert pictures_of("a.jpg", "javascript:x", "/b.jpg", "c.jpg") == (
        "http://shop/raw/a.jpg",
        ["http://shop/raw/c.jpg"],
        ["gallery_url_unusable", "gallery_outside_raw"],
    )


def test_the_first_of_a_gallery_stands_in_for_a_main_picture_that_is_not_there() -> None:
    assert pictures_of("", "b.jpg", "c.jpg") == ("http://shop/raw/b.jpg", ["http://shop/raw/c.jpg"], [])


def test_a_template_leaves_no_gallery() -> None:
    assert pictures_of("a.jpg", "b.jpg", template="{item_id}.jpg") == ("http://shop/raw/a1.jpg", None, [])


def test_item_without_words_and_picture_is_kept_and_counted() -> None:
    quality = Quality()
    row = Finisher("items", quality).row(RawItem("a1"))
    assert (row["text"], row["image_url"], row["categories"]) == (None, None, [])
    assert quality.table().to_pylist() == [
        {"source": "items", "rule": "neither_words_nor_picture", "action": "kept", "count": 1, "examples": ["a1"]}
    ]


def test_stray_html_and_entities_are_counted_by_field() -> None:
    quality = Quality()
    item = RawItem("a1", title="<span class=", description="Salt &amp; pepper", brand="A & B", price="free")
    assert Finisher("items", quality).row(item)["title"] is None
    assert [row["rule"] for row in quality.table().to_pylist()] == [
        "title_html",
        "description_entities",
        "price_unreadable",
    ]


def test_styles_as_titles_and_categories_are_counted_and_left_out() -> None:
    quality = Quality()
    item = RawItem("a1", title=".aok{color:red}", categories=["Home", "var x = 1;", "<script>y</script>"])
    row = Finisher("items", quality).row(item)
    assert (row["title"], row["categories"], row["text"]) == (None, ["Home"], "Home")
    assert [entry["rule"] for entry in quality.table().to_pylist()] == [
        "title_code",
        "categories_code",
        "categories_html",
    ]
