"""Every kind of source: where its files lie and what they are called."""

import difflib
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from schemas.demo import DemoConfig

RELEASES: Final[dict[int, tuple[str, ...]]] = {
    2014: (
        "Amazon_Instant_Video", "Apps_for_Android", "Automotive", "Baby", "Beauty", "Books", "CDs_and_Vinyl",
        "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics",
        "Grocery_and_Gourmet_Food", "Health_and_Personal_Care", "Home_and_Kitchen", "Kindle_Store", "Movies_and_TV",
        "Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden", "Pet_Supplies", "Sports_and_Outdoors",
        "Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games",
    ),
    2018: (
        "AMAZON_FASHION", "All_Beauty", "Appliances", "Arts_Crafts_and_Sewing", "Automotive", "Books", "CDs_and_Vinyl",
        "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics", "Gift_Cards",
        "Grocery_and_Gourmet_Food", "Home_and_Kitchen", "Industrial_and_Scientific", "Kindle_Store", "Luxury_Beauty",
        "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments", "Office_Products", "Patio_Lawn_and_Garden",
        "Pet_Supplies", "Prime_Pantry", "Software", "Sports_and_Outdoors", "Tools_and_Home_Improvement",
        "Toys_and_Games", "Video_Games",
    ),
    2023: (
        "All_Beauty", "Amazon_Fashion", "Appliances", "Arts_Crafts_and_Sewing", "Automotive", "Baby_Products",
        "Beauty_and_Personal_Care", "Books", "CDs_and_Vinyl", "Cell_Phones_and_Accessories",
        "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics", "Gift_Cards", "Grocery_and_Gourmet_Food",
        "Handmade_Products", "Health_and_Household", "Health_and_Personal_Care", "Home_and_Kitchen",
        "Industrial_and_Scientific", "Kindle_Store", "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments",
        "Office_Products", "Patio_Lawn_and_Garden", "Pet_Supplies", "Software", "Sports_and_Outdoors",
        "Subscription_Boxes", "Tools_and_Home_Improvement", "Toys_and_Games", "Unknown", "Video_Games",
    ),
}  # fmt: skip
"""Release → category names. Source: the three distributions' index pages."""


