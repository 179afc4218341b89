"""`cm3 init`: the file that it writes is one that a run takes, or says what is missing."""

import io
import json
from pathlib import Path

import pytest
import yaml

from pipeline.ingest.sources import demo
from pipeline.store import Store
from tests.support.command_line import cm3
from tests.support.small_demo import SMALL

GOODS = "artikel,label\n" + "".join(f"A{n},Red mug {n}\n" for n in range(9))
SOLD = "customer,sku\n" + "".join(f"u{n % 3},A{n}\n" for n in range(9))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder, in which the command is given, with a shop in another."""
    (tmp_path / "Große Shop").mkdir()
    (tmp_path / "Große Shop" / "goods.csv").write_text(GOODS)
    (tmp_path / "Große Shop" / "sold.csv").write_text(SOLD)
    return tmp_path


def test_without_questions_it_writes_what_it_guessed_with_reasons(shop: Path) -> None:
    answer = cm3("init", "Große Shop", "--yes", store=shop)
    assert answer.returncode == 0, answer.stderr
    assert "cm3 run file gro-e-shop.yaml" in answer.stdout
    text = (shop / "gro-e-shop.yaml").read_text()
    assert yaml.safe_load(text) == {
        "kind": "catalogue",
        "raw": "Große Shop",
        "name": "gro-e-shop",
        "items": "goods.csv",
        "item_columns": {"item_id": "artikel", "title": "label"},
        "interactions": "sold.csv",
        "interaction_columns": {"user_id": "customer", "item_id": "sku"},
        "ingest": {"core_k": 1},
    }
    assert "# 100% of its items are in goods.csv" in text
    assert cm3("config", "file", "gro-e-shop.yaml", store=shop).returncode == 0


def test_a_file_that_exists_is_left_as_it_is(shop: Path) -> None:
    (shop / "mine.yaml").write_text("mine")
    answer = cm3("init", "Große Shop", "--yes", "--file", "mine.yaml", store=shop)
    assert answer.returncode == 1
    assert "mine.yaml exists, and is never overwritten" in answer.stderr
    assert (shop / "mine.yaml").read_text() == "mine"


def test_a_line_to_fill_in_stops_a_run_by_its_name(shop: Path) -> None:
    (shop / "Große Shop" / "goods.csv").unlink()
    answer = cm3("init", "Große Shop", "--name", "shop", "--json", store=shop)
    assert json.loads(answer.stdout)["fill_in"] == ["items"]
    refused = cm3("run", "file", "shop.yaml", store=shop)
    assert refused.returncode == 1
    assert "shop.yaml: fill in items: it says FILL-IN" in refused.stderr


def test_it_asks_for_the_folder_and_takes_changes(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["name=mine", "item_columns.title=artikel", "category_separator=, ", "item_columns.brand = label"]
    lines = ["Große Shop", "nonsense", *changes, ""]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*lines, ""])))
    answer = cm3("init", "--file", "asked.yaml", store=shop)
    assert answer.returncode == 0, answer.stderr
    fields = yaml.safe_load((shop / "asked.yaml").read_text())
    assert fields["name"] == "mine"
    assert fields["item_columns"] == {"item_id": "artikel", "title": "artikel", "brand": "label"}
    assert fields["category_separator"] == ", "
    assert "'nonsense' is no line: expected PARAMETER=VALUE" in answer.stdout


def test_where_nobody_answers_nothing_is_written(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    answer = cm3("init", store=shop)
    assert answer.returncode == 1
    assert "nothing was written. With --yes nothing is asked." in answer.stderr
    assert not list(shop.glob("*.yaml"))


def test_what_a_strange_file_says_stays_within_its_comment(shop: Path) -> None:
    rows = "".join(f'A{n},"Mug{n}\nlimit: 1\x07"\n' for n in range(9))
    (shop / "Große Shop" / "goods.csv").write_text("artikel,label\n" + rows)
    assert cm3("init", "Große Shop", "--name", "shop", "--yes", store=shop).returncode == 0
    assert "limit" not in yaml.safe_load((shop / "shop.yaml").read_text())


@pytest.mark.slow
def test_from_a_strange_folder_to_a_run(tmp_path: Path) -> None:
    drawn = demo.drawn(SMALL, Store(tmp_path / "drawn"))
    assert cm3("init", str(drawn), "--name", "shop", "--yes", store=tmp_path).returncode == 0
    quick = ("--models", "offline", "--features", "sentence", "--trainer.max-epochs", "1", "--trainer.dim", "8")
    answer = cm3("run", "catalogue", "--config", "shop.yaml", *quick, store=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "registered: shop version 1" in answer.stdout
