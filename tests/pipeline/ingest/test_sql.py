"""Catalogues from a real PostgreSQL: streamed, keyed by what was read, one clear error for what cannot be."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from pydantic import ValidationError

from pipeline.ingest import sql, stage
from pipeline.ingest.sources import open_source
from pipeline.ingest.tally import Quality
from pipeline.store import Store
from schemas.errors import UserError
from schemas.ingest import IngestConfig
from schemas.sources import CatalogueSource
from schemas.sql import SqlQueries
from tests.support.compose import required
from tests.support.ports import free_port

PASSWORD = "pg5ecret0f7he7est"


class Database:
    """A server with one database, that can be asked directly."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        initdb = Path(required("initdb", "postgresql"))
        data, password = folder / "data", folder / "password"
        password.write_text(PASSWORD)
        self.options: dict[str, Any] = {"cwd": "/"}
        for path in (folder, *folder.parents):
            if path.stat().st_mode & 0o001 == 0:
                path.chmod(path.stat().st_mode | 0o011)
        data.mkdir()
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(data, "postgres", "postgres")
            shutil.chown(password, "postgres", "postgres")
            self.options |= {"user": "postgres", "group": "postgres", "extra_groups": []}
        self.control = [str(initdb.with_name("pg_ctl")), "-D", str(data), "-w", "-t", "300"]
        make = [str(initdb), "-D", str(data), "-U", "shop", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, **self.options)
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        start = [*self.control, "-l", str(data / "log"), "-o", settings, "start"]
        subprocess.run(start, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **self.options)
        self.url = f"postgresql://shop:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        ours = self.url.replace("postgresql:", "postgresql+psycopg:")
        self.engine = sqlalchemy.create_engine(ours, isolation_level="AUTOCOMMIT")

    def run(self, *statements: str) -> None:
        with self.engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    def stop(self) -> None:
        self.engine.dispose()
        subprocess.run([*self.control, "-m", "immediate", "stop"], check=True, capture_output=True, **self.options)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(tmp_path_factory.mktemp("postgres"))
    database.run(
        "create sequence numbers",
        "create table item (sku bigint, name text, tags text[], price numeric(8,2), added timestamptz, more jsonb)",
        "insert into item select n, 'Mug ' || n || ' 100% wool', array['Home', 'Mugs'], n + 0.5, now(), '{}' "
        "from generate_series(1, 30) n",
        "create table sale (who uuid, sku bigint, stars numeric(2,1), at timestamptz)",
        "insert into sale select md5((n % 7)::text)::uuid, 1 + n % 30, 4.5, '2024-01-01Z'::timestamptz "
        "+ n * interval '1 h' from generate_series(1, 200) n",
    )
    yield database
    database.stop()


ITEMS = "select sku as item_id, name as title, tags as categories, price from item where name like '%%' order by sku"
SALES = "select who as user_id, sku as item_id, stars as rating, at as timestamp from sale order by at"


@pytest.fixture
def source(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CatalogueSource]:
    """`source(items=…)`: a catalogue of that database."""
    monkeypatch.setenv("CM3_SHOP_URL", database.url)
    queries = {"url": "env:CM3_SHOP_URL", "items": ITEMS, "interactions": SALES}
    return lambda **fields: CatalogueSource(name="shop", sql=SqlQueries(**(queries | fields)))


def ingest(store: Store, source: CatalogueSource) -> dict[str, Any]:
    config, items_only = IngestConfig(core_k=1), not source.sql.interactions
    return dict(stage.run(store=store, dataset="shop", source=source, config=config, items_only=items_only).tables)


def test_items_and_interactions_are_read_with_their_types(store: Store, source) -> None:
    tables = ingest(store, source())
    items = store.read(tables["items"]).to_pylist()
    assert [item["item_id"] for item in items] == [str(n) for n in range(1, 31)]
    assert (items[0]["title"], items[0]["categories"], items[0]["price"]) == ("Mug 1 100% wool", ["Home", "Mugs"], 1.5)
    sales = store.read(tables["interactions"]).to_pylist()
    assert len(sales) == 200
    assert {sale["rating"] for sale in sales} == {4.5}
    assert len({sale["user_id"] for sale in sales}) == 7
    assert min(sale["timestamp"] for sale in sales).isoformat() == "2024-01-01T01:00:00+00:00"


