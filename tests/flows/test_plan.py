"""A plan's counts are those of the run that follows; it loads no model and publishes nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows import extract, job
from flows.plan import plan
from pipeline.store import Store
from schemas.extract import PARAMETERS as EXTRACT
from schemas.plan import Plan, Step
from schemas.run import PARAMETERS, CatalogueParameters, DemoParameters, RunParameters, RunSummary
from tests.support import drawn_shop
from tests.support.command_line import cm3
from tests.support.moody_server import Moody
from tests.support.published import jpeg
from tests.support.real_models import tiny_reader
from tests.support.small_demo import small_demo

pytestmark = pytest.mark.slow

VISION = {"vision": {"kind": "timm", "model": "offline:efficientnet-lite0"}}
SHORT = {"sentence": {"kind": "sentence", "model": "offline:minilm", "max_tokens": 32}}
"""Reads the beginning of a text, which is quick where texts are long."""
CHEAP: dict[str, Any] = {
    "models": "offline",
    "features": ("sentence",),
    "encoders": SHORT,
    "ingest": {"core_k": 1},
    "trainer": drawn_shop.QUICK,
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The files of a shop."""
    drawn_shop.write(tmp_path / "shop")
    return tmp_path / "shop"


def fields(shop: Path, **changes: object) -> CatalogueParameters:
    given = drawn_shop.parameters(shop, shop.parent / "store", trainer=drawn_shop.QUICK)
    return CatalogueParameters(**given | changes)


def step(made: Plan, stage: str) -> Step:
    return next(each for each in made.steps if each.stage == stage)


def left(made: Plan) -> dict[str, tuple[int, int]]:
    """Stage → the least and the most work that it has."""
    return {each.stage: (each.at_least, each.at_most) for each in made.steps}


def check(parameters: RunParameters) -> RunSummary:
    """Plan, run, and compare every count; returns the run's summary."""
    made = plan(parameters)
    summary = job.run(parameters=parameters)
    stages = {record.stage: record for record in reversed(summary.stages)}
    assert step(made, "images").at_least == step(made, "images").at_most == stages["images"].counts["downloaded"]
    for name, encoded in summary.encoded.items():
        planned = step(made, name if name == "captions" else f"features/{name}")
        assert planned.at_least <= encoded <= planned.at_most, name
        if not step(made, "images").at_most and name != "caption":
            assert planned.at_least == planned.at_most == encoded, name
    for stage in ("similarity", "train"):
        assert (step(made, stage).at_most == 0) == stages[stage].reused
    return summary


def gift_cards(data: Path, folder: Path) -> RunParameters:
    """A part of the gift cards that are for sale, with photos in files."""
    fields = {"release": 2018, "category": "Gift Cards", "raw": str(data / "amazon-2018"), "limit": 400}
    return PARAMETERS["amazon"](
        **fields,
        **CHEAP | {"features": ("sentence", "vision"), "encoders": SHORT | VISION},
        image_url="images/{item_id}.jpg",
        store=str(folder / "store"),
    )


def beauty(data: Path, folder: Path) -> RunParameters:
    """A part of Beauty, of which no time is known."""
    source, raw = data / "amazon-2014-beauty", folder / "beauty"
    raw.mkdir(exist_ok=True)
    items = pl.read_csv(source / "items.csv.gz").head(150)
    items.select("item_id", "title", "categories").write_csv(raw / "items.csv")
    chosen = pl.read_csv(source / "interactions.csv.gz").filter(pl.col("item_id").is_in(items["item_id"].implode()))
    chosen.select("user_id", "item_id").write_csv(raw / "interactions.csv")
    return CatalogueParameters(raw=str(raw), name="beauty", items="items.csv", **CHEAP, store=str(folder / "store"))


PARTS = {"gift-cards": gift_cards, "beauty": beauty}


