"""Which column is what: by its name in the shops and data sets that we know, else by its values."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.ingest.files.json_lines import as_text
from pipeline.ingest.files.times import times
from pipeline.ingest.guess.seen import HELD, PICTURES, Seen
from pipeline.ingest.prices import price
from schemas.errors import UserError

ITEM_ID = (
    "itemid", "sku", "parentasin", "asin", "productid", "movieid", "handle", "item", "product", "articleid", "newsid",
    "bookid", "isbn", "trackid", "songid", "gameid", "listingid", "code", "gtin", "ean", "uuid", "id",
)  # fmt: skip
ITEM_NAMES: dict[str, tuple[str, ...]] = {
    "item_id": ITEM_ID,
    "title": ("title", "name", "productname", "producttitle", "itemname", "itemtitle", "movietitle", "headline"),
    "description": (
        "description", "bodyhtml", "longtext", "longdescription", "shortdescription", "plot", "overview", "summary",
        "abstract", "text", "content", "details",
    ),
    "brand": ("brand", "vendor", "manufacturer", "maker", "brandname", "publisher", "artist", "author", "store"),
    "categories": (
        "categories", "categoriesname", "category", "genres", "genre", "class", "producttype", "productcategory",
        "maincategory", "categoryname", "type", "department", "tags", "topics",
    ),
    "price": ("saleprice", "price", "variantprice", "regularprice", "listprice", "priceeur", "priceusd", "amount"),
    "image_url": (
        "imageurl", "imagelink", "imurl", "image", "imagesrc", "photo", "picture", "baseimage", "thumbnail", "cover",
        "coverurl", "poster", "posterurl", "img", "imgurl", "pictureurl", "photourl", "productimageurl1", "image1",
    ),
    "gallery_urls": (
        "galleryurls", "imagessrc", "imageslarge", "imagesurl", "images", "additionalimagelink", "additionalimages",
        "imageurlhighres", "imageurls", "pictures", "photos", "gallery", "morephotos",
    ),
}  # fmt: skip
"""Our name → names of columns in small letters and digits alone, the most certain ones first."""
INTERACTION_NAMES: dict[str, tuple[str, ...]] = {
    "user_id": (
        "userid", "user", "customerid", "customer", "reviewerid", "reviewer", "visitorid", "profileid", "memberid",
        "accountid", "buyerid", "clientid", "customeremail", "email", "uid", "buyer", "client", "member", "who",
        "sessionid",
    ),
    "item_id": ("lineitemsku", "productsku", "variantsku", *ITEM_ID),
    "rating": (
        "rating", "ratings", "stars", "overall", "score", "eventtype", "event", "behavior", "action", "interaction",
    ),
    "timestamp": (
        "timestamp", "unixreviewtime", "time", "datetime", "createdat", "orderedat", "orderdate", "purchasedat",
        "purchasedate", "eventtime", "reviewtime", "paidat", "date", "ts",
    ),
    "split": ("split", "xlabel"),
}  # fmt: skip
TOGETHER: dict[str, tuple[tuple[str, ...], ...]] = {
    "description": (("shortdescription", "description"),),
    "price": (("saleprice", "price"), ("saleprice", "regularprice")),
    "categories": (("categories", "tags"), ("type", "tags"), ("producttype", "tags")),
}
"""Our name → columns that shops fill together: texts and lists are joined, of prices the first is taken."""
EVENTS = {"view": 1, "click": 1, "wishlist": 2, "favorite": 2, "like": 2, "cart": 2, "addtocart": 2, "purchase": 3}
"""Words in place of ratings, in small letters alone → what they could count."""
TIMES = "its values are times"
FEW = 20
"""Most different values of a column of ratings."""


@dataclass(frozen=True)
class Role:
    """A column, or several, taken for one of ours, and why."""

    columns: tuple[str, ...]
    why: str


def plain(name: str) -> str:
    """A name's letters and digits, small."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def of_items(file: Seen) -> dict[str, Role]:
    """Our names of items' columns → the file's; without those that nothing speaks for."""
    roles = _named(file, ITEM_NAMES, ITEM_CHECKS)
    left = [column for column in file.columns if not any(column in role.columns for role in roles.values())]
    if "item_id" not in roles and (ids := _first(file, left, is_unique_id)):
        roles["item_id"] = Role((ids,), "each of its values is there once")
        left.remove(ids)
    if "image_url" not in roles and "gallery_urls" not in roles and (picture := _first(file, left, is_picture)):
        roles["image_url"] = Role((picture,), "its values are pictures' addresses")
        left.remove(picture)
    if "title" not in roles and (title := _first(file, left, is_title)):
        roles["title"] = Role((title,), "its values are short texts, nearly all different")
        left.remove(title)
    if "categories" not in roles and (categories := _first(file, left, is_categories)):
        roles["categories"] = Role((categories,), "its values are lists of few words")
    return roles


