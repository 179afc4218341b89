"""Defects planted in the demo's catalogue, one of each kind that real catalogues have."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.demo import DemoConfig

_HTML = '<b>{title}</b> &amp; <i>gift box</i><script>alert("demo")</script>'
_NOT_FOUND = b"<!doctype html><title>Sorry</title><p>This picture has moved.</p>"


@dataclass(frozen=True)
class Broken:
    """Pictures to damage after drawing, as paths relative to the catalogue."""

    truncated: str
    html: str
    missing: str

    def damage(self, folder: Path) -> None:
        """Cut one file short, replace one by a page of HTML, remove one."""
        data = (folder / self.truncated).read_bytes()
        (folder / self.truncated).write_bytes(data[: len(data) // 3])
        (folder / self.html).write_bytes(_NOT_FOUND)
        (folder / self.missing).unlink()


def plant(rows: list[dict[str, Any]], choices: list[list[Any]], config: DemoConfig) -> Broken:
    """Add the defects to `rows` of items and `choices` of users, in place.

    On products that many users chose, so that they survive k-core filtering: a truncated JPEG, an HTML page under a
    picture's name, a picture that gives 404, a title with HTML, two items with one picture. Elsewhere: an item listed
    twice, an item without id, a choice of an unknown item, a choice made twice.
    """
    chosen = Counter(choice[1] for choice in choices)
    pictured = [row for row in rows if row["image"]]
    popular = sorted(pictured, key=lambda row: (-chosen[row["id"]], row["id"]))
    truncated, html, missing, titled, original, copy, twice = (
        popular[len(popular) // 8 + 2 * place] for place in range(7)
    )
    titled["title"] = _HTML.format(title=titled["title"])
    copy["image"] = original["image"]
    rows.append(dict(twice))
    rows.append({**rows[config.seed % len(rows)], "id": None, "title": "A product that nobody gave an id"})
    choices.append([choices[0][0], "D9999", 4, choices[0][3]])
    choices.append(list(choices[1]))
    return Broken(truncated=truncated["image"], html=html["image"], missing=missing["image"])