def test_nothing_is_published_before_the_run_and_nothing_is_left_after_it(shop: Path) -> None:
    made = plan(fields(shop))
    assert Store(shop.parent / "store").datasets() == []
    assert (made.items, made.interactions) == (200, 1200)
    assert left(made)["features/sentence"] == (200, 200)
    assert check(fields(shop)).encoded == {"sentence": 200}
    assert {most for _, most in left(plan(fields(shop))).values()} == {0}


def test_changed_new_and_repeated_texts_are_counted_as_the_run_encodes_them(shop: Path) -> None:
    job.run(parameters=fields(shop))
    items = [json.loads(line) for line in (shop / "items.jsonl").read_text().splitlines()]
    new = [{"item_id": f"n{n}", "title": "the same words"} for n in range(4)]
    changed = [items[0] | {"title": "other words"}, *items[1:], *new, {"item_id": "again", "title": items[5]["title"]}]
    (shop / "items.jsonl").write_text("\n".join(map(json.dumps, changed)))
    assert left(plan(fields(shop)))["features/sentence"] == (2, 2)
    assert check(fields(shop)).encoded == {"sentence": 2}


def test_a_sample_and_then_the_whole_encode_every_text_once(shop: Path) -> None:
    sample = check(fields(shop, limit=50, ingest={"core_k": 1}))
    assert (sample.dataset, sample.encoded) == ("shop-sample-50", {"sentence": 50})
    assert left(plan(fields(shop)))["features/sentence"] == (150, 150)
    assert check(fields(shop)).encoded == {"sentence": 150}


def test_the_plan_of_an_extraction_needs_no_interactions_and_counts_what_it_encodes(shop: Path) -> None:
    (shop / "interactions.csv").unlink()
    parameters = EXTRACT["catalogue"](**drawn_shop.parameters(shop, shop.parent / "store"))
    made = plan(parameters)
    assert (made.items, made.interactions) == (200, 0)
    assert left(made) == dict.fromkeys(("ingest", "features/sentence"), (200, 200)) | {
        "images": (0, 0),
        "similarity": (0, 200),
    }
    assert extract.run(parameters=parameters).encoded == {"sentence": 200}
    assert {most for _, most in left(plan(parameters)).values()} == {0}
    command = ("plan-extract", "catalogue", "--raw", str(shop), "--name", "shop", "--models", "offline", "--features")
    document = json.loads(cm3(*command, "sentence", "--json", store=shop.parent / "store").stdout)
    assert left(Plan.model_validate(document)) == left(plan(parameters))


def test_the_price_of_an_endpoint_is_by_the_last_run_that_paid_it(shop: Path) -> None:
    server = Moody()
    served = {"sentence": server.encoder(price_in=2e6)}
    half = drawn_shop.parameters(shop, shop.parent / "store", encoders=served, limit=50)
    parameters = EXTRACT["catalogue"](**half)
    assert step(plan(parameters), "features/sentence").cost is None
    extract.run(parameters=parameters)
    assert step(plan(parameters), "features/sentence").cost == 0
    whole = EXTRACT["catalogue"](**half | {"limit": None})
    assert step(plan(whole), "features/sentence").cost == 150 * 5 * 2
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", ["gift-cards", "beauty"])
def test_of_real_catalogues_the_plan_counts_what_the_run_does(kind: str, shared_data: Path, tmp_path: Path) -> None:
    first = check(PARTS[kind](shared_data, tmp_path))
    assert all(first.encoded.values())
    again = check(PARTS[kind](shared_data, tmp_path))
    assert not any(again.encoded.values())


def test_time_is_by_the_last_run_of_the_store_or_said_to_be_of_the_docs(shop: Path) -> None:
    assert "docs/benchmarks.md" in step(plan(fields(shop)), "features/sentence").basis
    job.run(parameters=fields(shop, limit=50, ingest={"core_k": 1}))
    measured = step(plan(fields(shop)), "features/sentence")
    assert measured.basis.startswith("run of shop-sample-50, ")
    assert measured.seconds is not None
    assert measured.seconds > 0


