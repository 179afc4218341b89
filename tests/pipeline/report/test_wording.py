"""Numbers, names and untrusted text as a person sees them."""

from pipeline.report import wording
from trainers.recommenders import RECOMMENDERS


def test_numbers_are_written_for_people() -> None:
    assert wording.count(1234567) == "1,234,567"
    assert wording.percent(1) == "100%"
    assert wording.percent(0.99996) == "99.9%"
    assert wording.percent(0.00001) == "0.1%"
    assert wording.size(1_234_567) == "1.2 MB"
    assert wording.change(-0.00123, 4) == "−0.0012"
    assert wording.change(-0.000001, 4) == "±0.0000"
    assert wording.moment("2026-11-04T09:14:07Z") == "4 November 2026, 09:14 UTC"
    assert wording.plural(1, "category", "categories") == "1 category"


def test_long_text_is_cut_and_line_breaks_become_spaces() -> None:
    assert wording.shown("a\n b\tc") == "a b c"
    assert wording.shown("x" * 500, 10) == "x" * 9 + "…"
    assert wording.shown("a\ud800b\u202ec") == "abc"


def test_recommenders_have_titles_and_no_other_names_do() -> None:
    assert set(wording._MODELS) <= set(RECOMMENDERS)
    titles = {name: wording.model_title(name) for name in RECOMMENDERS}
    assert titles["item-weights"] == "Item weights"
    assert titles["graph-filter"] == "Graph filter"
    assert titles["lightgcn"] == "LightGCN"
    assert len(set(titles.values())) == len(RECOMMENDERS)
