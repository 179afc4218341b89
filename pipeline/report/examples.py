"""The items, captions and users that a report shows, as plain values for the templates and the page's script."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

from pipeline.report.selection import Selection, pick
from pipeline.report.wording import shown
from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.report import ReportConfig

MAX_DESCRIPTION = 280
"""Characters of a description that the gallery shows."""


class Caption(NamedTuple):
    """An item's caption, "" where it has none, and its status."""

    text: str = ""
    status: str = ""


Captions = Mapping[str, Caption]
"""Item id → caption, of the items shown."""


def read_captions(store: Store, tables: Mapping[str, TableVersion], selection: Selection) -> Captions:
    """The captions of the items shown."""
    captions: dict[str, Caption] = {}
    if "captions" in tables:
        for batch in store.batches(tables["captions"], ["item_id", "caption", "status"], 8192):
            for row in batch.to_pylist():
                if row["item_id"] in selection.number:
                    captions[row["item_id"]] = Caption(shown(row["caption"], 240), row["status"])
    return captions


def gallery(selection: Selection, captions: Captions) -> dict[str, list[Any]]:
    """The items for the page's script: columns rather than records, as the names would weigh more than the values."""
    rows = selection.rows
    return {
        "id": [shown(item, 120) for item in selection.ids],
        "title": [title_of(row) for row in rows],
        "description": [shown(row["description"], MAX_DESCRIPTION) for row in rows],
        "brand": [shown(row["brand"], 60) for row in rows],
        "path": [" › ".join(shown(name, 40) for name in row["categories"][:4]) for row in rows],
        "price": [row["price"] if isfinite(row["price"] or 0.0) else None for row in rows],
        "caption": [captions.get(item, Caption()).text for item in selection.ids],
        "chosen": selection.chosen,
        "category": selection.category,
        "categories": selection.categories,
    }


def title_of(row: Mapping[str, Any]) -> str:
    """What to call an item."""
    return shown(row["title"], 140) or f"Untitled ({shown(row['item_id'], 60)})"


def caption_examples(selection: Selection, captions: Captions, config: ReportConfig) -> list[dict[str, Any]]:
    """Captions, failed ones among them, picked at random."""
    notable = [item for item, c in captions.items() if c.text or c.status not in ("ok", "no_image")]
    return [
        {
            "number": selection.number[item],
            "title": title_of(selection.rows[selection.number[item]]),
            "caption": captions[item].text,
            "status": captions[item].status,
        }
        for item in pick(sorted(notable), config.captions, config.seed)
    ]


def user_examples(selection: Selection) -> list[dict[str, Any]]:
    """The users shown: what they chose, what is recommended and why, and what they chose later."""
    return [
        {
            "user": shown(user.user_id, 60),
            "history": [_card(selection, item) for item in user.history],
            "recommended": [
                _card(selection, place.item_id)
                | {"chosen": place.chosen, "because": [_card(selection, reason) for reason in place.because]}
                for place in user.recommended
            ],
            "later": [_card(selection, item) for item in user.later],
            "hits": sum(place.chosen == "later" for place in user.recommended),
        }
        for user in selection.users
    ]


def _card(selection: Selection, item: str) -> dict[str, Any]:
    number = selection.number.get(item)
    return {
        "number": number,
        "title": shown(item, 60) if number is None else title_of(selection.rows[number]),
        "chosen": "",
        "because": [],
    }
