"""Features by a server: what it leaves out is a row with the reason, and what it gave is never asked for again."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest

from pipeline import features
from pipeline.encoders import load
from pipeline.features import stage
from pipeline.store import Store
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from schemas.lineage import TableVersion
from tests.support.moody_server import Moody, embeddings, reply, vector_of
from tests.support.published import jpeg, publish_gallery, publish_images, publish_items

TEXTS = [("a", "a cup"), ("b", "a poisonous lamp"), ("c", None), ("d", "a cup"), ("e", "a longer text")]


def refuse_poison(server: Moody) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = server.bodies[-1]
        is_poisoned = any("poison" in text for text in body["input"])
        (reply({"error": {"message": "not this"}}, 400) if is_poisoned else reply(embeddings(body)))(handler)

    return answer


def run(store: Store, spec: EncoderSpec, texts: list[tuple[str, str | None]]) -> tuple[TableVersion, dict[str, float]]:
    published = features.run(store=store, source=publish_items(store, texts), name="served", spec=spec)
    return published.tables["features/served"], dict(published.counts)


def test_a_refused_text_is_a_row_with_its_reason_and_is_asked_for_again_alone(store: Store, server: Moody) -> None:
    server.moods = [refuse_poison(server)] * 20
    version, counts = run(store, server.encoder(price_in=2e6), TEXTS)
    rows = {row["item_id"]: row for row in store.read(version).to_pylist()}
    expected = np.array(vector_of("a cup")) / np.linalg.norm(vector_of("a cup"))
    np.testing.assert_allclose(rows["a"]["embedding"], expected, rtol=1e-6)
    assert [rows[i]["embedding"] is None for i in "abcde"] == [False, True, True, False, False]
    assert "not this" in rows["b"]["error"]
    assert [rows[i]["error"] for i in "acde"] == [None] * 4
    assert (counts["encoded"], counts["reused"], counts["unreadable"], counts["missing"]) == (2, 1, 1, 1)
    assert (counts["tokens_in"], counts["cost"]) == (10, 20)
    server.moods, before = [], len(server.bodies)
    again, counts = run(store, server.encoder(), TEXTS)
    asked = [body["input"] for body in server.bodies[before:]]
    assert asked == [["a"], ["a poisonous lamp"]], "the first asks whether there is such a model"
    assert again.version != version.version
    assert not store.read(again)["error"].drop_null().to_pylist()
    assert counts["encoded"] == 1


def test_a_second_run_asks_nothing(store: Store, server: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = server.encoder()
    run(store, spec, TEXTS)
    asked = len(server.bodies)
    assert run(store, spec, TEXTS)[0].reused
    monkeypatch.setattr(load, "load", lambda spec: pytest.fail("the server was asked"))
    version, counts = run(store, spec, TEXTS[::-1])
    assert (len(server.bodies), counts["encoded"], version.rows) == (asked, 0, 5)


def test_shards_are_kept_as_they_are_finished(store: Store, server: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "TEXT_SHARD", 1)
    well = reply(embeddings({"input": ["a"]}))
    server.moods = [well, well, reply({"error": {"message": "no key"}}, 401)]
    with pytest.raises(UserError, match="401"):
        run(store, server.encoder(), TEXTS)
    before = len(server.bodies)
    _, counts = run(store, server.encoder(), TEXTS)
    assert counts["encoded"] == 2, "the first of three texts was kept"
    assert len(server.bodies) == before + 3


def test_pictures_of_a_gallery_are_asked_for_one_by_one_and_their_mean_is_taken(store: Store, server: Moody) -> None:
    red, blue = jpeg((200, 0, 0)), jpeg((0, 0, 200), side=60)
    tables = {"source": publish_images(store, [("a", red)]), "gallery": publish_gallery(store, [("a", [blue])])}
    spec = server.encoder(kind="embedding-endpoint-image")
    published = features.run(store=store, **tables, name="served", spec=spec)
    (row,) = store.read(published.tables["features/served"]).to_pylist()
    assert len(row["embedding"]) == 3
    assert published.counts["pooled"] == 1
    assert len(server.bodies) == 3


def test_a_server_with_another_width_than_before_stops_the_run(store: Store, server: Moody) -> None:
    run(store, server.encoder(), TEXTS)
    wider = {"data": [{"index": 0, "embedding": [1, 2, 3, 4]}], "model": "moody"}
    server.moods = [reply(wider)] * 2
    with pytest.raises(UserError, match=r"vectors of 4 numbers .* given 3: the server has another model now"):
        run(store, server.encoder(), [*TEXTS, ("f", "new")])
