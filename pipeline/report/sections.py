"""What each section of the report says, as plain values for the templates."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import polars
import pyarrow.compute as pc

from pipeline.report.order import in_order
from pipeline.report.selection import Tables
from pipeline.report.wording import shown
from pipeline.similarity.duplicates import duplicates
from pipeline.similarity.quality import assess
from pipeline.store import Store
from schemas.contracts import Verdict
from schemas.lineage import TableVersion
from schemas.tables import ImageStatus

CONTENTS = {
    "summary": "Summary",
    "quality": "Quality",
    "coverage": "Coverage",
    "graph": "Graph",
    "items": "Items",
    "captions": "Captions",
    "map": "Map",
    "metrics": "Metrics",
    "cold": "Cold items",
    "encoders": "Encoders",
    "users": "Users",
    "training": "Training",
    "lineage": "Tables",
}
"""Sections in their order, with what the navigation calls them."""
MAX_HOSTS = 12
MAX_EXAMPLES = 3
MAX_VALUES = 8


def contents(context: Mapping[str, Any]) -> dict[str, str]:
    """The sections that this run has something to say in, as `CONTENTS`. Args: context: what the templates read."""
    holds = {
        "summary": True,
        "quality": "quality" in context["tables"] or context["verdicts"] or context["images"],
        "items": context["selection"].ids,
        "captions": context["captions"] or context["attributes"],
        "map": context["mapped"],
        "cold": context["cold"] or context["hidden"],
        "training": context["training"][0],
    }
    return {name: title for name, title in CONTENTS.items() if (holds[name] if name in holds else context[name])}


def mappable(tables: Tables) -> str:
    """The reference of the table whose map `cm3 export --to atlas` draws whole; empty if none has vectors of items."""
    names = [name for name in tables if name.startswith("features/") or name == "embeddings/items"]
    if not names:
        return ""
    version = tables[in_order(set(names))[-1]]
    return f"{version.dataset}/{version.table}@{version.version[:8]}"


def overview(store: Store, tables: Tables) -> dict[str, Any]:
    """Numbers of items, users and interactions; None where their table is absent or empty."""
    users: set[str] = set()
    interactions = 0
    if "interactions" in tables:
        interactions = tables["interactions"].rows
        for batch in store.batches(tables["interactions"], ["user_id"], 65536):
            users.update(batch["user_id"].to_pylist())
    items = tables["items"].rows if "items" in tables else None
    return {
        "items": items,
        "users": len(users) or None,
        "interactions": interactions or None,
        "density": interactions / (len(users) * items) if users and items else None,
    }


def is_split_in_time(tables: Tables) -> bool:
    """Whether all that is judged was chosen after what its user chose in training."""
    if "interactions" not in tables:
        return False
    split = json.loads(tables["interactions"].lineage.get("cm3.config", "{}")).get("split")
    return split in ("leave_one_out", "global_time")


def changes(store: Store, tables: Tables, previous: Tables | None) -> list[dict[str, Any]]:
    """Every table with its previous version and its state: "new", "changed", "same" or "gone"."""
    if not previous:
        return []
    rows = []
    for name in in_order(set(tables) | set(previous)):
        old, new = previous.get(name), tables.get(name)
        if old is None or new is None:
            state = "gone" if new is None else "new"
        else:
            state = "same" if old.key == new.key else "changed"
        rows.append({"table": name, "state": state, "old": old, "new": new, "detail": ""})
        if old and new and state == "changed" and name == "items":
            rows[-1]["detail"] = _item_changes(store, old, new)
    return rows


def quality(store: Store, tables: Tables) -> list[dict[str, Any]]:
    """What was dropped, repaired or is doubtful, by rule, the largest counts first; of a rule about pictures also
    `pictured`, the items whose pictures are its examples."""
    if "quality" not in tables:
        return []
    rows = store.read(tables["quality"]).to_pylist()
    for row in rows:
        row["pictured"] = row["examples"] if row["source"] == "images" else []
        row["rule"] = shown(row["rule"].replace("_", " "), 120)
        row["examples"] = [shown(example, 60) for example in row["examples"] if example]
    return sorted((row for row in rows if row["count"]), key=lambda row: (row["action"], -row["count"]))


def contracts(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """One row per contract and part, the broken ones first."""
    rows = [
        {
            "rule": verdict.rule.replace("_", " "),
            "part": shown(verdict.part, 80),
            "figure": verdict.amount(verdict.figure),
            "limit": verdict.amount(verdict.limit),
            "state": verdict.state,
            "examples": [shown(example, 60) for example in verdict.examples],
        }
        for verdict in verdicts
    ]
    return sorted(rows, key=lambda row: row["state"] == "kept")


def images(store: Store, tables: Tables) -> dict[str, Any] | None:
    """Pictures by host and status: the statuses that occur, "ok" first, and one row per host, the largest first."""
    if "images" not in tables:
        return None
    by_host: dict[str, Counter[str]] = defaultdict(Counter)
    for batch in store.batches(tables["images"], ["url", "status"], 65536):
        for row in batch.to_pylist():
            by_host[host(row["url"])][row["status"]] += 1
    total = sum(by_host.values(), Counter())
    statuses = sorted(total, key=lambda status: (status != ImageStatus.OK, -total[status], status))
    ranked = sorted(by_host, key=lambda name: (-by_host[name].total(), name))
    hosts = [{"host": name, "counts": by_host[name], "total": by_host[name].total()} for name in ranked[:MAX_HOSTS]]
    if rest := ranked[MAX_HOSTS:]:
        counts = sum((by_host[name] for name in rest), Counter())
        hosts.append({"host": f"{len(rest):,} further hosts", "counts": counts, "total": counts.total()})
    return {"statuses": statuses, "hosts": hosts, "total": total, "rows": total.total()}


def host(url: str | None) -> str:
    """The host of a picture's address, without credentials."""
    if not url:
        return "no address"
    try:
        return shown(urlsplit(url).netloc.rsplit("@")[-1], 60) or "no host"
    except ValueError:
        return "unreadable address"


