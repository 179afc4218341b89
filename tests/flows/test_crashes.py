"""kill -9, full disks, lost servers: what was published stays, finished work is kept, a retry ends as if unbroken."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import polars as pl
import psutil
import pyarrow as pa
import pytest
import s3fs
from botocore.exceptions import ClientError

from flows import set_up
from flows.summary import last
from pipeline.cache import ShardCache
from pipeline.store import Store
from schemas.demo import DemoConfig
from schemas.errors import UserError
from schemas.lineage import Lineage
from schemas.run import DemoParameters
from schemas.training import CM3Config
from tests.support.compose import DEADLINE, STACK_DEMO, Stack
from tests.support.runner import Run, contents, shards

pytestmark = pytest.mark.slow


def demo(folder: Path) -> DemoParameters:
    return DemoParameters(
        store=str(folder),
        demo=DemoConfig(items=40, users=60),
        features=("sentence", "vision"),
        trainer=CM3Config(max_epochs=20, dim=8, checkpoint_seconds=0, device="cpu"),
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    """The tables of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    return contents(Store(folder), Run(demo(folder)).finish())


def same(actual: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    assert actual.keys() == expected.keys()
    for name, table in expected.items():
        assert actual[name].equals(table), name


def test_a_run_killed_in_each_stage_in_turn_ends_as_an_unbroken_one_and_encodes_nothing_twice(
    tmp_path: Path, unbroken: dict[str, pl.DataFrame]
) -> None:
    def begun(stage: str) -> Callable[[Run], bool]:
        return lambda run: run.saw(f"{stage} …")

    def kept(cache: str) -> Callable[[Run], bool]:
        return lambda run: shards(tmp_path, cache) > 0

    moments: list[Callable[[Run], bool]] = [
        *map(begun, ("models", "ingest", "images")),
        kept("images"),
        begun("features/sentence"),
        kept("features/sentence-*"),
        begun("features/vision"),
        kept("features/timm-*"),
        begun("similarity"),
        begun("train"),
        lambda run: run.saw("cm3 epoch 3:"),
        lambda run: run.saw("cm3 goes on after epoch"),
        begun("report"),
        begun("registry"),
    ]
    for moment in moments:
        run = Run(demo(tmp_path))
        run.wait(lambda moment=moment, run=run: moment(run))  # type: ignore[misc]
        run.kill()
    summary = Run(demo(tmp_path)).finish()
    assert summary.encoded == {"sentence": 0, "vision": 0}
    assert summary.registered == "1 (champion)"
    same(contents(Store(tmp_path), summary), unbroken)


def test_two_runs_at_once_on_one_data_set_the_second_waits_and_finds_all_done(
    tmp_path: Path, unbroken: dict[str, pl.DataFrame]
) -> None:
    first = Run(demo(tmp_path))
    first.wait(lambda: first.saw("ingest …"))
    second = Run(demo(tmp_path))
    second.wait(lambda: second.saw("demo: another run works on this data set"))
    assert not second.saw("models …")
    same(contents(Store(tmp_path), first.finish()), unbroken)
    summary = second.finish()
    assert all(stage.reused for stage in summary.stages)
    assert sum(summary.encoded.values()) == 0


SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.binary())])


def publish(store: Store, version: int, megabytes: int) -> Any:
    lineage = Lineage(dataset="d", table="t", stage="test", stage_version=version, config={})
    with store.writer(SCHEMA, lineage) as writer:
        for part in range(megabytes):
            writer.write(pa.table({"key": [str(part)], "value": [os.urandom(1 << 20)]}, schema=SCHEMA))
    return writer.version


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system can be mounted by root only: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_said_clearly_and_costs_nothing_that_was_there(small_disk: Path) -> None:
    store = Store(small_disk)
    old = publish(store, 1, megabytes=1)
    with pytest.raises(UserError, match=r"d/t.*No space left on device.*before are untouched.*Free space"):
        publish(store, 2, megabytes=8)
    with pytest.raises(UserError, match="No space left on device"):
        ShardCache(store, "work", SCHEMA).append(pa.table({"key": ["a"], "value": [os.urandom(4 << 20)]}, SCHEMA))
    assert store.latest("d", "t") == old
    store.verify(old)
    assert len(ShardCache(store, "work", SCHEMA)) == 0
    assert [path for path in small_disk.rglob("*") if path.stat().st_size > 1.5 * (1 << 20)] == []
    subprocess.run(["mount", "-o", "remount,size=32m", small_disk], check=True)
    assert store.latest("d", "t") != publish(store, 2, megabytes=8)
    assert store.latest("d", "t").rows == 8


@pytest.fixture
def remote(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Store]:
    """Stores in the stack's bucket, reached as the worker reaches them: through the environment."""
    for name, value in stack.environment("worker").items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    return lambda prefix: Store(f"s3://cm3/{prefix}")


