"""A run that a contract stops leaves everything that is served as it was, and says how to go on."""

import json
from pathlib import Path

import pytest

from flows import extract, job
from pipeline.store import Store
from schemas.errors import ContractError, UserError
from schemas.extract import PARAMETERS as EXTRACT
from schemas.run import CatalogueParameters
from tests.support import drawn_shop
from tests.support.command_line import cm3

pytestmark = pytest.mark.slow


def served(store: Path) -> dict[str, bytes]:
    """What consumers follow: every `latest`, the registry's database, and the records of runs."""
    files = [*store.rglob("latest"), *store.rglob("*.db"), *store.rglob("_runs/*.json")]
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def keep_items(shop: Path, count: int) -> None:
    lines = (shop / "items.jsonl").read_text().splitlines()
    (shop / "items.jsonl").write_text("\n".join(lines[:count]))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A shop whose features were extracted once."""
    drawn_shop.write(tmp_path / "shop")
    extract.run(parameters=EXTRACT["catalogue"](**drawn_shop.parameters(tmp_path / "shop", tmp_path / "store")))
    return tmp_path / "shop"


def test_a_feed_that_lost_most_of_its_rows_stops_the_run_and_moves_nothing_until_it_is_accepted(tmp_path: Path) -> None:
    shop, store = tmp_path / "shop", tmp_path / "store"
    drawn_shop.write(shop)
    fields = drawn_shop.parameters(shop, store, trainer=drawn_shop.QUICK)
    job.run(parameters=CatalogueParameters(**fields))
    before = served(store)
    keep_items(shop, 80)
    with pytest.raises(ContractError, match=r"items_lost of items is 60\.0%, the limit is 20\.0%, e\.g\. i080, i081"):
        job.run(parameters=CatalogueParameters(**fields))
    assert served(store) == before
    accepted = job.run(parameters=CatalogueParameters(**fields, accept=["items_lost"]))
    (lost,) = (verdict for verdict in accepted.verdicts if verdict.rule == "items_lost")
    assert (lost.state, lost.figure) == ("accepted", 0.6)
    assert Store(store).latest("shop", "items").rows == 80
    assert Store(store).latest("shop", "embeddings/items").rows == 80
    assert "items lost" in Path(accepted.report).read_text()


def test_a_stop_in_a_later_stage_holds_back_the_tables_of_the_stages_before_it(shop: Path, tmp_path: Path) -> None:
    before = served(tmp_path / "store")
    items = [json.loads(line) | {"title": ""} for line in (shop / "items.jsonl").read_text().splitlines()]
    (shop / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    only_coverage = {"nulls_risen": {"level": "ignore"}}
    fields = drawn_shop.parameters(shop, tmp_path / "store", contracts=only_coverage)
    with pytest.raises(ContractError, match="coverage_lost of sentence is 100"):
        extract.run(parameters=EXTRACT["catalogue"](**fields))
    assert served(tmp_path / "store") == before


def test_the_command_line_ends_with_1_and_says_how_to_accept_and_where_the_refused_tables_are(
    shop: Path, tmp_path: Path
) -> None:
    keep_items(shop, 80)
    command = ("extract", "catalogue", "--raw", str(shop), "--name", "shop", "--models", "offline", "--features")
    stopped = cm3(*command, "sentence", store=tmp_path / "store")
    assert stopped.returncode == 1
    assert "--accept items_lost" in stopped.stderr
    refused = json.loads(cm3("refused", "shop", "--json", store=tmp_path / "store").stdout)
    assert refused[0]["tables"].keys() == {"items", "quality"}
    version = Store(tmp_path / "store").get("shop", "items", refused[0]["tables"]["items"])
    assert version.rows == 80
    accepted = cm3(*command, "sentence", "--accept", "items_lost", store=tmp_path / "store")
    assert accepted.returncode == 0
    assert "items_lost" in accepted.stdout


def test_a_file_of_parameters_is_accepted_or_sampled_on_the_command_line(shop: Path, tmp_path: Path) -> None:
    keep_items(shop, 80)
    text = f"{{name: shop, raw: {shop}, models: offline, features: [sentence], limit: 9}}"
    (tmp_path / "shop.yaml").write_text(text)
    command = ("extract", "file", str(tmp_path / "shop.yaml"), "--json")
    sampled = json.loads(cm3(*command, "--limit", "30", store=tmp_path / "store").stdout)
    assert sampled["dataset"] == "shop-sample-30"
    (tmp_path / "shop.yaml").write_text(text.replace(", limit: 9", ""))
    assert cm3(*command, store=tmp_path / "store").returncode == 1
    accepted = cm3(*command, "--accept", "items_lost", store=tmp_path / "store")
    assert json.loads(accepted.stdout)["stages"][0]["rows"] == 80


def test_a_warning_is_said_and_stops_nothing(shop: Path, tmp_path: Path) -> None:
    keep_items(shop, 80)
    fields = drawn_shop.parameters(shop, tmp_path / "store", contracts={"items_lost": {"level": "warn"}})
    done = extract.run(parameters=EXTRACT["catalogue"](**fields))
    assert [v.state for v in done.verdicts if v.rule == "items_lost"] == ["warned"]
    assert Store(tmp_path / "store").latest("shop", "items").rows == 80


def test_a_stopped_run_keeps_its_finished_work_for_the_accepted_one(shop: Path, tmp_path: Path) -> None:
    items = [json.loads(line) for line in (shop / "items.jsonl").read_text().splitlines()]
    words = [item | {"title": "one for all"} for item in items[:100]]
    (shop / "items.jsonl").write_text("\n".join(map(json.dumps, [*words, *items[100:]])))
    fields = drawn_shop.parameters(shop, tmp_path / "store")
    with pytest.raises(ContractError, match="duplicates_risen of sentence is 50"):
        extract.run(parameters=EXTRACT["catalogue"](**fields))
    again = extract.run(parameters=EXTRACT["catalogue"](**fields, accept=["duplicates_risen"]))
    assert again.encoded == {"sentence": 0}


def test_a_last_version_that_is_gone_is_compared_with_nothing(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "store")
    last = store.latest("shop", "items")
    (tmp_path / "store/shop/items" / f"{last.version}.json").unlink()
    keep_items(shop, 80)
    done = extract.run(parameters=EXTRACT["catalogue"](**drawn_shop.parameters(shop, tmp_path / "store")))
    assert not [v for v in done.verdicts if v.rule == "items_lost"]
    assert "its last version is gone" in caplog.text


@pytest.mark.parametrize(
    ("contracts", "message"),
    [
        ({"items_lots": {"limit": 1}}, "did you mean items_lost"),
        ({"nulls": {"of": {"item.title": 0.1}}}, "there is no item.title; columns: items.title"),
        ({"coverage_lost": {"of": {"clip": 0.1}}}, "there is no clip; features: sentence"),
        ({"pictures_failed": {"of": {"404": 0.1}}}, "there is no 404; statuses: ok, no_url"),
    ],
)
def test_a_contract_of_something_unknown_is_refused_with_what_there_is(
    tmp_path: Path, contracts: dict[str, object], message: str
) -> None:
    from flows.parameters import validated

    with pytest.raises(UserError, match=message):
        validated(CatalogueParameters, drawn_shop.parameters(tmp_path, tmp_path / "store", contracts=contracts))
