"""What a cell of a table holds besides plain text: a word that stands for nothing, or a list written as text."""

import ast
import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from pipeline.ingest.sources.base import RawItem
from pipeline.ingest.tally import Quality

LONGEST = 1 << 20
"""Characters; a longer cell is not read as a list."""
LIKE_LISTS = ("[", "(", "{", "array(", " [", " {")
"""How the texts begin that `listed` looks at."""
_STRING = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ELEMENT = rf"(?:{_STRING}|None|null|nan|[-+]?\d+(?:\.\d*)?)"
_LIST = re.compile(rf"[\[(]\s*(?:{_ELEMENT}(?:\s*,\s*|\s+|(?<=['\"])(?=['\"])))*(?:{_ELEMENT})?\s*[\])]", re.DOTALL)
"""As Python and NumPy write it: elements between commas, or between blanks."""
_ARRAY = re.compile(r"array\((\[.*\])(?:,\s*dtype=[^()]*)?\)", re.DOTALL)
_BARE = re.compile(r"\[([^\[\]{}'\"]*)\]")
"""As Java and Spark show it: words without quotes."""
_POSTGRES = re.compile(r"\{(?:[^{}\"]|\"(?:[^\"\\]|\\.)*\")*\}", re.DOTALL)

_NO_PROSE = ("[[", "['", '["', "[{", "{'", '{"')
"""No sentence begins so. (`{"b c",d}` is PostgreSQL's.)"""


def listed(text: str, *, quoted: bool = False) -> list[Any] | None:
    """The elements of a list that was written as text; None if the text is none.

    JSON, Python (`['a', 'b']`), NumPy (`['a' 'b']`), PostgreSQL (`{a,"b c"}`) and bare words (`[a, b]`).

    Args:
        quoted: only lists whose elements have quotes, and empty ones in brackets: where the text may also be prose.

    Raises:
        ValueError: it begins like a list or an object, and is neither a list nor prose.
    """
    text = text.strip()
    if len(text) > LONGEST or not text or text[0] not in "[({a" or text[-1] not in "])}":
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, list) or (value == {} and not quoted):
        return list(value)
    if array := _ARRAY.fullmatch(text):
        text = array[1]
    if _LIST.fullmatch(text) and (text[0] == "[" or "," in text):
        return _elements(text[1:-1])
    if text.startswith(_NO_PROSE) and (quoted or ":" in text or text[0] == "["):
        return _literal(text)
    if quoted:
        return None
    if bare := _BARE.fullmatch(text):
        return [word for part in bare[1].split(",") if (word := part.strip())]
    return _of_postgres(text) if _POSTGRES.fullmatch(text) else None


def _literal(text: str) -> list[Any]:
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("begins like a list and is none") from error
    if not isinstance(value, list):
        raise ValueError(f"a {type(value).__name__}, not a list")
    return value


def _elements(inside: str) -> list[Any]:
    return [_element(match[0]) for match in re.finditer(_ELEMENT, inside, re.DOTALL)]


def _element(text: str) -> Any:
    if text[0] not in "'\"":
        return None if text[0].isalpha() else float(text) if "." in text else int(text)
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):  # an escape that Python does not have
        return text[1:-1]


def _of_postgres(text: str) -> list[str]:
    row = next(csv.reader([text[1:-1]], doublequote=False, escapechar="\\"), [])
    return [word for word in row if word and word != "NULL"]


def present(items: Iterable[RawItem], missing: Collection[str], file: str, quality: Quality) -> Iterator[RawItem]:
    """Items without the fields that only say that there is nothing, such as `nan`; and without items whose id does.
    Each is counted.

    Args:
        missing: words that stand for nothing.
    """
    words = frozenset(missing)
    for item in items:
        if item.item_id in words:
            quality.add(file, "item_without_id", "dropped", 1, ((item.title or "untitled")[:60],))
            continue
        texts = (item.title, item.description, item.brand, item.image_url, *item.categories, *item.gallery_urls)
        if words.isdisjoint(map(str.strip, texts)) and not isinstance(item.price, str):
            yield item
            continue
        for name in ("title", "description", "brand", "image_url", "price"):
            value = getattr(item, name)
            if isinstance(value, str) and value.strip() in words:
                setattr(item, name, "")
                quality.add(file, f"{name}_missing_word", "repaired", 1, (item.item_id,))
        for name in ("categories", "gallery_urls"):
            values = getattr(item, name)
            kept = [value for value in values if value.strip() not in words]
            if len(kept) < len(values):
                setattr(item, name, kept)
                quality.add(file, f"{name}_missing_word", "repaired", 1, (item.item_id,))
        yield item
