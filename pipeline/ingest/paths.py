"""Dotted paths into nested records: `product.name`, `images.0.src`, and `images.src` for those of all images."""

from typing import Any


def value_at(record: dict[str, Any], path: str) -> Any:
    """What lies at a path; None if nothing does. A field that has the path as its name comes first.

    In a list a number is a place, from 0, and a name stands for that field of every element.
    """
    if path in record:
        return record[path]
    value: Any = record
    for part in path.split("."):
        value = _inside(value, part)
    return value


def _inside(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    if not isinstance(value, list | tuple):
        return None
    if part.isdecimal():
        return value[int(part)] if int(part) < len(value) else None
    return [inside for each in value if (inside := _inside(each, part)) is not None]
