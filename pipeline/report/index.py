"""The content of a store for `cm3 serve`: data sets, versions, aliases and reports, as values and as pages."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq

from pipeline import history
from pipeline.report.order import in_order
from pipeline.report.rendering import environment
from pipeline.report.wording import shown
from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import TableVersion
from schemas.registry import Registered, RegistryConfig

LAST_RUNS = 30
"""Shown on the page of a data set's history."""
REPORTS = "_reports"
"""`<store>/<dataset>/_reports/<name>.html`: where runs leave their reports."""
HISTORY = "history.html"
"""The last runs as a page, beside the reports, which link to it."""
HTML = "text/html; charset=utf-8"


def datasets(store: Store) -> list[dict[str, Any]]:
    """One entry per data set: its name, latest tables by name, reports, and when the last table was created.

    Of a data set with a damaged manifest only `name` and `reason`, which says what is damaged; it comes last.
    """
    entries: list[dict[str, Any]] = []
    for name in store.datasets():
        try:
            tables = {table: store.latest(name, table) for table in store.tables(name)}
        except UserError as error:
            entries.append({"name": name, "reason": str(error), "created": ""})
            continue
        entry = {
            "name": name,
            "reason": "",
            "tables": tables,
            "size": sum(version.size for version in tables.values()),
            "created": max(version.created for version in tables.values()),
            "reports": reports(store, name),
        }
        entries.append(entry)
    return sorted(entries, key=lambda entry: str(entry["created"]), reverse=True)


def reports(store: Store, dataset: str) -> list[dict[str, Any]]:
    """The reports of a data set, newest first: name, address within the store, size in bytes, time of writing."""
    entries = []
    for path in store.fs.glob(f"{store.root}/{dataset}/{REPORTS}/*.html"):
        if path.endswith(f"/{HISTORY}"):
            continue
        info = store.fs.info(path)
        changed = info.get("mtime") or info.get("LastModified") or 0.0  # local folders and S3 name it differently
        moment = changed if isinstance(changed, datetime) else datetime.fromtimestamp(changed, UTC)
        entry = {
            "name": PurePosixPath(path).stem,
            "address": path[len(store.root) + 1 :],
            "size": info["size"],
            "written": moment.isoformat(timespec="seconds"),
        }
        entries.append(entry)
    return sorted(entries, key=lambda report: str(report["written"]), reverse=True)


def registered(store: Store, dataset: str, config: RegistryConfig | None = None) -> tuple[list[Registered], str]:
    """The registered versions, newest first, and the reason why there are none if the registry cannot be asked."""
    tracking = (config and config.tracking) or os.environ.get("MLFLOW_TRACKING_URI")
    if not tracking and store.is_local and not Path(store.root, "_mlflow").exists():
        return [], ""  # asking would create an empty registry, and a page only reads
    from pipeline.registry import versions  # MLflow takes seconds to import; the other pages do not need it

    try:
        return list(reversed(versions.registered(store, dataset, config))), ""
    except UserError as error:
        return [], str(error)


def respond(store: Store, path: str) -> tuple[int, str, bytes]:
    """The page at a URL's path: `/`, `/<dataset>`, `/<dataset>/history`, `/<dataset>/table/<table>` or
    `/<dataset>/report/<name>`; `/<dataset>/report/history.html` is where a report's link to the history leads.

    Names are compared with what the store lists, never joined into a path, so a request cannot leave the store.

    Returns: HTTP status, content type, body.
    """
    parts = [unquote(part) for part in path.strip("/").split("/") if part]
    if not parts:
        return 200, HTML, _render("index.html.jinja", store, entries=datasets(store))
    dataset, rest = parts[0], parts[1:]
    if dataset not in store.datasets():
        return _missing(store, f"There is no data set {shown(dataset, 80)!r} in this store.")
    if not rest:
        return 200, HTML, _dataset_page(store, dataset)
    kind, name = rest[0], "/".join(rest[1:])
    if (kind == "history" and not name) or (kind == "report" and name == HISTORY):
        return 200, HTML, _history_page(store, dataset, is_served=True)
    if kind == "table" and name in store.tables(dataset):
        return 200, HTML, _table_page(store, dataset, name)
    if kind == "report":
        for report in reports(store, dataset):
            if name == report["name"]:
                return 200, HTML, store.fs.cat_file(f"{store.root}/{report['address']}")
    return _missing(store, f"{shown(dataset, 80)} has nothing at {shown('/'.join(rest), 120)!r}.")


def api(store: Store, document: dict[str, Any]) -> bytes:
    """The page that shows an OpenAPI document to people."""
    return _render("api.html.jinja", store, document=document)


def _dataset_page(store: Store, dataset: str) -> bytes:
    versions, reason = registered(store, dataset)
    tables = {table: store.versions(dataset, table) for table in in_order(set(store.tables(dataset)))}
    latest = {table: store.latest(dataset, table).version for table in tables}
    written = reports(store, dataset)
    return _render(
        "dataset.html.jinja",
        store,
        dataset=dataset,
        tables=tables,
        latest=latest,
        registered=versions,
        reason=reason,
        reports=written,
        addresses={report["address"]: report["name"] for report in written},
    )


def put_history(store: Store, dataset: str) -> None:
    """Write the last runs as a page beside the reports: from the runs' records alone, and without a link elsewhere."""
    with store.locked(dataset):  # of two runs that end together, the second to write has read both records
        store.put(f"{dataset}/{REPORTS}/{HISTORY}", _history_page(store, dataset, is_served=False))


def _history_page(store: Store, dataset: str, *, is_served: bool) -> bytes:
    from pipeline.report import trends  # matplotlib takes a second to import, which the other pages do not need

    try:
        runs, reason = history.read(store, dataset, LAST_RUNS), ""
    except UserError as error:
        runs, reason = [], str(error)
    return _render(
        "history.html.jinja",
        store,
        dataset=dataset,
        runs=runs,
        reason=reason,
        charts=trends.drawn(runs) if runs else [],
        is_served=is_served,
    )


def _table_page(store: Store, dataset: str, table: str) -> bytes:
    latest = store.latest(dataset, table)
    versions = list(reversed(store.versions(dataset, table)))
    lineage = {key.removeprefix("cm3."): value for key, value in latest.lineage.items()}
    return _render(
        "table.html.jinja",
        store,
        dataset=dataset,
        table=table,
        latest=latest,
        versions=versions,
        columns=_columns(store, latest),
        lineage=lineage,
        config=_indented(lineage.get("config", "{}")),
        inputs=json.loads(lineage.get("inputs", "{}")),
        tables=store.tables(dataset),
    )


def _columns(store: Store, version: TableVersion) -> list[dict[str, Any]]:
    """Name, type and whether null may occur, from the first file's footer; none where the version is no table."""
    part = f"{store.inside(version.path)}/{min(version.files)}"
    if not part.endswith(".parquet"):
        return []
    with store.fs.open(part, "rb") as file:
        schema = pq.read_schema(file)
    return [{"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in schema]


def _indented(config: str) -> str:
    return json.dumps(json.loads(config), indent=2, ensure_ascii=False)


def _missing(store: Store, message: str) -> tuple[int, str, bytes]:
    return 404, HTML, _render("missing.html.jinja", store, message=message)


def _render(template: str, store: Store, **context: Any) -> bytes:
    return environment().get_template(f"ui/{template}").render(context, store=shown(store.uri, 200)).encode()
