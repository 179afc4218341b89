"""Feature tables as they are read."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.store import Store
from schemas.errors import UserError
from schemas.similarity import SimilarityConfig
from tests.pipeline.similarity.conftest import Publish
from tests.support.published import publish as publish_table
from tests.support.similarity_graphs import build


def test_an_item_twice_in_a_table_is_refused(store: Store, publish: Publish) -> None:
    table = store.read(publish("text", {"a": np.ones(8, np.float32), "b": np.ones(8, np.float32)}))
    twice = publish_table(store, "features/twice", pa.concat_tables([table, table]))
    with pytest.raises(UserError, match="more than once"):
        build(store, {"twice": twice}, SimilarityConfig())
