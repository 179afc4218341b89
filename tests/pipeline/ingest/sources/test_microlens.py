"""MicroLens with every header that its files have."""

import pytest

from schemas.errors import UserError
from schemas.sources import MicroLensSource
from tests.support.ingest import read, write


@pytest.mark.parametrize(
    ("pairs", "titles"),
    [
        ("user,item,timestamp\n7,11,1583378629552\n", "item,title\n11,Piano at night\n"),
        ("userID,videoID,timestamp\n7,11,1583378629552\n", "videoID,title\n11,Piano at night\n"),
        ("7,11,1583378629552\n", "11,Piano at night\n"),
    ],
)
def test_microlens_with_each_header_seen(tmp_path, pairs, titles) -> None:
    raw = write(tmp_path, {"MicroLens-100k_pairs.csv": pairs, "MicroLens-100k_title_en.csv": titles})
    (item,), rows = read(MicroLensSource(raw=raw, prefix="MicroLens-100k"), tmp_path / "cache")
    assert (item.item_id, item.title, item.image_url) == ("11", "Piano at night", "MicroLens-100k_covers/11.jpg")
    assert rows.rows() == [("7", "11", None, 1583378629552)]


def test_microlens_with_other_columns_is_refused(tmp_path) -> None:
    raw = write(tmp_path, {"MicroLens-50k_pairs.csv": "a,b\nx,y\n", "MicroLens-50k_titles.csv": "item,title\n1,x\n"})
    with pytest.raises(UserError, match=r"MicroLens-50k_pairs\.csv: no column user or userID.*found a, b"):
        read(MicroLensSource(raw=raw), tmp_path / "cache")
