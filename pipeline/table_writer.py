"""Part files of one table version, written row group by row group into a staging folder."""

import os
from contextlib import ContextDecorator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.lineage import Lineage, TableVersion, describe, now
from schemas.tables import conform

PART_BYTES = 1 << 30
"""A part file of this size is followed by a new one, so that no single object grows with the catalogue."""
ROW_GROUP_ROWS = 8192
PARQUET: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["split", "rating"]}
"""How our files are written. Only two columns of interactions have few distinct values and gain from a dictionary.
With dictionaries for ids, vectors and pictures too, which hardly repeat within a row group, files of interactions would
be a quarter larger, and three quarters of the time to write vectors would be spent on them."""


class TableWriter:
    """Writes tables that fit the schema into part files of a staging folder. Made by `Store.writer`.

    Args:
        explain_errors: turns a failed write into an error for a person.

    Attributes:
        version: the published version; set when the `with` block ends.
    """

    version: TableVersion

    def __init__(self, staging: Path, schema: pa.Schema, lineage: Lineage, explain_errors: ContextDecorator) -> None:
        self.staging = staging
        self.schema = schema
        self._append = explain_errors(self._append_rows)
        self.created = now()
        self.rows = 0
        self.paths: list[Path] = []
        self._file_schema = describe(schema, lineage, self.created)
        self._file: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Append rows; the columns must be exactly the schema's."""
        self._append(conform(table, self.schema).replace_schema_metadata(self._file_schema.metadata))

    def _append_rows(self, rows: pa.Table) -> None:
        if self._file is not None and self.paths[-1].stat().st_size > PART_BYTES:
            self._file.close()
            self._file = None
        self._part().write_table(rows, row_group_size=ROW_GROUP_ROWS)
        self.rows += len(rows)

    def close(self) -> None:
        """Finish the last part; a table without rows still gets one file, so that readers find its columns."""
        self._part().close()
        self._file = None
        for path in self.paths:
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def abandon(self) -> None:
        """Close the open file, if any, after a failure."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _part(self) -> pq.ParquetWriter:
        """The part file being written; a new one if there is none."""
        if self._file is None:
            self.paths.append(self.staging / f"part-{len(self.paths):05d}.parquet")
            self._file = pq.ParquetWriter(self.paths[-1], self._file_schema, **PARQUET)
        return self._file
