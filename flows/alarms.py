"""Which alarms ring, on what events: what `flows.set_up` makes of them on the server, and what flows tell it."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from prefect.events import emit_event
from prefect.events.actions import ActionTypes, CallWebhook
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.deployments import Deployment

FAILED = "Failed runs alert"
KEPT = "Champions that were not replaced alert"
OVERDUE = "Overdue alert: "
"""Names of the automations; the last is the beginning of one name per scheduled deployment."""
CHAMPION_KEPT = "cm3.champion.kept"
"""The event of a training whose version did not become champion."""
PATIENCE = 1.25
"""A schedule is overdue after this many times its longest gap without a completed run."""
FIRINGS = 400
"""Dates of a schedule among which the longest gap is looked for: more than a year of nights."""


def all_of(block: UUID, deployments: list[Deployment]) -> list[AutomationCore]:
    """Every alarm; each posts `{"text": …}` to the webhook of `block`, one message per cause, with what to do."""
    return [failed(block), kept(block), *(overdue(block, each) for each in deployments if longest_gap(each))]


def failed(block: UUID) -> AutomationCore:
    """A run failed, crashed or was stopped by a contract, whose message says what to do."""
    # A message has quotes and line breaks.
    text = (
        "(flow.name ~ ' run ' ~ flow_run.name ~ ' is ' ~ flow_run.state.name ~ ': ' ~ (flow_run.state.message or ''))"
        " | truncate(900, true) ~ ' What to do: what this says; then, if parameters stay: prefect flow-run retry '"
        " ~ flow_run.id"
    )
    return automation(
        FAILED,
        EventTrigger(
            posture=Posture.Reactive,
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            threshold=1,
            within=timedelta(0),
        ),
        _post(block, text),
    )


def kept(block: UUID) -> AutomationCore:
    """A new version did not become champion."""
    return automation(
        KEPT,
        EventTrigger(posture=Posture.Reactive, expect={CHAMPION_KEPT}, threshold=1, within=timedelta(0)),
        _post(block, "event.payload.text | truncate(1000, true)"),
    )


def overdue(block: UUID, deployment: Deployment) -> AutomationCore:
    """No run of a scheduled deployment completed for longer than its schedule's longest gap, and a quarter more."""
    within = longest_gap(deployment) * PATIENCE
    flow, name = deployment.full_name.split("/")
    hours = f"{within / timedelta(hours=1):,.4g} hours"
    text = (
        f"{deployment.full_name} has not completed for {hours}. What to do: is a worker of pool {deployment.pool} "
        f"running (prefect worker start --pool {deployment.pool}), is the schedule on, and what do its last runs say "
        f"(prefect flow-run ls --flow-name {flow})?"
    )
    related = ({"role": "deployment", "name": name}, {"role": "flow", "name": flow})
    return automation(
        OVERDUE + deployment.full_name,
        EventTrigger(
            posture=Posture.Proactive,
            expect={"prefect.flow-run.Completed"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=[
                ResourceSpecification({f"prefect.resource.{key}": value for key, value in labels.items()})
                for labels in related
            ],
            threshold=1,
            within=within,
        ),
        _post(block, repr(text)),
    )


def longest_gap(deployment: Deployment) -> timedelta:
    """The longest time between two firings of a deployment's active schedules; 0 if it has none."""
    from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule  # flows do without

    kinds: dict[str, Any] = {"cron": CronSchedule, "interval": IntervalSchedule, "rrule": RRuleSchedule}
    dates: set[datetime] = set()
    for schedule in deployment.schedules:
        if schedule.get("active", True):
            kind = next(kind for kind in kinds if kind in schedule)
            fields = {name: value for name, value in schedule.items() if name in (kind, "timezone", "anchor_date")}
            firings = asyncio.run(kinds[kind](**fields).get_dates(FIRINGS, start=datetime.now(UTC)))
            dates |= {datetime.fromtimestamp(firing.timestamp(), UTC) for firing in firings}
    return max((later - date for date, later in pairwise(sorted(dates))), default=timedelta(0))


def tell_if_kept(dataset: str, reason: str) -> None:
    """Send the event of a champion that was not replaced.

    Args:
        reason: why; empty: it was replaced, or nothing new was registered.
    """
    if reason:
        text = (
            f"{dataset}: the new version did not become champion: {reason}. The champion is served as before. What to "
            f"do: `cm3 versions {dataset}` and `cm3 diff {dataset} champion challenger`; `cm3 promote {dataset} "
            "challenger` serves the new one anyway."
        )
        emit_event(CHAMPION_KEPT, resource={"prefect.resource.id": f"cm3.dataset.{dataset}"}, payload={"text": text})


def automation(name: str, trigger: EventTrigger, action: ActionTypes) -> AutomationCore:
    """One trigger, one action."""
    return AutomationCore(name=name, enabled=True, trigger=trigger, actions=[action])


def _post(block: UUID, text: str) -> Any:
    """Post a template's text as the line of JSON that chat services take."""
    return CallWebhook(block_document_id=block, payload='{"text": {{ (' + text + ") | tojson }}}")
