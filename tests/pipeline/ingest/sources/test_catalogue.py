"""Own catalogues: every format reads the same, and mappings are obeyed, or refused by name."""

import gzip
import json
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.job import reachable
from pipeline import images, never_shown
from pipeline.ingest.tally import Quality
from schemas.errors import UserError
from schemas.images import ImagesConfig
from schemas.sources import CatalogueSource, InteractionColumns, ItemColumns
from tests.support.ingest import SECOND, read, rows, run, splits, write
from tests.support.published import jpeg

ROWS = [
    {"sku": "007", "name": "Red mug", "tags": ["Home", "Mugs"], "cost": 9.5, "photo": "a.jpg"},
    {"sku": "008", "name": None, "tags": [], "cost": None, "photo": None},
]
EVENTS = [
    {"who": "u1", "sku": "007", "stars": 4.0, "at": SECOND},
    {"who": "u2", "sku": "008", "stars": None, "at": None},
]
COLUMNS = {
    "item_columns": ItemColumns(item_id="sku", title="name", categories="tags", price="cost", image_url="photo"),
    "interaction_columns": InteractionColumns(user_id="who", item_id="sku", rating="stars", timestamp="at"),
}


def write_as(folder: Path, stem: str, suffix: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"{stem}{suffix}"
    flat = [{k: "|".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
    plain = suffix.removesuffix(".gz")
    if plain == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
        return path.name
    if plain == ".arrow":  # as `datasets` writes them
        with pa.ipc.new_stream(path, pl.DataFrame(rows).to_arrow().schema) as file:
            file.write_table(pl.DataFrame(rows).to_arrow(), max_chunksize=1)
        return path.name
    if plain in (".item", ".inter"):
        typed = {name: f"{name}:{kind}" for name, kind in {"cost": "float", "tags": "token_seq"}.items()}
        frame = pl.DataFrame(flat).rename({name: typed.get(name, f"{name}:token") for name in flat[0]})
        path.write_bytes(frame.write_csv(separator="\t").encode())
        return path.name
    if plain == ".dat":  # as MovieLens' are: without quotes
        lines = ["::".join("" if value is None else str(value) for value in row.values()) for row in flat]
        path.write_text("\n".join(["::".join(flat[0]), *lines, ""]))
        return path.name
    if plain in (".csv", ".tsv"):
        data = pl.DataFrame(flat).write_csv(separator="," if plain == ".csv" else "\t").encode()
    else:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    return path.name


@pytest.mark.parametrize(
    "suffix",
    [
        ".csv",
        ".csv.gz",
        ".tsv",
        ".jsonl",
        ".jsonl.gz",
        ".ndjson",
        ".json",
        ".parquet",
        ".arrow",
        ".item",
        ".inter",
        ".dat",
    ],
)
def test_every_format_reads_the_same(tmp_path, suffix) -> None:
    names = {
        "items": write_as(tmp_path, "goods", suffix, ROWS),
        "interactions": write_as(tmp_path, "sold", suffix, EVENTS),
    }
    items, frame = read(CatalogueSource(raw=str(tmp_path), **names, **COLUMNS), tmp_path / "cache")
    assert [(i.item_id, i.title, i.categories, i.image_url) for i in items] == [
        ("007", "Red mug", ["Home", "Mugs"], "a.jpg"),
        ("008", "", [], ""),
    ]
    assert float(items[0].price) == 9.5
    assert frame.rows() == [("u1", "007", 4.0, SECOND), ("u2", "008", None, None)]


def test_optional_columns_may_be_absent(tmp_path) -> None:
    raw = write(tmp_path, {"items.jsonl": '{"item_id": 7}\n', "interactions.csv": "user_id,item_id\nu,7\n"})
    (item,), frame = read(CatalogueSource(raw=raw), tmp_path / "cache")
    assert (item.item_id, item.title) == ("7", "")
    assert frame.rows() == [("u", "7", None, None)]


def test_lists_in_the_place_of_texts_are_counted(tmp_path) -> None:
    record = {"item_id": "7", "title": ["A"], "brand": {"name": "B"}, "description": "fine", "image_url": None}
    raw = write(tmp_path, {"items.jsonl": json.dumps(record), "interactions.csv": "user_id,item_id\nu,7\n"})
    quality = Quality()
    (item,), _ = read(CatalogueSource(raw=raw), tmp_path / "cache", quality)
    assert (item.title, item.brand, item.description) == ("", "", "fine")
    assert {row["rule"]: row["examples"] for row in quality.table().to_pylist()} == {
        "title_unreadable": ["7"],
        "brand_unreadable": ["7"],
    }


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_lists_in_lists_and_objects_in_the_place_of_lists_are_counted(tmp_path, suffix) -> None:
    columns = {"item_id": ["7", "8"], "categories": [[["a"]], [["b"]]], "gallery_urls": [{"u": "x"}, None]}
    frame = pl.DataFrame(columns | {"title": "fine"})
    {"jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](tmp_path / f"items.{suffix}")
    raw = write(tmp_path, {"interactions.csv": "user_id,item_id\nu,7\n"})
    quality = Quality()
    items, _ = read(CatalogueSource(raw=raw, items=f"items.{suffix}"), tmp_path / "cache", quality)
    assert [item.categories for item in items] == [[], []]
    assert {row["rule"]: row["examples"] for row in quality.table().to_pylist()} == {
        "categories_unreadable": ["7", "8"],
        "gallery_urls_unreadable": ["7"],
    }


def test_a_field_that_only_late_records_have_is_read(tmp_path) -> None:
    goods = [{"item_id": n} for n in range(1500)] + [{"item_id": 1500, "brand": "B", "image_url": "http://x/1.jpg"}]
    sold = [{"user_id": "u", "item_id": n} for n in range(1500)] + [{"user_id": "u", "item_id": 1500, "rating": 4}]
    files = {"items.jsonl": goods, "i.jsonl": sold}
    raw = write(tmp_path, {name: "\n".join(map(json.dumps, records)) for name, records in files.items()})
    items, frame = read(CatalogueSource(raw=raw, interactions="i.jsonl"), tmp_path / "cache")
    assert (items[-1].brand, items[-1].image_url) == ("B", "http://x/1.jpg")
    assert frame["rating"].to_list() == [None] * 1500 + [4.0]


def test_a_mapped_field_that_only_late_records_have_is_read_and_one_that_none_has_refused(tmp_path) -> None:
    late = {"item_id": "late", "user_id": "u", "pic": "http://x/1.jpg", "stars": 4}
    lines = [json.dumps({"item_id": str(n), "user_id": "u"}) for n in range(1500)] + [json.dumps(late)]
    raw = write(tmp_path, {"items.jsonl": "\n".join(lines), "i.jsonl": "\n".join(lines)})
    source = CatalogueSource(
        raw=raw,
        interactions="i.jsonl",
        item_columns=ItemColumns(image_url="pic"),
        interaction_columns=InteractionColumns(rating="stars"),
    )
    items, frame = read(source, tmp_path / "cache")
    assert [item.image_url for item in items] == [""] * 1500 + ["http://x/1.jpg"]
    assert frame["rating"].to_list() == [None] * 1500 + [4.0]
    with pytest.raises(UserError, match=r"items\.jsonl: column photo is missing"):
        read(source.model_copy(update={"item_columns": ItemColumns(image_url="photo")}), tmp_path / "cache")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_mapping_holds_also_where_the_file_has_columns_of_our_names(tmp_path, suffix) -> None:
    frame = pl.DataFrame({"user_id": "u", "item_id": "7", "sku": "8", "rating": 1, "stars": 5, "timestamp": 1, "at": 2})
    path = tmp_path / f"i.{suffix}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix](path)
    raw = write(tmp_path, {"items.jsonl": '{"item_id": 8}\n'})
    mapping = InteractionColumns(user_id="user_id", item_id="sku", rating="stars", timestamp="at")
    _, rows_read = read(
        CatalogueSource(raw=raw, interactions=path.name, interaction_columns=mapping), tmp_path / "cache"
    )
    assert rows_read.rows() == [("u", "8", 5.0, 2)]


def test_missing_column_names_file_expected_and_found(store, shop) -> None:
    source = shop(header=["user", "item_id", "rating", "timestamp"])
    with pytest.raises(
        UserError, match=r"interactions\.csv: column user_id is missing; expected .*; found user, item_id"
    ):
        run(store, source)
    mapped = source.model_copy(update={"interaction_columns": InteractionColumns(user_id="user")})
    assert run(store, mapped).tables["interactions"].rows == 36


def test_named_column_that_is_absent_is_refused(store, shop) -> None:
    with pytest.raises(UserError, match=r"items\.jsonl: column name is missing.*item_columns"):
        run(store, shop(item_columns=ItemColumns(title="name")))


@pytest.mark.parametrize("gallery", [["2.jpg", "3.jpg", None, "1.jpg"], "2.jpg|3.jpg|1.jpg"], ids=["list", "text"])
def test_a_gallery_is_a_list_or_a_text_with_separators(store, shop, gallery) -> None:
    source = shop(
        [{"item_id": "i0", "title": "First of its id"}, {"item_id": "x", "photos": gallery, "image_url": "1.jpg"}],
        [["u0", "x", 5, SECOND]],
        item_columns=ItemColumns(gallery_urls="photos"),
    )
    item = rows(store, run(store, source, core_k=1), "items")[-1]
    assert item["item_id"] == "x"
    assert [item["image_url"], *item["gallery_urls"]] == [
        (Path(source.raw) / name).as_uri() for name in ("1.jpg", "2.jpg", "3.jpg")
    ]


def test_published_split_column_is_used(store, shop) -> None:
    names = ["train"] * 4 + ["valid", "test"]
    source = shop(
        header=["user_id", "item_id", "rating", "when", "part"],
        interaction_columns=InteractionColumns(timestamp="when", split="part"),
    )
    path = Path(source.raw) / "interactions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(f"{line},{names[n % 6]}" for n, line in enumerate(lines[1:]))]) + "\n")
    assert splits(store, run(store, source)) == {"train": 24, "valid": 6, "test": 6}
    assert run(store, source, split="leave_one_out").tables["interactions"].rows == 36


def test_a_split_called_so_needs_no_mapping_and_is_left_alone_where_another_is_asked_for(
    store, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        f"u{user},{item},{part}" for user in range(9) for item, part in enumerate(["train"] * 7 + ["test", "valid"])
    ]
    own = "\n".join(["user_id,item_id,split", *lines])
    files = {
        "items.jsonl": "\n".join(f'{{"item_id": "{item}"}}' for item in range(9)),
        "own.csv": own,
        "other.csv": own.replace(",t", ",of t").replace("valid", "north"),
        "two.csv": "\n".join(line for line in own.splitlines() if not line.endswith("valid")),
    }
    raw = write(tmp_path, files)

    def ingested(file: str, **config: Any) -> set[str]:
        published = run(store, CatalogueSource(raw=raw, interactions=file), core_k=1, **config)
        interactions = rows(store, published, "interactions")
        return {f"{row['user_id']},{row['item_id']},{row['split']}" for row in interactions}

    assert ingested("own.csv") == set(lines)
    assert ingested("own.csv", split="published") == set(lines)
    assert "nothing for validation" not in caplog.text
    assert len(ingested("other.csv", split="per_user")) == len(lines)
    assert ingested("two.csv") == {line for line in lines if not line.endswith("valid")}
    assert "nothing for validation" in caplog.text
    with pytest.raises(UserError, match="none of 81 rows has a split we know"):
        ingested("other.csv", split="published")


def catalogue(folder: Path, files: dict[str, str | bytes], **source: Any) -> tuple[list[Any], pl.DataFrame, Quality]:
    """A catalogue of these files, beside one interaction, as it is read."""
    for name, content in {"interactions.csv": "user_id,item_id\nu,A0\n", **files}.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    quality = Quality()
    items, frame = read(CatalogueSource(raw=str(folder), **source), folder / "cache", quality)
    return items, frame, quality


def rules(quality: Quality) -> dict[str, int]:
    return {row["rule"]: row["count"] for row in quality.table().to_pylist()}


def test_lists_in_the_cells_of_a_table_are_lists(tmp_path) -> None:
    lines = [
        "item_id,categories,description,image_url",
        """A0,"['Home' 'Mugs']","['Nice', 'mug.']","['1.jpg', '2.jpg']" """.strip(),
        'A1,"{a,""b c""}",[],[]',
        """A2,"['a' ... 'z']",[old] stock,x.jpg""",
    ]
    items, _, quality = catalogue(tmp_path, {"items.csv": "\n".join(lines)}, items="items.csv")
    assert [(item.categories, item.description, item.image_url, item.gallery_urls) for item in items] == [
        (["Home", "Mugs"], "Nice mug.", "1.jpg", ["2.jpg"]),
        (["a", "b c"], "", "", []),
        ([], "[old] stock", "x.jpg", []),
    ]
    assert rules(quality) == {
        "categories_list_in_text": 2,
        "description_list_in_text": 2,
        "image_url_list_in_text": 2,
        "categories_unreadable": 1,
    }


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_is_missing_is_missing_in_every_format(tmp_path, suffix) -> None:
    goods = [{"item_id": "A0", "title": "nan", "image_url": "NULL"}, {"item_id": "NULL", "title": "x", "image_url": ""}]
    name = write_as(tmp_path, "goods", suffix, goods)
    items, _, quality = catalogue(tmp_path, {}, items=name)
    assert [(item.item_id, item.title, item.image_url) for item in items] == [("A0", "", "")]
    assert rules(quality) == {"title_missing_word": 1, "image_url_missing_word": 1, "item_without_id": 1}
    items, _, quality = catalogue(tmp_path, {}, items=name, missing=["x"])
    assert [(item.item_id, item.title) for item in items] == [("A0", "nan"), ("NULL", "")]


def test_objects_and_lists_as_ids_are_refused_and_those_of_mongodb_read(tmp_path) -> None:
    files = {
        "items.jsonl": '{"item_id": {"$oid": "5f0"}}\n',
        "i.jsonl": '{"user_id": {"$oid": "u"}, "item_id": "5f0", "timestamp": {"$date": "2024-05-06T07:08:09Z"}}\n',
    }
    items, frame, _ = catalogue(tmp_path, files, interactions="i.jsonl")
    assert (items[0].item_id, frame["user_id"].item(), frame["timestamp"].is_null().any()) == ("5f0", "u", False)
    bad = {"i.jsonl": files["i.jsonl"] + '{"user_id": ["u9"], "item_id": "5f0"}\n'}
    with pytest.raises(UserError, match=r'a number, text or date for user_id; found \["u9"\] in line 2'):
        catalogue(tmp_path, bad, interactions="i.jsonl")
    with pytest.raises(UserError, match=r"items\.jsonl: expected a number, text or date for item_id"):
        catalogue(tmp_path, {"items.jsonl": '{"item_id": {"id": 1}}\n'})


@pytest.mark.parametrize("space", ["", "\n  "])
def test_a_json_array_is_read(tmp_path, space) -> None:
    goods = [{"item_id": "A0", "title": "[x], {y}"}, {"item_id": "A1"}]
    text = f"[{space}" + f",{space}".join(map(json.dumps, goods)) + f"{space}]\n"
    sold = '[{"user_id": 1, "item_id": "A0"},\n {"user_id": 2, "item_id": "A1", "rating": 5}]'
    files = {"items.json": text, "sold.json": sold}
    items, frame, _ = catalogue(tmp_path, files, items="items.json", interactions="sold.json")
    assert [(item.item_id, item.title) for item in items] == [("A0", "[x], {y}"), ("A1", "")]
    assert frame.select("user_id", "rating").rows() == [("1", None), ("2", 5.0)]
    with pytest.raises(UserError, match=r"items\.json: record 2 of the JSON array is not JSON or is cut off"):
        catalogue(tmp_path, {"items.json": text[: text.rindex("A1")]}, items="items.json")


def test_separator_header_and_encoding_are_given_for_each_file(tmp_path) -> None:
    form = {"separator": ";", "header": ["item_id", "title", "price"], "encoding": "cp1252"}
    files = {"goods.CSV": "A0;Caf\u00e9;1,50\n".encode("cp1252")}
    items, _, _ = catalogue(tmp_path, files, items="goods.CSV", items_format=form)
    assert (items[0].title, items[0].price) == ("Caf\u00e9", "1,50")
    with pytest.raises(UserError, match=r"column item_id is missing.*';' between fields: give `items_format: "):
        catalogue(tmp_path, {"goods.CSV": b"A0;Cup;1,50\n"}, items="goods.CSV")


@pytest.mark.parametrize("name", ["sold.parquet", "sold.parquet/", "sold.parquet/part-*.parquet"])
def test_a_folder_of_parts_and_a_pattern_are_one_file(tmp_path, name) -> None:
    (tmp_path / "sold.parquet").mkdir()
    for part in range(2):
        rows_of_part = pl.DataFrame({"user_id": [f"u{part}"], "item_id": ["A0"]})
        rows_of_part.write_parquet(tmp_path / "sold.parquet" / f"part-{part}.parquet")
    files = {"sold.parquet/_SUCCESS": "", "items.jsonl": '{"item_id": "A0"}\n'}
    _, frame, _ = catalogue(tmp_path, files, interactions=name)
    assert frame["user_id"].to_list() == ["u0", "u1"]


def test_a_separator_of_several_characters_has_no_quotes(tmp_path) -> None:
    films = '1::"Toy" Story (1995)::Comedy|Animation\n2::M\u00e9lo::Drama\n3::a::b::c\n'.encode("latin-1")
    form = {"header": ["item_id", "title", "categories"], "encoding": "latin-1"}
    items, _, quality = catalogue(tmp_path, {"movies.dat": films}, items="movies.dat", items_format=form)
    assert [(i.title, i.categories) for i in items] == [
        ('"Toy" Story (1995)', ["Comedy", "Animation"]),
        ("M\u00e9lo", ["Drama"]),
    ]
    assert rules(quality) == {"not_a_record": 1}


@pytest.mark.parametrize("content", [b"item_id,title\nA0,Cup\n", b"\xff\xff\xff\xff\x10\x00", b""])
def test_what_is_no_arrow_file_is_refused_with_what_to_do(tmp_path, content) -> None:
    with pytest.raises(UserError, match=r"items\.arrow is (text and )?n.* Arrow file"):
        catalogue(tmp_path, {"items.arrow": content}, items="items.arrow")


def test_an_arrow_file_whose_names_are_not_utf_8_is_refused(tmp_path) -> None:
    goods = pa.table({"item_id": ["A0"], "label": ["Cup"]})
    with pa.ipc.new_stream(tmp_path / "items.arrow", goods.schema) as file:
        file.write_table(goods)
    damaged = (tmp_path / "items.arrow").read_bytes().replace(b"label", b"labe\xff")
    with pytest.raises(UserError, match=r"items\.arrow is not an Arrow file, or is cut off: .* Write it again"):
        catalogue(tmp_path, {"items.arrow": damaged}, items="items.arrow")


@pytest.mark.parametrize("writer", [pa.ipc.new_file, pa.ipc.new_stream])
def test_an_arrow_file_with_a_wrong_offset_is_refused_before_anybody_follows_it(tmp_path, writer) -> None:
    goods = pa.table({"item_id": [f"A{n}" for n in range(10)], "title": ["porcelain "] * 10})
    with writer(tmp_path / "items.arrow", goods.schema) as file:
        file.write_table(goods)
    offset, far = (n.to_bytes(4, "little") for n in (90, 2_000_000_000))
    damaged = (tmp_path / "items.arrow").read_bytes().replace(offset, far, 1)
    with pytest.raises(UserError, match=r"items\.arrow is a damaged Arrow file: .* Write it again"):
        catalogue(tmp_path, {"items.arrow": damaged}, items="items.arrow")


def test_a_text_of_a_parquet_file_that_is_not_utf_8_is_refused(tmp_path) -> None:
    buffers = [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    pq.write_table(pa.table({"item_id": pa.Array.from_buffers(pa.string(), 1, buffers)}), tmp_path / "items.parquet")
    with pytest.raises(UserError, match=r"items\.parquet is a damaged Parquet file: .*UTF8.* Write it again"):
        catalogue(tmp_path, {}, items="items.parquet")


def test_a_folder_without_parts_is_refused(tmp_path) -> None:
    (tmp_path / "sold.parquet").mkdir()
    with pytest.raises(UserError, match=r"sold\.parquet is a folder, and no file in it ends in \.parquet"):
        catalogue(tmp_path, {"items.jsonl": '{"item_id": "A0"}\n'}, interactions="sold.parquet")


def test_event_words_are_ratings_by_a_map_and_else_refused(store, tmp_path) -> None:
    lines = [f"u{u},{i},{('view', 'cart', 'purchase')[(u + i) % 3]}" for u in range(6) for i in range(6)]
    files = {
        "items.jsonl": "\n".join(f'{{"item_id": "{i}"}}' for i in range(6)),
        "interactions.csv": "\n".join(["user_id,item_id,rating", *lines]),
    }
    source = CatalogueSource(raw=write(tmp_path, files), rating_values={"view": 1, "cart": 2, "purchase": 3})
    assert run(store, source, core_k=1, min_rating=2).tables["interactions"].rows == 24
    with pytest.raises(UserError, match="min_rating is 2, but none of the 36 interactions of inter"):
        run(store, source.model_copy(update={"rating_values": {}}), core_k=1, min_rating=2)


def test_uuids_as_bytes_are_text_and_other_bytes_are_no_damage(tmp_path) -> None:
    one = UUID(int=0xFF << 120)
    pl.DataFrame({"item_id": [one.bytes]}).write_parquet(tmp_path / "goods.parquet")
    items, _, _ = catalogue(tmp_path, {}, items="goods.parquet")
    assert items[0].item_id == str(one)
    pl.DataFrame({"item_id": [b"\xff\xfe"]}).write_parquet(tmp_path / "goods.parquet")
    with pytest.raises(UserError, match="column item_id holds bytes that are neither text nor UUIDs"):
        catalogue(tmp_path, {}, items="goods.parquet")


NESTED = [
    {
        "id": {"sku": "A0"},
        "product": {"name": "Cup", "maker": {"title": "Alma"}, "groups": [{"name": "Home"}, {"name": "Mugs"}]},
        "images": [{"src": "a.jpg"}, {"src": "b.jpg"}],
    },
    {"id": {"sku": "A1"}, "product": {"name": "Pot", "maker": None, "groups": []}, "images": []},
]
PATHS = {
    "item_id": "id.sku",
    "title": "product.name",
    "brand": "product.maker.title",
    "categories": "product.groups.name",
    "image_url": "images.0.src",
    "gallery_urls": "images.src",
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_dotted_paths_lead_into_nested_fields(tmp_path, suffix) -> None:
    path = tmp_path / f"goods{suffix}"
    if suffix == ".parquet":
        pl.DataFrame(NESTED).write_parquet(path)
    else:
        path.write_text(json.dumps(NESTED) if suffix == ".json" else "\n".join(map(json.dumps, NESTED)))
    items, _, _ = catalogue(tmp_path, {}, items=path.name, item_columns=PATHS)
    assert [(i.item_id, i.title, i.brand, i.categories, i.image_url, i.gallery_urls) for i in items] == [
        ("A0", "Cup", "Alma", ["Home", "Mugs"], "a.jpg", ["a.jpg", "b.jpg"]),
        ("A1", "Pot", "", [], "", []),
    ]
    with pytest.raises(
        UserError, match=r"column product\.price is missing; expected .*product\.price, .*found id, product"
    ):
        catalogue(tmp_path, {}, items=path.name, item_columns=PATHS | {"price": "product.price"})


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_dotted_paths_hold_for_interactions_too(tmp_path, suffix) -> None:
    sold = [{"user": {"id": f"u{n}"}, "line": {"sku": "A0", "stars": n, "at": SECOND + n}} for n in range(1, 3)]
    path = tmp_path / f"sold{suffix}"
    frame = pl.DataFrame(sold)
    {".jsonl": frame.write_ndjson, ".parquet": frame.write_parquet}[suffix](path)
    mapping = {"user_id": "user.id", "item_id": "line.sku", "rating": "line.stars", "timestamp": "line.at"}
    files = {"items.jsonl": '{"item_id": "A0"}'}
    _, frame, _ = catalogue(tmp_path, files, interactions=path.name, interaction_columns=mapping)
    assert frame.rows() == [("u1", "A0", 1.0, SECOND + 1), ("u2", "A0", 2.0, SECOND + 2)]


def test_a_column_with_a_point_in_its_name_is_that_column(tmp_path) -> None:
    line = json.dumps({"item_id": "A0", "a.b": "literal", "a": {"b": "nested"}})
    items, _, _ = catalogue(tmp_path, {"items.jsonl": line}, item_columns={"title": "a.b"})
    assert items[0].title == "literal"
    items, _, _ = catalogue(
        tmp_path, {"x.csv": "item_id,a.b\nA0,literal\n"}, items="x.csv", item_columns={"title": "a.b"}
    )
    assert items[0].title == "literal"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_several_columns_make_one_field(tmp_path, suffix) -> None:
    goods = [
        {
            "item_id": "A0",
            "make": "Alma",
            "model": "No. 4",
            "sale": None,
            "price": "12.50",
            "c1": "Home|Mugs",
            "c2": "Red",
        },
        {"item_id": "A1", "make": "NULL", "model": "No. 5", "sale": "9", "price": "12.50", "c1": "Home", "c2": None},
    ]
    goods = [row | {"p1": "a.jpg", "p2": "b.jpg", "p3": None, "p4": "d.jpg"} for row in goods]
    mapping = {
        "title": ["make", "model"],
        "price": ["sale", "price"],
        "categories": ["c1", "c2"],
        "image_url": ["p1", "p2"],
        "gallery_urls": ["p3", "p4"],
    }
    name = write_as(tmp_path, "goods", suffix, goods)
    items, _, _ = catalogue(tmp_path, {}, items=name, item_columns=mapping)
    assert [(i.title, i.price, i.categories, i.image_url, i.gallery_urls) for i in items] == [
        ("Alma No. 4", "12.50", ["Home", "Mugs", "Red"], "a.jpg", ["b.jpg", "d.jpg"]),
        ("No. 5", "9", ["Home"], "a.jpg", ["b.jpg", "d.jpg"]),
    ]
    assert [item.never_shown for item in items] == [None, None]
    with pytest.raises(UserError, match="column maker is missing; expected item_id, maker, model"):
        catalogue(tmp_path, {}, items=name, item_columns={"title": ["maker", "model"]})


def test_rows_that_only_add_a_picture_are_the_gallery_of_the_item_before_them(tmp_path) -> None:
    lines = [
        "Handle,Title,Image Src,Variant SKU",
        "cup,Cup,1.jpg,c-s",
        "cup,,2.jpg,c-m",
        "cup,,,c-l",
        "pot,Pot,3.jpg,p",
        "cup,,4.jpg,",
        "pot,Pot again,5.jpg,",
    ]
    mapping = {"item_id": "Handle", "title": "Title", "image_url": "Image Src"}
    items, _, quality = catalogue(tmp_path, {"x.csv": "\n".join(lines)}, items="x.csv", item_columns=mapping)
    assert [(i.item_id, i.image_url, i.gallery_urls) for i in items] == [
        ("cup", "1.jpg", ["2.jpg"]),
        ("pot", "3.jpg", []),
        ("cup", "4.jpg", []),  # not right after it: the finisher drops it, and counts it as a duplicate
        ("pot", "5.jpg", []),
    ]
    assert rules(quality) == {"further_picture_row": 1, "further_row_without_picture": 1}


@pytest.mark.parametrize("name", ["items.parquet", "items.parquet/", "data-*-of-00002.arrow"])
def test_pictures_that_are_bytes_in_a_column_are_taken_as_they_are(store, tmp_path, name) -> None:
    pictures = [jpeg((40 * n, 90, 200)) for n in range(4)]
    frame = pl.DataFrame(
        {
            "item_id": [f"A{n}" for n in range(4)],
            "title": "x",
            "image": [
                {"bytes": pictures[0], "path": "0.jpg"},
                {"bytes": pictures[1], "path": None},
                {"bytes": None, "path": "https://h.invalid/2.jpg"},
                None,
            ],
            "more": [[{"bytes": picture, "path": None} for picture in pictures[2:]], [], None, None],
        }
    )
    folder = tmp_path / "a shop"
    folder.mkdir()
    halves = [frame[2 * n : 2 * n + 2] for n in range(2)]
    if name.endswith("/"):
        (folder / "items.parquet").mkdir()
        for n, half in enumerate(halves):
            half.write_parquet(folder / "items.parquet" / f"part-{n}.parquet")
    elif name.endswith(".arrow"):
        for n, half in enumerate(halves):
            table = half.to_arrow()
            with pa.ipc.new_stream(folder / f"data-0000{n}-of-00002.arrow", table.schema) as file:
                file.write_table(table)
    else:
        frame.write_parquet(folder / "items.parquet")
    (folder / "interactions.csv").write_text("user_id,item_id\nu,A0\n")
    source = CatalogueSource(
        raw=str(folder), items=name, item_columns=ItemColumns(image_url="image", gallery_urls="more")
    )
    tables = run(store, source, core_k=1).tables
    config = reachable(ImagesConfig(pictures="mean", attempts=1), source)
    published = images.run(store=store, items=tables["items"], config=config).tables
    rows_read = store.read(published["images"]).to_pylist()
    assert [(row["status"], row["sha256"]) for row in rows_read] == [
        ("ok", sha256(pictures[0]).hexdigest()),
        ("ok", sha256(pictures[1]).hexdigest()),
        ("dns_error", None),
        ("no_url", None),
    ]
    further = store.read(published["gallery"]).to_pylist()
    assert [(row["item_id"], row["sha256"]) for row in further] == [
        ("A0", sha256(picture).hexdigest()) for picture in pictures[2:]
    ]


def test_a_column_of_plain_bytes_holds_pictures_or_addresses(tmp_path) -> None:
    frame = pl.DataFrame({"item_id": ["A0", "A1", "A2"], "image_url": [jpeg((9, 9, 9)), b"https://h/1.jpg", None]})
    frame.write_parquet(tmp_path / "items.parquet")
    items, _, _ = catalogue(tmp_path, {}, items="items.parquet")
    place = (tmp_path / "items.parquet").as_uri()
    assert [item.image_url for item in items] == [f"{place}#column=image_url&row=0", "https://h/1.jpg", ""]


def test_pictures_inside_a_file_behind_a_url_are_refused_with_what_to_do(tmp_path) -> None:
    frame = pl.DataFrame({"item_id": ["A0"], "image_url": [jpeg((9, 9, 9))]})
    frame.write_parquet(tmp_path / "items.parquet")
    (tmp_path / "interactions.csv").write_text("user_id,item_id\nu,A0\n")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        source = CatalogueSource(raw=f"http://127.0.0.1:{server.server_port}", items="items.parquet")
        with pytest.raises(
            UserError, match=r"column image_url holds pictures, which are read from a local folder only"
        ):
            read(source, tmp_path / "cache")
        server.shutdown()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_the_catalogue_marks_is_never_shown(tmp_path: Path, store, suffix: str) -> None:
    said = [" Sold Out ", "in stock", None, "", "true"]
    goods = [{"item_id": f"g{n}", "title": f"Thing {n}", "state": word, "left": n} for n, word in enumerate(said)]
    name = write_as(tmp_path, "goods", suffix, goods)
    of_items = {"items": name, "interactions": ""}
    for columns, more, expected in (
        ({"never_shown": "state"}, {}, {"g0", "g4"}),
        ({"never_shown": "left"}, {"never_shown_values": ("0", "3")}, {"g0", "g3"}),
        ({"never_shown": ["state", "left"]}, {"never_shown_values": ("true", "1")}, {"g1", "g4"}),
        ({}, {}, set()),
    ):
        source = CatalogueSource(raw=str(tmp_path), item_columns=columns, **of_items, **more)
        published = run(store, source, items_only=True)
        assert never_shown.read(store, "x") == expected
        counted = [row["count"] for row in rows(store, published, "quality") if row["rule"] == "never_shown"]
        assert counted == ([len(expected)] if expected else [])
    never_shown.write(store, "x", ["g2"])
    assert never_shown.read(store, "x") == {"g2"}, "the list goes beside the column"


@pytest.mark.parametrize("value", ["0", "0.0", "00"])
def test_a_stock_is_compared_as_a_number_however_it_is_written(tmp_path: Path, store, value: str) -> None:
    (tmp_path / "goods.csv").write_text("item_id,title,left\na,A,0.0\nb,B,3.0\nc,C,\nd,D,0\ne,E,nan\nf,F,0 left\n")
    columns = {"never_shown": "left"}
    source = CatalogueSource(
        raw=str(tmp_path), item_columns=columns, items="goods.csv", interactions="", never_shown_values=(value,)
    )
    run(store, source, items_only=True)
    assert never_shown.read(store, "x") == {"a", "d"}


@pytest.mark.parametrize(
    ("values", "warnings"),
    [
        (
            ("sold out",),
            [
                "goods.csv: no item is marked as never shown: column left says 0.0, 3.0, "
                "and none of `never_shown_values`"
            ],
        ),
        (("0",), []),
    ],
)
def test_a_mapped_column_that_marks_no_item_is_told(
    tmp_path: Path, store, caplog: pytest.LogCaptureFixture, values: tuple[str, ...], warnings: list[str]
) -> None:
    (tmp_path / "goods.csv").write_text("item_id,title,left\na,A,0.0\nb,B,3.0\nc,C,\n")
    columns = {"never_shown": "left"}
    source = CatalogueSource(
        raw=str(tmp_path), item_columns=columns, items="goods.csv", interactions="", never_shown_values=values
    )
    run(store, source, items_only=True)
    assert [message for message in caplog.messages if "never shown" in message] == warnings


def test_a_part_without_the_ids_is_refused_by_name(tmp_path) -> None:
    (tmp_path / "items.parquet").mkdir()
    for part, name in enumerate(("item_id", "id")):
        pl.DataFrame({name: ["A0"]}).write_parquet(tmp_path / "items.parquet" / f"part-{part}.parquet")
    with pytest.raises(UserError, match=r"items\.parquet/part-1\.parquet has not every column .*\(item_id\)"):
        catalogue(tmp_path, {}, items="items.parquet")


def test_what_the_folders_of_parts_say_is_part_of_the_version(store, tmp_path) -> None:
    part = tmp_path / "items.parquet" / "brand=Acme" / "part-0.parquet"
    part.parent.mkdir(parents=True)
    pl.DataFrame({"item_id": ["A0"], "title": ["Mug"]}).write_parquet(part)
    source = CatalogueSource(raw=str(tmp_path), items="items.parquet", interactions="")
    first = run(store, source, items_only=True)
    part.rename(part.with_name("part-7.parquet"))  # what parts are called is not
    assert run(store, source, items_only=True).tables["items"].version == first.tables["items"].version
    part.parent.rename(part.parent.with_name("brand=Other"))
    second = run(store, source, items_only=True)
    assert [rows(store, each, "items")[0]["brand"] for each in (first, second)] == ["Acme", "Other"]


def test_interactions_in_parts_without_a_byte_are_no_interactions(store, tmp_path) -> None:
    (tmp_path / "sold.csv").mkdir()
    files = {"items.jsonl": '{"item_id": "A0", "title": "Mug"}\n', "sold.csv/part-0.csv": "", "sold.csv/part-1.csv": ""}
    published = run(store, CatalogueSource(raw=write(tmp_path, files), interactions="sold.csv"))
    assert [row["interactions"] for row in rows(store, published, "items")] == [0]
    assert "interactions" not in published.tables