def test_an_s3_store_that_goes_away_in_mid_write_is_said_clearly_and_old_versions_stay(
    stack: Stack, remote: Callable[[str], Store]
) -> None:
    store = remote("crashes")
    old = publish(store, 1, megabytes=1)
    cache = ShardCache(store, "work", SCHEMA)
    rows = pa.table({"key": ["a"], "value": [b"1"]}, schema=SCHEMA)
    cache.append(rows)

    def publish_while_it_goes_away() -> None:
        lineage = Lineage(dataset="d", table="t", stage="test", stage_version=2, config={})
        with store.writer(SCHEMA, lineage) as writer:
            writer.write(rows)
            stack.kill("s3")

    with pytest.raises(UserError, match=r"d/t.*before are untouched"):
        publish_while_it_goes_away()
    with pytest.raises(UserError, match="finished work"):
        cache.append(pa.table({"key": ["b"], "value": [b"2"]}, schema=SCHEMA))
    stack.up()
    wait_until(lambda: store.latest("d", "t") == old)  # its volumes come back a moment after its front door
    store.verify(old)
    assert "a" in ShardCache(store, "work", SCHEMA)
    publish(store, 2, megabytes=1)
    assert [version.lineage["cm3.stage_version"] for version in store.versions("d", "t")] == ["1", "2"]


def wait_until(condition: Callable[[], bool]) -> None:
    """Until it holds; a store that is still coming up may refuse."""
    deadline = time.monotonic() + DEADLINE
    while True:
        with contextlib.suppress(OSError, UserError, ClientError):
            if condition():
                return
        assert time.monotonic() < deadline
        time.sleep(0.2)


class Alerts:
    """A webhook's far end, which remembers what it was sent."""

    def __init__(self) -> None:
        received: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.received = received
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def alerts(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Alerts]:
    """The alert automation, set up as docs/how-to/operations.md says."""
    far_end = Alerts()
    save = f"Webhook(url={far_end.url!r}).save({set_up.ALERTS!r}, overwrite=True)"
    stack.python("-c", f"from prefect.blocks.webhook import Webhook; {save}")
    stack.python("-m", "flows.set_up")
    yield far_end
    for automation in stack.api("/automations/filter", {}):
        if automation["name"] == set_up.ALERTED:
            stack.api(f"/automations/{automation['id']}", method="DELETE")
    stack.prefect("block", "delete", f"webhook/{set_up.ALERTS}")
    far_end.server.shutdown()


def flow_processes(stack: Stack) -> list[psutil.Process]:
    return psutil.Process(stack.running["worker"].pid).children(recursive=True)


def start(stack: Stack, seed: int) -> str:
    deployment = stack.api("/deployments/name/ingest-and-train/demo", method="GET")["id"]
    parameters = STACK_DEMO | {"demo": STACK_DEMO["demo"] | {"seed": seed}}
    run: str = stack.api(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
    return run


def test_a_flow_process_killed_under_its_worker_crashes_at_once_and_its_retry_survives_a_lost_database(
    stack: Stack,
) -> None:
    run = start(stack, seed=11)
    stack.wait_for_task(run, "features/sentence")
    for process in flow_processes(stack):
        process.kill()
    stack.wait_for(run, "CRASHED")
    assert stack.prefect("flow-run", "retry", run).returncode == 0
    stack.wait_for(run, "RUNNING", "CRASHED")
    stack.kill("postgres")
    stack.up()
    deadline = time.monotonic() + DEADLINE
    while (ended := stack.wait_for(run, "COMPLETED", "CRASHED"))["state_type"] == "CRASHED":
        # The worker's own report of the dead process may come late and hit the retry, which then needs another one;
        # it is refused where the run has moved on by itself in between.
        stack.prefect("flow-run", "retry", run)
        assert time.monotonic() < deadline, stack.log("worker")
    assert ended["run_count"] >= 2


def test_a_run_whose_worker_died_too_becomes_crashed_alerts_and_ends_after_a_retry(
    stack: Stack, alerts: Alerts, remote: Callable[[str], Store], tmp_path: Path
) -> None:
    run = start(stack, seed=12)
    stack.wait_for_task(run, "features/vision")
    family = flow_processes(stack)
    stack.kill("worker")
    for process in family:
        process.kill()
    stack.wait_for(run, "CRASHED")
    stack.up()
    assert stack.prefect("flow-run", "retry", run).returncode == 0
    stack.wait_for(run, "COMPLETED")
    assert any("is Crashed: No heartbeat for" in text for text in alerts.received)
    summary = last(remote("features"), "demo")
    parameters = demo(tmp_path).model_copy(
        update={"demo": DemoConfig(items=40, users=60, seed=12), "trainer": CM3Config(**STACK_DEMO["trainer"])}
    )
    alone = Run(parameters).finish()
    same(contents(remote("features"), summary), contents(Store(tmp_path), alone))
