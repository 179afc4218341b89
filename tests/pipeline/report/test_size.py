"""The promise of the report's size, at the size it was made for."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

import pipeline.report
from pipeline.store import Store
from schemas import tables as contract
from schemas.lineage import Lineage, TableVersion
from schemas.report import ReportConfig

ITEMS = 2000


def publish(store: Store, name: str, schema: pa.Schema, table: pa.Table) -> TableVersion:
    with store.writer(schema, Lineage(dataset="large", table=name, stage="x", stage_version=1, config={})) as out:
        out.write(table)
    assert out.version is not None
    return out.version


def test_two_thousand_items_with_photographs_and_long_texts_stay_under_five_megabytes(
    store: Store, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    ids = [f"B00{number:07d}" for number in range(ITEMS)]
    text = " ".join(f"word{number}" for number in range(80))
    items = [
        {"item_id": item, "title": f"{item} {text}"[:180], "description": text, "brand": "A brand of some length",
         "categories": ["All of them", f"Category {n % 30}", "A third level"], "price": 12.5, "image_url": None,
         "text": text}
        for n, item in enumerate(ids)
    ]  # fmt: skip
    pictures = []
    for number, item in enumerate(ids):
        rough = random.integers(0, 255, (14, 14, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(rough).resize((160, 160), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
        pictures.append({"item_id": item, "status": "ok", "sha256": str(number), "image": buffer.getvalue()})
    vectors = random.normal(size=(ITEMS, 16)).astype(np.float32)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=contract.vector(16))
    embeddings = pa.table([ids, embedding], schema=contract.item_embeddings(16))
    tables = {
        "items": publish(store, "items", contract.ITEMS, pa.Table.from_pylist(items, schema=contract.ITEMS)),
        "images": publish(store, "images", contract.IMAGES, pa.Table.from_pylist(pictures, schema=contract.IMAGES)),
        "embeddings/items": publish(store, "embeddings/items", contract.item_embeddings(16), embeddings),
    }
    output = pipeline.report.run(store=store, tables=tables, output=tmp_path / "report.html", config=ReportConfig())
    assert 3_000_000 < output.stat().st_size <= ReportConfig().max_bytes < 5_000_000
