"""Lists written as text are lists; words that stand for nothing are nothing."""

import pytest

from pipeline.ingest.cells import listed, present
from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("['Beauty', 'Hair']", ["Beauty", "Hair"]),
        ('["Beauty"]', ["Beauty"]),
        ("['Home' 'Kitchen']", ["Home", "Kitchen"]),
        ("['Home'\n 'Kitchen']", ["Home", "Kitchen"]),
        ("array(['a', 'b'], dtype=object)", ["a", "b"]),
        ("('a', 'b')", ["a", "b"]),
        ("['it\\'s', \"d'or\", None]", ["it's", "d'or", None]),
        ('{a,"b \\"c\\", d",NULL}', ["a", 'b "c", d']),
        ("[a, b c]", ["a", "b c"]),
        ("[]", []),
        ("{}", []),
        ("[['a', 'b']]", [["a", "b"]]),
        ("[Used] Books [old]", None),
        ("(new)", None),
        ("all {x}", None),
        ("Home", None),
        ("", None),
    ],
)
def test_lists_as_json_python_numpy_postgresql_and_spark_write_them(text, elements) -> None:
    assert listed(text) == elements


@pytest.mark.parametrize("text", ["['a', 'b' ... 'z']", "{'a': 1}", '{"a": 1}', "['a'[']"])
def test_what_begins_like_a_list_and_is_none_is_refused(text) -> None:
    with pytest.raises(ValueError, match="list"):
        listed(text)


def test_prose_in_brackets_is_no_list() -> None:
    assert listed("[a, b]", quoted=True) is None
    assert listed("{a,b}", quoted=True) is None
    assert listed("['A nice', 'comb.']", quoted=True) == ["A nice", "comb."]


def test_fields_that_say_that_there_is_nothing_are_empty_and_counted() -> None:
    quality = Quality()
    items = [RawItem("a", title="nan", brand=" NULL ", categories=["N/A", "Home"], price="None"), RawItem("NULL")]
    assert list(present(items, ("nan", "NULL", "N/A", "None"), "items", quality)) == [
        RawItem("a", categories=["Home"], price="")
    ]
    assert {row["rule"]: row["examples"] for row in quality.table().to_pylist()} == {
        "title_missing_word": ["a"],
        "brand_missing_word": ["a"],
        "price_missing_word": ["a"],
        "categories_missing_word": ["a"],
        "item_without_id": ["untitled"],
    }
