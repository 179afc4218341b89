"""Published tables: immutable, content-keyed versions in a local folder or an S3 bucket.

Layout, for data set `d`, table `t` and version `v` (the first 16 hex digits of its key):

    <store>/d/t/v.parquet/part-00000.parquet …   Parquet files and nothing else
    <store>/d/t/v.json                           the manifest; a version exists if its manifest does
    <store>/d/t/latest                           the name of the version that the last run produced

The manifest is written last, in one atomic step, so a reader sees a whole version or none.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ContextDecorator, contextmanager
from pathlib import Path
from typing import IO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.filesystem import file_sha256, open_filesystem, write_atomically
from pipeline.table_writer import TableWriter
from schemas.errors import StoreError, UserError
from schemas.lineage import Lineage, TableVersion

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""One folder or file in a store: never `..`, nothing absolute, no pattern."""
READ_BYTES = 1 << 20
"""Bytes read ahead per column while streaming. Without a limit Arrow holds whole row groups, both compressed and
decompressed; with threads, each would keep memory of its own."""


class Store:
    """A place where tables are published. `uri` is a folder or an fsspec URL such as `s3://bucket/prefix`."""

    def __init__(self, uri: str | Path) -> None:
        self.fs, root = open_filesystem(str(uri))
        self.root = root.rstrip("/")
        self.is_local = isinstance(self.fs, fsspec.implementations.local.LocalFileSystem)
        self.uri = self.root if self.is_local else self.fs.unstrip_protocol(self.root)

    def __str__(self) -> str:
        return self.uri

    def find(self, lineage: Lineage) -> TableVersion | None:
        """The version with this lineage's key, marked `reused` and made the latest; None if there is none, or its
        manifest is damaged."""
        version = self._load(lineage.dataset, lineage.table, lineage.key()[:16])
        if version is None or version.key != lineage.key():
            return None
        self._set_latest(version)
        return version.model_copy(update={"reused": True})

    def latest(self, dataset: str, table: str) -> TableVersion:
        """What the last run published.

        Raises:
            UserError: nothing was published under that name.
        """
        pointer = self._path(dataset, table, "latest")
        if not self.fs.exists(pointer):
            raise UserError(self._nothing_published(dataset, table))
        name = self.fs.cat_file(pointer).decode(errors="replace").strip()
        if not _NAME.fullmatch(name):
            raise UserError(f"{pointer} is damaged: expected a version's name. Run the flow again: it is written anew.")
        return self.get(dataset, table, name)

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
        with explained(what, self):
            held, staging = _staging(self.scratch("staging"), lineage.key()[:16])
        writer = TableWriter(staging, schema, lineage, explained(what, self))
        try:
            yield writer
            with explained(what, self):
                writer.close()
                writer.version = self._publish(writer, lineage)
        finally:
            writer.abandon()
            shutil.rmtree(staging, ignore_errors=True)
            staging.with_suffix(".lock").unlink(missing_ok=True)
            held.close()

    def read(self, version: TableVersion, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole table in memory, in stored order."""
        parts = [pq.read_table(path, columns=columns, filesystem=self.fs) for path in self._parts(version)]
        return pa.concat_tables(parts).replace_schema_metadata(None)

    def batches(
        self, version: TableVersion, columns: Sequence[str] | None = None, rows: int = 1024
    ) -> Iterator[pa.Table]:
        """The table in stored order, at most `rows` rows at a time, without reading more than a row group ahead."""
        for path in self._parts(version):
            with self.fs.open(path, "rb") as file:
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

    def _publish(self, writer: TableWriter, lineage: Lineage) -> TableVersion:
        name = lineage.key()[:16]
        folder = self._path(lineage.dataset, lineage.table, f"{name}.parquet")
        version = TableVersion(
            dataset=lineage.dataset,
            table=lineage.table,
            version=name,
            key=lineage.key(),
            path=folder if self.is_local else self.fs.unstrip_protocol(folder),
            rows=writer.rows,
            size=sum(path.stat().st_size for path in writer.paths),
            files={path.name: file_sha256(fsspec.filesystem("file"), str(path)) for path in writer.paths},
            created=writer.created,
            lineage=lineage.metadata(writer.created),
        )
        published = self._load(lineage.dataset, lineage.table, name)
        if published is None:
            self._move_into_place(writer.staging, folder)
            self._write_manifest(version)
        self._set_latest(published or version)
        return published or version

    def _move_into_place(self, staging: Path, folder: str) -> None:
        if self.is_local:
            target = Path(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():  # parts without a manifest: a publish that was killed half-way
                shutil.rmtree(target)
            staging.replace(target)
        else:
            for part in sorted(staging.glob("*.parquet")):
                self.fs.put_file(str(part), f"{folder}/{part.name}")

    def _write_manifest(self, version: TableVersion) -> None:
        path = self._path(version.dataset, version.table, f"{version.version}.json")
        text = json.dumps(version.model_dump(exclude={"reused", "path"}), indent=2, sort_keys=True)
        write_atomically(self.fs, path, text.encode())

    def _set_latest(self, version: TableVersion) -> None:
        write_atomically(self.fs, self._path(version.dataset, version.table, "latest"), version.version.encode())

    def _load(self, dataset: str, table: str, version: str) -> TableVersion | None:
        path = self._path(dataset, table, f"{version}.json")
        if not self.fs.exists(path):
            return None
        folder = self._path(dataset, table, f"{version}.parquet")
        try:
            record = json.loads(self.fs.cat_file(path))
            return TableVersion(**record, path=folder if self.is_local else self.fs.unstrip_protocol(folder))
        except (ValueError, TypeError) as error:  # cut short, no JSON, or not a manifest's fields
            reason = str(error).splitlines()[0]
            logger.warning(
                "%s is a damaged manifest (%s); left out. Run the flow again: it is written anew", path, reason
            )
            return None

    def _parts(self, version: TableVersion) -> list[str]:
        return [f"{self.inside(version.path)}/{name}" for name in sorted(version.files)]

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
    from botocore.exceptions import BotoCoreError, ClientError  # after a failure only: a local store does without it

    return OSError, BotoCoreError, ClientError


def _staging(folder: Path, name: str) -> tuple[IO[str], Path]:
    """A new folder for a table that is being written, and the lock that tells others that its writer lives.

    The kernel frees the lock with its process, so what a killed run left here is known, and removed first.
    """
    for lock in folder.glob("*.lock"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
    while True:
        staging = folder / f"{name}-{uuid.uuid4().hex[:8]}"
        lock = staging.with_suffix(".lock")
        held = lock.open("x")
        fcntl.flock(held, fcntl.LOCK_EX)
        if lock.exists():  # else somebody took it for a dead one, between its making and its locking
            staging.mkdir()
            return held, staging
        held.close()


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