def of_interactions(file: Seen) -> dict[str, Role]:
    """The same of interactions' columns."""
    roles = _named(file, INTERACTION_NAMES, INTERACTION_CHECKS)
    left = [column for column in file.columns if not any(column in role.columns for role in roles.values())]
    if "timestamp" not in roles and (time := _first(file, left, is_time)):
        roles["timestamp"] = Role((time,), TIMES)
        left.remove(time)
    fewest = sorted(left, key=lambda column: len(set(map(str, file.values(column)))))
    if "rating" not in roles and file.form.header and (rating := _first(file, fewest, is_rating)):
        roles["rating"] = Role((rating,), "its values are few small numbers")
        left.remove(rating)
    if file.form.header:
        ids = [column for column in left if is_id(file.values(column))]
        for ours, column in zip(("user_id", "item_id"), ids, strict=False):
            roles.setdefault(
                ours, Role((column,), "it is the first column of ids" if ours == "user_id" else "the next")
            )
    return roles


def around_items(file: Seen, items: str, choose: Callable[[str], bool]) -> dict[str, Role]:
    """The roles of interactions' columns where one's values are the items' ids: the users' is the first other one whose
    ids come again, if they choose items."""
    named = {ours: role for ours, role in of_interactions(file).items() if items not in role.columns}
    roles = named | {"item_id": Role((items,), "its values are items' ids")}
    taken = {column for role in roles.values() for column in role.columns}
    free = [column for column in file.columns if column not in taken]
    if "user_id" not in roles and (users := _first(file, free, is_repeated_id)) and choose(users):
        roles["user_id"] = Role((users,), "its ids stand beside items' again and again")
    return roles


def times_in(file: Seen) -> list[str]:
    """The columns whose values are times."""
    return [column for column in file.columns if (values := file.values(column)) and is_time(values)]


def _named(
    file: Seen, names: Mapping[str, tuple[str, ...]], checks: Mapping[str, Callable[[list[Any]], bool]]
) -> dict[str, Role]:
    columns: dict[str, str] = {}
    for column in file.columns:
        columns.setdefault(plain(column), column)
    roles: dict[str, Role] = {}
    taken: set[str] = set()
    for ours, known in names.items():
        together = [pair for pair in TOGETHER.get(ours, ()) if all(name in columns for name in pair)]
        candidates = [*together, *((name,) for name in known if name in columns)]
        for candidate in candidates:
            theirs = tuple(columns[name] for name in candidate)
            values = [value for column in theirs for value in file.values(column)]
            if not taken.intersection(theirs) and values and checks.get(ours, bool)(values):
                roles[ours] = Role(theirs, "by its name" if len(theirs) == 1 else "by their names")
                taken.update(theirs)
                break
    return roles


def _first(file: Seen, columns: Iterable[str], check: Callable[[list[Any]], bool]) -> str | None:
    return next((column for column in columns if (values := file.values(column)) and check(values)), None)


def _share(values: Sequence[Any], check: Callable[[Any], object]) -> float:
    return sum(bool(check(value)) for value in values) / max(1, len(values))


