"""Alarms by real Prefect automations: each cause is one message at the webhook's far end, with what to do."""

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events.actions import CallWebhook
from prefect.server.utilities.user_templates import render_user_template_sync
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows import alarms, local, set_up
from flows.deployments import Deployment
from tests.support import drawn_shop, warm
from tests.support.alerts import Alerts
from tests.support.ports import free_port

DEADLINE = 300.0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which Prefect's client finds a server of this module's own."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CM3_HOME", str(tmp_path_factory.mktemp("home")))
        variables = local.prefect_environment(port)
    command = [local.executable("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with Path(os.devnull).open("wb") as nothing:
        server = local.spawn(command, variables, nothing)
    try:
        local.wait_until(f"{variables['PREFECT_API_URL']}/health", server, None, variables["PREFECT_API_AUTH_STRING"])
        yield variables
    finally:
        local.stop(server)


@pytest.fixture
def api(environment: dict[str, str]) -> Iterator[None]:
    """This process's client asks that server."""
    given = {
        PREFECT_API_URL: environment["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: environment["PREFECT_API_AUTH_STRING"],
    }
    with temporary_settings(given):
        yield


@pytest.fixture
def alerts(api: None) -> Iterator[Alerts]:
    """A webhook's far end, named by the block that alarms call, after the set-up."""
    far_end = Alerts()
    Webhook(url=far_end.url).save(set_up.ALERTS, overwrite=True)
    set_up.main()
    yield far_end
    far_end.server.shutdown()


def wait_for(alerts: Alerts, condition: Callable[[list[str]], bool]) -> list[str]:
    """The different texts received, in their order, once they are as wanted.

    Prefect's server delivers what an automation posts at least once: on a slow machine the same message came twice.
    """
    deadline = time.monotonic() + DEADLINE
    while not condition(texts := list(dict.fromkeys(json.loads(body)["text"] for body in alerts.received))):
        assert time.monotonic() < deadline, texts
        time.sleep(0.2)
    return texts


def test_a_stop_by_a_contract_and_a_champion_that_stays_ring_once_each_with_what_to_do(
    environment: dict[str, str], alerts: Alerts, tmp_path: Path
) -> None:
    shop = tmp_path / "shop"
    drawn_shop.write(shop)
    fields = drawn_shop.parameters(shop, tmp_path / "store", trainer=drawn_shop.QUICK)

    def run(**changes: object) -> int:
        return warm.run("flows.ingest_and_train:catalogue", environment, **fields | changes)

    assert run() == 0
    items = (shop / "items.jsonl").read_text().splitlines()
    (shop / "items.jsonl").write_text("\n".join(items[:80]))
    assert run() != 0
    texts = wait_for(alerts, bool)
    assert len(texts) == 1, texts
    stopped = texts[0]
    assert "stopped by a contract after ingest: items_lost of items is 60.0%" in stopped
    assert "--accept items_lost" in stopped
    assert "prefect flow-run retry" in stopped
    assert run(accept=["items_lost"]) == 0
    texts = wait_for(alerts, lambda texts: len(texts) > 1)
    assert len(texts) == 2, texts
    kept = texts[1]
    assert kept.startswith("shop: the new version did not become champion: ")
    assert "it covers 60.0% fewer items" in kept
    assert "cm3 promote shop challenger" in kept
    with get_client(sync_client=True) as client:
        names = [each.name for each in client.read_automations()]
    assert sorted(names) == sorted(set(names)), "one alarm per cause, however often the set-up ran"


def test_a_schedule_without_a_completed_run_is_overdue(alerts: Alerts) -> None:
    never = Deployment("shop", "flows/re_extract.py:catalogue", "cm3", "shop", ({"interval": 8},))
    with get_client(sync_client=True) as client:
        block = set_up.alert_block(client)
        assert isinstance(block, UUID)
        set_up.put_automation(client, alarms.overdue(block, never))
        text = wait_for(alerts, bool)[0]
        assert text.startswith("re-extract/shop has not completed for 0.002778 hours. What to do: is a worker")
        set_up.set_up_alarms(client, block)
        names = {each.name for each in client.read_automations()}
    assert alarms.OVERDUE + "re-extract/shop" not in names, "a schedule that is gone is watched no longer"
    assert alarms.OVERDUE + "re-extract/demo" in names


@pytest.mark.parametrize("message", ['two\nlines, "quoted", a \\ and <b>', None, "long " + "x" * 5000])
def test_an_alert_is_json_whatever_the_run_says(message: str | None) -> None:
    action = alarms.failed(uuid4()).actions[0]
    assert isinstance(action, CallWebhook)
    run = SimpleNamespace(id="12-34", name="calm-otter", state=SimpleNamespace(name="Failed", message=message))
    said = render_user_template_sync(action.payload, {"flow": SimpleNamespace(name="amazon"), "flow_run": run})
    text = json.loads(said)["text"]
    assert text.startswith(f"amazon run calm-otter is Failed: {(message or '')[:800]}")
    assert text.endswith("prefect flow-run retry 12-34")
    assert len(text) <= 1100


@pytest.mark.parametrize(
    ("schedules", "hours"),
    [
        (({"cron": "0 4 * * *", "timezone": "UTC"},), 24),
        (({"cron": "0 4 * * 1-5", "timezone": "UTC"},), 72),
        (({"cron": "0 4 * * *", "timezone": "UTC"}, {"cron": "0 16 * * *", "timezone": "UTC"}), 12),
        (({"cron": "0 4 * * *", "active": False},), 0),
        ((), 0),
    ],
)
def test_the_longest_gap_of_schedules_is_over_all_active_ones(
    schedules: tuple[dict[str, object], ...], hours: int
) -> None:
    deployment = Deployment("shop", "flows/re_extract.py:catalogue", "cm3", "shop", schedules)
    assert alarms.longest_gap(deployment) == timedelta(hours=hours)
