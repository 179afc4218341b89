"""What prefect.yaml cannot say, set up on the server that PREFECT_API_URL names: `python -m flows.set_up`.

- every work queue of prefect.yaml runs one flow at a time, so that a training and a re-extraction never overlap;
- a run whose heartbeat stopped (its process and its worker are both gone) becomes Crashed, and may be retried;
- where there is a `Webhook` block named `cm3-alerts`, the alarms of `flows.alarms` call it.

Idempotent.
"""

from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from flows import alarms
from flows.alarms import automation
from flows.deployments import listed

ALERTS = "cm3-alerts"
"""Name of the `Webhook` block that alerts go to; its URL is a secret and stays in the block."""
SILENT_SECONDS = 90.0
"""After three missed heartbeats of 30 s (prefect.yaml) a run counts as dead."""


def main() -> None:
    """Bring the server to the state described above."""
    with get_client(sync_client=True) as client:
        set_up_queues(client)
        put_automation(client, zombies())
        block = alert_block(client)
        if block is None:
            print(f"No alerts: no Webhook block is named {ALERTS!r}; docs/how-to/operations.md shows how to make one.")
        else:
            set_up_alarms(client, block)


def set_up_alarms(client: SyncPrefectClient, block: UUID) -> None:
    """Every alarm; those of schedules that are gone or inactive are taken away."""
    wanted = alarms.all_of(block, listed())
    for each in wanted:
        put_automation(client, each)
    for existing in client.read_automations():
        if existing.name.startswith(alarms.OVERDUE) and existing.name not in {each.name for each in wanted}:
            client.delete_automation(existing.id)


def set_up_queues(client: SyncPrefectClient) -> None:
    """The work pools and queues of prefect.yaml, each queue limited to one run at a time."""
    for pool, names in queues().items():
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        existing = {queue.name: queue for queue in client.read_work_queues(work_pool_name=pool)}
        for name in names:
            if name not in existing:
                client.create_work_queue(name=name, work_pool_name=pool, concurrency_limit=1)
            elif existing[name].concurrency_limit != 1:
                client.update_work_queue(existing[name].id, concurrency_limit=1)


def queues() -> dict[str, list[str]]:
    """Work pool → its queues, by the deployments of prefect.yaml."""
    names: dict[str, list[str]] = {}
    for deployment in listed():
        queue_names = names.setdefault(deployment.pool, [])
        if deployment.queue not in queue_names:
            queue_names.append(deployment.queue)
    return names


def zombies() -> AutomationCore:
    """Runs that have fallen silent become Crashed.

    Never by force: if a heartbeat and the run's end arrive together, the server may process them in the other order,
    and then only Prefect's own rule keeps the state of a run that has ended.
    """
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    return automation(
        "Silent runs have crashed",
        EventTrigger(
            posture=Posture.Proactive,
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat"} | ends,
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            threshold=1,
            within=timedelta(seconds=SILENT_SECONDS),
        ),
        ChangeFlowRunState(
            state=StateType.CRASHED,
            name="Crashed",
            message=f"No heartbeat for {SILENT_SECONDS:.0f} s: its process is gone. Retry it: finished work is kept.",
        ),
    )


def put_automation(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Create it, or update the one of that name."""
    existing = client.read_automations_by_name(wanted.name)
    if existing:
        client.update_automation(existing[0].id, wanted)
    else:
        client.create_automation(wanted)


def alert_block(client: SyncPrefectClient) -> UUID | None:
    """Id of the block that alerts go to; None where there is none."""
    try:
        return client.read_block_document_by_name(ALERTS, "webhook").id
    except ObjectNotFound:
        return None


if __name__ == "__main__":
    main()
