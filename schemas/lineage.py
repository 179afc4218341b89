"""Where a table came from: the record in every Parquet footer, the key of a version, and the version's address."""

import hashlib
import json
import os
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from schemas.tables import SCHEMA_VERSION

CODE_VERSION = "0.1.0"
FOLDER = "[A-Za-z0-9][A-Za-z0-9_.-]*"
"""Pattern of a name that is used as a folder's."""


class TableVersion(BaseModel):
    """One immutable published version of one table: small enough to travel between tasks.

    Attributes:
        key: SHA-256 (hex) of everything that determines the content; the version's name is its first 16 digits.
        path: URI or local path of the folder that holds the Parquet files and nothing else; those of `model` are
            `config.json` and `model.safetensors`.
        rows, size: row count and bytes over all files; `rows` of `model` is how many numbers were trained.
        files: file name → SHA-256 (hex) of its bytes.
        created: UTC, ISO 8601, microseconds.
        reused: true if it was published before this run, which then did no work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    table: str
    version: str
    key: str
    path: str
    rows: int
    size: int
    files: dict[str, str]
    created: str
    lineage: dict[str, str]
    reused: bool = False


class Lineage(BaseModel):
    """What every Parquet file says about itself, under `cm3.<field>` in its key-value metadata.

    Attributes:
        table: schema name, e.g. "items" or "features/clip".
        config: the stage's configuration as a JSON object.
        inputs: table name → version of each input.
        encoder, revision: the model that made the vectors or captions; empty if no model was involved.
        license: that model's licence; empty if it says none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    table: str = Field(pattern=rf"^[A-Za-z0-9_]+(/{FOLDER})?$")
    stage: str
    stage_version: int
    config: dict[str, Any]
    inputs: dict[str, str] = {}
    encoder: str = ""
    revision: str = ""
    license: str = ""

    def key(self) -> str:
        """SHA-256 (hex) over all fields except the data set's name and the licence: equal keys mean equal content.

        Equal up to floating-point rounding, which varies with processor and thread count.
        """
        record = self.model_dump(mode="json", exclude={"dataset", "license"}) | {"schema_version": SCHEMA_VERSION}
        return hashlib.sha256(canonical_json(record).encode()).hexdigest()

    def metadata(self, created: str) -> dict[str, str]:
        """The footer's entries, all strings."""
        return {
            "cm3.schema": self.table,
            "cm3.schema_version": str(SCHEMA_VERSION),
            "cm3.dataset": self.dataset,
            "cm3.stage": self.stage,
            "cm3.stage_version": str(self.stage_version),
            "cm3.config": canonical_json(self.config),
            "cm3.inputs": canonical_json(self.inputs),
            "cm3.encoder": self.encoder,
            "cm3.revision": self.revision,
            "cm3.license": self.license,
            "cm3.code_version": CODE_VERSION,
            "cm3.created": created,
        }


def describe(schema: pa.Schema, lineage: Lineage, created: str) -> pa.Schema:
    """`schema` with the lineage in its metadata, ready for a Parquet writer."""
    return schema.with_metadata(lineage.metadata(created))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def now() -> str:
    """UTC time in ISO 8601; `SOURCE_DATE_EPOCH` (seconds), if set, makes builds reproducible."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
