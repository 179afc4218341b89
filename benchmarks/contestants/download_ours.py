"""The images stage: `download_ours.py STORE URLS SIDE QUALITY ROOT` prints how many pictures arrived."""

import sys
from pathlib import Path

store_path, url_file, side, quality, root = sys.argv[1:]
sys.path.insert(0, root)

import pyarrow as pa  # noqa: E402

from pipeline import images  # noqa: E402
from pipeline.store import Store  # noqa: E402
from schemas.images import ImagesConfig  # noqa: E402
from schemas.lineage import Lineage  # noqa: E402
from schemas.tables import ITEMS, ImageStatus  # noqa: E402

store = Store(store_path)
urls = Path(url_file).read_text().split()
columns = {name: pa.nulls(len(urls), ITEMS.field(name).type) for name in ITEMS.names}
columns |= {"item_id": urls, "image_url": urls, "categories": pa.array([[]] * len(urls), pa.list_(pa.string()))}
lineage = Lineage(dataset="race", table="items", stage="race", stage_version=1, config={})
with store.writer(ITEMS, lineage) as writer:
    writer.write(pa.table(columns))
config = ImagesConfig(max_side=int(side), jpeg_quality=int(quality), allowed_hosts=("127.0.0.1",))
version = images.run(store=store, items=writer.version, config=config).tables["images"]
print(sum(batch["status"].to_pylist().count(ImageStatus.OK) for batch in store.batches(version, ["status"])))
