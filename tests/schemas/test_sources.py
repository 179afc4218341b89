"""Source parameters refuse what cannot work, by name, before any work."""

import pytest
from pydantic import ValidationError

from schemas.sources import RELEASES, SOURCES, AmazonSource, CatalogueSource, MMRecSource, category_name


@pytest.mark.parametrize(
    ("category", "release", "name"),
    [
        ("Gift_Cards", 2018, "Gift_Cards"),
        ("gift cards", 2018, "Gift_Cards"),
        ("sports", 2014, "Sports_and_Outdoors"),
        ("Clothing, Shoes & Jewelry", 2023, "Clothing_Shoes_and_Jewelry"),
        ("baby", 2023, "Baby_Products"),
        ("amazon fashion", 2018, "AMAZON_FASHION"),
    ],
)
def test_category_is_found_by_loose_spelling(category: str, release: int, name: str) -> None:
    assert category_name(category, release) == name


@pytest.mark.parametrize("release", list(RELEASES))
def test_every_category_is_found_by_its_own_name(release: int) -> None:
    assert [category_name(name, release) for name in RELEASES[release]] == list(RELEASES[release])


def test_wrong_category_names_the_field_the_closest_and_the_allowed() -> None:
    with pytest.raises(ValidationError) as refused:
        AmazonSource(category="Gift_Crads")
    (problem,) = refused.value.errors()
    assert problem["loc"] == ("category",)
    assert "Did you mean Gift_Cards" in problem["msg"]
    assert "Video_Games" in problem["msg"]


def test_category_of_another_release_is_refused() -> None:
    with pytest.raises(ValidationError, match="release 2018 has no category 'Baby_Products'"):
        AmazonSource(category="Baby_Products", release=2018)


def test_ambiguous_beginning_is_refused_with_the_candidates() -> None:
    with pytest.raises(ValueError, match="Health_and_Household or Health_and_Personal_Care"):
        category_name("health", 2023)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"kind": "amazon", "category": "Baby", "release": 2015}, "release"),
        ({"kind": "amazon", "category": "Electronics", "raw": "ftp://host/x"}, "raw"),
        ({"kind": "amazon", "category": "Electronics", "image_url": "https://host/pictures.jpg"}, "image_url"),
        ({"kind": "amazon", "category": "Electronics", "image_url": "ftp://host/{item_id}.jpg"}, "image_url"),
        ({"kind": "amazon", "category": "Electronics", "colour": "red"}, "colour"),
        ({"kind": "catalogue", "raw": "x", "items": "../items.csv"}, "items"),
        ({"kind": "catalogue", "raw": "x", "items": "items.xlsx"}, "items"),
        ({"kind": "catalogue", "raw": "s3a://bucket/shop"}, "raw"),
        ({"kind": "movielens", "raw": ""}, "raw"),
        ({"kind": "movielens", "raw": "x", "joined": "/etc/passwd"}, "joined"),
        ({"kind": "mmrec", "raw": "x", "name": "a/b"}, "name"),
        ({"kind": "catalogue", "raw": "x", "name": "a" * 255}, "name"),  # no file could be called so
    ],
)
def test_wrong_source_parameter_is_refused_by_name(fields: dict[str, object], where: str) -> None:
    with pytest.raises(ValidationError) as refused:
        SOURCES[str(fields["kind"])].model_validate(fields)
    assert [problem["loc"][-1] for problem in refused.value.errors()] == [where]


def test_sources_name_their_data_set() -> None:
    assert AmazonSource(category="Gift_Cards").dataset == "amazon-gift-cards"
    assert AmazonSource(category="Baby", release=2014).dataset == "amazon-2014-baby"
    assert CatalogueSource(raw="x", name="shop").dataset == "shop"
    assert MMRecSource(raw="x", name="Baby").dataset == "mmrec-baby"
