"""Parameters of the ingest stage and of every kind of source."""

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from schemas.amazon import category_name

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


class IngestConfig(BaseModel):
    """What is kept of a catalogue and how its interactions are split.

    Rules, in this order; each is counted in the `quality` table: rows that are not records; ids missing; of two items
    with one id the first is kept; interactions with unknown items are dropped; of two interactions of one user with
    one item the latest is kept (the later row where times are equal); ratings below `min_rating` are dropped; k-core.
    Items without an interaction left are not published.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    core_k: int = Field(5, ge=1, description="Interactions every user and every item must have, to the fixed point.")
    min_rating: float | None = Field(
        None, description="Smallest rating that counts as a choice, in the source's scale; null: every rating does."
    )
    require: tuple[Literal["title", "image"], ...] = Field(
        (),
        description="What an item must have to be kept: a title, a picture's address (where that is a file, the file).",
    )
    split: Literal["auto", "per_user", "leave_one_out", "global_time", "published"] = Field(
        "auto",
        description="auto: the source's published split where it has one (k-core is then left out), else per_user. "
        "per_user: fewer than 10 interactions: the last by time is test, the one before valid; else 80/10/10 at "
        "random. leave_one_out: last test, second last valid. global_time: the last in time of all users.",
    )
    valid_share: float = Field(0.1, gt=0, lt=0.5, description="global_time: share of interactions for validation.")
    test_share: float = Field(0.1, gt=0, lt=0.5, description="global_time: share of interactions for testing.")
    seed: int = Field(999, ge=0, lt=2**32, description="of the split's random choices and its ties in time")
    max_bad_share: float = Field(
        0.01, ge=0, le=1, description="Share of a file's lines that may be unreadable before the run is refused."
    )


class _Source(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("raw", check_fields=False)
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

    @field_validator("image_url", check_fields=False)
    @classmethod
    def _template(cls, template: str) -> str:
        if template and "{item_id}" not in template:
            raise ValueError("expected a template that contains {item_id}, e.g. images/{item_id}.jpg")
        if "://" in template and not template.startswith(("http://", "https://")):
            raise ValueError("expected an http(s) URL or a path relative to raw")
        return template


class AmazonSource(_Source):
    """Amazon Reviews. Without `raw` the public files are downloaded (some are many GB)."""

    kind: Literal["amazon"] = "amazon"
    release: Literal[2014, 2018, 2023] = Field(2018, description="Release of the data set.")
    category: str = Field(description="Category by the release's name; case and spaces are forgiven: `gift cards`.")
    raw: Location = ""
    image_url: Template = ""

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


class CatalogueSource(_Source):
    """Your own catalogue: two files in CSV (TSV by suffix .tsv), JSON Lines or Parquet, the former also as .gz."""

    kind: Literal["catalogue"] = "catalogue"
    raw: str = Field(min_length=1, description="Folder or base http(s) URL that holds the two files.")
    name: str = Field("catalogue", pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Default name in the store.")
    items: str = Field("items.jsonl", description="File of items, relative to raw; the suffix says the format.")
    interactions: str = Field("interactions.csv", description="File of interactions, relative to raw.")
    item_columns: ItemColumns = ItemColumns()
    interaction_columns: InteractionColumns = InteractionColumns()
    category_separator: str = Field("|", min_length=1, description="Between two categories, where they are one text.")
    gallery_separator: str = Field(
        "|",
        min_length=1,
        exclude_if=lambda separator: separator == "|",  # as above
        description="Between two addresses of `gallery_urls`, where they are one text.",
    )
    image_url: Template = ""

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


class MovieLensSource(_Source):
    """MovieLens with posters and plots: items.csv (item_id, title, genres, plot, image) and inter.csv (user, item,
    rating, timestamp); or GroupLens' own movies.csv and ratings.csv, with `joined` for plots and posters."""

    kind: Literal["movielens"] = "movielens"
    raw: str = Field(min_length=1, description="Folder or base http(s) URL that holds the two files.")
    name: str = Field("movielens", pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Default name in the store.")
    joined: str = Field("", description="CSV, relative to raw, of item_id with plot, image or both; empty: none.")
    image_url: Template = ""

    @property
    def dataset(self) -> str:
        """Default name in the store."""
        return self.name


class MicroLensSource(_Source):
    """MicroLens: <prefix>_pairs.csv (user, item, timestamp), <prefix>_titles.csv (item, title) and covers."""

    kind: Literal["microlens"] = "microlens"
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


class MMRecSource(_Source):
    """A folder in the MMRec format: <name>.inter (userID, itemID, x_label), and where present i_id_mapping.csv and
    u_id_mapping.csv, which give the ids of the original source back."""

    kind: Literal["mmrec"] = "mmrec"
    raw: str = Field(min_length=1, description="Folder or base http(s) URL that holds the .inter file.")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="What the .inter file is called, e.g. baby.")
    image_url: Template = ""

    @property
    def dataset(self) -> str:
        """Default name in the store."""
        return f"mmrec-{self.name.lower()}"


SourceConfig = Annotated[
    AmazonSource | CatalogueSource | MovieLensSource | MicroLensSource | MMRecSource, Field(discriminator="kind")
]
"""Any source, told apart by `kind`."""
