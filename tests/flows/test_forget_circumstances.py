"""`cm3 forget` on a shop's store: where the registry lies elsewhere, too few users are left, newer tables are there, or
something else runs meanwhile."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows import encoder_comparison, extract, forget, job, research
from pipeline import history
from pipeline.registry import versions
from pipeline.run_records import newest_first
from pipeline.store import Store
from schemas.encoder_comparison import EncoderComparisonConfig
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from schemas.extract import PARAMETERS as EXTRACT
from schemas.registry import RegistryConfig
from schemas.run import CatalogueParameters
from schemas.tables import INTERACTIONS
from schemas.training import CM3Config, ComparisonConfig, TuningConfig
from tests.support import drawn_shop
from tests.support.command_line import cm3
from tests.support.published import publish
from tests.support.service import serving

pytestmark = pytest.mark.slow
SHORT = CM3Config(**drawn_shop.QUICK)


def fields(place: Path, **changes: Any) -> dict[str, Any]:
    """Parameters of a run on the shop whose files lie beside its store."""
    return drawn_shop.parameters(place.parent / "raw", place, ingest={"core_k": 1}, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shop's files and its store after one run."""
    folder = tmp_path_factory.mktemp("shop")
    drawn_shop.write(folder / "raw")
    job.run(parameters=CatalogueParameters(**fields(folder / "store", trainer=drawn_shop.QUICK)))
    return folder


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Store:
    """The store of a copy of it, for one test."""
    return Store(shutil.copytree(trained, tmp_path / "shop") / "store")


def users_of(store: Store) -> list[str]:
    return sorted(set(store.read(store.latest("shop", "interactions"))["user_id"].to_pylist()))


def everything(store: Store) -> set[str]:
    return {str(path) for path in Path(store.root, "shop").rglob("*")}


def test_another_registry_than_the_runs_is_refused_and_the_runs_own_can_be_named(store: Store) -> None:
    registry = Path(store.root).parent / "elsewhere.db"
    Path(store.root, "_mlflow/mlflow.db").rename(registry)
    before = everything(store)
    for call in (forget.look, forget.run):
        with pytest.raises(UserError, match=r"the registry knows none of them.*Set MLFLOW_TRACKING_URI"):
            call(store, "shop", ["u01"])
    assert everything(store) == before
    (registry.parent / "gone.txt").write_text("u01\n")
    command = ("forget", "shop", "--users", str(registry.parent / "gone.txt"), "--delete")
    answer = cm3(*command, "--registry.tracking", f"sqlite:///{registry}", store=store.root)
    assert answer.returncode == 0, answer.stderr
    (version,) = versions.registered(store, "shop", RegistryConfig(tracking=f"sqlite:///{registry}"))
    assert (version.number, version.alias) == (2, "champion")
    users = store.read(store.get("shop", "embeddings/users", version.tables["embeddings/users"]))["user_id"].to_pylist()
    assert len(users) == drawn_shop.USERS - 1


@pytest.mark.parametrize("left", [0, 1])
def test_where_too_few_are_left_they_are_forgotten_and_nothing_is_served(store: Store, left: int) -> None:
    users = users_of(store)
    gone = users[left:]
    with serving(store) as service:
        assert service.client.get(f"/v1/shop/recommend/{gone[0]}").status_code == 200
        assert forget.run(store, "shop", gone).done
        service.look()
        assert service.client.get(f"/v1/shop/recommend/{gone[0]}").status_code == 404
        assert not [path for path in service.follower.folder.iterdir() if path.is_dir()]
        assert service.client.get("/readyz").json()["served"] == {}
    assert versions.registered(store, "shop") == []
    assert "recommendations" not in store.tables("shop")
    assert users_of(store) == users[:left]
    assert forget.look(store, "shop", gone).versions == {}


