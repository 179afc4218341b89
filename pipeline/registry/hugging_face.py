"""A data set's tables as a folder that Hugging Face's `datasets` opens: pictures as images, splits, and a card."""

import json
import shlex
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import consent
from pipeline.store import Store
from schemas.errors import UserError
from schemas.export import HubExported
from schemas.lineage import TableVersion
from schemas.tables import ImageStatus

ROWS = 256
"""Rows in memory at a time where there are pictures."""
BATCH_ROWS = 8192
WHOLE = ("captions", "similarity")
"""Tables that are copied as they are, beside `features/*`."""
SPLITS = {"train": "train", "valid": "validation", "test": "test"}
"""Value of `interactions.split` → what `datasets` calls it."""
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""How `datasets` keeps a picture."""


def run(*, store: Store, tables: Mapping[str, TableVersion], folder: Path) -> HubExported:
    """Write one subset of the data set per table into `folder`, all or none.

    Args:
        tables: of one registered version, or the latest; `items` must be among them.

    Raises:
        UserError: `folder` exists already.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already; expected a new folder. Name another, or remove it.")
    working = folder.with_name(f".{uuid.uuid4().hex}")
    working.mkdir(parents=True)
    try:
        subsets = {"items": {"train": _items(store, tables, working)}}
        if "interactions" in tables:
            subsets["interactions"] = _interactions(store, tables["interactions"], working)
        for name, version in tables.items():
            if name in WHOLE or name.startswith("features/"):
                subset = name.replace("/", "-")
                subsets[subset] = {
                    "train": _write(working / subset / "train.parquet", store.batches(version, rows=ROWS))
                }
        (working / "README.md").write_text(_card(tables, subsets), encoding="utf-8")
        working.replace(folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return HubExported(folder=str(folder), rows={name: sum(of.values()) for name, of in subsets.items()})


def push(folder: Path, repository: str) -> str:
    """Upload an exported folder to the hub, as a private data set if there is none of that name; returns its address.

    Raises:
        UserError: nobody is logged in, everybody can read the data set of that name, or the hub cannot be reached or
            refuses.
    """
    command = shlex.join(["hf", "upload", repository, str(folder), ".", "--repo-type", "dataset", "--private"])
    again = f"{folder} is whole; to push it again: `{command}`."
    try:
        consent.check_hub()
    except UserError as error:
        raise UserError(f"push: {error} {again}") from error
    from huggingface_hub import HfApi, get_token

    # HTTPError is that of the hub's own HTTP client, which was another library in earlier releases.
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    if not get_token():
        raise UserError(
            f"push: nobody is logged in to the hub. Set HF_TOKEN, or run `hf auth login`; {folder} is whole."
        )
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        if api.repo_info(repository, repo_type="dataset").private:
            return str(api.upload_folder(repo_id=repository, repo_type="dataset", folder_path=folder))
    except (HTTPError, HFValidationError, OSError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise UserError(f"push: the hub does not take {repository}: {line}. {again}") from error
    raise UserError(
        f"push: everybody can read {repository} on the hub; expected a private data set, as the interactions are of "
        f"people. Nothing was uploaded. Name another, or make this one private; {folder} is whole."
    )


def _items(store: Store, tables: Mapping[str, TableVersion], working: Path) -> int:
    """The catalogue, with each item's picture where there is one."""
    rows = store.batches(tables["items"], rows=ROWS)
    if "images" not in tables:
        return _write(working / "items/train.parquet", rows)
    return _write(working / "items/train.parquet", _with_pictures(rows, Pictures(store, tables["images"])))


def _with_pictures(rows: Iterator[pa.Table], pictures: "Pictures") -> Iterator[pa.Table]:
    for batch in rows:
        cells = [data and {"bytes": data, "path": None} for data in pictures.of(batch["item_id"].to_pylist())]
        yield batch.append_column("image", pa.array(cells, IMAGE))


class Pictures:
    """The pictures of items, which come in the order of the catalogue."""

    def __init__(self, store: Store, images: TableVersion) -> None:
        self._batches = store.batches(images, ["item_id", "status", "image"], ROWS)
        self._waiting: dict[str, bytes | None] = {}

    def of(self, ids: list[str]) -> list[bytes | None]:
        """The stored JPEG of each item; None where it has none. A placeholder is stored, and no item's picture."""
        while any(name not in self._waiting for name in ids) and (batch := next(self._batches, None)) is not None:
            pictures = pc.if_else(pc.equal(batch["status"], ImageStatus.OK), batch["image"], None)
            self._waiting |= zip(batch["item_id"].to_pylist(), pictures.to_pylist(), strict=True)
        return [self._waiting.pop(name, None) for name in ids]


def _interactions(store: Store, version: TableVersion, working: Path) -> dict[str, int]:
    """One file per split; a split without rows has none, as `datasets` refuses empty ones."""
    counts: dict[str, int] = {}
    with ExitStack() as files:
        writers: dict[str, pq.ParquetWriter] = {}
        for batch in store.batches(version, rows=BATCH_ROWS):
            for ours, theirs in SPLITS.items():
                part = batch.filter(pc.equal(batch["split"], ours)).drop_columns("split")
                if not len(part):
                    continue
                if theirs not in writers:
                    path = working / "interactions" / f"{theirs}.parquet"
                    path.parent.mkdir(exist_ok=True)
                    writers[theirs] = files.enter_context(pq.ParquetWriter(path, part.schema, compression="zstd"))
                writers[theirs].write_table(part)
                counts[theirs] = counts.get(theirs, 0) + len(part)
    return counts


def _write(path: Path, batches: Iterator[pa.Table]) -> int:
    path.parent.mkdir(parents=True)
    first = next(batches, None)
    if first is None:
        return 0
    with pq.ParquetWriter(path, _described(first.schema), compression="zstd") as file:
        file.write_table(first)
        rows = len(first)
        for batch in batches:
            file.write_table(batch)
            rows += len(batch)
    return rows


def _described(schema: pa.Schema) -> pa.Schema:
    """The schema with what `datasets` cannot tell from the types: which column is a picture."""
    if "image" not in schema.names:
        return schema
    features = {field.name: _feature(field.type) for field in schema} | {"image": {"_type": "Image"}}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(dtype: pa.DataType) -> dict[str, Any]:
    """A column's type in the words of `datasets`."""
    if pa.types.is_list(dtype):
        return {"_type": "List", "feature": _feature(dtype.value_type)}
    names = {"double": "float64", "float": "float32"}
    return {"_type": "Value", "dtype": names.get(str(dtype), str(dtype))}


def _card(tables: Mapping[str, TableVersion], subsets: Mapping[str, Mapping[str, int]]) -> str:
    """README.md: which files are which subset, for machines; where they come from, for people."""
    dataset = tables["items"].dataset
    configs: list[dict[str, Any]] = [
        {"config_name": name, "data_files": [{"split": s, "path": f"{name}/{s}.parquet"} for s in splits]}
        for name, splits in subsets.items()
        if any(splits.values())
    ]
    configs[0]["default"] = True
    front = {"pretty_name": dataset, "tags": ["recommendation", "multimodal"], "configs": configs}
    rows = [
        f"| `{name}` | {', '.join(f'{split} {count:,}' for split, count in splits.items())} |"
        for name, splits in subsets.items()
    ]
    made = [
        f"| `{name}` | {version.version} | {version.created[:10]} | {version.lineage.get('cm3.encoder', '')} |"
        for name, version in tables.items()
        if name.replace("/", "-") in subsets or name == "images"
    ]
    return "\n".join(
        (
            "---",
            json.dumps(front, indent=2),  # JSON is YAML
            "---",
            f"# {dataset}",
            "",
            "A catalogue with texts and pictures, the interactions of users with it, and features of its items.",
            "",
            "| subset | rows |",
            "|---|---|",
            *rows,
            "",
            "Join on `item_id`. A vector is null where an item lacks the modality. Before you publish this: whose",
            "texts, pictures and interactions are they, and under which licence?",
            "",
            "| table | version | made | encoder |",
            "|---|---|---|---|",
            *made,
            "",
        )
    )