def test_equal_rows_are_the_same_version_whatever_the_query_and_other_rows_another(
    store: Store, source, database: Database
) -> None:
    first = ingest(store, source())
    again = ingest(store, source(items=ITEMS.replace("select", "SELECT")))
    assert again["items"].reused
    assert again["items"].version == first["items"].version
    database.run("update item set name = 'Cup' where sku = 3")
    assert ingest(store, source())["items"].version != first["items"].version
    database.run("update item set name = 'Mug 3 100% wool' where sku = 3")


def test_the_address_is_in_no_table_and_no_record(store: Store, source) -> None:
    for version in ingest(store, source()).values():
        text = json.dumps(version.model_dump())
        assert PASSWORD not in text
        assert "CM3_SHOP_URL" not in text
    assert not [
        path for path in Path(store.root).rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"items": ITEMS.replace("from item", "from item cross join (values (1), (2)) twice")}, "60 rows for 30 items"),
        ({"items": ITEMS.replace("order", "and false order")}, "sql.items: the query gives no row"),
        ({"items": "select nothing from item"}, "refuses a query: .*nothing.*Mend the query"),
        ({"items": "delete from item"}, "refuses a query: syntax error"),
        ({"items": "select sku as item_id from item; delete from item"}, "refuses a query: .*multiple commands"),
        ({"items": "select nextval('numbers')::text as item_id"}, "refuses a query: .*read-only transaction"),
        ({"items": "select sku as item_id, name, name from item"}, "gives the column name twice"),
        ({"items": "select sku as item_id, 'x'::bytea as title from item"}, "sql.items: title is binary"),
        ({"items": "select name from item"}, "item_id is missing"),
    ],
)
def test_a_query_that_gives_no_catalogue_is_one_line(
    store: Store, source, fields: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as told:
        ingest(store, source(**fields))
    assert "\n" not in str(told.value)
    assert store.datasets() == []


def test_a_connection_that_is_lost_half_way_is_tried_again_and_then_one_error(
    tmp_path: Path, source, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "FETCHED", 10)
    queries = sql.Queries(source().sql, tmp_path, "item_id", wait=0.0)
    plain, cuts = sql._plain, [15, 15]

    def cut_off(value: Any, column: str) -> Any:
        if cuts and value == cuts[0]:
            cuts.pop(0)
            database.run("select pg_terminate_backend(pid) from pg_stat_activity where state = 'idle in transaction'")
        return plain(value, column)

    monkeypatch.setattr(sql, "_plain", cut_off)
    files = queries.fetch(("items",))
    assert cuts == []
    assert len(files["items"].path.read_text().splitlines()) == 30
    before, cuts[:] = files["items"].path.read_bytes(), [15] * 9
    with pytest.raises(UserError, match=r"^sql: the database cannot be reached, or was lost: .*run again") as told:
        queries.fetch(("items",))
    assert "\n" not in str(told.value)
    assert files["items"].path.read_bytes() == before


def test_an_address_that_leads_nowhere_is_one_error_without_its_password(
    tmp_path: Path, source, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url, message in (
        (f"postgresql://shop:{PASSWORD}@127.0.0.1:{free_port()}/postgres", "cannot be reached"),
        (f"postgresql://shop:not{PASSWORD}@127.0.0.1:{database.port}/postgres", "password authentication failed"),
        (f"nosuchsql://shop:{PASSWORD}@127.0.0.1/postgres", "sql.url: .*nosuchsql"),
        (f"{PASSWORD}", "CM3_SHOP_URL holds no address"),
        ("", "CM3_SHOP_URL is not set"),
    ):
        monkeypatch.setenv("CM3_SHOP_URL", url)
        with pytest.raises(UserError, match=message) as told:
            sql.Queries(source().sql, tmp_path, "item_id", wait=0.0).check()
        assert PASSWORD not in str(told.value)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "env:AWS_SECRET_ACCESS_KEY",
        "env:PATH",
        f"postgresql://u:{PASSWORD}@h/d",
        f"postgresql://h/d?password={PASSWORD}",
    ],
)
def test_a_secret_in_a_parameter_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValidationError, match="CM3_…_URL") as told:
        SqlQueries(url=url, items="select 1")
    assert PASSWORD not in str(told.value)


