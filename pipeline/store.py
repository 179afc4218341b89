"""Published tables, and the trained model: immutable, content-keyed versions in a local folder or an S3 bucket.

Layout, for data set `d`, table `t` and version `v` (the first 16 hex digits of its key):

    <store>/d/t/v.parquet/part-00000.parquet …   Parquet files and nothing else
    <store>/d/t/v.files/…                        instead of it, where the version is no table: the trained model
    <store>/d/t/v.json                           the manifest; a version exists if its manifest does
    <store>/d/t/latest                           the name of the version that the last run produced, once judged

The manifest is written last, in one atomic step, so a reader sees a whole version or none.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ContextDecorator, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import locks
from pipeline.filesystem import file_sha256, open_filesystem, write_atomically
from pipeline.table_writer import TableWriter
from schemas.errors import StoreError, UserError
from schemas.lineage import Lineage, TableVersion, now

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""One folder or file in a store: never `..`, nothing absolute, no pattern."""
Filters = list[tuple[str, str, Any]]
"""Column, comparison (`=`, `in`), value; all must hold."""
READ_BYTES = 1 << 20
"""Bytes read ahead per column while streaming. Without a limit Arrow holds whole row groups, both compressed and
decompressed; with threads, each would keep memory of its own."""


class Store:
    """A place where tables are published.

    Args:
        uri: a folder or an fsspec URL such as `s3://bucket/prefix`.
        moves_latest: whether a version becomes the latest when it is published or found; else `set_latest` decides.
    """

    def __init__(self, uri: str | Path, *, moves_latest: bool = True) -> None:
        self.moves_latest = moves_latest
        self.fs, root = open_filesystem(str(uri))
        self.root = root.rstrip("/")
        self.is_local = isinstance(self.fs, fsspec.implementations.local.LocalFileSystem)
        self.uri = self.root if self.is_local else self.fs.unstrip_protocol(self.root)

    def __str__(self) -> str:
        return self.uri

    def find(self, lineage: Lineage) -> TableVersion | None:
        """The version with this lineage's key, marked `reused`; None if there is none, or its manifest is damaged."""
        with self.locked(lineage.dataset):
            version = self._load(lineage.dataset, lineage.table, lineage.key()[:16])
            if version is None or version.key != lineage.key() or not self._settle(version):
                return None
        return version.model_copy(update={"reused": True})

    def again(self, version: TableVersion) -> TableVersion:
        """A published version as the run that made it would find it again, marked `reused`.

        Raises:
            UserError: it was removed meanwhile.
        """
        if self.moves_latest:
            self.set_latest(version)
        return version.model_copy(update={"reused": True})

    def latest(self, dataset: str, table: str) -> TableVersion:
        """What the last run published.

        Raises:
            UserError: nothing was published under that name.
        """
        name = self.latest_name(dataset, table)
        if name is None:
            raise UserError(self._nothing_published(dataset, table))
        if not _NAME.fullmatch(name):
            pointer = self._path(dataset, table, "latest")
            raise UserError(f"{pointer} is damaged: expected a version's name. Run the flow again: it is written anew.")
        return self.get(dataset, table, name)

    def has_latest(self, dataset: str, table: str) -> bool:
        """Whether a version of that table was ever made the latest; it may be gone."""
        return bool(self.fs.exists(self._path(dataset, table, "latest")))

    def set_latest(self, version: TableVersion) -> None:
        """Make a published version the latest of its table.

        Raises:
            StoreError: the store cannot be written.
            UserError: the version was removed meanwhile.
        """
        name = f"{version.dataset}/{version.table}@{version.version}"
        with explained(f"{version.dataset}/{version.table}/latest", self), self.locked(version.dataset):
            if not self._set_latest(version):
                raise UserError(f"{name} was removed meanwhile (`cm3 gc`?). Run again.")

    def forget_latest(self, dataset: str, table: str) -> None:
        """Let a table have no latest version, as before the first run.

        Raises:
            StoreError: the store cannot be written.
        """
        with explained(f"{dataset}/{table}/latest", self), self.locked(dataset):
            self.fs.rm_file(self._path(dataset, table, "latest"))

    def get(self, dataset: str, table: str, version: str) -> TableVersion:
        """One version by its name or an unambiguous beginning of it.

        Raises:
            UserError: there is no such version, or more than one, or its manifest is damaged.
        """
        exact = self._load(dataset, table, version)
        if exact is not None:
            return exact
        published = self.versions(dataset, table)
        matches = [candidate for candidate in published if candidate.version.startswith(version)]
        if len(matches) != 1:
            names = ", ".join(candidate.version for candidate in published) or "none"
            raise UserError(
                f"{dataset}/{table} has no single version {version!r} in {self}; published versions: {names}."
            )
        return matches[0]

    def has(self, dataset: str, table: str, version: str) -> bool:
        """Whether there is a version of exactly that name."""
        return bool(self.fs.exists(self._path(dataset, table, f"{version}.json")))

    def versions(self, dataset: str, table: str) -> list[TableVersion]:
        """Every published version, oldest first; one with a damaged manifest is logged and left out."""
        manifests = self.fs.glob(f"{self._path(dataset, table)}/*.json")
        versions = [self._load(dataset, table, Path(manifest).stem) for manifest in manifests]
        return sorted((v for v in versions if v is not None), key=lambda v: (v.created, v.version))

    def datasets(self) -> list[str]:
        """Names of the data sets that have at least one published table."""
        return sorted(
            {path[len(self.root) + 1 :].split("/")[0] for path in self.fs.glob(f"{self.root}/[!_.]*/**/latest")}
        )

    def tables(self, dataset: str) -> list[str]:
        """Names of a data set's published tables, e.g. "features/clip"."""
        base = self._path(dataset)
        return sorted(path[len(base) + 1 : -len("/latest")] for path in self.fs.glob(f"{base}/**/latest"))

    @contextmanager
    def writer(self, schema: pa.Schema, lineage: Lineage) -> Iterator[TableWriter]:
        """Stream tables into a new version; it is published when the block ends without an exception.

        Raises:
            ValueError: a written table does not fit `schema`.
            UserError: the store cannot be written (disk full, no permission, S3 refused).
        """
        what = f"{lineage.dataset}/{lineage.table}"
        with ExitStack() as stack:
            with explained(what, self):
                staging = stack.enter_context(locks.staging(self.scratch("staging"), lineage.key()[:16]))
            writer = TableWriter(staging, schema, lineage, explained(what, self))
            stack.callback(writer.abandon)
            yield writer
            with explained(what, self):
                writer.close()
                writer.version = self._publish(lineage, writer.paths, writer.rows, writer.created)

    @contextmanager
    def locked(self, dataset: str) -> Iterator[None]:
        """Keep `latest`, and what the registry's aliases name, as they are: for the moment between a check and the act
        that follows from it. No work is done meanwhile, so nobody waits long; a run holds `flows.exclusive.alone`.

        It holds on this machine; see `remove` for others. Nothing that takes it may be called within.
        """
        with explained(f"the lock of {dataset}", self):
            lock = self.scratch("pointers") / dataset
            lock.touch()
        with locks.held(lock):
            yield

    def remove(self, version: TableVersion) -> bool:
        """Delete a version, within `locked`; False if it is the latest, which stays.

        The manifest goes first, so that what is left of an interrupted removal is no version. A run on another machine,
        which no lock here holds, may make it the latest meanwhile: it moves the pointer and then looks for the manifest
        (`find`), and here the manifest goes before the pointer is looked at again. So one of the two sees the other.
        """
        manifest = self._path(version.dataset, version.table, f"{version.version}.json")
        if self.latest_name(version.dataset, version.table) == version.version:
            return False
        with explained(f"what is left of {version.dataset}/{version.table}", self):
            text = self.fs.cat_file(manifest)
            self.fs.rm_file(manifest)
            if self.latest_name(version.dataset, version.table) == version.version:
                write_atomically(self.fs, manifest, text)
                return False
            if self.fs.exists(folder := self.inside(version.path)):  # else it was lost before
                self.fs.rm(folder, recursive=True)
        return True

    def remove_abandoned_staging(self) -> int:
        """Delete what killed runs on this machine left half written; returns how many tables."""
        return locks.remove_abandoned(self.scratch("staging"))

    def publish_files(self, lineage: Lineage, files: Sequence[Path], numbers: int) -> TableVersion:
        """Publish copies of files that are no table, under their names, as a version of what `lineage` names.

        Args:
            numbers: how many numbers they hold, the version's `rows`.

        Raises:
            StoreError: the store cannot be written.
        """
        with (
            explained(f"{lineage.dataset}/{lineage.table}", self),
            locks.staging(self.scratch("staging"), lineage.key()[:16]) as staging,
        ):
            paths = [Path(shutil.copyfile(file, staging / file.name)) for file in files]
            for path in paths:
                with path.open("rb") as copy:
                    os.fsync(copy.fileno())
            return self._publish(lineage, paths, numbers, now())

    def read(
        self, version: TableVersion, columns: Sequence[str] | None = None, filters: Filters | None = None
    ) -> pa.Table:
        """The whole table in memory, in stored order.

        Args:
            filters: conditions that rows must meet; only row groups that may hold such rows are read.
        """
        with _still_there(version):
            parts = [
                pq.read_table(path, columns=columns, filters=filters, filesystem=self.fs)
                for path in self._parts(version)
            ]
        return pa.concat_tables(parts).replace_schema_metadata(None)

    def batches(
        self, version: TableVersion, columns: Sequence[str] | None = None, rows: int = 1024
    ) -> Iterator[pa.Table]:
        """The table in stored order, at most `rows` rows at a time, without reading more than a row group ahead."""
        for path in self._parts(version):
            with _still_there(version), self.fs.open(path, "rb") as file:
                parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_BYTES)
                for batch in parquet.iter_batches(batch_size=rows, columns=columns, use_threads=False):
                    yield pa.Table.from_batches([batch]).replace_schema_metadata(None)

    def verify(self, version: TableVersion) -> None:
        """Compare every file with the checksum in its manifest.

        Raises:
            UserError: a file is missing or its bytes changed.
        """
        for name, expected in version.files.items():
            path = f"{self.inside(version.path)}/{name}"
            actual = file_sha256(self.fs, path) if self.fs.exists(path) else "no file"
            if actual != expected:
                raise UserError(
                    f"{path} does not match its manifest: expected SHA-256 {expected}, found {actual}. The file was "
                    "changed or damaged after publishing; delete the version's manifest and run the flow again."
                )

    def put(self, path: str, data: bytes) -> None:
        """Write one small object at `path` (relative to the store) atomically.

        Raises:
            StoreError: it could not be written.
        """
        with explained(path, self):
            write_atomically(self.fs, f"{self.root}/{path}", data)

    def scratch(self, name: str) -> Path:
        """A local folder for what must outlive a crash, such as downloads and checkpoints.

        It lies inside a local store, so that a staged table is published by renaming; else in the temporary folder.

        Raises:
            UserError: it cannot be made.
        """
        base = (
            Path(self.root) / "_scratch"
            if self.is_local
            else Path(tempfile.gettempdir()) / "cm3-scratch" / digest(self.uri)
        )
        folder = base / name
        with explained("scratch files", self):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _publish(self, lineage: Lineage, paths: Sequence[Path], rows: int, created: str) -> TableVersion:
        """Move staged files into place and write their manifest, unless that version is published already."""
        name = lineage.key()[:16]
        files = {path.name: file_sha256(fsspec.filesystem("file"), str(path)) for path in paths}
        folder = self._folder(lineage.dataset, lineage.table, name, files)
        version = TableVersion(
            dataset=lineage.dataset,
            table=lineage.table,
            version=name,
            key=lineage.key(),
            path=folder if self.is_local else self.fs.unstrip_protocol(folder),
            rows=rows,
            size=sum(path.stat().st_size for path in paths),
            files=files,
            created=created,
            lineage=lineage.metadata(created),
        )
        if not self.is_local and self._load(lineage.dataset, lineage.table, name) is None:
            self._upload(paths, folder)  # takes long, so before anybody has to wait
        with self.locked(lineage.dataset):
            published = self._load(lineage.dataset, lineage.table, name)
            if published is not None and self._settle(published):
                return published
            if self.is_local:
                self._move_into_place(paths[0].parent, folder)
            elif published is not None:  # removed from another machine, after it was found
                self._upload(paths, folder)
            self._write_manifest(version)
            self._settle(version)
        return version

    def _move_into_place(self, staging: Path, folder: str) -> None:
        target = Path(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # parts without a manifest: a publish that was killed half-way
            shutil.rmtree(target)
        staging.replace(target)

    def _upload(self, paths: Sequence[Path], folder: str) -> None:
        for path in paths:
            self.fs.put_file(str(path), f"{folder}/{path.name}")

    def _write_manifest(self, version: TableVersion) -> None:
        path = self._path(version.dataset, version.table, f"{version.version}.json")
        text = json.dumps(version.model_dump(exclude={"reused", "path"}), indent=2, sort_keys=True)
        write_atomically(self.fs, path, text.encode())

    def _settle(self, version: TableVersion) -> bool:
        """Make a version the latest, if that is not left to `set_latest`; False if it was removed in that moment."""
        return not self.moves_latest or self._set_latest(version)

    def _set_latest(self, version: TableVersion) -> bool:
        """Make a version the latest; False if it was removed from another machine in that moment: see `remove`."""
        write_atomically(self.fs, self._path(version.dataset, version.table, "latest"), version.version.encode())
        return self.has(version.dataset, version.table, version.version)

    def latest_name(self, dataset: str, table: str) -> str | None:
        """What the pointer says, whole or not; None if nothing was published."""
        try:
            return str(self.fs.cat_file(self._path(dataset, table, "latest")).decode(errors="replace").strip())
        except FileNotFoundError:
            return None

    def _load(self, dataset: str, table: str, version: str) -> TableVersion | None:
        path = self._path(dataset, table, f"{version}.json")
        try:
            record = json.loads(self.fs.cat_file(path))
            folder = self._folder(dataset, table, version, record["files"])
            return TableVersion(**record, path=folder if self.is_local else self.fs.unstrip_protocol(folder))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:  # cut short, no JSON, or not a manifest's fields
            reason = str(error).splitlines()[0]
            logger.warning(
                "%s is a damaged manifest (%s); left out. Run the flow again: it is written anew", path, reason
            )
            return None

    def _parts(self, version: TableVersion) -> list[str]:
        """Paths of the table's Parquet files.

        Raises:
            UserError: the version is no table.
        """
        if not version.path.endswith(".parquet"):
            raise UserError(f"{version.dataset}/{version.table} is no table: {version.path} holds {[*version.files]}.")
        return [f"{self.inside(version.path)}/{name}" for name in sorted(version.files)]

    def folder(self, dataset: str) -> str:
        """Path of a data set's folder in the store's file system.

        Raises:
            UserError: it is no name of one.
        """
        return self._path(dataset)

    def inside(self, path: str) -> str:
        """A version's path or URL in the form that the file system (`fs`) uses."""
        return str(self.fs._strip_protocol(path))

    def _path(self, *names: str) -> str:
        """Path of what a caller names; never outside the store.

        Raises:
            UserError: a name holds more than the names of folders and files.
        """
        for name in names:
            if not all(_NAME.fullmatch(part) for part in name.split("/")):
                raise UserError(
                    f"{name!r} is no name in a store: expected letters, digits, '_', '-' and '.', as in demo or "
                    "embeddings/items."
                )
        return "/".join((self.root, *names))

    def _folder(self, dataset: str, table: str, version: str, files: Iterable[str]) -> str:
        """Where a version's files lie: only a table's folder is named after Parquet."""
        kind = "parquet" if all(name.endswith(".parquet") for name in files) else "files"
        return self._path(dataset, table, f"{version}.{kind}")

    def _nothing_published(self, dataset: str, table: str) -> str:
        tables = self.tables(dataset)
        if tables:
            return f"{dataset} has no table {table!r} in {self}. Published tables: {', '.join(tables)}."
        datasets = ", ".join(self.datasets()) or "none yet; `cm3 run demo` makes one"
        return f"No data set {dataset!r} in {self}. Published data sets: {datasets}."


class explained(ContextDecorator):  # noqa: N801 - reads as a word: `with explained(...)`
    """Turn a failed write (disk full, no permission, S3 unreachable) into a `StoreError` that says what is safe."""

    def __init__(self, what: str, store: Store) -> None:
        self.what, self.store = what, store

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and isinstance(error, failures()):
            raise StoreError(
                f"Could not write {self.what} to {self.store}: {error}. Versions published before are untouched. Free "
                "space or mend the store, then run again: finished shards are kept."
            ) from error


def failures() -> tuple[type[Exception], ...]:
    """What a file system that cannot be reached, read or written raises."""
    try:  # after a failure only: a local store does without it, and so may an installation
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return (OSError,)
    return OSError, BotoCoreError, ClientError


@contextmanager
def _still_there(version: TableVersion) -> Iterator[None]:
    """Say what happened to a version that garbage collection takes from its reader, or whose file is damaged."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"{version.dataset}/{version.table}@{version.version} was removed while it was read (`cm3 gc`?), or one of "
            f"its files was: {error}. Resolve the reference again; `cm3 gc` keeps what latest and aliases name."
        ) from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the store cannot be read
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{version.dataset}/{version.table}@{version.version} cannot be read: {reason}. "
            "A file was damaged after publishing; delete the version's manifest and run the flow again."
        ) from error


def parse_reference(reference: str) -> tuple[str, str, str]:
    """Data set, table, and what follows `@` (empty if nothing does) in `DATASET/TABLE[@…]`.

    Raises:
        UserError: it has no data set or no table, or a part is no name.
    """
    address, _, at = reference.partition("@")
    dataset, _, table = address.partition("/")
    names = [dataset, *table.split("/"), *([at] if at else [])]
    if not all(_NAME.fullmatch(name) for name in names):
        raise UserError(f"{reference!r} is not DATASET/TABLE[@VERSION|@ALIAS], e.g. demo/embeddings/items@champion.")
    return dataset, table, at


def digest(text: str) -> str:
    """16 hex digits that stand for `text` in a file name."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
