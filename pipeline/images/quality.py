"""The rows of the table `quality` that are about pictures: shared by many items, tiny, or of one colour."""

from collections.abc import Mapping

from pipeline.images.shared import SharedPictures
from pipeline.ingest.tally import EXAMPLES, Quality
from pipeline.store import Store
from schemas.lineage import Lineage, TableVersion
from schemas.tables import QUALITY, ImageRemark, ImageStatus

SHARED = "picture_shared_by_many"
RULES = {ImageRemark.TINY: "picture_tiny", ImageRemark.ONE_COLOUR: "picture_of_one_colour"}
STAGE_VERSION = 1
BATCH_ROWS = 65_536


def publish(
    store: Store, quality: TableVersion, pictures: Mapping[str, TableVersion], shared: SharedPictures
) -> TableVersion | None:
    """`quality` with the rows about pictures, as a version of its own; None if there is nothing to say of them.

    The source of a row is the table, `images` or `gallery`, and its count the number of that table's rows. The examples
    of `SHARED` have different pictures, those of most items first.

    Args:
        pictures: `images` and perhaps `gallery`, as just published.
    """
    lineage = Lineage(
        dataset=quality.dataset,
        table="quality",
        stage="images",
        stage_version=STAGE_VERSION,
        config={"shared_from": shared.fewest},
        inputs={"quality": quality.version} | {name: version.version for name, version in pictures.items()},
    )
    if (version := store.find(lineage)) is not None:
        return version
    tally = Quality()
    for version in pictures.values():
        _count(store, version, shared, tally)
    rows = tally.table()
    if not len(rows):
        return None
    with store.writer(QUALITY, lineage) as writer:
        writer.write(store.read(quality))
        writer.write(rows)
    return writer.version


def _count(store: Store, version: TableVersion, shared: SharedPictures, tally: Quality) -> None:
    first: dict[str, dict[str, str]] = {"dropped": {}, "kept": {}}  # action → shared picture → its first item
    for batch in store.batches(version, ["item_id", "status", "sha256", "remark"], BATCH_ROWS):
        for item_id, status, sha256, remark in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            action = "dropped" if status == ImageStatus.PLACEHOLDER else "kept"
            if remark is not None:
                tally.add(version.table, RULES[remark], action, 1, (item_id,))
            if status in (ImageStatus.OK, ImageStatus.PLACEHOLDER) and shared.items_with(sha256):
                first[action].setdefault(sha256, item_id)
                tally.add(version.table, SHARED, action)
    for action, pictures in first.items():
        most = sorted(pictures, key=lambda sha256: (-shared.items_with(sha256), sha256))[:EXAMPLES]
        tally.add_examples(version.table, SHARED, action, tuple(pictures[sha256] for sha256 in most))
