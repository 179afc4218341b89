"""How a stage is called, how its tables are judged before they become the latest, and what the record says of it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar

from flows import open_lineage
from pipeline import contracts, log_fields, telemetry
from pipeline.published import Published
from pipeline.report import index
from pipeline.store import Store
from schemas.contracts import Refusal, Verdict
from schemas.errors import ContractError
from schemas.lineage import TableVersion, canonical_json, now
from schemas.run import FeatureParameters, StageRecord

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

Tables = dict[str, TableVersion]
"""Published tables by name."""


class Call(Protocol):
    """How a stage is run: `call(name, function, **arguments)` returns what the function returns."""

    def __call__(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...


def plain(name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a stage in this process, without a server."""
    logger.info("%s …", name)
    return function(*args, **kwargs)


def observed(call: Call) -> Call:
    """`call`, with each stage in the log's fields, in the traces and metrics, and in the lineage events."""

    def stage(name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        with (
            log_fields.about(stage=name),
            telemetry.span(name),
            open_lineage.stage(name, kwargs) as outputs,
        ):
            result = call(name, function, *args, **kwargs)
            if isinstance(result, Published):
                telemetry.counted(result.counts, {table: v.version for table, v in result.tables.items()})
                outputs.extend(result.tables.values())
        return result

    return stage


class Recorder:
    """Calls stages, judges their tables, and keeps what each published and counted for the run's summary.

    Attributes:
        store: its versions become the latest when `release` is called.
        stages: one entry per table, in the order of publication.
        verdicts: what the contracts said so far.
        encoded: feature, or `captions` → contents that a model encoded.
        started: UTC, ISO 8601.
        clock: the same moment as `time.monotonic` gives it, seconds.
    """

    def __init__(self, call: Call, parameters: FeatureParameters) -> None:
        self.call = observed(call)
        self.store = Store(parameters.store, moves_latest=False)
        self._parameters = parameters
        self._held: Tables = {}
        self.stages: list[StageRecord] = []
        self.verdicts: list[Verdict] = []
        self.encoded: dict[str, int] = {}
        self.started = now()
        self.clock = time.monotonic()

    def __call__(self, name: str, function: Callable[P, Published], /, *args: P.args, **kwargs: P.kwargs) -> Tables:
        """Run a stage and return its tables; in the record its counts stand with the first of them.

        Raises:
            ContractError: one of its tables breaks a contract that stops. None of the tables since the last `release`
                becomes the latest; a record names them.
        """
        begun = time.monotonic()
        published = self.call(name, function, *args, **kwargs)
        self._note(name, published.tables, time.monotonic() - begun, dict(published.counts))
        if "reused" in published.counts:  # of the stages that encode; an unchanged table counts nothing else
            self.encoded[name.removeprefix("features/")] = int(published.counts.get("encoded", 0))
        self._held |= published.tables
        self._judge(name, dict(published.tables))
        return dict(published.tables)

    def kept(self, name: str, tables: Mapping[str, TableVersion]) -> None:
        """Name, in the record, tables that were there before: they are not judged again, nor made the latest."""
        self._note(name, {table: version.model_copy(update={"reused": True}) for table, version in tables.items()}, 0.0)

    def _note(
        self, stage: str, tables: Mapping[str, TableVersion], seconds: float, counts: Mapping[str, float] | None = None
    ) -> None:
        """Enter tables in the record; the counts stand with the first of them."""
        counts = counts or {}
        for table, version in tables.items():
            self.stages.append(
                StageRecord(
                    stage=stage,
                    table=table,
                    version=version.version,
                    path=version.path,
                    rows=version.rows,
                    reused=version.reused,
                    seconds=seconds,
                    counts=dict(counts),
                    rate=_rate(counts, seconds),
                )
            )
            counts = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """The block is the run: its log lines, traces and lineage events say so. When it leaves a record, the page of
        the last runs is made anew."""
        dataset = self._parameters.dataset
        with log_fields.about(run=self.started, dataset=dataset), telemetry.exported(), open_lineage.emitted(dataset):
            try:
                yield
            except ContractError:
                self._put_history()
                raise
            self._put_history()

    def _put_history(self) -> None:
        """Make the page of the last runs anew. Whatever fails there costs no finished run and hides no refusal."""
        dataset = self._parameters.dataset
        try:
            index.put_history(self.store, dataset)
        except Exception as error:  # noqa: BLE001  the store, a record or the drawing: only a page is older
            logger.warning(
                "%s: the page of the last runs could not be made anew: %s: %s. The next run makes it; nothing else is "
                "missing.",
                dataset,
                type(error).__name__,
                error,
            )

    def described(self) -> dict[str, Any]:
        """What the record of any run says of it, up to now."""
        return {
            "dataset": self._parameters.dataset,
            "started": self.started,
            "seconds": time.monotonic() - self.clock,
            "stages": tuple(self.stages),
            "verdicts": tuple(self.verdicts),
            "encoded": self.encoded,
        }

    def release(self) -> None:
        """Make every table since the last call the latest: what belongs together moves together."""
        for version in self._held.values():
            self.store.set_latest(version)
        self._held = {}

    def _judge(self, stage: str, tables: Tables) -> None:
        parameters = self._parameters
        verdicts = contracts.judge(
            store=self.store, stage=stage, tables=tables, config=parameters.contracts, accept=parameters.accept
        )
        self.verdicts += verdicts
        for verdict in verdicts:
            if verdict.state != "kept":
                logger.warning("contract %s: %s", verdict.state, verdict)
        broken = [verdict for verdict in verdicts if verdict.state == "stopped"]
        if broken:
            self._refuse(stage, broken)

    def _refuse(self, stage: str, broken: list[Verdict]) -> NoReturn:
        refusal = Refusal(
            dataset=self._parameters.dataset,
            started=self.started,
            stage=stage,
            tables={name: version.version for name, version in self._held.items()},
            verdicts=tuple(self.verdicts),
        )
        self.store.put(f"{refusal.dataset}/_refused/{self.started}.json", refusal.model_dump_json(indent=2).encode())
        rules = dict.fromkeys(verdict.rule for verdict in broken)
        raise ContractError(
            f"{refusal.dataset}: stopped by a contract after {stage}: {'; '.join(map(str, broken))}. `latest` and the "
            f"champion are as they were; finished work is kept. If the new data is right, run again with "
            f"{' '.join(f'--accept {rule}' for rule in rules)} (parameter accept: {canonical_json(list(rules))}); else "
            f"mend the source and run again. `cm3 refused {refusal.dataset}` shows what was refused.",
            self.verdicts,
        )


def _rate(counts: Mapping[str, float], seconds: float) -> float | None:
    """Contents encoded, or pictures downloaded, per second; None where there were none."""
    amount = counts.get("encoded") or counts.get("downloaded")
    return amount / max(seconds, 1e-9) if amount else None
