"""Forget users: leave them out from now on, train anew what is served, and remove whatever held or learned from them.

What is killed half-way goes on when it is called again: the record of who is forgotten is written first, so that no run
brings them back meanwhile, and each step finds what is left of its work.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any, get_args

from flows import re_extract, training
from flows.exclusive import alone
from flows.job import conclude, features_of, train
from flows.parameters import validated
from flows.recorder import Recorder, Tables, plain
from pipeline import forgotten, similarity
from pipeline.registry import forgetting, holding, versions
from pipeline.registry.client import session
from pipeline.store import Store
from schemas.contracts import Rule
from schemas.errors import StoreError, TooFewInteractionsError, UserError
from schemas.forgetting import Forgetting, Forgotten
from schemas.lineage import TableVersion
from schemas.model import MODEL
from schemas.registry import Registered, RegistryConfig
from schemas.run import RunParameters
from schemas.similarity import SimilarityConfig
from schemas.training import CM3Config

logger = logging.getLogger(__name__)

MONTH = timedelta(days=30)
"""How long the law leaves at most, in the European Union (GDPR, article 12, 3)."""


class Again(RunParameters):
    """Parameters of a run without a source: what is served, made again from its own tables."""

    name: str

    @property
    def dataset(self) -> str:
        """The data set that is served."""
        return self.name


def look(store: Store, dataset: str, users: Sequence[str], config: RegistryConfig | None = None) -> Forgetting:
    """What `run` would remove and make anew; nothing is written.

    Args:
        config: where the registry is.

    Raises:
        UserError: no such data set, its record of forgotten users is damaged, or the registry is not the one that has
            its versions.
    """
    _check(store, dataset)
    record = forgotten.with_users(forgotten.read(store, dataset), users)
    return _look(store, dataset, users, record, config)[0]


def _check(store: Store, dataset: str) -> None:
    """Refuse a data set of which there is nothing; one whose first run was stopped has tables, but no latest ones."""
    if dataset.startswith(("_", ".")) or not store.fs.exists(store.folder(dataset)):
        raise UserError(f"No data set {dataset!r} in {store}; there are: {', '.join(store.datasets()) or 'none'}.")


def _look(
    store: Store, dataset: str, users: Sequence[str], record: Forgotten, config: RegistryConfig | None
) -> tuple[Forgetting, list[TableVersion]]:
    """The report, and the versions that go."""
    forgetting.check_registry(store, dataset, record, config)
    rows, present = holding.held(store, dataset, record)
    gone = holding.doomed(store, dataset, rows)
    affected = forgetting.affected(store, dataset, gone, config)
    report = Forgetting(
        dataset=dataset,
        users=len(users),
        unknown=tuple(user for user in users if record.hash(user) not in present),
        versions={(name := holding.reference(version)): rows.get(name, 0) for version in gone},
        bytes=sum(version.size for version in gone),
        registered=tuple(entry.number for entry in affected),
        reports=len(forgetting.reports(store, dataset, record, gone, config)) if gone else 0,
        records=len(forgetting.records(store, dataset, record)),
        champion=_fate(next((entry for entry in affected if entry.alias == "champion"), None), gone),
        elsewhere=forgetting.elsewhere(store, dataset, users),
    )
    return report, gone


def run(store: Store, dataset: str, users: Sequence[str], config: RegistryConfig | None = None) -> Forgetting:
    """Forget these users, and go on with what an earlier call began.

    Args:
        config: where the registry is, and by what its gate judges.

    Returns: what was found at the beginning, marked `done`.
    Raises:
        UserError: as `look`; or the champion cannot be trained again here: then nothing was removed, the next run
            leaves the users out, and this is to be called after it.
    """
    _check(store, dataset)
    with alone(store, dataset):
        before = forgotten.read(store, dataset)
        record = forgotten.with_users(before, users)
        report, gone = _look(store, dataset, users, record, config)
        if record is before and not (report.versions or report.records or before.unfinished):
            return report.model_copy(update={"done": True})
        record = record.model_copy(update={"unfinished": True})
        forgotten.write(store, dataset, record)
        logger.info("%s: %d versions hold forgotten users or were made from them", dataset, len(report.versions))
        try:
            _replace_champion(store, dataset, record, gone, config)
        except TooFewInteractionsError as error:
            logger.warning("%s: nothing is served until a run has more interactions: %s", dataset, error)
        forgetting.remove(store, dataset, record, gone, config)
    with ExitStack() as everything:
        # Downloads are shared by data sets: no run may be reading them. All locks in one order, so that nobody waits
        # in a circle.
        for name in sorted(path.name for path in store.scratch("locks").iterdir()):
            everything.enter_context(alone(store, name))
        for folder in forgetting.downloads(store):
            shutil.rmtree(folder)
        forgotten.write(store, dataset, record.model_copy(update={"unfinished": False}))
    return report.model_copy(update={"done": True})


def take_back(store: Store, dataset: str, users: Sequence[str]) -> int:
    """Let the next run take these users from the source again; returns how many of them were forgotten."""
    _check(store, dataset)
    with alone(store, dataset):
        before = forgotten.read(store, dataset)
        record = forgotten.without_users(before, users)
        if record is not before:
            forgotten.write(store, dataset, record)
    return len(before.users) - len(record.users)


def _fate(champion: Registered | None, gone: Sequence[TableVersion]) -> str:
    if champion is None:
        return ""
    if _learned(champion, gone):
        return f"version {champion.number}, the champion, learned from them: it is trained again without them"
    return f"version {champion.number}, the champion, lists them: its model, which is older, is applied without them"


def _learned(champion: Registered, gone: Sequence[TableVersion]) -> bool:
    """Whether its model was made from these tables."""
    return MODEL not in champion.tables or (MODEL, champion.tables[MODEL]) in {(v.table, v.version) for v in gone}


def _replace_champion(
    store: Store, dataset: str, record: Forgotten, gone: Sequence[TableVersion], config: RegistryConfig | None
) -> None:
    """Make a champion of the remaining users, if the present one is among what goes.

    Raises:
        TooFewInteractionsError: those who are left are too few to train on.
        UserError: the champion cannot be made again from its tables.
    """
    affected = forgetting.affected(store, dataset, gone, config)
    champion = next((entry for entry in affected if entry.alias == "champion"), None)
    if champion is None:
        return
    try:
        base = _whole(store, champion)
        parameters, logged = _parameters(store, champion, base, config or RegistryConfig())
    except StoreError:
        raise
    except UserError as error:
        until = datetime.fromisoformat(record.changes[-1].at) + MONTH
        raise UserError(
            f"{dataset}: version {champion.number}, the champion, was made by another release or is damaged, and "
            f"cannot be made again from its tables ({error}). Nothing was removed. Run the data set again, which "
            "leaves these users out, `cm3 promote` what it made if the gate did not, then `cm3 forget` again: by "
            f"{until:%Y-%m-%d}, within a month of the request."
        ) from error
    recorder = Recorder(plain, parameters)
    store = recorder.store
    names = {holding.reference(version) for version in gone}
    tables = {name: version for name, version in base.items() if holding.reference(version) not in names}
    recorder.kept("forget", tables)
    tables |= recorder("forget", forgetting.remaining, store=store, tables=base, gone=gone, record=record)
    recorder.release()
    if not tables["interactions"].rows:
        raise TooFewInteractionsError(f"{dataset}: no interaction is left")
    if "similarity" not in tables:  # its weights were learned from interactions
        tables |= recorder(
            "similarity",
            similarity.run,
            store=store,
            features=features_of(tables),
            interactions=tables["interactions"],
            config=parameters.similarity,
        )
        recorder.release()
    if _learned(champion, gone):
        tables = {name: version for name, version in tables.items() if name not in (*training.OUTPUTS, MODEL)}
        tables |= train(store, tables, parameters, recorder)
    else:
        tables |= re_extract.embed(store, tables, base, parameters, recorder)
    made = conclude(store, tables, parameters, recorder, logged)
    number = made.registered.split()[0]
    if "(champion)" not in made.registered:
        logger.info("%s: version %s is champion: what it replaces must go", dataset, number)
        versions.promote(store, dataset, number, config)


def _whole(store: Store, champion: Registered) -> Tables:
    """The champion's tables.

    Raises:
        UserError: one is gone, or one from which others are made is damaged.
    """
    base = {table: store.get(champion.dataset, table, version) for table, version in champion.tables.items()}
    for name in (*training.inputs(base), holding.QUALITY):
        if name in base:
            store.verify(base[name])
    return base


def _parameters(
    store: Store, champion: Registered, base: Tables, config: RegistryConfig
) -> tuple[Again, dict[str, Any]]:
    """The champion's own parameters, as far as they decide what is made again; and what its run logged.

    Raises:
        UserError: the tables of the champion were made by a release with other parameters.
    """

    def settings(table: str) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(base[table].lineage["cm3.config"])
        return made

    with session(store, champion.dataset, config) as place:
        logged = dict(place.client.get_run(champion.run_id).data.params)
    fields = {
        "name": champion.dataset,
        "store": store.uri,
        "trainer": validated(CM3Config, settings(versions.EMBEDDINGS)),
        "similarity": validated(SimilarityConfig, settings("similarity")),
        "registry": config,
        "accept": get_args(Rule),  # the operator has not changed the data: they have to go, whatever a contract says
    }
    return validated(Again, fields), logged