def test_with_pictures_and_captions_counts_are_exact_once_they_are_fetched(
    finished: tuple[Store, RunSummary], tmp_path: Path
) -> None:
    store = Path(shutil.copytree(finished[0].root, tmp_path / "store"))
    check(small_demo(store))  # the demo's addresses are a store's own: all pictures are to be fetched
    made = plan(small_demo(store))
    assert {stage: most for stage, (_, most) in left(made).items() if stage != "images"} == {
        **dict.fromkeys(("ingest", "captions", "features/sentence", "features/clip", "features/caption"), 0),
        **{"similarity": 0, "train": 0},
    }
    other = {"clip": {"kind": "timm", "model": "offline:efficientnet-lite0"}}
    changed = DemoParameters(**small_demo(store).model_dump() | {"encoders": other})
    encoded = check(changed).encoded
    assert encoded["clip"] > 0
    assert encoded["sentence"] == encoded["captions"] == encoded["caption"] == 0


def test_of_pictures_in_files_only_changed_and_new_ones_may_have_to_be_encoded(shop: Path) -> None:
    items = [json.loads(line) for line in (shop / "items.jsonl").read_text().splitlines()]
    lines = [json.dumps(item | {"image_url": f"{item['item_id']}.jpg"}) for item in items]
    (shop / "items.jsonl").write_text("\n".join(lines))
    for n in range(8):
        (shop / f"i00{n}.jpg").write_bytes(jpeg((30 * n, 0, 0)))
    pictured = fields(shop, features=("vision",), encoders=VISION)
    features_alone = EXTRACT["catalogue"](**pictured.model_dump(include=set(EXTRACT["catalogue"].model_fields)))
    assert extract.run(parameters=features_alone).encoded == {"vision": 8}
    assert left(plan(pictured))["features/vision"] == (0, 0), "192 files are missing, as they were"
    (shop / "i000.jpg").write_bytes(jpeg((0, 200, 0), side=30))
    assert left(plan(pictured))["features/vision"] == (0, 1)
    assert extract.run(parameters=features_alone).encoded == {"vision": 1}


def test_items_that_are_encoded_from_texts_and_pictures_are_counted_once_both_are_published(shop: Path) -> None:
    tiny_reader(shop.parent)
    items = [json.loads(line) for line in (shop / "items.jsonl").read_text().splitlines()]
    lines = [json.dumps(item | {"image_url": f"{item['item_id']}.jpg"}) for item in items]
    (shop / "items.jsonl").write_text("\n".join(lines))
    (shop / "i000.jpg").write_bytes(jpeg((200, 0, 0)))
    encoders: dict[str, dict[str, object]] = {"unified": {"kind": "multimodal", "model": str(shop.parent / "model")}}
    unified = fields(shop, features=("unified",), encoders=encoders)
    assert left(plan(unified))["features/unified"] == (0, 200)
    assert check(unified).encoded == {"unified": 200}
    assert left(plan(unified))["features/unified"] == (0, 0)
    encoders["unified"]["truncate_dim"] = 8
    assert left(plan(fields(shop, features=("unified",), encoders=encoders)))["features/unified"] == (200, 200)


def test_a_plan_imports_no_torch(shop: Path) -> None:
    parameters = fields(shop).model_dump_json()
    script = (
        "import sys; from flows.plan import plan; from schemas.run import CatalogueParameters as P;"
        "plan(P.model_validate_json(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, parameters], check=False).returncode == 0


def test_the_command_says_the_same_to_a_person_and_to_a_machine(shop: Path) -> None:
    store = shop.parent / "store"
    store.mkdir()
    command = ("plan", "catalogue", "--raw", str(shop), "--name", "shop", "--models", "offline", "--features")
    said = cm3(*command, "sentence", store=store)
    assert said.returncode == 0, said.stderr
    assert "200 texts" in said.stdout
    document = json.loads(cm3(*command, "sentence", "--json", store=store).stdout)
    assert left(Plan.model_validate(document)) == left(plan(fields(shop, trainer={})))
