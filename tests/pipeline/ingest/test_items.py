"""Words become plain text and prices numbers; a column of which almost nothing can be read is not believed."""

import pytest

from pipeline.ingest import spool
from pipeline.ingest.items import Finisher, text_of
from pipeline.ingest.pictures import Pictures
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality
from schemas.errors import UserError


def test_text_has_its_parts_in_order_and_is_none_without_any() -> None:
    assert text_of("Mug", "Alma", ["Home", "Mugs", "Home"], "Red.") == "Mug\nAlma\nHome, Mugs\nRed."
    assert text_of("Mug", "", [], "Red.", ["300 ml", "Colour: Red"]) == "Mug\nRed.\n300 ml\nColour: Red"
    assert text_of("", "", [], "") is None


def finisher(quality, **mapped):
    return Finisher("items", quality, Pictures("http://shop/", ""), mapped)


def rows_of(items, *, require=()):
    quality = Quality()
    rows = finisher(quality).rows(items, require=require)
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


def test_item_without_words_and_picture_is_kept_and_counted() -> None:
    quality = Quality()
    row = finisher(quality).row(RawItem("a1"))
    assert (row["text"], row["image_url"], row["categories"]) == (None, None, [])
    assert quality.table().to_pylist() == [
        {"source": "items", "rule": "neither_words_nor_picture", "action": "kept", "count": 1, "examples": ["a1"]}
    ]


def test_stray_html_and_entities_are_counted_by_field() -> None:
    quality = Quality()
    item = RawItem("a1", title="<span class=", description="Salt &amp; pepper", brand="A & B", price="free")
    assert finisher(quality).row(item)["title"] is None
    assert [row["rule"] for row in quality.table().to_pylist()] == [
        "title_html",
        "description_entities",
        "price_unreadable",
    ]


def test_styles_as_titles_and_categories_are_counted_and_left_out() -> None:
    quality = Quality()
    item = RawItem("a1", title=".aok{color:red}", categories=["Home", "var x = 1;", "<script>y</script>"])
    row = finisher(quality).row(item)
    assert (row["title"], row["categories"], row["text"]) == (None, ["Home"], "Home")
    assert [entry["rule"] for entry in quality.table().to_pylist()] == [
        "title_code",
        "categories_code",
        "categories_html",
    ]


def judged(tmp_path, quality, *prices, **mapped):
    """All rows of items with these prices, judged as the stage does."""
    items = [RawItem(f"a{number}", title="x", price=price) for number, price in enumerate(prices)]
    maker = finisher(quality, **mapped)
    ids, filled = spool.write(tmp_path / "x.parquet", maker.rows(items, require=()))
    maker.judge(filled)
    return len(ids)


def test_a_mapped_column_of_which_almost_nothing_can_be_read_is_refused_with_three_examples(tmp_path) -> None:
    prices = ("2 for $5", "10% off", "2 for $5", "2024-05-01", "call us", *["x"] * 200, "9.99")
    message = r"items: only 1 of 206 values of cost \(price\) can be read \(2 for \$5, 10% off, 2024-05-01\)\. Name"
    with pytest.raises(UserError, match=message):
        judged(tmp_path, Quality(), *prices, price="cost")


@pytest.mark.parametrize(
    ("prices", "mapped"),
    [
        (["2 for $5"] * 9, {}),  # it only happens to be called price
        (["2 for $5"] * 9 + ["5"], {"price": "cost"}),
        (["2 for $5", "10% off"], {"price": "cost"}),  # too few to judge by
    ],
)
def test_of_other_columns_it_is_warned(tmp_path, prices, mapped, caplog: pytest.LogCaptureFixture) -> None:
    quality = Quality()
    assert judged(tmp_path, quality, *prices, **mapped) == len(prices)
    assert "can be read (2 for $5" in caplog.text
    assert quality.count("price_unreadable") == prices.count("2 for $5") + prices.count("10% off")


def test_a_few_unreadable_values_are_counted_without_a_warning(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    quality = Quality()
    judged(tmp_path, quality, "free", *["5"] * 30, price="cost")
    assert (quality.count("price_unreadable"), caplog.text) == (1, "")
