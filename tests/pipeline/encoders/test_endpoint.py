"""The encoder that asks a server, against a real one and against one that does everything wrong."""

import codecs
import io
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

from pipeline.encoders import load, offline
from pipeline.encoders.endpoint import EndpointEncoder
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from tests.support.embedding_server import serving
from tests.support.moody_server import Moody, embeddings, hang_up, reply, vector_of
from tests.support.published import jpeg
from tests.support.real_models import TEXTS, tiny_clip

Mood = Callable[[BaseHTTPRequestHandler], None]
WELL = reply(embeddings({"input": ["a"]}))
"""The good answer to what is asked before the first content."""


def encoder(spec: EncoderSpec) -> EndpointEncoder:
    ours = load.load(spec)
    assert isinstance(ours, EndpointEncoder)
    return ours


def unit(*texts: str) -> np.ndarray:
    rows = np.array([vector_of(text) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def changed(texts: list[str], **row: object) -> Mood:
    """A good answer except for the first text's row."""
    body = embeddings({"input": texts})
    body["data"][-1] |= row
    return reply(body)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_a_real_servers_vectors_are_those_of_its_model(batch_size: int) -> None:
    minilm = SentenceTransformer(str(offline.unpack("minilm")), device="cpu", local_files_only=True)
    expected = minilm.encode([f"query: {text}" for text in TEXTS], normalize_embeddings=True, show_progress_bar=False)
    with serving("minilm", minilm) as url:
        spec = EncoderSpec(
            kind="embedding-endpoint", model="minilm", base_url=url, batch_size=batch_size, prompt="query: "
        )
        ours = encoder(spec)
        given = ours.embed(TEXTS)
        assert encoder(spec.model_copy(update={"truncate_dim": 64})).embed(TEXTS).vectors.shape == (len(TEXTS), 64)
    assert (ours.dim, given.reasons, given.tokens) == (384, {}, 10 * len(TEXTS))
    np.testing.assert_allclose(given.vectors, expected, atol=1e-5)


def test_a_real_servers_vectors_of_pictures_are_those_of_its_model(tmp_path: Path, drawings: list[bytes]) -> None:
    clip = tiny_clip(tmp_path)
    pictures = [Image.open(io.BytesIO(drawing)).convert("RGB") for drawing in drawings]
    with serving("clip", clip) as url:
        ours = encoder(EncoderSpec(kind="embedding-endpoint-image", model="clip", base_url=url))
        given = ours.embed(drawings)
    expected = clip.encode(pictures, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(given.vectors, expected, atol=1e-5)


def test_answers_are_put_in_order_by_their_index(moody: Callable[..., Moody]) -> None:
    texts = ["a", "four", "seven77"]
    given = encoder(moody().encoder()).embed(texts)
    np.testing.assert_allclose(given.vectors, unit(*texts), rtol=1e-6)
    assert given.places == [0, 1, 2]


def test_an_answer_may_begin_with_a_byte_order_mark(moody: Callable[..., Moody]) -> None:
    body = json.dumps(embeddings({"input": ["a"]})).encode()
    assert encoder(moody(reply(codecs.BOM_UTF8 + body)).encoder()).dim == 3


@pytest.mark.parametrize(
    "mood",
    [
        reply({"error": {"message": "slow down"}}, 429, Retry_After="0"),
        reply({"error": {"message": "try later"}}, 503),
        reply(b'{"data": [{"index": 0, "embed'),
        reply({"data": []}),
        reply({"data": [{"index": 1, "embedding": [1, 2, 3]}, {"index": 2, "embedding": [1, 2, 3]}]}),
        changed(["a", "lamp"], embedding=["one", "two"]),
        changed(["a", "lamp"], embedding=[[1, 2, 3]]),
        changed(["a", "lamp"], embedding=[10**400, 2, 3]),
        reply(embeddings({"input": ["a", "lamp"]}) | {"usage": {"prompt_tokens": "some"}}),
        reply(b"[" * 100_000),
        hang_up,
    ],
    ids=[
        "429",
        "503",
        "cut json",
        "no rows",
        "index beyond",
        "words",
        "nested",
        "400 digits",
        "no count",
        "too deep",
        "hang-up",
    ],
)
def test_a_passing_fault_is_tried_again(moody: Callable[..., Moody], mood: Mood) -> None:
    server = moody(WELL, mood)
    given = encoder(server.encoder()).embed(["a", "lamp"])
    np.testing.assert_allclose(given.vectors, unit("a", "lamp"), rtol=1e-6)
    assert len(server.arrivals) == 3


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"embedding": [1.0, float("nan"), 2.0]}, "NaN or infinity"),
        ({"embedding": [1e300, 0, 0]}, "NaN or infinity"),
        ({"embedding": [1, None, 3]}, "NaN or infinity"),
        ({"embedding": [1, 2, 3, 4]}, "gave 4 numbers, where it had given 3"),
    ],
    ids=["NaN", "too large", "null", "wider"],
)
def test_a_vector_that_cannot_be_kept_is_a_reason_and_its_neighbours_stay(
    moody: Callable[..., Moody], row: dict[str, object], reason: str
) -> None:
    given = encoder(moody(WELL, changed(["a", "lamp"], **row)).encoder()).embed(["a", "lamp"])
    assert given.places == [1]
    assert reason in given.reasons[0]
    np.testing.assert_allclose(given.vectors, unit("lamp"), rtol=1e-6)


