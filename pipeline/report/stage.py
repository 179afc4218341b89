"""Assemble the report: gather, draw, and render until the pictures fit."""

import base64
import hashlib
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

import fsspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.filesystem import write_atomically
from pipeline.machine import threads
from pipeline.report import results, sections
from pipeline.report.selection import Selection, pick, select
from pipeline.report.spaces import Space, spaces
from pipeline.report.thumbnails import Thumbnails
from pipeline.report.wording import FILTERS, shown
from pipeline.store import Store
from schemas.lineage import TableVersion, now
from schemas.report import ReportConfig

logger = logging.getLogger(__name__)

MAX_DESCRIPTION = 280
"""Characters of a description that the gallery shows."""


def run(
    *,
    store: Store,
    tables: Mapping[str, TableVersion],
    output: Path,
    config: ReportConfig,
    previous: Mapping[str, TableVersion] | None = None,
) -> Path:
    """Write the report of one run: one HTML file that opens from disk and asks the network for nothing.

    Args:
        tables: table name, e.g. "features/clip" → version; a section whose table is absent says so.
        output: the file to write, replaced atomically; its folder is made.
        previous: the tables of the run to compare with.

    Raises:
        OSError: the file cannot be written.
    """
    selection = select(store, tables, config)
    with ThreadPoolExecutor(threads(), "map") as pool:
        begun = [pool.submit(fill) for fill in spaces(store, tables, selection, config)]
        thumbnails = Thumbnails.read(store, tables.get("images"), set(selection.ids), config.thumbnail)
        captions = _captions(store, tables, selection)
        context = _context(store, tables, previous, selection, captions, config)
        found = [future.result() for future in begun]
    context |= {"spaces": found, "mapped": [(number, space) for number, space in enumerate(found) if space.map]}
    payload = _payload(selection, found, captions, thumbnails)
    template = environment().get_template("report.html.jinja")
    bare = template.render(context, payload=payload | {"thumbs": []})
    pictures = thumbnails.encode(config.max_bytes - len(bare.encode()) - 4 * len(thumbnails.place))
    html = template.render(context, payload=payload | {"thumbs": pictures}).encode()
    write_atomically(fsspec.filesystem("file"), str(output.absolute()), html)
    logger.info("report of %d items: %s, %.1f MB", len(selection.ids), output, len(html) / 1e6)
    return output


def _context(
    store: Store,
    tables: Mapping[str, TableVersion],
    previous: Mapping[str, TableVersion] | None,
    selection: Selection,
    captions: dict[str, tuple[str, str]],
    config: ReportConfig,
) -> dict[str, Any]:
    """Everything the templates read but the spaces and the script's data."""
    test = results.scores(store, tables.get("metrics"), "test")
    before = results.scores(store, previous.get("metrics") if previous else None, "test")
    headline = ("ndcg", config.cutoff)
    ours, theirs = test.get((config.model, *headline)), test.get((config.baseline, *headline))
    datasets = sorted({version.dataset for version in tables.values()})
    return {
        "config": config,
        "tables": tables,
        "dataset": shown(", ".join(datasets) or "an empty run", 80),
        "created": max((version.created for version in tables.values()), default=now()),
        "overview": sections.overview(store, tables),
        "previous": previous,
        "changes": sections.changes(store, tables, previous),
        "score_changes": _score_changes(test, before, config),
        "ours": ours,
        "theirs": theirs,
        "gain": results.gain(ours, theirs),
        "quality": sections.quality(store, tables),
        "images": sections.images(store, tables),
        "coverage": sections.coverage(store, tables),
        "graph": sections.graph(store, tables),
        "lineage": sections.lineage(tables),
        "selection": selection,
        "captions": _caption_examples(selection, captions, config),
        "training": results.training(store, tables),
        "metrics": results.metrics(test, config),
        "cold": results.cold(test, config),
        "users": _user_examples(selection),
    }


