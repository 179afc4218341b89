"""Every rule by its name, and the verdicts on a stage's tables."""

import logging
from collections.abc import Callable, Collection, Iterator

from pipeline.contracts import catalogue, features
from pipeline.contracts.measured import Measured, Tables
from pipeline.store import Store
from schemas.contracts import Contract, ContractsConfig, Rule, State, Verdict
from schemas.errors import UserError
from schemas.lineage import TableVersion

logger = logging.getLogger(__name__)

MEASURES: dict[Rule, Callable[[Store, Tables, Tables], Iterator[Measured]]] = {
    "items_lost": catalogue.items_lost,
    "items_gained": catalogue.items_gained,
    "nulls": catalogue.nulls,
    "nulls_risen": catalogue.nulls_risen,
    "unreadable": catalogue.unreadable,
    "pictures_failed": catalogue.pictures_failed,
    "coverage_lost": features.coverage_lost,
    "vectors_moved": features.vectors_moved,
    "duplicates_risen": features.duplicates_risen,
    "interactions_back": catalogue.interactions_back,
    "interactions_age": catalogue.interactions_age,
    "interactions_ahead": catalogue.interactions_ahead,
}
"""Rule → what measures it, from the store, a stage's tables, and the last published ones."""


def judge(
    *, store: Store, stage: str, tables: Tables, config: ContractsConfig, accept: Collection[Rule] = ()
) -> list[Verdict]:
    """What the contracts say of a stage's tables, each compared with the version that is the latest now.

    Memory is about 16 bytes per row and column compared; of an unchanged table nothing is compared.

    Args:
        accept: rules that may be broken this once.
    """
    before = _published(store, tables)
    verdicts = []
    for rule, measure in MEASURES.items():
        contract: Contract = getattr(config, rule)
        if contract.level == "ignore":
            continue
        for measured in measure(store, tables, before):
            limit = contract.of.get(measured.part, contract.limit)
            verdicts.append(
                Verdict(
                    rule=rule,
                    stage=stage,
                    part=measured.part,
                    figure=measured.figure,
                    limit=limit,
                    state=_state(contract, measured.figure <= limit, rule in accept),
                    examples=measured.examples if measured.figure > limit else (),
                )
            )
    return verdicts


def _state(contract: Contract, is_kept: bool, is_accepted: bool) -> State:
    if is_kept:
        return "kept"
    if contract.level == "warn":
        return "warned"
    return "accepted" if is_accepted else "stopped"


def _published(store: Store, tables: Tables) -> dict[str, TableVersion]:
    """The last published versions of the same tables; without one that there never was, or that was deleted since."""
    before = {}
    for name, version in tables.items():
        if store.has_latest(version.dataset, name):
            try:
                before[name] = store.latest(version.dataset, name)
            except UserError as error:
                logger.warning("%s is compared with nothing: its last version is gone (%s)", name, error)
    return before
