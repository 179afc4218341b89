"""Registered versions of a data set, their aliases, and what a reference such as `demo/items@champion` names."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pipeline.registry.client import Place, session
from pipeline.store import Store, parse_reference
from schemas.errors import UserError
from schemas.lineage import TableVersion, canonical_json
from schemas.registry import Registered, RegistryConfig

if TYPE_CHECKING:  # a reference without an alias is resolved without MLflow
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

EMBEDDINGS = "embeddings/items"
SERVED = (EMBEDDINGS, "embeddings/users", "item_weights", "recommendations", "model")
"""What consumers read of a champion, and what new items get their vectors from, where a version has it."""
OWN_VERSION = r"[0-9a-f]{6,16}"
"""What follows `@` where it is (the beginning of) a table version's name."""
TABLE_TAG = "table."
COVERAGE_TAG = "coverage."
PENDING_TAG = "alias"
"""On a version that does not have its alias yet: the alias that it was judged to get."""
_HISTORY_TAG = "champions"
_ACCEPTED_TAG = "accepted"
"""On the registered model: the last version that somebody promoted by hand."""


def registered(store: Store, dataset: str, config: RegistryConfig | None = None) -> list[Registered]:
    """Every registered version of a data set, oldest first, each with the alias it holds now ("" for none).

    Versions that something other than this project registered are passed over.
    """
    with session(store, dataset, config) as place:
        return versions_of(place)


def champion(store: Store, dataset: str, config: RegistryConfig | None = None) -> Registered | None:
    """The version that is champion now; None without one. A service asks this often: of the registry, one request."""
    from mlflow.exceptions import MlflowException

    with session(store, dataset, config) as place:
        try:
            version = place.client.get_model_version_by_alias(place.name, "champion")
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise  # the two say that there is no such model, or no such alias of it
            return None
        return _from_mlflow(place.dataset, version, "champion")


def promote(store: Store, dataset: str, at: str, config: RegistryConfig | None = None) -> Registered:
    """Make the version with that number or alias the champion, after comparing its files with their checksums.

    Its figures are thereby accepted: the gate compares later versions with it, and no longer with champions before it.

    Raises:
        UserError: there is no such version, or one of its files was changed or lost.
    """
    with session(store, dataset, config) as place, store.locked(dataset):
        chosen = find(versions_of(place), dataset, at)
        _verify(store, chosen)
        crown(place, chosen.number)
        place.client.set_registered_model_tag(place.name, _ACCEPTED_TAG, str(chosen.number))
        return find(versions_of(place), dataset, str(chosen.number))


def rollback(store: Store, dataset: str, config: RegistryConfig | None = None) -> Registered:
    """Give the alias `champion` back to the last version that held it before and is still whole.

    Raises:
        UserError: no other version was champion before, or none of those is whole.
    """
    with session(store, dataset, config) as place, store.locked(dataset):
        registered = versions_of(place)
        history = champions(place)
        lost = []
        for version in _before(registered, history):
            try:
                _verify(store, version)
            except UserError as error:
                logger.warning("passed over %s version %d: %s", dataset, version.number, error)
                lost.append(str(version.number))
                continue
            crown(place, version.number)
            kept = history[: len(history) - history[::-1].index(version.number)]
            place.client.set_registered_model_tag(place.name, _HISTORY_TAG, canonical_json(kept))
            return find(versions_of(place), dataset, str(version.number))
    present = "no longer whole: " + ", ".join(lost) if lost else "none"
    raise UserError(
        f"{dataset} has had no champion before the present one that could take its place ({present}); "
        f"`cm3 versions {dataset}` lists them all."
    )


def previous(store: Store, dataset: str, config: RegistryConfig | None = None) -> Registered | None:
    """The version that `rollback` would return to, if its files are as they were published; None without one."""
    with session(store, dataset, config) as place:
        if place.model() is None:
            return None
        return next((v for v in _before(versions_of(place), champions(place)) if _is_there(store, v)), None)


def _before(registered: list[Registered], history: list[int]) -> Iterator[Registered]:
    """Former champions that are still registered, the last one first, each once."""
    versions = {version.number: version for version in registered if version.alias != "champion"}
    for number in dict.fromkeys(reversed(history)):
        if number in versions:
            yield versions[number]


def _is_there(store: Store, version: Registered) -> bool:
    try:
        for table in version.tables:
            store.get(version.dataset, table, version.tables[table])
    except UserError:
        return False
    return True


def _verify(store: Store, version: Registered) -> None:
    """Compare what consumers read of a version with its checksums.

    Raises:
        UserError: a file was changed or lost, or garbage collection took one of its tables.
    """
    for table in SERVED:
        if table in version.tables:
            store.verify(store.get(version.dataset, table, version.tables[table]))


def resolve(store: Store, reference: str, config: RegistryConfig | None = None) -> TableVersion:
    """Find the version that `DATASET/TABLE[@VERSION|@ALIAS|@NUMBER]` names.

    Without `@` the last version that kept its contracts. VERSION is (the beginning of) a table version's name; ALIAS
    and NUMBER are the registry's and name the table as it was for that registered version.

    Raises:
        UserError: nothing goes by that name; the message lists what does.
    """
    dataset, table, at = parse_reference(reference)
    if at in ("", "latest"):
        return store.latest(dataset, table)
    if re.fullmatch(OWN_VERSION, at):
        return store.get(dataset, table, at)
    version = find(registered(store, dataset, config), dataset, at)
    if table not in version.tables:
        raise UserError(f"{dataset}@{at} was made without {table!r}; it has: {', '.join(sorted(version.tables))}.")
    return store.get(dataset, table, version.tables[table])


