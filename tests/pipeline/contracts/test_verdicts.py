"""From figures and limits to verdicts."""

import pyarrow as pa
import pytest

from pipeline import contracts
from pipeline.store import Store
from schemas.contracts import ContractsConfig, Rule, Verdict
from schemas.tables import ITEMS
from tests.support.published import publish


def judged(store: Store, accept: tuple[Rule, ...] = (), **config: object) -> dict[tuple[str, str], Verdict]:
    """Verdicts on a catalogue that lost one of two items, and its only title."""
    rows = [{"item_id": "a", "categories": []}, {"item_id": "b", "categories": [], "title": "words"}]
    before, now = (pa.Table.from_pylist(part, schema=ITEMS) for part in (rows, rows[:1]))
    publish(store, "items", before)
    held = Store(store.uri, moves_latest=False)
    tables = {"items": publish(held, "items", now)}
    verdicts = contracts.judge(
        store=held, stage="ingest", tables=tables, config=ContractsConfig(**config), accept=accept
    )
    return {(verdict.rule, verdict.part): verdict for verdict in verdicts}


@pytest.mark.parametrize(
    ("contract", "accept", "state"),
    [
        ({"limit": 0.5}, (), "kept"),
        ({"limit": 0.4}, (), "stopped"),
        ({"limit": 0.4}, ("items_lost",), "accepted"),
        ({"limit": 0.4}, ("items_gained",), "stopped"),
        ({"limit": 0.4, "level": "warn"}, (), "warned"),
    ],
)
def test_the_state_follows_from_limit_level_and_acceptance(
    store: Store, contract: dict[str, object], accept: tuple[Rule, ...], state: str
) -> None:
    verdict = judged(store, accept, items_lost=contract)["items_lost", "items"]
    assert (verdict.figure, verdict.state) == (0.5, state)


def test_an_ignored_contract_is_not_judged(store: Store) -> None:
    assert ("items_lost", "items") not in judged(store, items_lost={"level": "ignore"})


def test_a_single_column_may_have_a_limit_of_its_own(store: Store) -> None:
    verdicts = judged(store, nulls={"of": {"items.title": 0.0}})
    assert verdicts["nulls", "items.title"].state == "stopped"
    assert verdicts["nulls", "items.brand"].state == "kept"


def test_what_is_not_given_of_a_contract_keeps_its_default() -> None:
    config = ContractsConfig(items_lost={"limit": 0.5})  # type: ignore[arg-type]
    assert (config.items_lost.level, config.items_lost.limit) == ("stop", 0.5)
