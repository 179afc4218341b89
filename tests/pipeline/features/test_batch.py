"""Vectors by a batch: what is exported, answered by a real server line by line, is found by the next run."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from pipeline import features
from pipeline.encoders import offline
from pipeline.features import batch
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from schemas.lineage import TableVersion
from tests.support import batch_answers
from tests.support.embedding_server import serving
from tests.support.moody_server import Moody
from tests.support.published import jpeg, publish_gallery, publish_images, publish_items

TEXTS = [("a", "a red mug"), ("b", None), ("c", "a lamp"), ("d", "a red mug"), ("e", "a book")]


@pytest.fixture
def items(store: Store) -> TableVersion:
    return publish_items(store, TEXTS)


answered = partial(batch_answers.answered, "/v1/embeddings")


def of(vector: list[float]) -> dict[str, Any]:
    """A line's answer with this vector."""
    body = {"data": [{"index": 0, "embedding": vector}], "model": "moody"}
    return {"response": {"status_code": 200, "body": body}}


def test_a_real_servers_answers_are_the_vectors_that_a_run_would_have_asked_for(
    store: Store, items: TableVersion, tmp_path: Path
) -> None:
    minilm = SentenceTransformer(str(offline.unpack("minilm")), device="cpu", local_files_only=True)
    with serving("minilm", minilm) as url:
        spec = EncoderSpec(kind="embedding-endpoint", model="minilm", base_url=url, prompt="query: ", truncate_dim=64)
        files = batch.export(store=store, source=items, spec=spec, folder=tmp_path / "batch")
        file = answered(spec, files)
        asked = features.run(store=Store(tmp_path / "asked"), source=items, name="words", spec=spec)
    counts = [batch.read(store=store, source=items, spec=spec, files=[file]) for _ in range(2)]
    assert counts == [{"kept": 3, "failed": 0, "others": 0}] * 2, "each text once, and twice changes nothing"
    made = features.run(store=store, source=items, name="words", spec=spec)  # the server is gone
    assert (made.counts["encoded"], made.counts["reused"], made.counts["missing"]) == (0, 4, 1)
    ours, theirs = (
        [row["embedding"] for row in place.read(done.tables["features/words"]).to_pylist()]
        for place, done in ((store, made), (Store(tmp_path / "asked"), asked))
    )
    assert ours[1] is theirs[1] is None
    np.testing.assert_allclose(*([row for row in rows if row] for rows in (ours, theirs)), atol=1e-6)
    assert batch.export(store=store, source=items, spec=spec, folder=tmp_path / "again") == []


def test_pictures_and_galleries_are_requests_too(store: Store, server: Moody, tmp_path: Path) -> None:
    red, blue, green = jpeg((200, 0, 0)), jpeg((0, 0, 200)), jpeg((0, 200, 0))
    images = publish_images(store, [("a", red), ("b", None), ("c", blue)])
    tables = {"source": images, "gallery": publish_gallery(store, [("a", [green, red])])}
    spec = server.encoder(kind="embedding-endpoint-image")
    files = batch.export(store=store, **tables, spec=spec, folder=tmp_path / "batch")
    file = answered(spec, files)
    assert batch.read(store=store, **tables, spec=spec, files=[file])["kept"] == 3
    made = features.run(store=store, **tables, name="clip", spec=spec)
    assert (made.counts["encoded"], made.counts["pooled"]) == (0, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"response": None, "error": {"code": "batch_expired"}},
        {"response": {"status_code": 429, "body": {"error": {"message": "slow down"}}}},
        {"response": {"status_code": 200, "body": {"data": []}}},
        of([1.0, 2.0]),
        of([1.0, float("nan"), 2.0]),
        of([]),
    ],
    ids=["expired", "429", "no vector", "another width", "NaN", "empty"],
)
def test_an_answer_that_failed_stays_open_and_is_exported_again(
    store: Store, items: TableVersion, server: Moody, tmp_path: Path, changes: dict[str, Any]
) -> None:
    spec = server.encoder()
    file = answered(spec, batch.export(store=store, source=items, spec=spec, folder=tmp_path / "batch"), **changes)
    counts = batch.read(store=store, source=items, spec=spec, files=[file])
    assert counts == {"kept": 2, "failed": 1, "others": 0}
    (again,) = batch.export(store=store, source=items, spec=spec, folder=tmp_path / "again")
    assert [json.loads(line)["body"]["input"] for line in again.read_text().splitlines()] == [["a red mug"]]


def test_an_odd_vector_that_comes_first_decides_nothing(
    store: Store, items: TableVersion, server: Moody, tmp_path: Path
) -> None:
    spec = server.encoder(truncate_dim=2)
    file = answered(spec, batch.export(store=store, source=items, spec=spec, folder=tmp_path / "batch"))
    *others, last = map(json.loads, file.read_text().splitlines())
    file.write_text("\n".join(map(json.dumps, [last | of([1.0]), *others])))
    assert batch.read(store=store, source=items, spec=spec, files=[file]) == {"kept": 2, "failed": 1, "others": 0}
    odd = [row | of([1.0]) for row in others]
    file.write_text("\n".join(map(json.dumps, [*odd, last])))
    counts = batch.read(store=store, source=items, spec=spec, files=[file])
    assert counts == {"kept": 1, "failed": 2, "others": 0}, "what the store has decides before what most are"
    assert batch.export(store=store, source=items, spec=spec, folder=tmp_path / "again") == []


def test_vectors_of_another_model_or_width_than_those_kept_are_refused(
    store: Store, items: TableVersion, server: Moody, tmp_path: Path
) -> None:
    spec = server.encoder()
    files = batch.export(store=store, source=items, spec=spec, folder=tmp_path / "batch")
    good = answered(spec, files)
    other = of([1.0, 2.0, 3.0])
    other["response"]["body"]["model"] = "other"
    with pytest.raises(UserError, match="line 3: other answered, where the encoder is 'moody'"):
        batch.read(store=store, source=items, spec=spec, files=[answered(spec, files, **other)])
    batch.read(store=store, source=items, spec=spec, files=[answered(spec, files)])
    narrow = "\n".join(json.dumps(json.loads(line) | of([1.0, 2.0])) for line in good.read_text().splitlines())
    good.write_text(narrow)
    with pytest.raises(UserError, match="gives vectors of 2 numbers of 'moody', where it had given 3"):
        batch.read(store=store, source=items, spec=spec, files=[good])


def test_only_a_servers_vectors_are_exported_and_a_strangers_answers_are_said(
    store: Store, items: TableVersion, server: Moody, tmp_path: Path
) -> None:
    local = EncoderSpec(kind="sentence", model="offline:minilm")
    with pytest.raises(UserError, match=r"encoder\.kind is 'sentence', expected 'embedding-endpoint' or"):
        batch.export(store=store, source=items, spec=local, folder=tmp_path)
    (tmp_path / "answers").write_text(json.dumps({"custom_id": "x", **of([1.0])}))
    with pytest.raises(UserError, match=r"None of 1 answers is of a text or picture of shop.*cm3 embeddings export"):
        batch.read(store=store, source=items, spec=server.encoder(), files=[tmp_path / "answers"])
