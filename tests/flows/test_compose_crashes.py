"""kill -9 of the services of docker-compose.yml: what was published stays, and a retry ends as if unbroken."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import s3fs
from botocore.exceptions import ClientError

from flows import alarms, set_up
from flows.summary import last
from pipeline.cache import ShardCache
from pipeline.store import Store
from schemas.demo import DemoConfig
from schemas.errors import UserError
from schemas.lineage import Lineage
from schemas.training import CM3Config
from tests.support.alerts import Alerts
from tests.support.compose import DEADLINE, STACK_DEMO, Stack
from tests.support.large_tables import SCHEMA, publish_large
from tests.support.runner import Run, contents, demo, same

pytestmark = pytest.mark.slow


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
    old = publish_large(store, 1, megabytes=1)
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
    assert ShardCache(store, "work", SCHEMA).held(["a", "b"]) == {"a"}
    publish_large(store, 2, megabytes=1)
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


@pytest.fixture
def alerts(stack: Stack) -> Iterator[Alerts]:
    """The alert automation, set up as docs/how-to/operations.md says."""
    far_end = Alerts()
    save = f"Webhook(url={far_end.url!r}).save({set_up.ALERTS!r}, overwrite=True)"
    stack.python("-c", f"from prefect.blocks.webhook import Webhook; {save}")
    stack.python("-m", "flows.set_up")
    yield far_end
    for automation in stack.api("/automations/filter", {}):
        if automation["name"] in (alarms.FAILED, alarms.KEPT) or automation["name"].startswith(alarms.OVERDUE):
            stack.api(f"/automations/{automation['id']}", method="DELETE")
    stack.prefect("block", "delete", f"webhook/{set_up.ALERTS}")
    far_end.server.shutdown()


def flow_processes(stack: Stack) -> list[psutil.Process]:
    return psutil.Process(stack.running["worker"].pid).children(recursive=True)


def start(stack: Stack, seed: int) -> str:
    """Begin a run on a shop that is drawn anew, so that there is work in every stage."""
    deployment = stack.api("/deployments/name/ingest-and-train/demo", method="GET")["id"]
    drawn = {"demo": STACK_DEMO["demo"] | {"seed": seed}, "accept": ["interactions_back"]}
    parameters = STACK_DEMO | drawn
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
    parameters = demo(tmp_path).model_copy(
        update={"demo": DemoConfig(items=40, users=60, seed=12), "trainer": CM3Config(**STACK_DEMO["trainer"])}
    )
    alone = Run(parameters)  # it has the time until the heartbeat is missed
    stack.wait_for(run, "CRASHED")
    stack.up()
    assert stack.prefect("flow-run", "retry", run).returncode == 0
    stack.wait_for(run, "COMPLETED")
    wait_until(lambda: any("is Crashed: No heartbeat for" in text for text in alerts.received))
    summary = last(remote("features"), "demo")
    same(contents(remote("features"), summary), contents(Store(tmp_path), alone.finish()))