def category_name(given: str, release: int) -> str:
    """The release's own name of a category: spelling, case and an unambiguous beginning ("sports") are forgiven.

    Raises:
        ValueError: the release has no such category; the closest and all allowed names are given.
    """
    allowed = RELEASES[release]
    wanted = _plain(given)
    exact = [name for name in allowed if _plain(name) == wanted]
    begins = [name for name in allowed if wanted and _plain(name).startswith(f"{wanted}_")]
    matches = exact or begins
    if len(matches) == 1:
        return matches[0]
    by_plain = {_plain(name): name for name in allowed}
    close = begins or [by_plain[name] for name in difflib.get_close_matches(wanted, by_plain, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"release {release} has no category {given!r}.{hint} Allowed: {', '.join(allowed)}")


def _plain(name: str) -> str:
    words = name.lower().replace("&", " and ").replace(",", " ").replace("_", " ").replace("-", " ").split()
    return "_".join(words)


Template = Annotated[
    str,
    Field(
        description="Address of each item's one picture, overriding the catalogue's; `{item_id}` stands for the id. An "
        "http(s) URL, or a path relative to `raw`; empty: the catalogue's own addresses."
    ),
]


Location = Annotated[
    str, Field(description="Folder or base http(s) URL that holds the distribution's own file names; empty: public.")
]


class SourceConfig(BaseModel):
    """What every kind of source says of itself.

    Attributes:
        title: what it is, for a person.
        example: a command that runs it.
        run_defaults: parameters of a run that have another default for this source.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    title: ClassVar[str]
    example: ClassVar[str]
    run_defaults: ClassVar[Mapping[str, object]] = {}

    @property
    def dataset(self) -> str:
        """Default name in the store."""
        raise NotImplementedError


class FileSource(SourceConfig):
    """A source whose files lie in a folder or behind a URL."""

    raw: str
    image_url: Template = ""

    @field_validator("raw")
    @classmethod
    def _location(cls, raw: str) -> str:
        if "://" in raw and not raw.startswith(("http://", "https://", "file:///")):
            raise ValueError("expected a folder or an http(s) URL")
        return raw

    @field_validator("items", "interactions", "joined", check_fields=False)
    @classmethod
    def _inside(cls, name: str) -> str:
        path = PurePath(name)
        if path.is_absolute() or ".." in path.parts or "://" in name:
            raise ValueError("expected a file name relative to raw")
        return name

    @field_validator("image_url")
    @classmethod
    def _template(cls, template: str) -> str:
        if template and "{item_id}" not in template:
            raise ValueError("expected a template that contains {item_id}, e.g. images/{item_id}.jpg")
        if "://" in template and not template.startswith(("http://", "https://")):
            raise ValueError("expected an http(s) URL or a path relative to raw")
        return template


class AmazonSource(FileSource):
    """Amazon Reviews. Without `raw` the public files are downloaded (some are many GB)."""

    kind: Literal["amazon"] = "amazon"
    title = "Amazon Reviews of one category and release"
    example = "cm3 run amazon --category Gift_Cards --raw ./amazon-2018 --models offline"
    release: Literal[2014, 2018, 2023] = Field(2018, description="Release of the data set.")
    category: str = Field(description="Category by the release's name; case and spaces are forgiven: `gift cards`.")
    raw: Location = ""

    @field_validator("release", mode="before")
    @classmethod
    def _number(cls, release: object) -> object:
        return int(release) if isinstance(release, str) and release.isdecimal() else release

    @field_validator("category")
    @classmethod
    def _known(cls, category: str, info: ValidationInfo) -> str:
        return category_name(category, info.data["release"]) if "release" in info.data else category

    @property
    def dataset(self) -> str:
        """Default name in the store; the release of 2018 is the plain one."""
        category = self.category.lower().replace("_", "-")
        return f"amazon-{category}" if self.release == 2018 else f"amazon-{self.release}-{category}"

    @property
    def has_galleries(self) -> bool:
        """Whether items may have more than one picture: those of 2014 have one, and so has an address by rule."""
        return self.release != 2014 and not self.image_url


class ItemColumns(BaseModel):
    """Which column of the items file is what. A column named here must exist; null: the one of that name, if any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item_id: str = Field("item_id", description="Column of the id; required.")
    title: str | None = Field(None, description="Column of the title.")
    description: str | None = Field(None, description="Column of the description.")
    brand: str | None = Field(None, description="Column of the brand.")
    categories: str | None = Field(None, description="Column of the categories: a list, or text with separators.")
    price: str | None = Field(None, description="Column of the price: a number, or text such as `$12.99`.")
    image_url: str | None = Field(None, description="Column of the picture: an http(s) URL or a path relative to raw.")
    gallery_urls: str | None = Field(
        None,
        exclude_if=lambda name: name is None,  # versions from before there were galleries are found again
        description="Column of further pictures: a list, or text with separators. The first stands in for a main one.",
    )


class InteractionColumns(BaseModel):
    """Which column of the interactions file is what. A column named here must exist; null: that name, if any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_id: str = Field("user_id", description="Column of the user's id; required.")
    item_id: str = Field("item_id", description="Column of the item's id; required.")
    rating: str | None = Field(None, description="Column of the rating.")
    timestamp: str | None = Field(
        None,
        description="Column of the time: seconds or milliseconds since 1970, ISO 8601 (UTC where unsaid), or a date as "
        "20240506, 2024-05-06, 06/05/2024 or, where the file has days above 12 in that place, 05/06/2024.",
    )
    split: str | None = Field(None, description="Column of a published split: train, valid or test; or 0, 1, 2.")


class CatalogueSource(FileSource):
    """Your own catalogue: two files in CSV (TSV by suffix .tsv), JSON Lines or Parquet, the former also as .gz."""

    kind: Literal["catalogue"] = "catalogue"
    title = "Your own catalogue"
    example = "cm3 run catalogue --raw ./shop --name shop"
    raw: str = Field(min_length=1, description="Folder or base http(s) URL that holds the two files.")
    name: str = Field("catalogue", pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Default name in the store.")
    items: str = Field("items.jsonl", description="File of items, relative to raw; the suffix says the format.")
    interactions: str = Field("interactions.csv", description="File of interactions, relative to raw.")
    item_columns: ItemColumns = Field(ItemColumns(), description="Which column of the items file is what.")
    interaction_columns: InteractionColumns = Field(
        InteractionColumns(), description="Which column of the interactions file is what."
    )
    category_separator: str = Field("|", min_length=1, description="Between two categories, where they are one text.")
    gallery_separator: str = Field(
        "|",
        min_length=1,
        exclude_if=lambda separator: separator == "|",  # as above
        description="Between two addresses of `gallery_urls`, where they are one text.",
    )

    @field_validator("items", "interactions")
    @classmethod
    def _readable(cls, name: str) -> str:
        suffixes = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
        if not name.removesuffix(".gz").endswith(suffixes) or name.endswith(".parquet.gz"):
            raise ValueError(f"expected a name that ends in one of {', '.join(suffixes)} (.gz allowed but for parquet)")
        return name

    @property
    def dataset(self) -> str:
        """Default name in the store."""
        return self.name


class MovieLensSource(FileSource):
    """MovieLens with posters and plots: items.csv (item_id, title, genres, plot, image) and inter.csv (user, item,
    rating, timestamp); or GroupLens' own movies.csv and ratings.csv, with `joined` for plots and posters."""

    kind: Literal["movielens"] = "movielens"
    title = "MovieLens with posters and plots"
    example = "cm3 run movielens --raw ./movielens-100k --models offline"
    raw: str = Field(min_length=1, description="Folder or base http(s) URL that holds the two files.")
    name: str = Field("movielens", pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Default name in the store.")
    joined: str = Field("", description="CSV, relative to raw, of item_id with plot, image or both; empty: none.")

    @property
    def dataset(self) -> str:
        """Default name in the store."""
        return self.name


class MicroLensSource(FileSource):
    """MicroLens: <prefix>_pairs.csv (user, item, timestamp), <prefix>_titles.csv (item, title) and covers."""

    kind: Literal["microlens"] = "microlens"
    title = "MicroLens, with its titles and covers"
    example = "cm3 run microlens --raw ./MicroLens-50k"
    raw: str = Field(min_length=1, description="Folder or base http(s) URL that holds the distribution's files.")
    prefix: str = Field(
        "MicroLens-50k",
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Beginning of the file names, e.g. MicroLens-100k.",
    )
    image_url: Template = Field("", description="Covers; empty: `<prefix>_covers/{item_id}.jpg` relative to raw.")

    @property
    def dataset(self) -> str:
        """Default name in the store."""
        return self.prefix.lower()


class MMRecSource(FileSource):
    """A folder in the MMRec format: <name>.inter (userID, itemID, x_label), and where present i_id_mapping.csv and
    u_id_mapping.csv, which give the ids of the original source back."""

    kind: Literal["mmrec"] = "mmrec"
    title = "A folder in the MMRec format, with its published split"
    example = "cm3 run mmrec --raw ./baby --name baby"
    raw: str = Field(min_length=1, description="Folder or base http(s) URL that holds the .inter file.")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="What the .inter file is called, e.g. baby.")

    @property
    def dataset(self) -> str:
        """Default name in the store."""
        return f"mmrec-{self.name.lower()}"


class DemoSource(SourceConfig):
    """A catalogue of drawn products, drawn and served by the run itself: needs no network, no hub and no data."""

    kind: Literal["demo"] = "demo"
    title = "The drawn catalogue, which needs no network, no hub and no data"
    example = "cm3 run demo"
    run_defaults: ClassVar[Mapping[str, object]] = {"models": "offline"}
    demo: DemoConfig = Field(DemoConfig(), description="What is drawn.")

    @property
    def dataset(self) -> str:
        """Default name in the store."""
        return "demo"


SOURCES: dict[str, type[SourceConfig]] = {
    source.model_fields["kind"].default: source
    for source in (
        DemoSource,
        AmazonSource,
        CatalogueSource,
        MovieLensSource,
        MicroLensSource,
        MMRecSource,
    )
}
"""Every source by its kind. From this list follow the parameters of runs and re-extractions, the functions of both
flows, `cm3 run KIND`, and where its reader is: module KIND of `pipeline.ingest.sources`."""