def test_one_text_that_the_server_refuses_costs_no_other_its_vector(moody: Callable[..., Moody]) -> None:
    texts = ["a", "bb", "poison", "dddd", "eeeee"]
    server = moody()

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        body = server.bodies[-1]
        poisoned = reply({"error": {"message": "input is too long \ud83d"}}, 400)  # half an emoji
        (poisoned if "poison" in body["input"] else reply(embeddings(body)))(handler)

    ours = encoder(server.encoder(batch_size=5))
    server.moods = [refuse] * 20
    given = ours.embed(texts)
    assert given.places == [0, 1, 3, 4]
    assert "too long ?" in given.reasons[2], "as a table can store it"
    np.testing.assert_allclose(given.vectors, unit(*(text for text in texts if text != "poison")), rtol=1e-6)


def test_a_lasting_fault_is_a_reason_after_the_last_try(moody: Callable[..., Moody]) -> None:
    server = moody(WELL, *[reply(b"{")] * 2)
    given = encoder(server.encoder(attempts=2)).embed(["a"])
    assert "no list of embeddings" in given.reasons[0]
    assert given.vectors.shape == (0, 3)


def test_the_count_of_tokens_may_be_a_string(moody: Callable[..., Moody]) -> None:
    server = moody(WELL, reply(embeddings({"input": ["a"]}) | {"usage": {"prompt_tokens": "5"}}))
    assert encoder(server.encoder()).embed(["a"]).tokens == 5


def test_a_server_of_empty_vectors_stops_the_run_before_the_first_text(moody: Callable[..., Moody]) -> None:
    server = moody(changed(["a"], embedding=[]))
    with pytest.raises(UserError, match=r"gives vectors of 0 numbers of 'moody'"):
        encoder(server.encoder())


@pytest.mark.parametrize("when", ["before the first text", "later"])
def test_another_model_than_the_one_asked_for_stops_the_run(moody: Callable[..., Moody], when: str) -> None:
    other = reply(embeddings({"input": ["a"]}) | {"model": "gpt-other"})
    server = moody(other) if when == "before the first text" else moody(WELL, other)
    with pytest.raises(UserError, match=r"asked for the model 'moody' and answered with gpt-other"):
        encoder(server.encoder()).embed(["a"])


@pytest.mark.parametrize("name", ["moody:latest", "moody-v2", "moody-2026-01-05", ""])
def test_a_server_may_say_which_version_of_the_model_it_has(moody: Callable[..., Moody], name: str) -> None:
    named = reply(embeddings({"input": ["a"]}) | {"model": name})
    assert encoder(moody(named).encoder()).dim == 3


def test_a_server_that_cannot_embed_stops_the_run_before_the_first_text(moody: Callable[..., Moody]) -> None:
    server = moody(reply({"error": {"message": "this model does not support pictures"}}, 400))
    spec = server.encoder(kind="embedding-endpoint-image")
    with pytest.raises(UserError, match=r"gives no vector of 'moody': .*does not support pictures.*reads pictures"):
        encoder(spec)


def test_a_refused_key_stops_the_run_and_is_not_said(
    moody: Callable[..., Moody], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CM3_TEST_KEY", "sk-0123456789abcdefghijklmnopq")

    def quote(handler: BaseHTTPRequestHandler) -> None:
        reply({"error": {"message": f"bad {handler.headers['Authorization']}"}}, 401)(handler)

    with pytest.raises(UserError, match=r"401 .*\$CM3_TEST_KEY") as refused:
        encoder(moody(quote).encoder(api_key_variable="CM3_TEST_KEY"))
    assert "sk-01" not in str(refused.value)


def test_a_server_that_dies_stops_the_run(moody: Callable[..., Moody]) -> None:
    server = moody()
    ours = encoder(server.encoder(attempts=2, batch_size=1))
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="could not be reached for any of 2 requests"):
        ours.embed(["a", "b"])


def test_pictures_travel_as_the_messages_of_a_chat(moody: Callable[..., Moody]) -> None:
    server = moody()
    encoder(server.encoder(kind="embedding-endpoint-image", prompt="Represent the product.")).embed([jpeg((9, 9, 9))])
    image, words = server.bodies[-1]["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert words == {"type": "text", "text": "Represent the product."}


def test_a_server_that_the_operator_does_not_allow_is_not_asked(
    moody: Callable[..., Moody], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = moody()
    monkeypatch.setenv("CM3_ALLOWED_ENDPOINTS", "other.example")
    with pytest.raises(UserError, match="the operator does not allow this server"):
        load.load(server.encoder())
    assert server.arrivals == []
