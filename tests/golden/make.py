"""Keep a few rows of every published table as this release writes them: `python -m tests.golden.make`.

The rows come from a small run of the demo, with their files' metadata and manifests, into `tests/golden/<release>`:
a store of its own, which later releases must still read. A release's files are made once and never changed.
"""

import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows import job
from pipeline.filesystem import file_sha256
from pipeline.images.stage import STAGE_VERSION
from pipeline.store import Store
from schemas.demo import DemoConfig
from schemas.errors import UserError
from schemas.images import ImagesConfig
from schemas.lineage import CODE_VERSION, Lineage, TableVersion
from schemas.model import MODEL
from schemas.run import DemoParameters
from schemas.tables import GALLERY
from schemas.training import CM3Config

FOLDER = Path(__file__).parent
ROWS = 3
"""Of each table, besides the first row in which a column is null."""
PART = "part-00000.parquet"


def main(release: str = CODE_VERSION) -> None:
    """Run the demo in a temporary folder and keep its tables.

    Raises:
        UserError: the release has its files already.
    """
    target = FOLDER / release
    if target.exists():
        raise UserError(f"{target} exists: the files of a release stay as they are. Raise CODE_VERSION first.")
    with tempfile.TemporaryDirectory() as folder:
        parameters = DemoParameters(
            store=f"{folder}/store",
            demo=DemoConfig(items=60, users=150),
            images=ImagesConfig(max_side=32),
            trainer=CM3Config(max_epochs=1),
        )
        job.run(parameters=parameters)
        store = Store(parameters.store)
        publish_gallery(store)
        for dataset in store.datasets():
            for table in sorted({*store.tables(dataset)} - {MODEL}):  # which is no table
                keep(store, store.latest(dataset, table), Path(folder, "kept"))
        shutil.move(Path(folder, "kept"), target)


def publish_gallery(store: Store) -> None:
    """Publish a gallery of the same pictures again: the demo's items have one picture each."""
    images = store.latest("demo", "images")
    rows = store.read(images)
    rows = rows.add_column(1, GALLERY.field("position"), pa.array([1] * len(rows), pa.int32()))
    lineage = Lineage(
        dataset="demo",
        table="gallery",
        stage="images",
        stage_version=STAGE_VERSION,
        config={"pictures": "all"},
        inputs={"items": json.loads(images.lineage["cm3.inputs"])["items"]},
    )
    with store.writer(GALLERY, lineage) as writer:
        writer.write(rows)


def keep(store: Store, version: TableVersion, root: Path) -> None:
    """Write some of a version's rows under its own name, with its own metadata, into the store at `root`."""
    written = pq.read_schema(Path(store.root, version.path, PART))
    rows = store.read(version)
    chosen = pa.concat_tables([rows.slice(row, 1) for row in some(rows)])
    folder = root / version.dataset / version.table
    part = folder / f"{version.version}.parquet" / PART
    part.parent.mkdir(parents=True)
    with pq.ParquetWriter(part, written, compression="zstd") as writer:
        writer.write_table(chosen.replace_schema_metadata(written.metadata))
    manifest = version.model_copy(
        update={"rows": len(chosen), "size": part.stat().st_size, "files": {PART: file_sha256(store.fs, str(part))}}
    )
    text = json.dumps(manifest.model_dump(exclude={"reused", "path"}), indent=2, sort_keys=True)
    (folder / f"{version.version}.json").write_text(text, encoding="utf-8")
    (folder / "latest").write_text(version.version, encoding="utf-8")


def some(rows: pa.Table) -> list[int]:
    """Row numbers: the first few, and the first null of each column that has one."""
    first_nulls = (np.flatnonzero(column.is_null().to_numpy())[:1] for column in rows.columns)
    return sorted({*range(min(ROWS, len(rows))), *np.concatenate([*first_nulls]).tolist()})


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
