"""The endpoint captioner against a real `transformers serve`, and against a server that does everything wrong."""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from pipeline.captions import load
from pipeline.encoders import offline
from schemas.encoders import CaptionSpec
from schemas.errors import UserError
from tests.support.moody_server import Moody, good, hang_up, reply, say_nothing
from tests.support.published import jpeg

RED, BLUE = jpeg((200, 0, 0)), jpeg((0, 0, 200))


@pytest.mark.parametrize(
    "mood",
    [
        reply({"error": {"message": "try later"}}, 500),
        reply(b"<html>502 Bad Gateway</html>", 502),
        reply(b"<html>not json</html>"),
        reply({"choices": []}),
        reply({"object": "something else"}),
        reply(b"[1, 2"),
        reply(b"[" * 100_000),
        reply(good("a mug \ud83d")),  # half an emoji, which no table can store
        hang_up,
    ],
    ids=["500", "502 html", "200 html", "no choices", "other json", "cut json", "too deep", "half a sign", "hang-up"],
)
def test_a_passing_fault_is_tried_again(
    moody: Callable[..., Moody], mood: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    server = moody(mood)
    (answer,) = load.load(server.spec()).caption([RED])
    assert (answer.text, answer.failed, answer.tokens_in, answer.tokens_out) == ("a red mug", False, 70, 4)
    assert len(server.arrivals) == 2


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_a_packed_answer_is_neither_asked_for_nor_unpacked(moody: Callable[..., Moody], encoding: str) -> None:
    bomb = gzip.compress(json.dumps(good("x" * (20 << 20))).encode())  # 20 MB in 20 kB; of brotli only the name
    asked: list[str] = []

    def packed(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.headers["Accept-Encoding"])
        reply(bomb, Content_Encoding=encoding)(handler)

    server = moody(packed, packed, reply(good()))
    answers = load.load(server.spec(attempts=2, batch_size=1)).caption([RED, BLUE])
    assert [answer.failed for answer in answers] == [True, False]
    assert "packed" in answers[0].text
    assert asked == ["identity"] * 2


def test_a_server_that_never_answers_is_left_after_the_timeout(moody: Callable[..., Moody]) -> None:
    server = moody(say_nothing)
    (answer,) = load.load(server.spec(timeout=0.3)).caption([RED])
    assert answer.text == "a red mug"


def test_a_lasting_fault_is_a_reason_after_the_last_try(moody: Callable[..., Moody]) -> None:
    server = moody(*[reply(b"<html>")] * 2)
    captioner = load.load(server.spec(attempts=2, batch_size=1))
    first, second = captioner.caption([RED, BLUE])
    assert first.failed
    assert "no chat completion" in first.text
    assert second.text == "a red mug"


def test_a_picture_the_server_refuses_is_not_tried_again(moody: Callable[..., Moody]) -> None:
    server = moody(reply({"error": {"message": "image too large"}}, 400))
    first, _ = load.load(server.spec(batch_size=1)).caption([RED, BLUE])
    assert first.failed
    assert "image too large" in first.text
    assert len(server.arrivals) == 2


def test_retry_after_holds_back_every_request(moody: Callable[..., Moody]) -> None:
    server = moody(reply({"error": {"message": "slow down"}}, 429, Retry_After="0.8"))
    answers = load.load(server.spec(batch_size=1)).caption([RED, BLUE])
    assert [answer.failed for answer in answers] == [False, False]
    assert server.arrivals[1] - server.arrivals[0] >= 0.8


def test_an_exhausted_allowance_holds_back_the_next_request(moody: Callable[..., Moody]) -> None:
    spent = {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "700ms"}
    server = moody(reply(good(), **spent))
    load.load(server.spec(batch_size=1)).caption([RED, BLUE])
    assert server.arrivals[1] - server.arrivals[0] >= 0.7


def test_no_more_requests_are_in_flight_than_asked_for(moody: Callable[..., Moody]) -> None:
    meet = threading.Barrier(3)

    def together(handler: BaseHTTPRequestHandler) -> None:
        meet.wait(20)
        reply(good())(handler)

    server = moody(*[together] * 9)
    answers = load.load(server.spec(batch_size=3)).caption([RED] * 9)
    assert len(answers) == 9
    assert server.most_inside == 3, "three at once, as the barrier needs, and never four"


def test_a_refused_key_stops_the_run_and_names_the_variable(moody: Callable[..., Moody]) -> None:
    server = moody(*[reply({"error": {"message": "bad key"}}, 401)] * 8)
    with pytest.raises(UserError, match=r"401 .*bad key.*OPENAI_API_KEY"):
        load.load(server.spec()).caption([RED])


def echo(status: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """A server that quotes what it was sent, behind 170 characters, so that a cut would fall into the key."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        text = f"{'x' * 170} {handler.headers['Authorization']}"
        reply(good(text) if status == 200 else {"error": {"message": text}}, status)(handler)

    return answer


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_key_that_comes_back_is_masked(
    moody: Callable[..., Moody], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("CM3_TEST_KEY", "sk-0123456789abcdefghijklmnopq")
    server = moody(echo(status))
    captioner = load.load(server.spec(api_key_variable="CM3_TEST_KEY", attempts=1))
    if status == 401:
        with pytest.raises(UserError) as refused:
            captioner.caption([RED])
        assert refused.value.__cause__ is None
        said = str(refused.value)
    else:
        (answer,) = captioner.caption([RED])
        said = answer.text
    assert "xxx Bearer ***" in said
    assert "sk-01" not in said


def test_an_allowed_server_cannot_pass_the_pictures_on(moody: Callable[..., Moody]) -> None:
    other = moody()

    def elsewhere(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", f"http://127.0.0.1:{other.server_port}/v1/chat/completions")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    (answer,) = load.load(moody(elsewhere).spec(attempts=1)).caption([RED])
    assert answer.failed
    assert other.arrivals == []


def test_no_server_at_all_fails_before_the_first_picture() -> None:
    spec = CaptionSpec(kind="endpoint", model="m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match=r"No OpenAI-compatible server answers at http://127\.0\.0\.1:9/v1"):
        load.load(spec)


def test_a_server_that_dies_stops_the_run(moody: Callable[..., Moody]) -> None:
    server = moody()
    captioner = load.load(server.spec(attempts=2))
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="could not be reached for any of 2 pictures"):
        captioner.caption([RED, BLUE])


@pytest.fixture(scope="module")
def transformers_server() -> Iterator[str]:
    """`transformers serve` with the tiny model, in a process of its own."""
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    command += [str(offline.unpack("tiny-llava")), "--host", "127.0.0.1", "--port", "0", "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--log-level", "info"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        lines = []
        for line in server.stdout:
            lines.append(line)
            if address := re.search(r"Uvicorn running on (http://[\d.:]+)", line):
                break
        else:
            pytest.fail("transformers serve did not start:\n" + "".join(lines[-20:]))
        drain = threading.Thread(target=server.stdout.read)  # a full pipe would stop the server
        drain.start()
        try:
            yield f"{address[1]}/v1"
        finally:
            server.terminate()
            drain.join()


def test_transformers_serve_says_what_the_same_model_says_here(transformers_server: str, drawings: list[bytes]) -> None:
    folder = str(offline.unpack("tiny-llava"))
    words = {"prompt": "Describe the product.", "max_new_tokens": 24}
    local = load.load(CaptionSpec(kind="transformers", model="offline:tiny-llava", dtype="float32", **words))
    remote = load.load(CaptionSpec(kind="endpoint", model=folder, base_url=transformers_server, batch_size=2, **words))
    assert [a.text for a in remote.caption(drawings)] == [a.text for a in local.caption(drawings)]
    assert all(a.tokens_in > 64 and a.tokens_out > 0 and a.seconds > 0 for a in remote.caption(drawings[:1]))


def test_a_key_that_no_request_can_carry_is_refused_before_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "“quoted”")
    with pytest.raises(UserError, match=r"\$OPENAI_API_KEY contains characters that no key has"):
        load.load(CaptionSpec(kind="endpoint", model="owner/name", base_url="http://127.0.0.1:9/v1"))