def test_killed_when_nothing_is_registered_any_longer_it_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = users_of(store)[1:]
    with monkeypatch.context() as killed:
        killed.setattr(Store, "remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            forget.run(store, "shop", gone)
    assert versions.registered(store, "shop") == []
    assert len(store.versions("shop", "embeddings/items")) == 1
    assert forget.run(store, "shop", gone).done
    assert store.versions("shop", "embeddings/items") == []


def test_newer_items_stay_the_latest_and_reports_of_extractions_stay(store: Store) -> None:
    place = Path(store.root)
    extract.run(parameters=EXTRACT["catalogue"](**fields(place)))
    (place.parent / "raw/items.jsonl").open("a").write('\n{"item_id": "new", "title": "A new lamp"}\n')
    newer = extract.run(parameters=EXTRACT["catalogue"](**fields(place)))
    latest = {table: store.latest("shop", table).version for table in ("items", "images", "features/sentence")}
    before = versions.champion(store, "shop")
    assert before is not None
    assert before.tables["items"] != latest["items"]
    encoders(store)
    compared = extract.run(parameters=EXTRACT["catalogue"](**fields(place)))
    assert compared.report != newer.report
    forget.run(store, "shop", ["u01"])
    assert {table: store.latest("shop", table).version for table in latest} == latest
    after = versions.champion(store, "shop")
    assert after is not None
    assert {name: after.tables[name] for name in latest} == {name: before.tables[name] for name in latest}
    record = next(iter(newest_first(store, "shop")))
    assert {stage.table: stage.version for stage in record.stages} == after.tables
    assert Path(newer.report).exists()
    assert not Path(compared.report).exists(), "it showed what was learned from them"
    assert not Path(store.root, before.report).exists(), "the run's showed its users"
    assert history.read(store, "shop", 1)[0].pictures_failed is None


def test_a_data_set_whose_first_run_was_stopped_is_forgotten_too(store: Store) -> None:
    rows = [{"user_id": user, "item_id": "i1", "split": "train"} for user in ("ann", "bob")]
    stopped = Store(store.root, moves_latest=False)
    publish(stopped, "interactions", pa.Table.from_pylist(rows, schema=INTERACTIONS), dataset="stopped")
    assert "stopped" not in store.datasets()
    assert len(forget.run(store, "stopped", ["ann"]).versions) == 1
    assert not list(Path(store.root, "stopped").rglob("*.parquet"))
    for name in ("nowhere", "_scratch"):
        with pytest.raises(UserError, match=f"No data set '{name}'"):
            forget.run(store, name, ["ann"])


def test_a_champion_that_is_damaged_is_said_with_what_to_do(store: Store) -> None:
    file = next(Path(store.latest("shop", "features/sentence").path).iterdir())
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"is damaged.*Nothing was removed\. Run the data set again"):
        forget.run(store, "shop", ["u01"])
    assert versions.champion(store, "shop") is not None
    Path(store.latest("shop", "features/sentence").path).with_suffix(".json").unlink()  # as the message says
    job.run(parameters=CatalogueParameters(**fields(Path(store.root), trainer=drawn_shop.QUICK)))
    assert forget.run(store, "shop", ["u01"]).done
    assert "u01" not in users_of(store)


def encoders(store: Store) -> object:
    short = EncoderSpec(kind="sentence", model="offline:minilm", truncate_dim=64)
    config = EncoderComparisonConfig(
        encoders={"sentence": None, "short": short}, trainer=ComparisonConfig(seeds=(0,), cm3=SHORT)
    )
    return encoder_comparison.run(store, "shop", config)


def compared(store: Store) -> object:
    return research.compare(store, "shop", ComparisonConfig(models=("cm3",), seeds=(0,), cm3=SHORT, ablations=False))


def tuned(store: Store) -> object:
    base = SHORT.model_dump(include=set(drawn_shop.QUICK))
    return research.tune(store, "shop", TuningConfig(trials=1, base=base, space={"gamma": [0.5]}))


@pytest.mark.parametrize(
    ("stage", "learn", "fails"),
    [
        ("compare_encoders", encoders, False),
        ("comparison", compared, False),
        ("comparison", compared, True),
        ("tuning", tuned, False),
    ],
)
def test_what_learned_meanwhile_is_refused_and_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, stage: str, learn: Callable[[Store], object], fails: bool
) -> None:
    trainer = {"compare_encoders": encoder_comparison, "comparison": research, "tuning": research}[stage]
    run = getattr(trainer, stage).run

    def meanwhile(**arguments: Any) -> Any:
        result = run(**arguments)
        forget.run(store, "shop", ["u01"])
        if fails:
            raise FileNotFoundError(2, "taken from under it")
        return result

    monkeypatch.setattr(getattr(trainer, stage), "run", meanwhile)
    with pytest.raises(UserError, match="was removed while this learned from it"):
        learn(store)
    assert not {"comparison", "encoder_comparison"} & set(store.tables("shop"))
    assert not [path for name in ("trainings", "tuning") for path in store.scratch(name).rglob("*") if path.is_file()]
