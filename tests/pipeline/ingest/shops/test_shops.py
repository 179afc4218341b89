"""Exports as shops write them, each with the values that must come out: separators, encodings, HTML, prices in words,
pictures in one column, in many, or in rows of their own. The files are made up; their shapes are the vendors'."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import Store
from schemas.sources import CatalogueSource
from tests.support.ingest import rows, run

CDN = "https://cdn.example/"


def items_of(store: Store, folder: Path, name: str, content: str | bytes, **source: Any) -> list[dict[str, Any]]:
    """The published items of one file, with the pictures of each in `pictures`; a relative one is a path."""
    folder = folder / "shop"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    source = {"raw": str(folder), "items": name, "interactions": ""} | source
    published = run(store, CatalogueSource(**source), items_only=True)
    items = rows(store, published, "items")
    for item in items:
        urls = [url for url in (item.pop("image_url"), *(item.pop("gallery_urls") or [])) if url]
        item["pictures"] = [url.removeprefix(folder.as_uri() + "/") for url in urls]
    return items


def columns(item: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(item[name] for name in names)


GOOGLE = {
    "item_columns": {
        "item_id": "id",
        "image_url": "image_link",
        "gallery_urls": "additional_image_link",
        "categories": "product_type",
        "price": ["sale_price", "price"],
    },
    "category_separator": ">",
    "gallery_separator": ",",
}


@pytest.mark.parametrize("name", ["feed.tsv", "feed.txt", "feed.csv"])
def test_a_google_merchant_feed(store: Store, tmp_path: Path, name: str) -> None:
    names = (
        "id title description link image_link additional_image_link availability price sale_price brand gtin "
        "google_product_category product_type"
    )
    mug = f"Mug \u2013 blue|Holds 300 ml, really.|{CDN}|{CDN}1.jpg|{CDN}1b.jpg,{CDN}1c.jpg|in_stock|15.00 USD|12.50 USD"
    lines = [
        names.split(),
        ["SKU-1", *mug.split("|"), "Alma", "0012345678905", "Home & Garden > Kitchen", "Home > Kitchen > Mugs"],
        ["SKU-2", "Pot", "", CDN, f"{CDN}2.jpg", "", "out of stock", "1,299.00 USD", "", "", "", "", ""],
    ]
    separator = "," if name.endswith(".csv") else "\t"
    quoted = [[f'"{value}"' if separator in value else value for value in line] for line in lines]
    form = {"items_format": {"separator": "\t"}} if name.endswith(".txt") else {}
    text = "\r\n".join(separator.join(line) for line in quoted)
    first, second = items_of(store, tmp_path, name, text, **GOOGLE, **form)
    assert columns(first, "item_id", "title", "brand", "price", "categories", "pictures") == (
        "SKU-1",
        "Mug \u2013 blue",
        "Alma",
        12.5,
        ["Home", "Kitchen", "Mugs"],
        [f"{CDN}1.jpg", f"{CDN}1b.jpg", f"{CDN}1c.jpg"],
    )
    assert columns(second, "brand", "price", "categories", "pictures") == (None, 1299.0, [], [f"{CDN}2.jpg"])


def test_woocommerces_csv(store: Store, tmp_path: Path) -> None:
    text = (
        "\ufeffID,Type,SKU,Name,Published,Short description,Description,Sale price,Regular price,Categories,Tags,"
        "Images,Parent\r\n"
        '11,variable,TEE,"Tee, long",1,<p>Soft.</p>,"<p>Made of <b>cotton</b>.</p>\n<ul><li>Washable</li></ul>",,24.90,'
        f'"Clothing, Clothing > Tees","new, red","{CDN}t1.jpg, {CDN}t2.jpg",\r\n'
        f"12,variation,TEE-S,Tee - S,1,,,19.90,24.90,,,{CDN}t1.jpg,TEE\r\n"
    )
    tee, small = items_of(
        store,
        tmp_path,
        "wc-product-export.csv",
        text,
        item_columns={
            "item_id": "SKU",
            "title": "Name",
            "description": ["Short description", "Description"],
            "price": ["Sale price", "Regular price"],
            "categories": ["Categories", "Tags"],
            "gallery_urls": "Images",
        },
        category_separator=", ",
        gallery_separator=", ",
    )
    assert columns(tee, "item_id", "title", "description", "price", "categories", "pictures") == (
        "TEE",
        "Tee, long",
        "Soft. Made of cotton. Washable",
        24.9,
        ["Clothing", "Clothing > Tees", "new", "red"],
        [f"{CDN}t1.jpg", f"{CDN}t2.jpg"],
    )
    assert columns(small, "item_id", "price", "pictures") == ("TEE-S", 19.9, [f"{CDN}t1.jpg"])


def test_woocommerces_json(store: Store, tmp_path: Path) -> None:
    product = {
        "id": 799,
        "name": "Ship Your Idea",
        "description": "<p>Deep &amp; wide.</p>\n",
        "price": "20.00",
        "categories": [{"id": 9, "name": "Clothing"}, {"id": 14, "name": "T-shirts"}],
        "images": [{"id": 1, "src": f"{CDN}a.jpg", "alt": ""}, {"id": 2, "src": f"{CDN}b.jpg", "alt": ""}],
    }
    bare = product | {"id": 800, "categories": [], "images": [], "price": ""}
    first, second = items_of(
        store,
        tmp_path,
        "products.json",
        json.dumps([product, bare], indent=2),
        item_columns={
            "item_id": "id",
            "title": "name",
            "categories": "categories.name",
            "gallery_urls": "images.src",
        },
    )
    assert columns(first, "item_id", "description", "price", "categories", "pictures") == (
        "799",
        "Deep & wide.",
        20.0,
        ["Clothing", "T-shirts"],
        [f"{CDN}a.jpg", f"{CDN}b.jpg"],
    )
    assert columns(second, "item_id", "price", "categories", "pictures") == ("800", None, [], [])


def test_magentos_export(store: Store, tmp_path: Path) -> None:
    text = (
        "sku,store_view_code,product_type,categories,product_websites,name,description,price,base_image,"
        "additional_images,additional_attributes\n"
        '24-MB01,,simple,"Default Category/Gear,Default Category/Gear/Bags",base,"Joust Bag","<p>The ""Joust"" bag.</p>'
        '\n<ul>\n<li>Handles.</li>\n</ul>",34.0000,/m/b/mb01.jpg,"/m/b/mb01.jpg,/m/b/mb01_alt.jpg",activity=Gym\n'
        '24-MB01,german,simple,,,"Joust-Tasche",,,,,\n'
        "24-MB02,,simple,,base,Crown Bag,,38,no_selection,,\n"
    )
    bag, crown = items_of(
        store,
        tmp_path,
        "catalog_product.csv",
        text,
        item_columns={
            "item_id": "sku",
            "title": "name",
            "image_url": "base_image",
            "gallery_urls": "additional_images",
        },
        category_separator=",",
        gallery_separator=",",
        missing=["no_selection"],
    )
    assert columns(bag, "title", "description", "price", "categories", "pictures") == (
        "Joust Bag",
        'The "Joust" bag. Handles.',
        34.0,
        ["Default Category/Gear", "Default Category/Gear/Bags"],
        ["m/b/mb01.jpg", "m/b/mb01_alt.jpg"],
    )
    assert columns(crown, "title", "price", "pictures") == ("Crown Bag", 38.0, [])


def test_salesforces_export(store: Store, tmp_path: Path) -> None:
    text = (
        '"Id","ProductCode","Name","Description","Family","Brand__c","UnitPrice","DisplayUrl","IsActive"\n'
        f'"01t5g000001abcDAAQ","GC1040","GenWatt Diesel","Runs on\r\ndiesel","Generators","","25000.0","{CDN}g.png",'
        '"true"\n'
        '"01t5g000001abcEAAQ","SL9020","SLA: Bronze","null","","N/A","","","false"\n'
    )
    generator, sla = items_of(
        store,
        tmp_path,
        "Product2.csv",
        text,
        item_columns={
            "item_id": "ProductCode",
            "title": "Name",
            "description": "Description",
            "brand": "Brand__c",
            "categories": "Family",
            "price": "UnitPrice",
            "image_url": "DisplayUrl",
        },
    )
    assert columns(generator, "item_id", "description", "brand", "categories", "price", "pictures") == (
        "GC1040",
        "Runs on diesel",
        None,
        ["Generators"],
        25000.0,
        [f"{CDN}g.png"],
    )
    assert columns(sla, "text", "brand", "price", "pictures") == ("SLA: Bronze", None, None, [])


GERMAN = (
    "Artikelnr;Bezeichnung;Preis;Warengruppe;Bild\r\n"
    "0815;Gr\u00f6\u00dfe \u201eL\u201c;1.299,00 \u20ac;K\u00fcche/T\u00f6pfe;\\bilder\\0815.jpg\r\n"
    "4711;;9,90;;\r\n"
)
GERMAN_COLUMNS = {
    "item_columns": {
        "item_id": "Artikelnr",
        "title": "Bezeichnung",
        "price": "Preis",
        "categories": "Warengruppe",
        "image_url": "Bild",
    },
    "category_separator": "/",
}


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("Artikel.CSV", GERMAN.encode("utf-8-sig"), {"separator": ";"}),
        ("Artikel.csv", GERMAN.encode("cp1252"), {"separator": ";", "encoding": "cp1252"}),
        ("Artikel.txt", GERMAN.replace(";", "\t").encode("utf-16"), {"separator": "\t", "encoding": "utf-16"}),
        ("Artikel.csv", GERMAN.replace("\r\n", "\r").encode("utf-8-sig"), {"separator": ";"}),
    ],
    ids=["CSV UTF-8", "CSV", "Unicode text", "CSV of a Macintosh"],
)
def test_what_excel_saves(store: Store, tmp_path: Path, name: str, content: bytes, form: dict[str, str]) -> None:
    first, second = items_of(store, tmp_path, name, content, items_format=form, **GERMAN_COLUMNS)
    assert columns(first, "item_id", "title", "price", "categories", "pictures") == (
        "0815",
        "Gr\u00f6\u00dfe \u201eL\u201c",
        1299.0,
        ["K\u00fcche", "T\u00f6pfe"],
        ["bilder/0815.jpg"],
    )
    assert columns(second, "item_id", "title", "price", "pictures") == ("4711", None, 9.9, [])


def test_shopifys_export(store: Store, tmp_path: Path) -> None:
    text = (
        "Handle,Title,Body (HTML),Vendor,Type,Tags,Published,Option1 Name,Option1 Value,Variant SKU,Variant Price,"
        "Image Src,Image Position,Variant Image,Status\n"
        'linen-shirt,Linen shirt,"<p>Light,<br>airy.</p>",Alma,Shirts,"summer, linen",true,Size,S,L-S,49.00,'
        f"{CDN}s1.jpg?v=1,1,,active\n"
        f"linen-shirt,,,,,,,,M,L-M,49.00,{CDN}s2.jpg?v=1,2,,\n"
        "linen-shirt,,,,,,,,L,L-L,49.00,,,,\n"
        f"linen-shirt,,,,,,,,,,,{CDN}s3.jpg?v=1,3,,\n"
        "scarf,Scarf,,Alma,,,true,Title,Default Title,SC,19.00,,,,active\n"
    )
    shirt, scarf = items_of(
        store,
        tmp_path,
        "products_export.csv",
        text,
        item_columns={
            "item_id": "Handle",
            "title": "Title",
            "description": "Body (HTML)",
            "brand": "Vendor",
            "categories": ["Type", "Tags"],
            "price": "Variant Price",
            "image_url": "Image Src",
        },
        category_separator=", ",
    )
    assert columns(shirt, "item_id", "description", "brand", "categories", "price", "pictures") == (
        "linen-shirt",
        "Light, airy.",
        "Alma",
        ["Shirts", "summer", "linen"],
        49.0,
        [f"{CDN}s1.jpg?v=1", f"{CDN}s2.jpg?v=1", f"{CDN}s3.jpg?v=1"],
    )
    assert columns(scarf, "title", "categories", "pictures") == ("Scarf", [], [])


def test_bigcommerces_export(store: Store, tmp_path: Path) -> None:
    text = (
        '"Product ID","Product Name","Product Code/SKU","Brand Name","Price","Category","Product Description",'
        '"Product Image URL - 1","Product Image URL - 2"\r\n'
        f'"86","[Sample] Able Brewing","ABS","Common Good","225.00","Shop All;Kitchen","",{CDN}b1.jpg,{CDN}b2.jpg\r\n'
        '"87","Jar","J","","$1,005.50","","Clear & plain","",""\r\n'
    )
    brewing, jar = items_of(
        store,
        tmp_path,
        "products.csv",
        text,
        item_columns={
            "item_id": "Product ID",
            "title": "Product Name",
            "description": "Product Description",
            "brand": "Brand Name",
            "categories": "Category",
            "price": "Price",
            "image_url": ["Product Image URL - 1", "Product Image URL - 2"],
        },
        category_separator=";",
    )
    assert columns(brewing, "title", "price", "categories", "pictures") == (
        "[Sample] Able Brewing",
        225.0,
        ["Shop All", "Kitchen"],
        [f"{CDN}b1.jpg", f"{CDN}b2.jpg"],
    )
    assert columns(jar, "description", "price", "pictures") == ("Clear & plain", 1005.5, [])


def test_etsys_listings(store: Store, tmp_path: Path) -> None:
    text = (
        "TITLE,DESCRIPTION,PRICE,CURRENCY_CODE,QUANTITY,TAGS,IMAGE1,IMAGE2,IMAGE3,SKU\n"
        '"Ring &quot;Luna&quot;, silver","Handmade.\n\nShips in 3 days \u2764\ufe0f",48.00,EUR,3,"ring,silver,moon",'
        f"{CDN}r1.jpg,{CDN}r2.jpg,,LUNA\n"
    )
    (ring,) = items_of(
        store,
        tmp_path,
        "EtsyListingsDownload.csv",
        text,
        item_columns={
            "item_id": "SKU",
            "title": "TITLE",
            "description": "DESCRIPTION",
            "price": "PRICE",
            "categories": "TAGS",
            "gallery_urls": ["IMAGE1", "IMAGE2", "IMAGE3"],
        },
        category_separator=",",
    )
    assert columns(ring, "title", "description", "price", "categories", "pictures") == (
        'Ring "Luna", silver',
        "Handmade. Ships in 3 days \u2764\ufe0f",
        48.0,
        ["ring", "silver", "moon"],
        [f"{CDN}r1.jpg", f"{CDN}r2.jpg"],
    )


def test_prestashops_export(store: Store, tmp_path: Path) -> None:
    text = (
        '"Product ID";Image;Name;Reference;Category;"Price (tax excl.)"\n'
        f'1;{CDN}1-small.jpg;"Hummingbird; printed";demo_1;Men;"23,900000"\n'
        '2;;Mug;demo_2;"Home &gt; Mugs";11.9\n'
    )
    shirt, mug = items_of(
        store,
        tmp_path,
        "product_2026.csv",
        text,
        item_columns={
            "item_id": "Product ID",
            "title": "Name",
            "categories": "Category",
            "price": "Price (tax excl.)",
            "image_url": "Image",
        },
        items_format={"separator": ";"},
    )
    assert columns(shirt, "item_id", "title", "price", "pictures") == (
        "1",
        "Hummingbird; printed",
        23.9,
        [f"{CDN}1-small.jpg"],
    )
    assert columns(mug, "categories", "price") == (["Home > Mugs"], 11.9)
