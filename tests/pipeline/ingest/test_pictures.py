"""Addresses of pictures: relative ones get their place, and what cannot be loaded stays to be refused with a reason."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images.outcome import PictureError
from pipeline.images.urls import data_of, is_data, parse_url
from pipeline.ingest.pictures import Pictures
from pipeline.ingest.sources.base import RawItem

many = settings(max_examples=300, deadline=None)
SHOP = "http://shop/raw/"


def urls_of(*addresses: str, base: str | None = SHOP, template: str = "", item_id: str = "a1") -> list[str]:
    main, *further = [*addresses, ""]
    return Pictures(base, template).of(RawItem(item_id, image_url=main, gallery_urls=further))


@pytest.mark.parametrize(
    ("raw", "url"),
    [
        ("https://host/a.jpg", "https://host/a.jpg"),
        (" https://host/a.jpg ", "https://host/a.jpg"),
        ("images/a b.jpg", SHOP + "images/a%20b.jpg"),
        ("images\\a.jpg", SHOP + "images/a.jpg"),
        ("../a.jpg", "http://shop/a.jpg"),
        ("/a.jpg", "http://shop/a.jpg"),
    ],
)
def test_relative_addresses_are_what_a_browser_makes_of_them(raw: str, url: str) -> None:
    assert urls_of(raw) == [url]


@pytest.mark.parametrize(
    "raw",
    ["https://h/a b.jpg", "HTTPS://h/a.jpg", "//cdn/a.jpg", "https://h/a.jpg?x=1&amp;y=2", "data:image/gif,GIF89a"],
)
def test_what_browsers_load_is_left_as_it_is_and_loaded(raw: str) -> None:
    assert urls_of(raw) == [raw]
    assert Pictures(SHOP, "").can_be_loaded(raw)
    if not is_data(raw):
        assert parse_url(raw).scheme == "https"


@pytest.mark.parametrize("raw", ["s3://bucket/a.jpg", "javascript:alert(1)", "ftp://h/a.jpg"])
def test_what_is_not_loaded_stays_with_its_address(raw: str) -> None:
    pictures = Pictures(SHOP, "")
    assert pictures.of(RawItem("a1", image_url=raw)) == [raw]
    assert (pictures.can_be_loaded(raw), pictures.is_missing(raw)) == (False, True)
    with pytest.raises(PictureError, match="is not http or https"):
        parse_url(raw)


def test_a_relative_address_without_a_place_stays_and_is_refused_with_a_reason() -> None:
    assert urls_of("images/a.jpg", base=None) == ["images/a.jpg"]
    with pytest.raises(PictureError, match="no scheme such as https://"):
        parse_url("images/a.jpg")


def test_template_overrides_and_quotes_the_id() -> None:
    template = "https://cdn/{item_id}.jpg"
    assert urls_of("https://h/x.jpg", template=template, item_id="a/b c") == ["https://cdn/a%2Fb%20c.jpg"]
    assert urls_of("a.jpg", "b.jpg", template="img/{item_id}.jpg", base="http://shop/") == ["http://shop/img/a1.jpg"]


def test_a_template_may_take_the_beginning_of_the_id(tmp_path: Path) -> None:
    template = "img/{item_id:.2}/{item_id:.4}/{item_id}.jpg"
    assert urls_of(template=template, item_id="0108775015") == [SHOP + "img/01/0108/0108775015.jpg"]
    assert urls_of(template=template, item_id="7") == [SHOP + "img/7/7/7.jpg"]
    base = tmp_path.as_uri() + "/"
    assert urls_of(template=template, item_id="a:b", base=base) == [(tmp_path / "img/a:/a:b/a:b.jpg").as_uri()]


def test_files_are_urls_whether_there_or_not(tmp_path: Path) -> None:
    base = tmp_path.as_uri() + "/"
    for raw in ("images/a 1.jpg", "./images/a 1.jpg", "/images/a 1.jpg", str(tmp_path / "images/a 1.jpg")):
        assert urls_of(raw, base=base) == [(tmp_path / "images/a 1.jpg").as_uri()]


def test_an_item_is_without_a_picture_if_its_file_is_not_there_or_outside(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    pictures = Pictures(folder.as_uri() + "/", "")

    def is_missing(raw: str) -> bool:
        return pictures.is_missing(next(iter(pictures.of(RawItem("a", image_url=raw))), None))

    assert [is_missing(raw) for raw in ("a.jpg", "https://h/b.jpg")] == [False, False]
    assert [is_missing(raw) for raw in ("", "b.jpg", "../secret.jpg", "x" * 300, "a\0b")] == [True] * 5


@given(st.text(max_size=30) | st.text("/.:\\%?#h tp\0", max_size=30))
@many
def test_every_address_stays_one_that_the_images_stage_can_judge(raw: str) -> None:
    for base in (SHOP, "file:///raw/", None):
        urls = urls_of(raw, base=base)
        assert len(urls) == bool(raw.strip())
        for url in urls:
            url.encode()
            with suppress(PictureError):
                data_of(url) if is_data(url) else parse_url(url)


def test_a_gallery_keeps_its_order_and_repeats_neither_itself_nor_the_main_picture() -> None:
    assert urls_of("a.jpg", "c.jpg", " a.jpg ", "b.jpg", "", "c.jpg") == [
        SHOP + name for name in ("a.jpg", "c.jpg", "b.jpg")
    ]
    assert urls_of("a.jpg", "a.jpg") == [SHOP + "a.jpg"]


def test_the_first_of_a_gallery_stands_in_for_a_main_picture_that_is_not_there() -> None:
    assert urls_of("", "b.jpg", "c.jpg") == [SHOP + "b.jpg", SHOP + "c.jpg"]
