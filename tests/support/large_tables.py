"""Published tables of some megabytes, for stores that fail while one is written."""

import os

import pyarrow as pa

from pipeline.store import Store
from schemas.lineage import Lineage, TableVersion

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.binary())])


def publish_large(store: Store, version: int, megabytes: int) -> TableVersion:
    """Publish `d/t` with rows of 1 MB that do not compress; another `version` is another table version."""
    lineage = Lineage(dataset="d", table="t", stage="test", stage_version=version, config={})
    with store.writer(SCHEMA, lineage) as writer:
        for part in range(megabytes):
            writer.write(pa.table({"key": [str(part)], "value": [os.urandom(1 << 20)]}, schema=SCHEMA))
    return writer.version
