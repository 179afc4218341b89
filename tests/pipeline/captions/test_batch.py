"""Captions by a batch: what is exported, answered by a real server line by line, is found by the next run."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline import captions
from pipeline.captions import batch
from pipeline.endpoints import batch as batches
from pipeline.store import Store
from schemas.encoders import CaptionSpec
from schemas.errors import UserError
from schemas.lineage import TableVersion
from tests.support import batch_answers
from tests.support.moody_server import Moody
from tests.support.published import jpeg, publish_images

RED, BLUE, GREEN = jpeg((200, 0, 0)), jpeg((0, 0, 200)), jpeg((0, 200, 0))


@pytest.fixture
def images(store: Store) -> TableVersion:
    return publish_images(store, [("a", RED), ("b", None), ("c", BLUE), ("d", RED), ("e", GREEN)])


answered = partial(batch_answers.answered, "/v1/chat/completions")


def exported(store: Store, images: TableVersion, spec: CaptionSpec, folder: Path) -> list[Path]:
    return batch.export(store=store, images=images, spec=spec, folder=folder)


def test_a_run_finds_the_answers_of_a_batch_and_asks_nobody(
    store: Store, images: TableVersion, server: Moody, tmp_path: Path
) -> None:
    files = exported(store, images, server.spec(), tmp_path / "batch")
    assert sum(len(path.read_text().splitlines()) for path in files) == 3, "each picture once"
    file = answered(server.spec(), files)
    before = len(server.bodies)
    for _ in range(2):
        counts = batch.read(store=store, images=images, spec=server.spec(), files=[file])
        assert counts == {"kept": 3, "failed": 0, "others": 0}
    published = captions.run(store=store, images=images, spec=server.spec())
    rows = store.read(published.tables["captions"]).to_pylist()
    assert [row["caption"] for row in rows] == ["a red mug", None, "a red mug", "a red mug", "a red mug"]
    assert len(server.bodies) == before
    assert exported(store, images, server.spec(), tmp_path / "again") == []


def test_a_request_is_the_one_that_the_captioner_sends(
    store: Store, images: TableVersion, server: Moody, tmp_path: Path
) -> None:
    spec = server.spec(prompt="Name it.", system="You are terse.", max_new_tokens=9)
    (file,) = exported(store, images, spec, tmp_path / "batch")
    captions.run(store=store, images=images, spec=spec)
    asked = [json.loads(line)["body"] for line in file.read_text().splitlines()]
    assert len(asked) == len(server.bodies) == 3
    assert all(body in asked for body in server.bodies)


def test_files_are_of_a_size_that_a_batch_takes(
    store: Store, images: TableVersion, server: Moody, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_REQUESTS", 2)
    files = exported(store, images, server.spec(), tmp_path / "requests")
    assert [len(path.read_text().splitlines()) for path in files] == [2, 1]
    monkeypatch.setattr(batches, "MOST_BYTES", 10)
    assert len(exported(store, images, server.spec(), tmp_path / "bytes")) == 3
    with pytest.raises(UserError, match=r"holds requests-00000\.jsonl already"):
        exported(store, images, server.spec(), tmp_path / "bytes")


@pytest.mark.parametrize(
    "changes",
    [
        {"response": None, "error": {"code": "batch_expired"}},
        {"response": {"status_code": 429, "body": {"error": {"message": "slow down"}}}},
        {"response": {"status_code": 200, "body": {"choices": []}}},
        {"response": {"status_code": 200, "body": {"choices": [{"message": {"content": "a mug \ud83d"}}]}}},
    ],
    ids=["expired", "429", "no choices", "half a character"],
)
def test_an_answer_that_failed_stays_open_and_is_exported_again(
    store: Store, images: TableVersion, server: Moody, tmp_path: Path, changes: dict[str, Any]
) -> None:
    file = answered(server.spec(), exported(store, images, server.spec(), tmp_path / "batch"), **changes)
    counts = batch.read(store=store, images=images, spec=server.spec(), files=[file])
    assert counts == {"kept": 2, "failed": 1, "others": 0}
    (again,) = exported(store, images, server.spec(), tmp_path / "again")
    assert len(again.read_text().splitlines()) == 1


def test_an_answer_that_is_no_caption_is_kept_with_its_status(
    store: Store, images: TableVersion, server: Moody, tmp_path: Path
) -> None:
    body = {"choices": [{"message": {"content": "I'm sorry, I can't help."}}]}
    response = {"response": {"status_code": 200, "body": body}}
    file = answered(server.spec(), exported(store, images, server.spec(), tmp_path / "batch"), **response)
    counts = batch.read(store=store, images=images, spec=server.spec(), files=[file])
    assert counts["rejected: refusal"] == 1
    table = store.read(captions.run(store=store, images=images, spec=server.spec()).tables["captions"])
    assert table["status"].to_pylist().count("refusal") == 2, "two items have this picture"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"custom_id": "x", "resp', "line 1: expected an answer of a batch"),
        ("[]", "line 1: expected an answer of a batch"),
        ("[" * 100_000, "line 1: expected an answer of a batch"),
        ('{"custom_id": "x", "response": null, "error": "e"}', "None of 1 answers is of a picture of shop"),
    ],
    ids=["cut short", "other json", "too deep", "another data set"],
)
def test_a_file_that_is_none_of_this_data_sets_answers_is_refused(
    store: Store, images: TableVersion, server: Moody, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(UserError, match=message):
        batch.read(store=store, images=images, spec=server.spec(), files=[tmp_path / "file"])
    with pytest.raises(UserError, match="cannot be read"):
        batch.read(store=store, images=images, spec=server.spec(), files=[tmp_path / "absent"])


def test_answers_of_another_model_are_refused(
    store: Store, images: TableVersion, server: Moody, tmp_path: Path
) -> None:
    body = {"model": "other", "choices": [{"message": {"content": "a mug"}}]}
    response = {"response": {"status_code": 200, "body": body}}
    file = answered(server.spec(), exported(store, images, server.spec(), tmp_path / "batch"), **response)
    with pytest.raises(UserError, match="line 3: other answered, where the captioner is 'moody'"):
        batch.read(store=store, images=images, spec=server.spec(), files=[file])


def test_only_a_servers_captions_are_exported(store: Store, images: TableVersion, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"captioner\.kind is 'transformers', expected 'endpoint'"):
        exported(store, images, CaptionSpec(kind="transformers", model="offline:tiny-llava"), tmp_path)
