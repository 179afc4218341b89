"""What an encoder costs: the time of one content, the model's loading aside."""

import itertools
import time

from pipeline import contents
from pipeline.features.shards import FreshContents, ShardEncoder
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.lineage import TableVersion

SAMPLE, WARM_UP = 128, 8
"""Contents encoded for the measurement, and before it: a model's first batches are slow."""


def seconds_per_content(
    store: Store,
    spec: EncoderSpec,
    *,
    source: TableVersion,
    images: TableVersion | None = None,
    gallery: TableVersion | None = None,
) -> float | None:
    """Seconds of a text, a picture or an item from its bytes to its vector, measured on the first contents of the
    tables, whether the store has their vectors or not; None if they have no contents.

    Args:
        spec: of a model that is loaded here: an endpoint would be paid for the measurement.
        source, images, gallery: as the stage `features` reads them.

    Raises:
        UserError: the model is missing or damaged.
    """
    shards = contents.shards(store, source, contents.nothing_held, size=SAMPLE, images=images, gallery=gallery)
    sample = next((shard.fresh for shard in shards if shard.fresh), None)
    if sample is None:
        return None
    encoder, seconds = ShardEncoder(spec), 0.0
    for part in (dict(itertools.islice(sample.items(), WARM_UP)), sample):
        begun = time.perf_counter()
        list(encoder.run(iter([FreshContents(part)])))
        seconds = time.perf_counter() - begun
    return seconds / len(sample)
