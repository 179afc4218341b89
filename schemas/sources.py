"""Every kind of source: where its files lie and what their columns are called."""

import codecs
import difflib
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from schemas.demo import DemoConfig
from schemas.sql import SqlQueries

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


def category_name(category: str, release: int) -> str:
    """The release's own name of a category, whatever its case and separators; an unambiguous beginning ("sports") will
    do.

    Raises:
        ValueError: the release has no such category; the message names the closest and all allowed ones.
    """
    allowed = RELEASES[release]
    plain = _plain(category)
    exact = [name for name in allowed if _plain(name) == plain]
    longer = [name for name in allowed if plain and _plain(name).startswith(f"{plain}_")]
    matches = exact or longer
    if len(matches) == 1:
        return matches[0]
    by_plain = {_plain(name): name for name in allowed}
    close = longer or [by_plain[name] for name in difflib.get_close_matches(plain, by_plain, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"release {release} has no category {category!r}.{hint} Allowed: {', '.join(allowed)}")


def _plain(name: str) -> str:
    words = name.lower().replace("&", " and ").replace(",", " ").replace("_", " ").replace("-", " ").split()
    return "_".join(words)


ITEM_ID: Final = re.compile(r"\{item_id(?::\.(\d+))?\}")
"""What stands for an item's id in a template, and for its beginning: `{item_id:.3}` is the first three characters."""

Template = Annotated[
    str,
    Field(
        description="Address of each item's only picture, instead of the catalogue's; `{item_id}` stands for the id, "
        "`{item_id:.3}` for its first three characters. An http(s) URL, or a path relative to `raw`; empty: the "
        "catalogue's own addresses."
    ),
]


Location = Annotated[
    str,
    Field(
        description="Folder, base http(s) URL or s3://bucket/prefix of files with the distribution's own names; empty: "
        "public addresses."
    ),
]


MISSING: Final = (
    "NULL", "Null", "null", "(null)", "NaN", "nan", "NAN", "None", "NONE", "none", "NaT", r"\N", "N/A", "n/a", "#N/A",
    "NA", "<NA>", "undefined",
)  # fmt: skip
"""Words that databases, spreadsheets, pandas, R and JavaScript write where there is nothing."""


OBJECT_STORES: Final = ("s3://", "gs://", "gcs://", "abfs://", "abfss://", "az://")
"""Beginnings of addresses that fsspec's drivers read; s3fs comes with the extra `s3`."""


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
    missing: tuple[str, ...] = Field(
        MISSING, description="Words that stand for nothing as an id, text, price, rating or time; [] takes every word."
    )

    @field_validator("raw")
    @classmethod
    def _location(cls, raw: str) -> str:
        if "://" in raw and not raw.startswith(("http://", "https://", "file:///", *OBJECT_STORES)):
            raise ValueError(f"expected a folder, an http(s) URL, or one of {', '.join(OBJECT_STORES)}")
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
        if template and (not ITEM_ID.search(template) or set(ITEM_ID.sub("", template)) & {"{", "}"}):
            raise ValueError(
                "expected a template with {item_id} alone in braces, e.g. images/{item_id}.jpg or "
                "images/{item_id:.3}/{item_id}.jpg"
            )
        if "://" in template and not template.startswith(("http://", "https://")):
            raise ValueError("expected an http(s) URL or a path relative to raw")
        return template


class AmazonSource(FileSource):
    """Amazon Reviews. Without `raw` the public files are downloaded; some have many GB."""

    kind: Literal["amazon"] = "amazon"
    title = "Amazon Reviews of one category and release"
    example = "cm3 run amazon --category Gift_Cards --raw ./amazon-2018 --models offline"
    release: Literal[2014, 2018, 2023] = Field(2018, description="Release of the data set.")
    category: str = Field(description="Category of the release, in any case, with spaces or `_`: `gift cards`.")
    raw: Location = ""

    @field_validator("release", mode="before")
    @classmethod
    def _number(cls, release: object) -> object:
        return int(release) if isinstance(release, str) and release.isdecimal() else release

    @field_validator("category")
    @classmethod
    def _of_release(cls, category: str, info: ValidationInfo) -> str:
        return category_name(category, info.data["release"]) if "release" in info.data else category

    @property
    def dataset(self) -> str:
        """Default name in the store; the release is part of it, except 2018."""
        category = self.category.lower().replace("_", "-")
        return f"amazon-{category}" if self.release == 2018 else f"amazon-{self.release}-{category}"


ItemColumn: TypeAlias = str | tuple[str, ...] | None
"""One column, or several that are put together."""


class ItemColumns(BaseModel):
    """Our name → the column of the items file. A column named here must exist; null: the column of our name, if any.

    In JSON and Parquet a name may be a path into nested fields, e.g. `product.name`, `images.0.src` for the first of a
    list or `images.src` for all. Several columns, as a list of names, are put together: texts with a blank between,
    lists one after the other, of prices the first that there is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    item_id: str = Field("item_id", description="Column of the id; required.")
    title: ItemColumn = Field(None, description="Column of the title.")
    description: ItemColumn = Field(None, description="Column of the description.")
    brand: ItemColumn = Field(None, description="Column of the brand.")
    categories: ItemColumn = Field(None, description="Column of the categories: a list, or text with separators.")
    price: ItemColumn = Field(None, description="Column of the price: a number, or text such as `$12.99`.")
    image_url: ItemColumn = Field(
        None,
        description="Column of the picture: an http(s) URL, a path relative to raw, or, in Parquet, its bytes.",
    )
    gallery_urls: ItemColumn = Field(
        None,
        description="Column of further pictures: a list, or text with separators; the first is used if no main one is.",
    )
    never_shown: ItemColumn = Field(
        None,
        description="Column that says which items are shown to nobody, such as sold-out ones: `never_shown_values`.",
    )


class InteractionColumns(BaseModel):
    """Our name → the column of the interactions file; as `ItemColumns`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_id: str = Field("user_id", description="Column of the user's id; required.")
    item_id: str = Field("item_id", description="Column of the item's id; required.")
    rating: str | None = Field(None, description="Column of the rating: numbers, or words of `rating_values`.")
    timestamp: str | None = Field(
        None,
        description="Column of the time: seconds, milli-, micro- or nanoseconds since 1970, a workbook's days, ISO "
        "8601 (UTC if it names no zone), a date like 20240506, 6 May 2024, 06/05/2024 or, if other dates of the "
        "file show this order, 05/06/2024; see `time_format`.",
    )
    split: str | None = Field(None, description="Column of a published split: train, valid or test; or 0, 1, 2.")


SUFFIXES: Final = (
    ".csv", ".tsv", ".txt", ".dat", ".inter", ".item", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow"
)  # fmt: skip
"""Ends of names that say a file's format, in any case."""
PACKED: Final = (".gz", ".bz2", ".zst", ".zip")
"""Ends of names of packed files; a zip archive holds one file."""


def plain_name(name: str) -> str:
    """A file's name in lower case, without the end that says how it is packed."""
    lower = name.lower().rstrip("/")
    return next((lower.removesuffix(end) for end in PACKED if lower.endswith(end)), lower)


def _is_packed(name: str) -> bool:
    return name.lower().endswith(PACKED)


class FileFormat(BaseModel):
    """What a file's name does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoding: str = Field("utf-8", description="Encoding of the text, e.g. cp1252, utf-16 or shift_jis.")
    separator: str | None = Field(
        None,
        min_length=1,
        max_length=4,
        description="Between two fields of a row, e.g. `;`; null: a comma, in .tsv, .inter and .item a tab, in .dat "
        "`::`. One of several characters has no quotes.",
    )
    header: tuple[str, ...] = Field(
        (), description="Names of the columns of a file without a header line; []: its first line names them."
    )

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        try:
            return codecs.lookup(encoding).name
        except LookupError as error:
            raise ValueError("expected an encoding that Python knows, e.g. utf-8, cp1252, utf-16") from error

    @field_validator("header")
    @classmethod
    def _once(cls, header: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(header)) < len(header):
            raise ValueError("expected every name once")
        return header


class CatalogueSource(FileSource):
    """Your own catalogue: two files in CSV, TSV, JSON or RecBole's format (each also packed), Parquet or Arrow, told by
    their suffix; of each also a folder of parts, or a pattern such as `part-*.parquet`."""

    kind: Literal["catalogue"] = "catalogue"
    title = "Your own catalogue"
    example = "cm3 run catalogue --raw ./shop --name shop"
    raw: str = Field(
        "",
        description="Folder, base http(s) URL or s3://bucket/prefix that holds the two files; must be given, unless "
        "`sql` is.",
    )
    sql: SqlQueries | None = Field(None, description="Queries in place of the two files.")
    name: str = Field(
        "catalogue", pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100, description="The data set's name in the store."
    )
    items: str = Field("items.jsonl", description="File of items, relative to raw; the suffix says the format.")
    interactions: str = Field(
        "interactions.csv", description="File of interactions, relative to raw; empty: none, for features alone."
    )
    item_columns: ItemColumns = Field(ItemColumns(), description="Which column of the items file is what.")
    interaction_columns: InteractionColumns = Field(
        InteractionColumns(), description="Which column of the interactions file is what."
    )
    items_format: FileFormat = Field(FileFormat(), description="Encoding, separator and header of the items file.")
    interactions_format: FileFormat = Field(
        FileFormat(), description="Encoding, separator and header of the interactions file."
    )
    time_format: str = Field(
        "", description="strftime format of the times, e.g. `%d|%m|%Y %Hh%M`; empty: every usual way is tried."
    )
    rating_values: dict[str, float] = Field(
        {}, description="What a word in the rating's column counts, e.g. {view: 1, cart: 2, purchase: 3}."
    )
    category_separator: str = Field("|", min_length=1, description="Between two categories, if they are one text.")
    gallery_separator: str = Field(
        "|", min_length=1, description="Between two addresses of `gallery_urls`, if they are one text."
    )

    never_shown_values: tuple[str, ...] = Field(
        ("true", "yes", "1", "sold out", "sold_out", "out of stock", "out_of_stock"),
        description="Values of the column `never_shown`, in any case, that mark an item as shown to nobody; for a "
        "column that holds the stock `0`, which also means `0.0`.",
    )

    @model_validator(mode="after")
    def _has_a_place(self) -> "CatalogueSource":
        if not self.raw and self.sql is None:
            raise ValueError(
                "raw: must be given: the folder or URL that holds the two files (or `sql`, queries instead)"
            )
        return self

    @field_validator("items", "interactions")
    @classmethod
    def _readable(cls, name: str, info: ValidationInfo) -> str:
        if info.field_name == "interactions" and not name:
            return name
        is_binary = plain_name(name).endswith((".parquet", ".arrow"))
        if not plain_name(name).endswith(SUFFIXES) or (is_binary and _is_packed(name)):
            raise ValueError(
                f"expected a name that ends in one of {', '.join(SUFFIXES)} (also packed: {', '.join(PACKED)}, except "
                "for parquet and arrow); of a folder of parts that is called otherwise, a pattern such as "
                "items/*.parquet"
            )
        return name

    @property
    def dataset(self) -> str:
        """Default name in the store."""
        return self.name


class MovieLensSource(FileSource):
    """MovieLens with posters and plots: items.csv (item_id, title, genres, plot, image) and inter.csv (user, item,
    rating, timestamp); or GroupLens' own movies.csv and ratings.csv, to which `joined` adds plots and posters."""

    kind: Literal["movielens"] = "movielens"
    title = "MovieLens with posters and plots"
    example = "cm3 run movielens --raw ./movielens-100k --models offline"
    raw: str = Field(
        min_length=1, description="Folder, base http(s) URL or s3://bucket/prefix that holds the two files."
    )
    name: str = Field(
        "movielens", pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100, description="The data set's name in the store."
    )
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
    raw: str = Field(
        min_length=1, description="Folder, base http(s) URL or s3://bucket/prefix that holds the distribution's files."
    )
    prefix: str = Field(
        "MicroLens-50k",
        pattern=r"^[A-Za-z0-9._-]+$",
        max_length=100,
        description="Beginning of the file names, e.g. MicroLens-100k.",
    )
    image_url: Template = Field("", description="Covers; empty: `<prefix>_covers/{item_id}.jpg` relative to raw.")

    @property
    def dataset(self) -> str:
        """Default name in the store."""
        return self.prefix.lower()


class MMRecSource(FileSource):
    """A folder in the MMRec format: <name>.inter (userID, itemID, x_label) and, optionally, i_id_mapping.csv and
    u_id_mapping.csv, which turn its numbers into the ids of the original source."""

    kind: Literal["mmrec"] = "mmrec"
    title = "A folder in the MMRec format, with its published split"
    example = "cm3 run mmrec --raw ./baby --name baby"
    raw: str = Field(
        min_length=1, description="Folder, base http(s) URL or s3://bucket/prefix that holds the .inter file."
    )
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="Name of the .inter file, e.g. baby."
    )

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
"""Every source by its kind. From this list follow the parameters and functions of all flows, `cm3 run KIND`, and where
its reader is: module KIND of `pipeline.ingest.sources`."""
