"""Strange folders: what is guessed is what the catalogue then reads. The files are made up; their shapes are known."""

import gzip
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from pipeline.ingest.guess.stage import Guess, guess
from schemas.errors import UserError
from schemas.sources import CatalogueSource
from tests.support.ingest import SECOND, read
from tests.support.published import jpeg

CDN = "https://cdn.example/"
COUNT = 12
"""Items of each shop."""
IDS = [f"A{n}" for n in range(COUNT)]
WORDS = ("Red mug", "Blue sofa", "Green lamp")


def title(number: int) -> str:
    return f"{WORDS[number % 3]} {number}"


def events(ids: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """(user, item, stars, time): six users, each of whom chose half of the items."""
    return [
        (f"u{user}", item, 1 + (user + place) % 5, SECOND + 100 * user + place)
        for user in range(6)
        for place, item in enumerate(ids)
        if (user + place) % 2
    ]


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]], separator: str = ",") -> None:
    lines = [header, *rows] if header else rows
    quoted = [[f'"{v}"' if separator in str(v) and len(separator) == 1 else str(v) for v in line] for line in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(separator.join(line) for line in quoted) + "\n", encoding="utf-8")


def shopify(folder: Path) -> list[str]:
    """Orders name the variants' SKUs, not the products' handles."""
    header = ["Handle", "Title", "Body (HTML)", "Vendor", "Type", "Tags", "Variant SKU", "Variant Price", "Image Src"]
    ids = [f"SKU-{n}" for n in range(COUNT)]
    rows = [
        [f"h-{n}", title(n), f"<p>{title(n)}</p>", "Alma", "Mug", "new, red", ids[n], "9.90", f"{CDN}{n}.jpg"]
        for n in range(COUNT)
    ]
    table(folder / "products_export_1.csv", header, rows)
    orders = [
        [f"#{1000 + number}", f"{user}@x.example", "paid", "2024-05-06 10:00:00 +0200", "1", "Mug", "9.90", item]
        for number, (user, item, _, _) in enumerate(events(ids))
    ]
    names = ["Name", "Email", "Financial Status", "Created at", "Lineitem quantity", "Lineitem name", "Lineitem price"]
    table(folder / "orders_export_1.csv", [*names, "Lineitem sku"], orders)
    return ids


def woocommerce(folder: Path) -> list[str]:
    header = ["ID", "Type", "SKU", "Name", "Short description", "Description", "Sale price", "Regular price"]
    ids = [f"TEE-{n}" for n in range(COUNT)]
    texts = ("Soft.", "Made of cotton.", "", "24.90", "Clothing, Clothing > Tees", "new")
    rows = [[n + 10, "simple", ids[n], title(n), *texts, f"{CDN}{n}.jpg, {CDN}{n}b.jpg"] for n in range(COUNT)]
    table(folder / "wc-product-export.csv", [*header, "Categories", "Tags", "Images"], rows)
    orders = [[n, user, item, "06/05/2024"] for n, (user, item, _, _) in enumerate(events(ids))]
    table(folder / "orders.csv", ["order_id", "customer_id", "sku", "order_date"], orders)
    return ids


def amazon(folder: Path) -> list[str]:
    ids = [f"B00{n:07}" for n in range(COUNT)]
    items = [
        {"main_category": "Home", "title": title(n), "features": [], "price": None, "store": "Alma"}
        | {"images": [{"thumb": f"{CDN}{n}s.jpg", "large": f"{CDN}{n}.jpg"}], "parent_asin": ids[n]}
        for n in range(COUNT)
    ]
    reviews = [
        {"rating": float(stars), "title": "Nice", "text": "I like it.", "images": [], "asin": f"V{item}"}
        | {"parent_asin": item, "user_id": user, "timestamp": 1000 * time, "helpful_vote": 0}
        for user, item, stars, time in events(ids)
    ]
    for name, records in (("meta_Home.jsonl.gz", items), ("Home.jsonl.gz", reviews)):
        (folder / name).write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode()))
    return ids


