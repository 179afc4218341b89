"""`cm3 captions` and `cm3 embeddings`: a batch's requests and answers, from the command line."""

import json
from pathlib import Path

from pipeline.store import Store
from schemas.run import RunRecord, StageRecord
from tests.support.command_line import cm3
from tests.support.moody_server import embeddings, good
from tests.support.published import jpeg, publish_gallery, publish_images, publish_items

SERVED = {"model": "moody", "base_url": "http://127.0.0.1:9/v1"}
CAPTIONER = json.dumps({"kind": "endpoint", **SERVED})
ENCODER = json.dumps({"kind": "embedding-endpoint", **SERVED})


def test_requests_are_written_and_answers_read(store: Store, tmp_path: Path) -> None:
    publish_images(store, [("a", jpeg((200, 0, 0))), ("b", None)])
    said = cm3("captions", "export", "shop", str(tmp_path / "batch"), "--captioner", CAPTIONER, store=store.uri)
    assert said.returncode == 0, said.stderr
    asked = json.loads(Path(said.stdout.replace("\n", "")).read_text())
    answer = {"custom_id": asked["custom_id"], "response": {"status_code": 200, "body": good()}, "error": None}
    (tmp_path / "answers.jsonl").write_text(json.dumps(answer))
    arguments = ("captions", "import", "shop", str(tmp_path / "answers.jsonl"), "--captioner", CAPTIONER, "--json")
    assert json.loads(cm3(*arguments, store=store.uri).stdout) == {"kept": 1, "failed": 0, "others": 0}
    again = cm3("captions", "export", "shop", str(tmp_path / "again"), "--captioner", CAPTIONER, store=store.uri)
    assert "Every picture has its caption." in again.stdout


def test_vectors_are_asked_for_and_read_alike(store: Store, tmp_path: Path) -> None:
    publish_items(store, [("a", "a red mug"), ("b", None)])
    said = cm3("embeddings", "export", "shop", str(tmp_path / "batch"), "--encoder", ENCODER, store=store.uri)
    assert said.returncode == 0, said.stderr
    asked = json.loads(Path(said.stdout.replace("\n", "")).read_text())
    response = {"status_code": 200, "body": embeddings(asked["body"])}
    (tmp_path / "answers.jsonl").write_text(json.dumps({"custom_id": asked["custom_id"], "response": response}))
    arguments = ("embeddings", "import", "shop", str(tmp_path / "answers.jsonl"), "--encoder", ENCODER, "--json")
    assert json.loads(cm3(*arguments, store=store.uri).stdout) == {"kept": 1, "failed": 0, "others": 0}
    again = cm3("embeddings", "export", "shop", str(tmp_path / "again"), "--encoder", ENCODER, store=store.uri)
    assert "Every text has its vector." in again.stdout
    captions = cm3(
        "embeddings", "export", "shop", str(tmp_path / "more"), "--encoder", ENCODER, "--of-captions", store=store.uri
    )
    assert "captions" in captions.stderr
    assert captions.returncode == 1


def test_further_pictures_that_the_last_run_did_not_read_are_not_asked_for(store: Store, tmp_path: Path) -> None:
    images = publish_images(store, [("a", jpeg((200, 0, 0)))])
    gallery = publish_gallery(store, [("a", [jpeg((0, 0, 200))])])
    encoder = json.dumps({"kind": "embedding-endpoint-image", **SERVED})
    for started, tables, requests in (
        (None, (), 2),
        ("2026-01-01T00:00:00+00:00", (images, gallery), 2),
        ("2026-01-02T00:00:00+00:00", (images,), 1),
    ):
        if started:
            made = {"stage": "images", "rows": 1, "reused": False, "seconds": 0.0, "rate": None}
            stages = tuple(StageRecord(table=t.table, version=t.version, path=t.path, **made) for t in tables)
            record = RunRecord(dataset="shop", started=started, seconds=0.0, stages=stages)
            store.put(f"shop/_runs/{started}.json", record.model_dump_json().encode())
        folder = tmp_path / f"before {started}"
        said = cm3("embeddings", "export", "shop", str(folder), "--encoder", encoder, store=store.uri)
        assert said.returncode == 0, said.stderr
        assert len((folder / "requests-00000.jsonl").read_text().splitlines()) == requests


def test_a_captioner_that_is_none_is_one_paragraph(store: Store, tmp_path: Path) -> None:
    publish_images(store, [("a", None)])
    said = cm3("captions", "export", "shop", str(tmp_path), "--captioner", '{"kind": "endpoint"}', store=store.uri)
    assert said.returncode == 1
    assert "model: must be given" in said.stderr
    assert "Traceback" not in said.stderr
