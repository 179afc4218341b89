"""Assemble the report: gather, draw, and render until the pictures fit."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import joblib

from pipeline.filesystem import write_atomically
from pipeline.machine import threads
from pipeline.report import encoders, examples, results, sections
from pipeline.report.delivery import delivery
from pipeline.report.rendering import environment
from pipeline.report.selection import Selection, select
from pipeline.report.spaces import spaces
from pipeline.report.thumbnails import Thumbnails
from pipeline.report.wording import shown
from pipeline.store import Store
from schemas.contracts import Verdict
from schemas.lineage import TableVersion, now
from schemas.report import ReportConfig

logger = logging.getLogger(__name__)


def run(
    *,
    store: Store,
    tables: Mapping[str, TableVersion],
    output: Path,
    config: ReportConfig,
    previous: Mapping[str, TableVersion] | None = None,
    verdicts: Sequence[Verdict] = (),
    history: str = "",
    encoder_comparison: TableVersion | None = None,
) -> Path:
    """Write the report of one run: one HTML file that opens from disk and loads nothing from the network.

    Args:
        tables: table name, e.g. "features/clip" → version; what has no table has no section.
        output: the file to write, replaced atomically; its folder is created.
        previous: the tables of the run to compare with.
        verdicts: what the contracts said of the tables.
        history: where the page of the last runs lies, as an address relative to the report's; no link without it.
        encoder_comparison: the last comparison of encoders, which is no table of the run.

    Raises:
        OSError: the file cannot be written.
    """
    selection = select(store, tables, config)
    # t-SNE asks for it by a subprocess, once per process. Where Python forks for that, OpenBLAS would wait for ever for
    # the threads of another map; so it is asked for before there are any.
    joblib.cpu_count(only_physical_cores=True)
    with ThreadPoolExecutor(threads(), "map") as pool:
        futures = [pool.submit(fill) for fill in spaces(store, tables, selection, config)]
        quality = sections.quality(store, tables)
        wanted = {*selection.ids, *(item for row in quality for item in row["pictured"])}
        thumbnails = Thumbnails.read(store, tables.get("images"), wanted, config.thumbnail)
        for row in quality:
            row["thumbs"] = [thumbnails.place[item] for item in row["pictured"] if item in thumbnails.place]
        captions = examples.read_captions(store, tables, selection)
        context = _context(store, tables, previous, selection, captions, config) | {
            "quality": quality,
            "verdicts": sections.contracts(verdicts),
            "history": history,
            "encoders": encoders.section(store, encoder_comparison),
        }
        all_spaces = [future.result() for future in futures]
    context["mapped"] = [(number, space) for number, space in enumerate(all_spaces) if space.map]
    context["contents"] = sections.contents(context)
    payload = examples.gallery(selection, captions) | {
        "thumb": [thumbnails.place.get(item) for item in selection.ids],
        "spaces": [space.payload() for space in all_spaces],
    }
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
    captions: examples.Captions,
    config: ReportConfig,
) -> dict[str, Any]:
    """Everything that the templates read except the map and the script's data."""
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
        "mappable": sections.mappable(tables),
        "previous": previous,
        "changes": sections.changes(store, tables, previous),
        "score_changes": results.changes(test, before, config),
        "ours": ours,
        "theirs": theirs,
        "gain": results.gain(ours, theirs),
        "in_time": sections.is_split_in_time(tables),
        "images": sections.images(store, tables),
        "coverage": sections.coverage(store, tables),
        "attributes": sections.attributes(store, tables),
        "graph": sections.graph(store, tables),
        "delivery": delivery(tables),
        "lineage": sections.lineage(tables),
        "selection": selection,
        "captions": examples.caption_examples(selection, captions, config),
        "training": results.training(store, tables),
        "metrics": results.metrics(test, config),
        "cold": results.cold(test, config),
        "hidden": results.hidden(store, tables.get("metrics"), config),
        "users": examples.user_examples(selection),
    }