def parquet_folders(folder: Path) -> list[str]:
    ids = [f"A{n}" for n in range(COUNT)]
    goods = pl.DataFrame({"sku": ids, "name": [title(n) for n in range(COUNT)], "genre": "Home;Mugs"})
    sold = pl.DataFrame(events(ids), schema=["customer", "sku", "stars", "ordered_at"], orient="row")
    for name, frame in (("catalog", goods), ("events", sold)):
        (folder / name).mkdir()
        for part in range(2):
            half = frame[part::2]
            half.write_parquet(folder / name / f"part-0000{part}-8d7c-c000.snappy.parquet")
        (folder / name / "_SUCCESS").touch()
    return ids


def movielens(folder: Path) -> list[str]:
    ids = [str(n) for n in range(1, COUNT + 1)]
    films = [[item, f"Amélie {item} (2001)", "Comedy|Romance"] for item in ids]
    (folder / "movies.dat").write_text("".join("::".join(film) + "\n" for film in films), encoding="latin-1")
    table(folder / "ratings.dat", [], [[user[1:] + "77", *more] for user, *more in events(ids)], "::")
    (folder / "README").write_text("About the data.\n")
    return ids


def recbole(folder: Path) -> list[str]:
    ids = [str(n) for n in range(1, COUNT + 1)]
    items = [[item, title(n), "Animation Comedy", 1990 + n] for n, item in enumerate(ids)]
    header = ["item_id:token", "movie_title:token_seq", "class:token_seq", "release_year:float"]
    table(folder / "ml.item", header, items, "\t")
    header = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    table(folder / "ml.inter", header, events(ids), "\t")
    table(folder / "ml.user", ["user_id:token", "age:token"], [["u0", "24"]], "\t")
    return ids


