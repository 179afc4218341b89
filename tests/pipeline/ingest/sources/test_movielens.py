"""MovieLens in both layouts."""

import pytest

from schemas.errors import UserError
from schemas.sources import MovieLensSource
from tests.support.ingest import read, run, sizes, write


def test_movielens_is_read_with_its_exact_counts(store, shared_data) -> None:
    source = MovieLensSource(raw=str(shared_data / "movielens-100k"))
    assert sizes(store, run(store, source, core_k=1)) == (1657, 943, 99_780)
    core = run(store, source)
    assert sizes(store, core) == (1343, 943, 99_108)
    assert core.tables["items"].rows == 1657


def test_movielens_with_plots_and_posters_in_one_file(tmp_path) -> None:
    files = {
        "items.csv": 'item_id,title,genres,plot,image\n1,Toy Story (1995),"Animation, Comedy",A doll.,images/1.jpg\n',
        "inter.csv": "user,item,rating,timestamp\n196,1,3,881250949\n",
    }
    raw = write(tmp_path, files)
    (item,), rows = read(MovieLensSource(raw=raw), tmp_path / "cache")
    assert (item.title, item.description, item.image_url) == ("Toy Story (1995)", "A doll.", "images/1.jpg")
    assert [category.strip() for category in item.categories] == ["Animation", "Comedy"]
    assert rows.rows() == [("196", "1", 3.0, 881250949)]


def test_movielens_of_grouplens_with_joined_plots_and_posters(tmp_path) -> None:
    files = {
        "movies.csv": "movieId,title,genres\n1,Toy Story (1995),Animation|Comedy\n2,Jumanji (1995),Adventure\n",
        "ratings.csv": "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n",
        "more.csv": "item_id,plot,image\n 1 ,A cowboy doll.,https://host/1.jpg\n1,Another plot.,\n",
    }
    raw = write(tmp_path, files)
    items, rows = read(MovieLensSource(raw=raw, joined="more.csv"), tmp_path / "cache")
    assert [(item.description, item.image_url) for item in items] == [
        ("A cowboy doll.", "https://host/1.jpg"),
        ("", ""),
    ]
    assert items[0].categories == ["Animation", "Comedy"]
    assert rows.rows() == [("1", "1", 4.0, 964982703)]


def test_joined_file_without_its_columns_is_refused(tmp_path) -> None:
    files = {
        "movies.csv": "movieId,title,genres\n1,A,B\n",
        "ratings.csv": "userId,movieId,rating,timestamp\n1,1,4,9\n",
        "more.csv": "id,story\n1,x\n",
    }
    raw = write(tmp_path, files)
    with pytest.raises(UserError, match=r"more\.csv: expected item_id with plot, image or both; found id, story"):
        read(MovieLensSource(raw=raw, joined="more.csv"), tmp_path / "cache")
