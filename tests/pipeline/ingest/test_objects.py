"""Raw files in a real S3: what arrives is whole, is asked for once, and what cannot be read is one clear error."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import polars as pl
import pytest
import s3fs

from pipeline import images
from pipeline.ingest import objects, stage
from pipeline.ingest.raw import RawFiles
from pipeline.ingest.sources import open_source
from pipeline.ingest.tally import Quality
from pipeline.store import Store
from schemas.errors import UserError
from schemas.ingest import IngestConfig
from schemas.sources import CatalogueSource
from tests.support.images_stage import quick_config
from tests.support.object_store import Way, running

pytestmark = pytest.mark.slow
BODY = bytes(range(256)) * 20_000  # 5 MB


@pytest.fixture(scope="module")
def way() -> Iterator[Way]:
    with running() as way:
        yield way


@pytest.fixture
def bucket(way: Way, monkeypatch: pytest.MonkeyPatch) -> s3fs.S3FileSystem:
    """An empty bucket `shop`, blocks of 1 MB, and a way without faults."""
    monkeypatch.setattr(objects, "BLOCK", 1 << 20)
    way.faults = {}
    fs = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    for path in fs.find("shop"):
        fs.rm_file(path)
    way.seen.clear()
    return fs


@pytest.fixture
def at(tmp_path: Path) -> Callable[..., RawFiles]:
    return lambda url="s3://shop/raw", attempts=4: RawFiles(url, tmp_path / "cache", attempts=attempts, wait=0.0)


def gets(way: Way) -> int:
    """Requests for bytes of objects."""
    return sum(method == "GET" and "list-type" not in path for method, path in way.seen)


def test_an_object_arrives_whole_and_is_asked_for_once(way: Way, bucket: s3fs.S3FileSystem, at) -> None:
    bucket.pipe_file("shop/raw/x.json.gz", BODY)
    place = at()
    assert place.find("the reviews", ["y.json", "x.json.gz"]) == "x.json.gz"
    file = place.fetch("x.json.gz")
    assert file.path.read_bytes() == BODY
    assert file.sha256 == sha256(BODY).hexdigest()
    assert file.source == "s3://shop/raw/x.json.gz"
    asked = gets(way)
    assert at("s3://shop/raw/").fetch("x.json.gz") == file
    assert gets(way) == asked
    bucket.pipe_file("shop/raw/x.json.gz", BODY[::-1])
    assert at().fetch("x.json.gz").path.read_bytes() == BODY[::-1]


@pytest.mark.parametrize("fault", ["slow down", "half"])
def test_a_store_that_is_overloaded_or_breaks_off_is_asked_again(
    way: Way, bucket: s3fs.S3FileSystem, at, fault: str
) -> None:
    bucket.pipe_file("shop/raw/x.json", BODY)
    way.faults = {"GET": ["whole", fault, fault, "whole", fault], "HEAD": ["slow down", "slow down"]}
    assert at().fetch("x.json").path.read_bytes() == BODY
    assert way.faults == {"GET": [], "HEAD": []}


def test_another_run_goes_on_where_a_store_that_stayed_away_broke_off(way: Way, bucket: s3fs.S3FileSystem, at) -> None:
    bucket.pipe_file("shop/raw/x.json", BODY)
    way.faults = {"GET": ["whole", "whole", *["slow down"] * 30]}
    with pytest.raises(UserError, match=r"could not download s3://shop/raw/x\.json: .*Run again to resume"):
        at(attempts=1).fetch("x.json")
    way.faults, before = {}, gets(way)
    assert at().fetch("x.json").path.read_bytes() == BODY
    assert gets(way) - before == 3  # of five blocks


def test_an_object_that_changes_while_it_is_read_is_read_afresh(way: Way, bucket: s3fs.S3FileSystem, at) -> None:
    bucket.pipe_file("shop/raw/x.json", BODY)
    place = at()
    cat_file, changes = place._objects.fs.cat_file, [BODY[::-1]]

    def cat(path: str, **wanted: int) -> bytes:
        if changes and wanted["start"]:
            bucket.pipe_file("shop/raw/x.json", changes.pop())
        return cat_file(path, **wanted)

    place._objects.fs.cat_file = cat
    try:
        assert place.fetch("x.json").path.read_bytes() == BODY[::-1]
    finally:
        del place._objects.fs.cat_file


def test_a_prefix_without_files_says_what_is_there(bucket: s3fs.S3FileSystem, at) -> None:
    with pytest.raises(UserError, match=r"Expected items\.jsonl; s3://shop/raw/ holds nothing.*`raw`"):
        at().find("the items file", ["items.jsonl"])
    bucket.pipe_file("shop/raw/other.csv", b"x")
    with pytest.raises(UserError, match=r"s3://shop/raw/ holds other\.csv"):
        at().find("the items file", ["items.jsonl"])
    with pytest.raises(UserError, match=r"s3://shop/raw/x\.csv does not exist"):
        at().fetch("x.csv")
    with pytest.raises(UserError, match="holds nothing"):
        at("s3://no-such-bucket/raw").find("the items file", ["items.jsonl"])


def test_keys_that_may_not_read_are_named_and_not_shown(
    bucket: s3fs.S3FileSystem, at, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.pipe_file("shop/raw/items.jsonl", b"{}")
    place = at()
    place._objects.fs = s3fs.S3FileSystem(key="wrong", secret="hidden5ecret", skip_instance_cache=True)
    with pytest.raises(UserError, match=r"s3://shop/raw may not be read.*AWS_ACCESS_KEY_ID") as told:
        place.fetch("items.jsonl")
    assert "hidden5ecret" not in str(told.value)


@pytest.mark.parametrize("items", ["items.parquet", "items.parquet/*/part*.parquet"])
@pytest.mark.parametrize("prefix", ["raw", "our shop+more [new] 100%"])
def test_a_folder_of_parts_reads_as_one_file(
    bucket: s3fs.S3FileSystem, tmp_path: Path, items: str, prefix: str
) -> None:
    for number, brand in enumerate(("Acme", "O%27Neill + Co")):
        pl.DataFrame({"item_id": [f"i{number}"], "title": ["Mug"]}).write_parquet(tmp_path / "part.parquet")
        part = f"shop/{prefix}/items.parquet/brand={brand}/part 0+.parquet"
        bucket.pipe_file(part, (tmp_path / "part.parquet").read_bytes())
    for name in ("_SUCCESS", "brand=Acme/.part-0.parquet.crc", "", "brand=Acme/"):  # the last two as consoles make them
        bucket.pipe_file(f"shop/{prefix}/items.parquet/{name}", b"")
    config = CatalogueSource(raw=f"s3://shop/{prefix}", items=items, interactions="")
    source = open_source(config, tmp_path / "cache")
    source.check(items_only=True)
    files = source.fetch(items_only=True)
    read = [(item.item_id, item.brand) for item in source.items(files, Quality(), 0.0)]
    assert read == [("i0", "Acme"), ("i1", "O'Neill + Co")]


def test_a_catalogue_in_s3_is_ingested_and_equal_bytes_are_known_again(bucket: s3fs.S3FileSystem, store: Store) -> None:
    bucket.pipe_file("shop/raw/items.csv", b"item_id,title,image_url\na,Mug,a.jpg\nb,Cup,https://cdn.example/b.jpg\n")
    config = CatalogueSource(raw="s3://shop/raw", items="items.csv", interactions="")
    first, second = (
        stage.run(store=store, dataset="shop", source=config, config=IngestConfig(), items_only=True).tables["items"]
        for _ in range(2)
    )
    urls = [row["image_url"] for row in store.read(first).to_pylist()]
    assert urls == ["a.jpg", "https://cdn.example/b.jpg"]
    pictures = images.run(store=store, items=first, config=quick_config(attempts=1)).tables["images"]
    refused = store.read(pictures).to_pylist()[0]  # pictures are fetched over http(s), or from folders
    assert (refused["status"], refused["image"]) == ("invalid_url", None)
    assert "no place that it is relative to" in refused["error"]
    assert second.reused


def test_a_pattern_that_nothing_fits_is_one_error(bucket: s3fs.S3FileSystem, tmp_path: Path) -> None:
    config = CatalogueSource(raw="s3://shop/raw", items="items-*.parquet", interactions="")
    with pytest.raises(UserError, match=r"the items file \(items\) not found. Expected items-\*\.parquet"):
        open_source(config, tmp_path / "cache").check(items_only=True)
