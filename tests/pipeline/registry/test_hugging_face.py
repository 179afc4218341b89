"""What `cm3 export --to hf` writes is opened by `datasets` itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from pipeline.registry import atlas, hugging_face
from pipeline.store import Store
from schemas.errors import UserError
from schemas.run import RunSummary
from schemas.tables import IMAGES, ImageStatus, features
from tests.support.command_line import Answer, cm3, cm3_process
from tests.support.hub import DataSets
from tests.support.published import jpeg, publish, publish_items

OPEN = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
folder = sys.argv[1]
items = load_dataset(folder)["train"]
first = next(row for row in items if row["image"])
lacking = sum(row["image"] is None for row in items)
splits = {name: len(rows) for name, rows in load_dataset(folder, "interactions").items()}
features = load_dataset(folder, "features-sentence")["train"].with_format("numpy")
print(json.dumps({
    "names": get_dataset_config_names(folder),
    "items": [row["item_id"] for row in items],
    "size": first["image"].size, "first": first["item_id"], "categories": first["categories"], "lacking": lacking,
    "splits": splits, "width": len(features[0]["embedding"]),
}))
"""


def test_datasets_opens_the_folder_with_pictures_as_images(finished: tuple[Store, RunSummary], tmp_path: Path) -> None:
    store, _ = finished
    folder = tmp_path / "demo-hf"
    answer = cm3("export", "demo@champion", str(folder), "--to", "hf", "--json", store=store.root)
    assert answer.returncode == 0, answer.stderr
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", OPEN, str(folder)]
    opened = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    items, images = (pl.read_parquet(store.latest("demo", name).path) for name in ("items", "images"))
    assert opened["items"] == items["item_id"].to_list()
    picture = images.row(by_predicate=pl.col("item_id") == opened["first"], named=True)
    assert opened["size"] == [picture["width"], picture["height"]]
    assert (
        opened["categories"] == items.row(by_predicate=pl.col("item_id") == opened["first"], named=True)["categories"]
    )
    assert opened["lacking"] == images["image"].null_count() > 0
    counts = dict(pl.read_parquet(store.latest("demo", "interactions").path)["split"].value_counts().iter_rows())
    assert opened["splits"] == {"train": counts["train"], "validation": counts["valid"], "test": counts["test"]}
    assert opened["width"] == 384
    assert set(opened["names"]) >= {"items", "interactions", "features-sentence", "features-clip", "similarity"}
    card = (folder / "README.md").read_text()
    assert f"| `items` | train {len(items):,} |" in card


def test_a_placeholder_is_exported_as_no_items_picture(store: Store, tmp_path: Path) -> None:
    statuses = {"a": ImageStatus.OK, "b": ImageStatus.PLACEHOLDER, "c": ImageStatus.NOT_FOUND}
    rows = [
        {"item_id": name, "status": status, "image": None if status == ImageStatus.NOT_FOUND else jpeg((255, 0, 0))}
        for name, status in statuses.items()
    ]
    tables = {
        "items": publish_items(store, [(name, name) for name in statuses]),
        "images": publish(store, "images", pa.Table.from_pylist(rows, schema=IMAGES)),
    }
    hugging_face.run(store=store, tables=tables, folder=tmp_path / "hf")
    exported = pl.read_parquet(tmp_path / "hf/items/train.parquet")
    vectors = [{"item_id": name, "content_hash": "h", "embedding": [1.0, 0.0]} for name in statuses]
    table = publish(store, "features/clip", pa.Table.from_pylist(vectors, schema=features(2)))
    atlas.run(store=store, vectors=table, **tables, file=tmp_path / "map.parquet")
    for shown in (exported, pl.read_parquet(tmp_path / "map.parquet")):
        assert [*shown.filter(pl.col("image").is_not_null())["item_id"]] == ["a"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_private_data_set_is_made_or_found_and_takes_the_folder(
    store: Store, tmp_path: Path, *, exists: bool
) -> None:
    publish_items(store, [("a", "A")])
    with DataSets({"me/shop": True} if exists else {}) as hub:
        answer = pushed(store, tmp_path / "hf", hub.url)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["pushed"]
    assert hub.private == {"me/shop": True}
    assert sorted(hub.committed) == ["README.md", "items/train.parquet"]


def test_nothing_is_uploaded_into_a_public_data_set(store: Store, tmp_path: Path) -> None:
    publish_items(store, [("a", "A")])
    with DataSets({"me/shop": False}) as hub:
        answer = pushed(store, tmp_path / "hf", hub.url)
    assert answer.returncode == 1
    assert "everybody can read me/shop on the hub; expected a private data set" in answer.stderr
    assert hub.committed == []
    assert (tmp_path / "hf/README.md").exists()


@pytest.mark.parametrize("address", ["", "hub.example"])
def test_a_hub_that_cannot_be_reached_is_told_with_the_command_that_pushes_again(
    store: Store, tmp_path: Path, address: str
) -> None:
    publish_items(store, [("a", "A")])
    with DataSets({}) as gone:
        pass
    answer = pushed(store, tmp_path / "hf", address or gone.url)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    command = f"hf upload me/shop {tmp_path / 'hf'} . --repo-type dataset --private"
    assert command in " ".join(answer.stderr.split())


def test_an_error_without_words_is_told_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ConnectionResetError

    monkeypatch.setenv("HF_TOKEN", "x")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fails)
    with pytest.raises(UserError, match="does not take me/shop: ConnectionResetError"):
        hugging_face.push(tmp_path, "me/shop")


def pushed(store: Store, folder: Path, url: str) -> Answer:
    """The command in a process of its own, which reads the hub's address when it starts."""
    command = ("export", "shop", str(folder), "--to", "hf", "--push", "me/shop", "--json")
    return cm3_process(*command, store=store.root, HF_ENDPOINT=url, HF_TOKEN="x", HF_HUB_DISABLE_XET="1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo@7", "new", "--to", "hf"), "demo has no registered version '7'"),
        (("dem", "new", "--to", "hf"), "No data set 'dem'"),
        (("demo", "taken", "--to", "hf"), "taken exists already"),
        (("demo/embeddings/items@champion", "new", "--to", "hf"), "expected a whole data set: demo@champion"),
        (("demo/items@0123456789abcdef", "new", "--to", "hf"), "expected a whole data set: demo."),
        (("demo", "new", "--to", "hf", "--push", "me/demo"), "nobody is logged in to the hub. Set HF_TOKEN"),
        (("demo/items", "new", "--push", "me/demo"), "only what is exported with --to hf is pushed"),
    ],
)
def test_bad_input_is_said(
    finished: tuple[Store, RunSummary],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "taken").mkdir()
    reference, target, *options = arguments
    answer = cm3("export", reference, str(tmp_path / target), *options, store=finished[0].root)
    assert answer.returncode == 1
    assert message in answer.stderr