def coverage(store: Store, tables: Tables) -> list[dict[str, Any]]:
    """Share of items that have each modality, in the order the data flows."""
    rows: list[dict[str, Any]] = []
    if "items" in tables:
        filled: Counter[str] = Counter()
        for batch in store.batches(tables["items"], ["title", "description", "brand", "price", "text"], 8192):
            for name in batch.column_names:
                filled[name] += len(batch) - batch[name].null_count
        rows += [_share(name, filled[name], tables["items"].rows) for name in filled]
    if "images" in tables:
        batches = store.batches(tables["images"], ["status"], 65536)
        count = sum(pc.sum(pc.equal(batch["status"], "ok")).as_py() or 0 for batch in batches)
        rows.append(_share("picture", count, tables["images"].rows))
    if "captions" in tables:
        rows.append(_filled(store, tables["captions"], "caption", "caption"))
    for name in in_order({t for t in tables if t.startswith("features/")}):
        rows.append(_filled(store, tables[name], "content_hash", name.removeprefix("features/") + " vectors"))
    if "embeddings/items" in tables and "items" in tables:
        rows.append(_share("trained embedding", tables["embeddings/items"].rows, tables["items"].rows))
    return rows


def attributes(store: Store, tables: Tables) -> list[dict[str, Any]]:
    """Of each attribute that the captioner was asked for, the share of items that have it, and its commonest values."""
    prefix = "attribute_"
    if "captions" not in tables:
        return []
    counts: dict[str, Counter[str]] = {}
    for batch in store.batches(tables["captions"], rows=8192):
        for name in (name for name in batch.column_names if name.startswith(prefix)):
            said = counts.setdefault(name.removeprefix(prefix), Counter())
            said.update(value for value in batch[name].to_pylist() if value is not None)
    return [
        _share(name, said.total(), tables["captions"].rows)
        | {"values": [(shown(value, 60), count) for value, count in said.most_common(MAX_VALUES)]}
        for name, said in counts.items()
    ]


def graph(store: Store, tables: Tables) -> dict[str, Any] | None:
    """The similarity graph's measures by feature, and how exact it is; None where it or its features are absent."""
    version = tables.get("similarity")
    inputs = json.loads(version.lineage.get("cm3.inputs", "{}")) if version else {}
    names = [name for name in inputs if name.startswith("features/") and name in tables]
    features = {name.removeprefix("features/"): tables[name] for name in names}
    if version is None or not features:
        return None
    measures = assess(store=store, graph=version, features=features, interactions=tables.get("interactions"))
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    agreement = []
    for row in measures.to_pylist():
        if row["other"] is None:
            rows[row["feature"]][row["measure"]] = row["value"]
        else:
            agreement.append((row["feature"], row["other"], row["value"]))
    pairs = polars.DataFrame(duplicates(store=store, graph=version, features=features))
    groups = pairs.group_by("feature", "kind", maintain_order=True).agg(
        polars.len().alias("count"), polars.struct("item_id", "duplicate_id").head(MAX_EXAMPLES).alias("examples")
    )
    measured = json.loads(version.lineage.get("cm3.measured", "{}"))
    return {"rows": rows, "agreement": agreement, "duplicates": groups.to_dicts(), "measured": measured}


def lineage(tables: Tables) -> list[dict[str, Any]]:
    """One row per table: what it was made from, and by which model."""
    rows = []
    for name in in_order(set(tables)):
        version = tables[name]
        inputs = json.loads(version.lineage.get("cm3.inputs", "{}"))
        row = {
            "table": name,
            "version": version,
            "inputs": sorted(inputs),
            "encoder": shown(version.lineage.get("cm3.encoder", ""), 80),
            "revision": shown(version.lineage.get("cm3.revision", ""), 40),
            "license": shown(version.lineage.get("cm3.license", ""), 60),
        }
        rows.append(row)
    return rows


def _item_changes(store: Store, old: TableVersion, new: TableVersion) -> str:
    before, after = _contents(store, old), _contents(store, new)
    altered = sum(before[item] != content for item, content in after.items() if item in before)
    parts = [(len(after.keys() - before.keys()), "added"), (len(before.keys() - after.keys()), "removed")]
    return ", ".join(f"{number:,} {what}" for number, what in [*parts, (altered, "altered")] if number)


def _contents(store: Store, version: TableVersion) -> dict[str, int]:
    """Item id → a hash of what its row says of the item, valid within this process."""
    rows = (row | {"interactions": None} for batch in store.batches(version) for row in batch.to_pylist())
    return {row["item_id"]: hash(repr(row)) for row in rows}


def _filled(store: Store, version: TableVersion, column: str, name: str) -> dict[str, Any]:
    nulls = sum(batch[column].null_count for batch in store.batches(version, [column], 8192))
    row = _share(name, version.rows - nulls, version.rows)
    row["encoder"] = shown(version.lineage.get("cm3.encoder", ""), 80)
    batches = (batch for batch in store.batches(version, ["cut"], 65536) if "cut" in batch.column_names)
    row["cut"] = sum(pc.sum(batch["cut"]).as_py() or 0 for batch in batches)
    return row


def _share(name: str, count: int, total: int) -> dict[str, Any]:
    share = count / total if total else 0.0
    return {"name": name, "count": count, "total": total, "share": share, "encoder": "", "cut": 0}