def _payload(
    selection: Selection, found: list[Space], captions: dict[str, tuple[str, str]], thumbnails: Thumbnails
) -> dict[str, Any]:
    """What the page's script reads: columns rather than records, as the names would weigh more than the values."""
    rows = selection.rows
    return {
        "id": [shown(item, 120) for item in selection.ids],
        "title": [title_of(row) for row in rows],
        "description": [shown(row["description"], MAX_DESCRIPTION) for row in rows],
        "brand": [shown(row["brand"], 60) for row in rows],
        "path": [" › ".join(shown(name, 40) for name in row["categories"][:4]) for row in rows],
        "price": [row["price"] if isfinite(row["price"] or 0.0) else None for row in rows],
        "caption": [captions.get(item, ("", ""))[0] for item in selection.ids],
        "chosen": selection.chosen,
        "category": selection.category,
        "categories": selection.categories,
        "thumb": [thumbnails.place.get(item) for item in selection.ids],
        "spaces": [space.payload() for space in found],
    }


def title_of(row: Mapping[str, Any]) -> str:
    """What to call an item."""
    return shown(row["title"], 140) or f"Untitled ({shown(row['item_id'], 60)})"


def _captions(store: Store, tables: Mapping[str, TableVersion], selection: Selection) -> dict[str, tuple[str, str]]:
    """Item id → caption and status, of the items shown."""
    found: dict[str, tuple[str, str]] = {}
    if "captions" in tables:
        for batch in store.batches(tables["captions"], ["item_id", "caption", "status"], 8192):
            for row in batch.to_pylist():
                if row["item_id"] in selection.number:
                    found[row["item_id"]] = (shown(row["caption"], 240), row["status"])
    return found


def _caption_examples(
    selection: Selection, captions: dict[str, tuple[str, str]], config: ReportConfig
) -> list[dict[str, Any]]:
    told = sorted(item for item, (caption, status) in captions.items() if caption or status not in ("ok", "no_image"))
    return [
        {
            "number": selection.number[item],
            "title": title_of(selection.rows[selection.number[item]]),
            "caption": captions[item][0],
            "status": captions[item][1],
        }
        for item in pick(told, config.captions, config.seed)
    ]


def _user_examples(selection: Selection) -> list[dict[str, Any]]:
    def told(items: list[str], marked: set[str]) -> list[dict[str, Any]]:
        numbers = [(item, selection.number.get(item)) for item in items]
        return [
            {
                "number": number,
                "title": title_of(selection.rows[number]) if number is not None else shown(item, 60),
                "hit": item in marked,
            }
            for item, number in numbers
        ]

    return [
        {
            "user": shown(user.user_id, 60),
            "history": told(user.history, set()),
            "recommended": told(user.recommended, set(user.later)),
            "later": told(user.later, set()),
            "hits": len(set(user.later) & set(user.recommended)),
        }
        for user in selection.users
    ]


def _score_changes(test: results.Scores, before: results.Scores, config: ReportConfig) -> list[dict[str, Any]]:
    keys = [(config.model, metric, config.cutoff) for metric in ("ndcg", "recall")]
    return [
        {"label": results.label(key[1], key[2]), "old": before[key].mean, "new": test[key].mean}
        for key in keys
        if key in test and key in before
    ]


def environment() -> Environment:
    """Jinja with everything escaped, undefined names refused, and the report's filters and assets."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS, model_title=results.model_title)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    for name in ("style.css", "script.js"):
        # S704: our own files; `</` cannot occur in them, which a test checks
        environment.globals[name.partition(".")[0]] = Markup(_asset(name))  # noqa: S704
    digest = base64.b64encode(hashlib.sha256(_asset("script.js").encode()).digest()).decode()
    environment.globals["script_hash"] = f"sha256-{digest}"
    return environment


def _asset(name: str) -> str:
    return files("pipeline.report.templates").joinpath(name).read_text(encoding="utf-8")