def is_id(values: list[Any]) -> bool:
    """Whether the values could be ids: short, without blanks, whole if they are numbers."""
    texts = [as_text(value) or "" for value in values]
    return _share(texts, lambda text: re.fullmatch(r"[^\s/]{1,64}", text) and not _has_fraction(text)) > 0.9


def _has_fraction(text: str) -> bool:
    return bool(re.fullmatch(r"\d+[.,]\d+", text))


def is_unique_id(values: list[Any]) -> bool:
    """Whether each value could be an id and comes once."""
    return is_id(values) and len(set(map(str, values))) == len(values)


def is_repeated_id(values: list[Any]) -> bool:
    """Whether the values could be ids, and some come again; few small numbers are ratings or counts."""
    return is_id(values) and not is_rating(values) and len(set(map(str, values))) < len(values)


def is_text(values: list[Any]) -> bool:
    """Whether the values are mostly words, or lists of them."""
    return _share(values, lambda value: isinstance(value, str | list) and re.search(r"[^\W\d_]{2}", str(value))) > 0.5


def is_title(values: list[Any]) -> bool:
    """Whether the values are short texts, nearly all of them different."""
    lengths = [len(str(value)) for value in values]
    return is_text(values) and sum(lengths) / len(lengths) < 150 and len(set(map(str, values))) > 0.8 * len(values)


def is_categories(values: list[Any]) -> bool:
    """Whether the values are texts with separators, whose parts come again and again."""
    parts = [part.strip() for value in values for part in re.split(r"[|;>]", str(value))]
    return is_text(values) and len(parts) > len(values) and len(set(parts)) < len(parts) / 2


def is_price(values: list[Any]) -> bool:
    """Whether most values can be read as prices."""
    return _share(values, lambda value: price(value) is not None) > 0.5


def is_picture(values: list[Any]) -> bool:
    """Whether most values are addresses, names or bytes of pictures, or lists of these."""
    return _share(values, lambda value: value == HELD or _is_address(str(value))) > 0.5


def _is_address(text: str) -> bool:
    ends = "|".join(re.escape(end) for end in PICTURES)
    return bool(re.search(rf"https?://|^//|({ends})\b", text, re.IGNORECASE))


def is_rating(values: list[Any]) -> bool:
    """Whether the values are few, and small numbers or words for events."""
    texts = {str(value) for value in values}
    numbers = [text for text in texts if re.fullmatch(r"-?\d{1,2}(\.\d+)?", text)]
    return len(texts) <= FEW and (len(numbers) == len(texts) or bool(event_values(values)))


def event_values(values: list[Any]) -> dict[str, int]:
    """What the words of events could count, if all are words of `EVENTS`."""
    words = {str(value) for value in values}
    known = {word: EVENTS[plain(word)] for word in sorted(words) if plain(word) in EVENTS}
    return known if len(known) == len(words) else {}


def is_time(values: list[Any]) -> bool:
    """Whether most values can be read as times of this century or the last decades of the one before."""
    try:
        read = times(pl.Series([str(value) for value in values], dtype=pl.String))
    except (UserError, pl.exceptions.PolarsError):
        return False
    times_of = read.time.drop_nulls()
    floor = times_of if read.is_date is not None else times_of.filter(times_of > 300_000_000)
    return len(floor) > 0.5 * len(values)


ITEM_CHECKS: dict[str, Callable[[list[Any]], bool]] = {
    "item_id": is_id,
    "description": is_text,
    "brand": is_text,
    "categories": is_text,
    "price": is_price,
    "image_url": lambda values: is_picture(values) and not isinstance(values[0], list),
    "gallery_urls": is_picture,
}
INTERACTION_CHECKS: dict[str, Callable[[list[Any]], bool]] = {
    "user_id": is_id,
    "item_id": is_id,
    "rating": is_rating,
    "timestamp": lambda values: bool(values),
}
"""Our name → whether values can be it."""
