"""prefect.yaml deploys, and its schedules are sound; on the real server one fires, and finds nothing to do."""

import importlib
import json
import zoneinfo
from typing import Any

import prefect
import pytest
import yaml
from prefect.events.actions import ChangeFlowRunState

from flows import set_up
from schemas.sources import SOURCES
from tests.support.compose import ROOT, STACK_DEMO, FlowRun, Stack

FILE = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = FILE["deployments"]
CATALOGUES = set(SOURCES)


def function(deployment: dict[str, Any]) -> Any:
    path, name = deployment["entrypoint"].split(":")
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


FLOWS = ("ingest-and-train", "re-extract", "extract")


def test_each_catalogue_has_every_flow() -> None:
    named = {f"{function(deployment).name}/{deployment['name']}" for deployment in DEPLOYMENTS}
    assert named == {f"{flow}/{name}" for flow in FLOWS for name in CATALOGUES}
    assert len(DEPLOYMENTS) == len(named)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda entry: entry["entrypoint"])
def test_every_deployment_is_scheduled_in_a_named_time_zone_and_alone_on_its_data_set(
    deployment: dict[str, Any],
) -> None:
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert deployment["work_pool"]["work_queue_name"] == deployment["name"] in set_up.queues()["cm3"]
    assert deployment["name"] in deployment["tags"]
    needed = {name for name, field in function(deployment).parameters.properties.items() if "default" not in field}
    for schedule in deployment["schedules"]:
        assert zoneinfo.ZoneInfo(schedule["timezone"])
        assert not (schedule["active"] and needed - deployment["parameters"].keys()), "it would fail every night"


def test_the_file_is_for_the_prefect_that_is_locked() -> None:
    assert FILE["prefect-version"] == prefect.__version__
    assert f"prefect=={prefect.__version__} \\\n" in (ROOT / "requirements.txt").read_text()


def test_the_server_holds_what_the_file_and_the_set_up_say(stack: Stack) -> None:
    deployed = stack.api("/deployments/filter", {})
    assert len(deployed) == len(DEPLOYMENTS)
    assert {entry["parameters"]["store"] for entry in deployed} == {"s3://cm3/features"}
    queues = {queue["name"]: queue for queue in stack.api("/work_queues/filter", {})}
    assert all(queues[name]["concurrency_limit"] == 1 for name in CATALOGUES)
    active = [s for entry in deployed for s in entry["schedules"] if s["active"]]
    assert [s["schedule"]["timezone"] for s in active] == ["Europe/Berlin"]


@pytest.mark.parametrize(("state", "answer"), [("COMPLETED", "ABORT"), ("FAILED", "ABORT"), ("RUNNING", "ACCEPT")])
def test_silence_ends_a_run_but_not_one_that_has_ended(stack: Stack, state: str, answer: str) -> None:
    """A heartbeat at a run's very end may be counted after it; that must not cost the run its state."""
    action = set_up.zombies().actions[0]
    assert isinstance(action, ChangeFlowRunState)
    flow = stack.api("/flows/", {"name": "silent"})["id"]
    run = stack.api("/flow_runs/", {"flow_id": flow, "state": {"type": state}})["id"]
    crashed = {"type": action.state, "name": action.name, "message": action.message}
    assert stack.api(f"/flow_runs/{run}/set_state", {"state": crashed, "force": action.force})["status"] == answer
    stack.api(f"/flow_runs/{run}", method="DELETE")


def test_setting_up_again_changes_nothing(stack: Stack) -> None:
    before = stack.api("/automations/filter", {})
    stack.python("-m", "flows.set_up")
    after = stack.api("/automations/filter", {})
    assert [entry["name"] for entry in before] == [entry["name"] for entry in after] == ["Silent runs have crashed"]


def test_a_schedule_fires_and_an_unchanged_catalogue_costs_no_encoder_call(stack: Stack, trained: FlowRun) -> None:
    deployment = stack.api("/deployments/name/re-extract/demo", method="GET")["id"]
    interval = {"schedule": {"interval": 20}, "active": True, "parameters": STACK_DEMO}
    added = stack.api(f"/deployments/{deployment}/schedules", [interval])
    try:
        run = stack.first_run("re-extract", auto_scheduled=True)
    finally:
        stack.api(f"/deployments/{deployment}/schedules/{added[0]['id']}", method="DELETE")
    ended = stack.wait_for(run["id"], "COMPLETED")
    assert ended["auto_scheduled"]
    assert ended["created_by"]["type"] == "SCHEDULE"
    record = json.loads(stack.bucket().cat_file("cm3/features/demo/_runs/re-extract.json"))
    assert sum(record["encoded"].values()) == 0
    assert not record["trained"]
    changes = record["since_last_run"]
    assert changes["unchanged"] > 0
    assert changes["new"] == changes["changed"] == changes["vanished"] == 0