def hugging_face(folder: Path, kind: str) -> list[str]:
    """As the hub has them (Parquet shards), or `save_to_disk` (Arrow streams); pictures are structs."""
    ids = [f"A{n}" for n in range(COUNT)]
    pictures = [{"bytes": jpeg((9 * n, 90, 90)), "path": f"{n}.jpg"} for n in range(COUNT)]
    goods = pa.table({"image": pictures, "product_id": ids, "text": [title(n) for n in range(COUNT)]})
    sold = pa.table(dict(zip(("user_id", "product_id", "rating", "ts"), zip(*events(ids), strict=True), strict=True)))
    for name, rows in (("items", goods), ("purchases", sold)):
        (folder / name).mkdir()
        (folder / name / "dataset_info.json").write_text("{}")
        for part in range(2):
            half = rows.slice(part * (len(rows) // 2), len(rows) // 2 + part * (len(rows) % 2))
            if kind == "parquet":
                pl.from_arrow(half).write_parquet(folder / name / f"train-0000{part}-of-00002.parquet")  # type: ignore[union-attr]
                continue
            with pa.ipc.new_stream(folder / name / f"data-0000{part}-of-00002.arrow", half.schema) as file:
                file.write_table(half)
    return ids


def words_of_another_language(folder: Path) -> list[str]:
    """Names that say nothing to us, behind semicolons, in cp1252, and pictures under the items' ids."""
    ids = [f"A{n}" for n in range(COUNT)]
    table(
        folder / "artikel.csv", ["Artikelnr", "Bezeichnung"], [[i, f"Grüne {title(n)}"] for n, i in enumerate(ids)], ";"
    )
    text = (folder / "artikel.csv").read_text()
    (folder / "artikel.csv").write_bytes(text.encode("cp1252"))
    (folder / "bilder").mkdir()
    for item in ids:
        (folder / "bilder" / f"{item}.jpg").write_bytes(jpeg((1, 2, 3)))
    table(folder / "kauf.csv", ["user", "item"], [row[:2] for row in events(ids)])
    return ids


def without_header(folder: Path) -> list[str]:
    ids = [f"A{n}" for n in range(COUNT)]
    table(folder / "goods.csv", [], [[i, title(n), "1,50"] for n, i in enumerate(ids)], ";")
    table(folder / "sold.csv", [], events(ids))
    return ids


SHOPS: dict[str, Callable[[Path], list[str]]] = {
    "shopify": shopify,
    "woocommerce": woocommerce,
    "amazon": amazon,
    "parquet folders": parquet_folders,
    "movielens": movielens,
    "recbole": recbole,
    "hugging face, parquet": lambda folder: hugging_face(folder, "parquet"),
    "hugging face, arrow": lambda folder: hugging_face(folder, "arrow"),
    "another language": words_of_another_language,
    "no header": without_header,
}
FIRST: dict[str, tuple[str, list[str], str]] = {
    "shopify": ("Red mug 0", ["Mug", "new", "red"], f"{CDN}0.jpg"),
    "woocommerce": ("Red mug 0", ["Clothing", "Clothing > Tees", "new"], f"{CDN}0.jpg"),
    "amazon": ("Red mug 0", ["Home"], f"{CDN}0.jpg"),
    "parquet folders": ("Red mug 0", ["Home", "Mugs"], ""),
    "movielens": ("Amélie 1 (2001)", ["Comedy", "Romance"], ""),
    "recbole": ("Red mug 0", ["Animation", "Comedy"], ""),
    "hugging face, parquet": ("Red mug 0", [], "#column=image&row=0"),
    "hugging face, arrow": ("Red mug 0", [], "#column=image&row=0"),
    "another language": ("Grüne Red mug 0", [], "bilder/{item_id}.jpg"),
    "no header": ("Red mug 0", [], ""),
}
"""Shop → title, categories and picture of its first item."""


def fields(made: Guess) -> dict[str, Any]:
    """The lines as nested parameters."""
    nested: dict[str, Any] = {}
    for line in made.lines:
        *path, name = line.field.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[name] = line.value
    return nested


@pytest.mark.parametrize("shop", SHOPS)
def test_what_is_guessed_of_a_folder_is_what_a_catalogue_reads(tmp_path: Path, shop: str) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    ids = SHOPS[shop](folder)
    made = guess(folder, "shop")
    assert all(line.value is not None for line in made.lines), made
    parameters = fields(made)
    assert parameters.pop("ingest", {}) in ({}, {"core_k": 3})
    items, frame = read(CatalogueSource(**parameters), tmp_path / "cache")
    assert sorted(item.item_id for item in items) == sorted(ids)
    first = next(item for item in items if item.item_id == ids[0])
    picture = first.image_url or next(iter(first.gallery_urls), "") or parameters.get("image_url", "")
    found = (first.title or first.description, first.categories)
    assert found == FIRST[shop][:2], made
    assert picture.endswith(FIRST[shop][2])
    assert bool(picture) == bool(FIRST[shop][2])
    assert len(frame) == len(events(ids))
    assert set(frame["item_id"]) == set(ids)
    assert frame["user_id"].n_unique() == 6
    assert all(line.why for line in made.lines if line.field not in ("kind", "raw", "name")), "each says why"


def test_what_cannot_be_guessed_is_a_line_to_fill_in(tmp_path: Path) -> None:
    table(tmp_path / "sold.csv", ["user_id", "item_id"], [row[:2] for row in events(["A0", "A1"])])
    (tmp_path / "goods.xlsx.csv").write_bytes(b"PK\x03\x04 not a table")
    made = guess(tmp_path, "shop")
    assert {line.field: line.value for line in made.lines}["items"] is None
    assert any("goods.xlsx.csv is left out" in note for note in made.notes), made.notes


def test_without_interactions_the_features_alone_are_named(tmp_path: Path) -> None:
    table(tmp_path / "goods.csv", ["sku", "name"], [[f"A{n}", title(n)] for n in range(COUNT)])
    (line,) = [line for line in guess(tmp_path, "shop").lines if line.field == "interactions"]
    assert line.value == ""
    assert "cm3 extract" in line.why


def test_users_and_items_are_found_by_their_values_where_no_name_tells(tmp_path: Path) -> None:
    table(tmp_path / "Artikel.csv", ["Art.-Nr.", "Bezeichnung"], [[f"A{n}", title(n)] for n in range(COUNT)])
    rows = [[n, user, item, 1] for n, (user, item, *_) in enumerate(events([f"A{n}" for n in range(COUNT)]))]
    table(tmp_path / "Bestellungen.csv", ["Zeile", "Kunde", "Art.-Nr.", "Menge"], rows)
    table(tmp_path / "Lager.csv", ["Halle", "Fach"], [[n % 3, f"F{n}"] for n in range(COUNT)])
    parameters = fields(guess(tmp_path, "shop"))
    assert parameters["interactions"] == "Bestellungen.csv"
    columns = parameters["interaction_columns"]
    assert (columns["user_id"], columns["item_id"]) == ("Kunde", "Art.-Nr.")


COLOURS = ("red", "blue", "green", "black", "white", "pink", "grey", "gold", "navy", "teal", "lime", "plum", "sand")
BESIDE: dict[str, tuple[list[str], list[list[object]]]] = {
    "stock": (
        ["sku", "warehouse", "quantity"],
        [[i, f"W{w}", 40 * w + n] for n, i in enumerate(IDS) for w in range(3)],
    ),
    "translations": (
        ["sku", "lang", "text"],
        [[i, lang, title(n)] for n, i in enumerate(IDS) for lang in ("de", "fr")],
    ),
    "variants": (
        ["variant_id", "product_id", "colour"],
        [[f"V{n}{c}", i, COLOURS[(n + c) % 13]] for n, i in enumerate(IDS) for c in range(4)],
    ),
    "more": (["sku", "title", "brand"], [[i, title(n), f"brand{n % 7}"] for n, i in enumerate(IDS)]),
}
"""A second file about the items → its columns and rows."""


@pytest.mark.parametrize("beside", BESIDE)
def test_what_else_is_about_the_items_is_not_taken_for_interactions(tmp_path: Path, beside: str) -> None:
    goods = [[item, f"{title(n)} of wood and of wool", f"brand{n % 7}"] for n, item in enumerate(IDS)]
    table(tmp_path / "goods.csv", ["sku", "title", "brand"], goods)
    table(tmp_path / f"{beside}.csv", *BESIDE[beside])
    parameters = fields(guess(tmp_path, "shop"))
    assert parameters["interactions"] == ""
    assert "interaction_columns" not in parameters


def test_a_file_that_names_few_of_the_items_changes_nothing_of_theirs(tmp_path: Path) -> None:
    """Of two columns of ids it is the other one that meets some."""
    goods = [[item, title(n), f"{n}" if n else "u1"] for n, item in enumerate(IDS)]
    table(tmp_path / "goods.csv", ["sku", "title", "code"], goods)
    table(tmp_path / "Besuche.csv", ["Kunden-ID", "Seite"], [[f"u{n % 7}", f"p{n % 9}"] for n in range(4 * COUNT)])
    parameters = fields(guess(tmp_path, "shop"))
    assert parameters["interactions"] == ""
    assert parameters["item_columns"] == {"item_id": "sku"}


def test_words_for_events_are_ratings(tmp_path: Path) -> None:
    table(tmp_path / "goods.csv", ["sku", "name"], [[f"A{n}", title(n)] for n in range(COUNT)])
    rows = [
        [user, item, ("view", "cart", "purchase")[stars % 3]] for user, item, stars, _ in events(["A0", "A1", "A2"])
    ]
    table(tmp_path / "log.csv", ["visitor_id", "item_id", "event"], rows)
    parameters = fields(guess(tmp_path, "shop"))
    assert parameters["rating_values"] == {"cart": 2, "purchase": 3, "view": 1}
    assert parameters["interaction_columns"] == {"user_id": "visitor_id", "rating": "event"}


def test_files_of_mmrec_are_a_source_of_their_own(tmp_path: Path) -> None:
    table(tmp_path / "baby.inter", ["userID", "itemID", "x_label"], [[0, 1, 0], [0, 2, 1]], "\t")
    assert fields(guess(tmp_path, "shop")) == {"kind": "mmrec", "raw": str(tmp_path), "name": "baby"}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "goods.csv").touch()
    with pytest.raises(UserError, match=r"goods\.csv is not a folder"):
        guess(tmp_path / "goods.csv", "shop")


def test_of_two_catalogues_the_one_that_the_interactions_are_about_is_taken(tmp_path: Path) -> None:
    table(tmp_path / "old.csv", ["sku", "name"], [[f"B{n}", title(n)] for n in range(5 * COUNT)])
    table(tmp_path / "new.csv", ["sku", "name"], [[f"A{n}", title(n)] for n in range(COUNT)])
    table(tmp_path / "sold.csv", ["user", "sku"], [row[:2] for row in events([f"A{n}" for n in range(COUNT)])])
    made = guess(tmp_path, "shop")
    assert fields(made)["items"] == "new.csv"
    assert "Not used: old.csv." in made.notes


def test_files_that_differ_by_a_number_and_in_their_columns_are_files_of_their_own(tmp_path: Path) -> None:
    table(tmp_path / "export1.csv", ["sku", "name"], [[f"A{n}", title(n)] for n in range(COUNT)])
    table(tmp_path / "export2.csv", ["user", "sku"], [row[:2] for row in events([f"A{n}" for n in range(COUNT)])])
    parameters = fields(guess(tmp_path, "shop"))
    assert (parameters["items"], parameters["interactions"]) == ("export1.csv", "export2.csv")


def source(parameters: dict[str, Any]) -> CatalogueSource:
    return CatalogueSource(**{name: value for name, value in parameters.items() if name != "ingest"})


def test_the_index_that_pandas_writes_is_no_column(tmp_path: Path) -> None:
    pl.DataFrame({"sku": IDS, "title": [title(n) for n in range(COUNT)]}).write_csv(tmp_path / "goods.csv")
    rows = [[place, *event[:3]] for place, event in enumerate(events(IDS))]
    table(tmp_path / "sold.csv", ["", "user_id", "product_id", "rating"], rows)
    parameters = fields(guess(tmp_path, "shop"))
    assert parameters["interaction_columns"] == {"item_id": "product_id"}
    _, frame = read(source(parameters), tmp_path / "cache")
    assert set(frame["user_id"]) == {event[0] for event in events(IDS)}


def test_an_index_without_a_name_tells_of_a_header_in_any_language(tmp_path: Path) -> None:
    table(tmp_path / "goods.csv", ["", "artikel", "label"], [[n, i, title(n)] for n, i in enumerate(IDS)])
    parameters = fields(guess(tmp_path, "shop"))
    assert parameters["item_columns"] == {"item_id": "artikel", "title": "label"}


@pytest.mark.parametrize(("suffix", "header"), [("csv", True), ("csv", False), ("jsonl", True), ("parquet", True)])
def test_what_the_folders_of_parts_tell_is_a_column(tmp_path: Path, suffix: str, header: bool) -> None:
    for number, half in enumerate((IDS[::2], IDS[1::2])):
        part = tmp_path / "shop" / f"goods.{suffix}" / f"vendor=Acme{number}" / f"part-0.{suffix}"
        part.parent.mkdir(parents=True)
        goods = pl.DataFrame({"sku": half, "title": [title(n) for n in range(len(half))]})
        write = {"jsonl": goods.write_ndjson, "parquet": goods.write_parquet}
        write.get(suffix, partial(goods.write_csv, include_header=header))(part)
    table(tmp_path / "shop" / "sold.csv", ["user", "sku"], [event[:2] for event in events(IDS)])
    parameters = fields(guess(tmp_path / "shop", "shop"))
    assert parameters["item_columns"]["brand"] == "vendor"
    items, _ = read(source(parameters), tmp_path / "cache")
    assert {item.brand for item in items} == {"Acme0", "Acme1"}


@pytest.mark.parametrize("header", [["sku", "title", "", ""], ["sku", "title", "tag", "tag"]])
def test_a_blank_or_repeated_name_leaves_the_others_names(tmp_path: Path, header: list[str]) -> None:
    table(tmp_path / "goods.csv", header, [[i, title(n), "Home", "new"] for n, i in enumerate(IDS)])
    table(tmp_path / "sold.csv", ["user", "sku"], [event[:2] for event in events(IDS)])
    made = guess(tmp_path, "shop")
    parameters = fields(made)
    assert "items_format" not in parameters
    assert parameters["item_columns"]["item_id"] == "sku"
    is_repeated = "goods.csv: left out is what several columns are called: tag. Rename all but one." in made.notes
    assert is_repeated == (header[-1] == "tag")


@pytest.mark.parametrize("row", [["SKU-{}", "Mug {}", ""], ["A{}", "Mug {}", "Mug {}"]])
def test_rows_with_a_blank_or_repeated_value_are_no_header(tmp_path: Path, row: list[str]) -> None:
    table(tmp_path / "goods.csv", [], [[cell.format(n) for cell in row] for n in range(COUNT)])
    table(tmp_path / "sold.csv", ["user", "sku"], [[user, row[0].format(item)] for user, item, _, _ in events("0123")])
    parameters = fields(guess(tmp_path, "shop"))
    items, _ = read(source(parameters), tmp_path / "cache")
    assert len(items) == COUNT


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_read_like_any_other(tmp_path: Path, encoding: str) -> None:
    table(tmp_path / "goods.csv", ["sku", "title"], [[i, f"Grüne {title(n)}"] for n, i in enumerate(IDS)])
    text = (tmp_path / "goods.csv").read_text(encoding="utf-8")
    (tmp_path / "goods.csv").write_bytes(text.encode(encoding))
    table(tmp_path / "sold.csv", ["user_id", "sku"], [event[:2] for event in events(IDS)])
    parameters = fields(guess(tmp_path, "shop"))
    assert parameters["items_format"] == {"encoding": encoding}
    items, _ = read(source(parameters), tmp_path / "cache")
    assert [item.title for item in items] == [f"Grüne {title(n)}" for n in range(COUNT)]


def test_a_user_s_word_goes_into_the_line_that_it_is_about_or_is_a_line_of_its_own(tmp_path: Path) -> None:
    table(tmp_path / "goods.csv", ["sku", "title"], [[i, title(n)] for n, i in enumerate(IDS)], ";")
    made = guess(tmp_path, "shop")
    made.set("item_columns.title", "sku")
    made.set("items_format.encoding", "cp1252")
    assert fields(made)["item_columns"]["title"] == "sku"
    assert fields(made)["items_format"] == {"separator": ";", "encoding": "cp1252"}


def test_ids_that_are_written_in_two_ways_are_noted(tmp_path: Path) -> None:
    table(tmp_path / "goods.csv", ["sku", "title"], [[f"0000{n}", title(n)] for n in range(COUNT)])
    table(tmp_path / "sold.csv", ["user_id", "sku"], [event[:2] for event in events(list(map(str, range(COUNT))))])
    notes = guess(tmp_path, "shop").notes
    assert any("sold.csv names e.g. 0, ids there are like 00000. Write them alike" in note for note in notes), notes


def test_what_else_could_be_the_interactions_or_their_time_is_noted(tmp_path: Path) -> None:
    table(tmp_path / "goods.csv", ["sku", "title"], [[i, title(n)] for n, i in enumerate(IDS)])
    rows = [[user, item, f"1980-01-0{user[1:]}", "2024-05-06"] for user, item, _, _ in events(IDS) if user != "u0"]
    table(tmp_path / "orders.csv", ["user", "sku", "birthday", "bestellt"], rows)
    table(tmp_path / "views.csv", ["user", "sku"], [row[:2] for row in rows[:9]])
    notes = guess(tmp_path, "shop").notes
    assert "Users and items are also in views.csv; orders.csv's ids fit best, or as well." in notes
    assert "orders.csv: times are also in bestellt; birthday is the first such column." in notes
