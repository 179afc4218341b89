"""`cm3 forget`: no byte of the store names the users afterwards, what is served was made without them, and they stay
away."""

import io
import json
import logging
import os
import shutil
from multiprocessing.connection import Connection
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from flows import forget, job, re_extract
from pipeline import forgotten
from pipeline.registry import versions
from pipeline.store import Store
from schemas.errors import UserError
from schemas.re_extract import ReExtractCatalogue, RetrainThreshold
from tests.support import drawn_shop
from tests.support.command_line import cm3
from tests.support.service import serving
from tests.support.small_demo import small_demo
from tests.support.warm import CONTEXT

pytestmark = pytest.mark.slow
DEADLINE = 300.0
TABLES = ("interactions", "embeddings/users", "recommendations")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two registered versions of the small demo, of which the second is champion."""
    folder = tmp_path_factory.mktemp("trained") / "store"
    for seed in (0, 1):
        small = small_demo(folder, features=("sentence",), ingest={"core_k": 6})
        job.run(parameters=small.model_copy(update={"trainer": small.trainer.model_copy(update={"seed": seed})}))
    versions.promote(Store(folder), "demo", "2")
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Store:
    """A copy of it, for one test."""
    return Store(shutil.copytree(trained, tmp_path / "store"))


def users_of(store: Store) -> list[str]:
    """Two users with rows, and one whom the table `quality` names in an example."""
    rows = store.read(store.latest("demo", "interactions"))["user_id"].unique().to_pylist()
    examples = store.read(store.latest("demo", "quality"))["examples"].combine_chunks().flatten().to_pylist()
    named = [example.partition(" → ")[0] for example in examples if " → " in example]
    return [*[user for user in sorted(rows) if user != named[0]][:2], named[0]]


def places(store: Store, users: list[str]) -> list[str]:
    """Files of the store that hold an id: in their bytes, in any cell of their table, or in what a page shows."""
    found = []
    for path in sorted(Path(store.root).rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".parquet":
                cells = io.StringIO()
                print(pq.ParquetFile(io.BytesIO(data)).read().drop_columns(_pictures(data)).to_pydict(), file=cells)
                data += cells.getvalue().encode()
            if any(user.encode() in data for user in users):
                found.append(str(path.relative_to(store.root)))
    return found


def _pictures(data: bytes) -> list[str]:
    schema = pq.read_schema(io.BytesIO(data))
    return [name for name in ("image", "embedding") if name in schema.names]


def test_a_dry_run_names_what_holds_the_users_and_changes_nothing(copy: Store) -> None:
    users, before = users_of(copy), places(copy, users_of(copy))
    file = Path(copy.root).parent / "gone.txt"
    file.write_text("\n".join([*users, "nobody"]))
    found = json.loads(cm3("forget", "demo", "--users", str(file), "--json", store=copy.root).stdout)
    assert found["done"] is False
    assert found["unknown"][-1] == "nobody"
    assert found["registered"] == [1, 2]
    assert "version 2, the champion, learned from them" in found["champion"]
    tables = {reference.partition("@")[0] for reference in found["versions"]}
    assert tables >= {f"demo/{table}" for table in (*TABLES, "quality", "model", "item_weights", "embeddings/items")}
    assert not any(table.startswith(("demo/features", "demo/items")) for table in tables)
    assert places(copy, users) == before
    shown = cm3("forget", "demo", "--users", str(file), store=copy.root).stdout
    assert "in no table of demo: " in shown
    assert "to remove; add --delete to do it" in shown


def test_no_byte_of_the_store_names_them_and_the_champion_is_trained_again(copy: Store) -> None:
    users = users_of(copy)
    kept = {name: copy.latest("demo", name).version for name in ("items", "features/sentence")}
    rest = set(copy.read(copy.latest("demo", "interactions"))["user_id"].to_pylist()) - set(users)
    seen = {path.split("/")[1] for path in places(copy, users)}
    assert seen >= {"interactions", "quality", "recommendations", "embeddings", "model", "raw", "demo"}
    forget.run(copy, "demo", users)
    assert places(copy, users) == []
    (version,) = versions.registered(copy, "demo")
    assert (version.number, version.alias) == (3, "champion")
    for table in TABLES:
        assert set(copy.read(copy.get("demo", table, version.tables[table]))["user_id"].to_pylist()) == rest
    assert {name: version.tables[name] for name in kept} == kept
    assert Path(copy.root, version.report).exists()
    record = forgotten.read(copy, "demo")
    assert len(record.users) == 3
    assert not record.unfinished
    again = forget.run(copy, "demo", users)
    assert again.versions == {}
    assert set(again.unknown) == set(users)
    assert [v.number for v in versions.registered(copy, "demo")] == [3]


def test_where_the_model_is_older_than_the_users_it_is_applied_again_and_not_trained(tmp_path: Path) -> None:
    raw, place = tmp_path / "raw", tmp_path / "store"
    drawn_shop.write(raw)
    fields = drawn_shop.parameters(raw, place, trainer=drawn_shop.QUICK, ingest={"core_k": 1})
    never = RetrainThreshold(items=1.0, interactions=1.0)
    re_extract.run(parameters=ReExtractCatalogue(**fields), retrain=never)
    with (raw / "interactions.csv").open("a") as file:
        file.writelines(f"latecomer,i{number:03d},{1_500_000_000 + number}\n" for number in range(10))
    re_extract.run(parameters=ReExtractCatalogue(**fields), retrain=never)
    store = Store(place)
    first, second = versions.registered(store, "shop")
    assert (second.alias, second.tables["model"]) == ("champion", first.tables["model"])
    trained = Path(place, "shop/_runs/latest.json").read_bytes()
    found = forget.run(store, "shop", ["latecomer"])
    assert Path(place, "shop/_runs/latest.json").read_bytes() == trained, "the drift is since the training, not this"
    assert "its model, which is older, is applied" in found.champion
    assert places(store, ["latecomer"]) == []
    kept, made = versions.registered(store, "shop")
    assert kept.number == first.number
    assert (made.alias, made.tables["model"]) == ("champion", first.tables["model"])
    before = store.read(store.get("shop", "embeddings/users", first.tables["embeddings/users"]))
    assert store.read(store.get("shop", "embeddings/users", made.tables["embeddings/users"])).equals(before)


def test_ids_that_are_nowhere_are_said_and_refused_from_then_on(copy: Store, tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text("\ufeffnobody\n\nnobody\n")
    command = ("forget", "demo", "--users", str(tmp_path / "gone.txt"))
    answer = cm3(*command, "--delete", store=copy.root)
    assert answer.returncode == 0
    assert "in no table of demo: nobody\n0 versions of 0 tables" in answer.stdout
    assert "nobody" in forgotten.read(copy, "demo")
    assert len(versions.registered(copy, "demo")) == 2
    assert json.loads(cm3(*command, "--take-back", "--json", store=copy.root).stdout)["taken_back"] == 1
    assert "nobody" not in forgotten.read(copy, "demo")


@pytest.mark.parametrize(
    ("dataset", "text", "message"),
    [
        ("demo", b"\n", "expected one user id per line; it has none"),
        ("demo", b"\xff\xfe", "expected UTF-8 text with one user id per line"),
        ("dem", b"U1", "No data set 'dem'"),
    ],
)
def test_bad_input_is_said_in_one_line(trained: Path, tmp_path: Path, dataset: str, text: bytes, message: str) -> None:
    (tmp_path / "gone.txt").write_bytes(text)
    answer = cm3("forget", dataset, "--users", str(tmp_path / "gone.txt"), "--delete", store=trained)
    assert answer.returncode == 1
    assert message in answer.stderr


def test_a_damaged_record_stops_a_run_that_could_bring_them_back(copy: Store) -> None:
    Path(copy.root, "demo/_forgotten.json").write_text('{"salt": "00", "us')
    with pytest.raises(UserError, match=r"_forgotten.json is damaged.*could come back"):
        job.run(parameters=small_demo(copy.root, features=("sentence",)))


def test_a_later_run_does_not_bring_them_back_until_it_is_told_to(copy: Store) -> None:
    users = users_of(copy)
    parameters = small_demo(copy.root, features=("sentence",), ingest={"core_k": 1})
    forget.run(copy, "demo", users)
    job.run(parameters=parameters)
    assert not set(users) & set(copy.read(copy.latest("demo", "embeddings/users"))["user_id"].to_pylist())
    (row,) = [r for r in copy.read(copy.latest("demo", "quality")).to_pylist() if r["rule"] == "forgotten_user"]
    assert (row["action"], row["examples"]) == ("dropped", [])
    assert row["count"] > 0
    assert all("_scratch" in path for path in places(copy, users)), "only the source, which the run fetched, has them"
    assert forget.take_back(copy, "demo", users[:1]) == 1
    job.run(parameters=parameters)
    now = set(copy.read(copy.latest("demo", "embeddings/users"))["user_id"].to_pylist())
    assert now & set(users) == {users[0]}


def test_what_was_served_answers_without_them(copy: Store) -> None:
    users = users_of(copy)
    with serving(copy) as service:
        assert service.client.get(f"/v1/demo/recommend/{users[0]}").status_code == 200
        forget.run(copy, "demo", users)
        service.look()
        answer = service.client.get(f"/v1/demo/recommend/{users[0]}")
        assert answer.status_code == 404, answer.text
        other = copy.read(copy.latest("demo", "embeddings/users"))["user_id"][0].as_py()
        assert service.client.get(f"/v1/demo/recommend/{other}").json()["version"] == "3"
        files = [path for path in service.follower.folder.rglob("*") if path.is_file()]
        assert not [path for path in files if users[0].encode() in path.read_bytes()]


def _child(store: str, users: list[str], pipe: Connection) -> None:
    def tell(record: logging.LogRecord) -> None:
        pipe.send(record.getMessage())
        pipe.recv()  # goes on only when the test says so: it is killed at this line and at no later one

    handler = logging.Handler()
    handler.emit = tell  # type: ignore[method-assign]
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for room in ("flows", "pipeline", "trainers"):
        logging.getLogger(room).setLevel(logging.INFO)
    forget.run(Store(store), "demo", users)
    pipe.send("END")
    os._exit(0)


def test_killed_at_any_step_it_goes_on_and_ends_the_same(copy: Store) -> None:
    users = users_of(copy)
    steps = (
        "train …",
        "registry …",
        "removed version 1 of demo",
        "demo: removing",
        "removed demo/model@",
        "removed demo/interactions@",
    )
    for step in steps:
        pipe, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_child, args=(copy.root, users, theirs), daemon=True)
        process.start()
        theirs.close()
        lines = [pipe.recv()]
        while not lines[-1].startswith(step):
            pipe.send("go on")
            assert pipe.poll(DEADLINE)
            lines.append(pipe.recv())
            assert lines[-1] != "END", (step, lines[-8:])
        process.kill()
        process.join(DEADLINE)
        assert forgotten.read(copy, "demo").unfinished
    forget.run(copy, "demo", users)
    assert places(copy, users) == []
    assert [(v.number, v.alias) for v in versions.registered(copy, "demo")] == [(3, "champion")]
    assert copy.verify(copy.latest("demo", "recommendations")) is None
    users_left = pl.read_parquet(copy.latest("demo", "embeddings/users").path)["user_id"]
    assert not set(users) & set(users_left)