def test_rows_are_streamed(tmp_path: Path, source) -> None:
    queries = sql.Queries(
        source(items="select n as item_id, repeat('x', 2000) as title from generate_series(1, 60000) n").sql,
        tmp_path,
        "item_id",
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    file = queries.fetch(("items",))["items"]
    assert file.path.stat().st_size > 120e6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB, for 120 MB of rows


def test_sqlite_needs_no_server_and_features_alone_no_interactions(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    with sqlalchemy.create_engine(url).begin() as connection:
        connection.exec_driver_sql("create table item (id text, title text)")
        connection.exec_driver_sql("insert into item values ('a', 'Mug'), ('b', null)")
    config = CatalogueSource(sql=SqlQueries(url=url, items="select id as item_id, title from item"))
    reader = open_source(config, tmp_path / "cache")
    reader.check(items_only=True)
    files = reader.fetch(items_only=True)
    assert [(i.item_id, i.title) for i in reader.items(files, Quality(), 0.0)] == [("a", "Mug"), ("b", "")]
    with pytest.raises(UserError, match="training needs a file or a query"):
        reader.check()


@pytest.mark.parametrize("query", ["delete from item", "select nothing from nowhere", "select cast(x'ff41' as text)"])
def test_what_sqlite_refuses_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    asked = []
    monkeypatch.setattr(sql, "create_engine", lambda *given, **more: asked.append(1) or create(*given, **more))
    create = sqlalchemy.create_engine
    url = f"sqlite:///{tmp_path}/shop.db"
    with create(url).begin() as connection:
        connection.exec_driver_sql("create table item (id text)")
    with pytest.raises(UserError, match="refuses a query"):
        sql.Queries(SqlQueries(url=url, items=query), tmp_path, "item_id", wait=0.0).fetch(("items",))
    assert len(asked) == 1


def test_rows_without_an_id_are_not_taken_for_one_item_that_comes_twice(store: Store, source) -> None:
    """Other ids may be of any type."""
    dates = "('2024-01-01'::date), (null), (null)"
    tables = ingest(
        store, source(items=f"select d as item_id, 'Mug' as title from (values {dates}) v(d)", interactions="")
    )
    assert [row["item_id"] for row in store.read(tables["items"]).to_pylist()] == ["2024-01-01"]
    with pytest.raises(UserError, match=r"2 rows for 1 items: item_id '2024-01-01' comes more than once"):
        ingest(store, source(items=f"select d as item_id from (values {dates}, ('2024-01-01')) v(d)"))


def test_ids_of_blanks_are_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    values = "select 'a' as item_id, 'Mug' as title union all values ('', 'x'), ('', 'y'), (' ', 'x'), (' ', 'y')"
    reader = open_source(CatalogueSource(sql=SqlQueries(url=url, items=values)), tmp_path / "cache")
    files, quality = reader.fetch(items_only=True), Quality()
    assert [item.item_id for item in reader.items(files, quality, 0.0)] == ["a"]
    assert quality.count("item_without_id") == 4
    twice = SqlQueries(url=url, items=f"{values} union all values ('b', 'x'), ('b', 'y')")
    with pytest.raises(UserError, match=r"3 rows for 2 items: item_id 'b' comes more than once"):
        sql.Queries(twice, tmp_path / "cache", "item_id").fetch(("items",))


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    queries = sql.Queries(SqlQueries(url=url, items="select 'a' as item_id"), tmp_path / "cache", "item_id")
    draft = queries.fetch(("items",))["items"].path.with_suffix(".draft")
    draft.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"could not keep the rows .*No space left on device.*Free space"):
        queries.fetch(("items",))


def test_a_place_or_queries_must_be_given() -> None:
    with pytest.raises(ValidationError, match="raw: must be given"):
        CatalogueSource()
