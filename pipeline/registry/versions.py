"""Registered versions of a data set, their aliases, and what a reference such as `demo/items@champion` names."""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.registry.client import model_of, session
from pipeline.store import Store, parse_reference
from schemas.errors import UserError
from schemas.lineage import TableVersion, canonical_json
from schemas.registry import Registered, RegistryConfig

if TYPE_CHECKING:  # a reference without an alias is resolved without MLflow
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

EMBEDDINGS = "embeddings/items"
TABLE_TAG = "table."
COVERAGE_TAG = "coverage."
PENDING_TAG = "alias"
"""On a version that does not have its alias yet: the alias that it was judged to get."""
_HISTORY_TAG = "champions"


def registered(store: Store, dataset: str, config: RegistryConfig | None = None) -> list[Registered]:
    """Every registered version of a data set, oldest first, each with the alias it holds now ("" for none)."""
    with session(store, config) as client:
        return versions_of(client, dataset)


def promote(store: Store, dataset: str, at: str, config: RegistryConfig | None = None) -> Registered:
    """Make the version with that number or alias the champion, after comparing its files with their checksums.

    Raises:
        UserError: there is no such version, or one of its files was changed or lost.
    """
    with session(store, config) as client:
        chosen = find(versions_of(client, dataset), dataset, at)
        for table in (EMBEDDINGS, "embeddings/users"):
            if table in chosen.tables:
                store.verify(store.get(dataset, table, chosen.tables[table]))
        crown(client, dataset, chosen.number)
        return find(versions_of(client, dataset), dataset, str(chosen.number))


def rollback(store: Store, dataset: str, config: RegistryConfig | None = None) -> Registered:
    """Give the alias `champion` back to the version that held it before.

    Raises:
        UserError: no other version was champion before.
    """
    with session(store, config) as client:
        history = _champions(client, dataset)
        if len(history) < 2:
            raise UserError(
                f"{dataset} has had no champion before the present one; `cm3 versions {dataset}` lists them all."
            )
        previous = promote(store, dataset, str(history[-2]), config)
        client.set_registered_model_tag(dataset, _HISTORY_TAG, canonical_json(history[:-1]))
        return previous


def resolve(store: Store, reference: str, config: RegistryConfig | None = None) -> TableVersion:
    """Find the version that `DATASET/TABLE[@VERSION|@ALIAS|@NUMBER]` names.

    Without `@` the last published version. VERSION is (the beginning of) a table version's name; ALIAS and NUMBER are
    the registry's and name the table as it was for that registered version.

    Raises:
        UserError: nothing goes by that name; the message lists what does.
    """
    dataset, table, at = parse_reference(reference)
    if at in ("", "latest"):
        return store.latest(dataset, table)
    if re.fullmatch(r"[0-9a-f]{6,16}", at):
        return store.get(dataset, table, at)
    version = find(registered(store, dataset, config), dataset, at)
    if table not in version.tables:
        raise UserError(f"{dataset}@{at} was made without {table!r}; it has: {', '.join(sorted(version.tables))}.")
    return store.get(dataset, table, version.tables[table])


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


def crown(client: "MlflowClient", dataset: str, number: int) -> None:
    """Make a version the champion, and note it for `rollback`."""
    history = _champions(client, dataset)
    if history[-1:] != [number]:  # else `rollback` would give it back to itself
        client.set_registered_model_tag(dataset, _HISTORY_TAG, canonical_json([*history, number]))
    if client.get_registered_model(dataset).aliases.get("challenger") == str(number):
        client.delete_registered_model_alias(dataset, "challenger")
    client.set_registered_model_alias(dataset, "champion", str(number))


def versions_of(client: "MlflowClient", dataset: str) -> list[Registered]:
    """As `registered`, in a session that is open already."""
    model = model_of(client, dataset)
    if model is None:
        return []
    aliases = {str(number): alias for alias, number in model.aliases.items()}
    versions = [
        _from_mlflow(dataset, version, aliases.get(str(version.version), ""))
        for version in client.search_model_versions(f"name = '{dataset}'")
    ]
    return sorted(versions, key=lambda version: version.number)


def _from_mlflow(dataset: str, version: "ModelVersion", alias: str) -> Registered:
    return Registered(
        dataset=dataset,
        number=int(version.version),
        alias=alias,
        reason=version.tags.get("reason", ""),
        run_id=version.run_id or "",
        tables=_tagged(version.tags, TABLE_TAG),
        validation_ndcg=float(version.tags["validation_ndcg_20"]),
        validation_set=version.tags.get("validation_set", ""),
        items=int(version.tags["items"]),
        coverage={name: float(share) for name, share in _tagged(version.tags, COVERAGE_TAG).items()},
    )


def _tagged(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)}


def _champions(client: "MlflowClient", dataset: str) -> list[int]:
    """Numbers of the versions that were champion, in order, the present one last."""
    model = model_of(client, dataset)
    if model is None:
        raise UserError(f"{dataset} has no registered version yet.")
    return [int(number) for number in json.loads(model.tags.get(_HISTORY_TAG, "[]"))]