def tables_of(store: Store, reference: str, config: RegistryConfig | None = None) -> dict[str, TableVersion]:
    """Every table of `DATASET[@ALIAS|@NUMBER]`: of that registered version, without `@` the latest ones.

    Raises:
        UserError: nothing goes by that name, it names one table, or one of its tables is gone.
    """
    dataset, _, at = reference.partition("@")
    if "/" in dataset:
        alias = f"@{at}" if at and not re.fullmatch(OWN_VERSION, at) else ""
        whole = dataset.partition("/")[0] + alias
        raise UserError(f"{reference} names one table; expected a whole data set: {whole}.")
    if at in ("", "latest"):
        tables = {table: store.latest(dataset, table) for table in store.tables(dataset)}
        if "items" not in tables:
            store.latest(dataset, "items")  # says what there is
        return tables
    version = find(registered(store, dataset, config), dataset, at)
    return {table: store.get(dataset, table, name) for table, name in version.tables.items()}


def beside(store: Store, reference: str, config: RegistryConfig | None = None) -> dict[str, TableVersion]:
    """The other tables of the registered version that a reference to one table names; the latest ones where it names
    the table's own version, or none."""
    dataset, _, at = parse_reference(reference)
    named = at and not re.fullmatch(OWN_VERSION, at)
    return tables_of(store, f"{dataset}@{at}" if named else dataset, config)


def find(versions: list[Registered], dataset: str, at: str) -> Registered:
    """The registered version with that alias or number.

    Raises:
        UserError: there is none.
    """
    for version in versions:
        if at == version.alias or at == str(version.number):
            return version
    names = ", ".join(f"{v.number}{f' ({v.alias})' if v.alias else ''}" for v in versions) or "none"
    raise UserError(f"{dataset} has no registered version {at!r}; registered: {names}.")


def crown(place: Place, number: int) -> None:
    """Make a version the champion, and note it for `rollback`."""
    history = champions(place)
    if history[-1:] != [number]:  # else `rollback` would give it back to itself
        place.client.set_registered_model_tag(place.name, _HISTORY_TAG, canonical_json([*history, number]))
    model = place.model()
    # MLflow's answer is a text from its database and may be a number from its server.
    if model is not None and str(model.aliases.get("challenger", "")) == str(number):
        place.client.delete_registered_model_alias(place.name, "challenger")
    place.client.set_registered_model_alias(place.name, "champion", str(number))


def versions_of(place: Place) -> list[Registered]:
    """As `registered`, in a session that is open already."""
    model = place.model()
    if model is None:
        return []
    # A version that holds two aliases is known by `champion`, which consumers read.
    in_order = sorted(model.aliases.items(), key=lambda pair: pair[0] == "champion")
    aliases = {str(number): alias for alias, number in in_order}
    versions = [
        _from_mlflow(place.dataset, version, aliases.get(str(version.version), ""))
        for version in place.client.search_model_versions(f"name = '{place.name}'")
    ]
    return sorted((version for version in versions if version is not None), key=lambda version: version.number)


def champions(place: Place) -> list[int]:
    """Numbers of the versions that were champion, in order, the present one last; without what `rollback` took back.

    Raises:
        UserError: nothing was registered yet.
    """
    model = place.model()
    if model is None:
        raise UserError(f"{place.dataset} has no registered version yet.")
    return [int(number) for number in json.loads(model.tags.get(_HISTORY_TAG, "[]"))]


def best_champion(place: Place, registered: list[Registered], last: int) -> Registered | None:
    """The best by its figure among the last champions, the present one included, since one was promoted by hand.

    Versions of one training, which all have its figure, count as one.
    """
    model = place.model()
    if model is None:
        return None
    history = champions(place)
    accepted = int(model.tags.get(_ACCEPTED_TAG, 0))
    if accepted in history:
        history = history[len(history) - 1 - history[::-1].index(accepted) :]
    by_number = {version.number: version for version in registered}
    trainings: dict[str, Registered] = {}
    for version in (by_number[number] for number in reversed(history) if number in by_number):
        trainings.setdefault(version.tables.get("metrics", str(version.number)), version)
    return max([*trainings.values()][:last], key=lambda version: version.validation_ndcg, default=None)


def _from_mlflow(dataset: str, version: "ModelVersion", alias: str) -> Registered | None:
    """None for a version that lacks what this project's have."""
    tables = _tagged(version.tags, TABLE_TAG)
    if EMBEDDINGS not in tables:
        return None
    try:
        return Registered(
            dataset=dataset,
            number=int(version.version),
            alias=alias,
            reason=version.tags.get("reason", ""),
            run_id=version.run_id or "",
            tables=tables,
            report=version.tags.get("report", ""),
            validation_ndcg=float(version.tags["validation_ndcg_20"]),
            validation_set=version.tags.get("validation_set", ""),
            items=int(version.tags["items"]),
            coverage={name: float(share) for name, share in _tagged(version.tags, COVERAGE_TAG).items()},
        )
    except (KeyError, ValueError):
        return None


def _tagged(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)}
