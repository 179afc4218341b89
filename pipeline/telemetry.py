"""Traces and metrics of a run by OpenTelemetry, exported by OTLP where OTEL_EXPORTER_OTLP_ENDPOINT is set.

Otherwise nothing of OpenTelemetry is imported. The providers are the run's own: what other libraries trace through the
global ones is not exported. Names and attributes are those of stages, data sets, versions and counts; no error's
message, no address and nothing of an item or a user is among them.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

from pipeline import log_fields
from schemas.lineage import CODE_VERSION

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

logger = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PAIRS = (
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    "OTEL_RESOURCE_ATTRIBUTES",
)
"""Variables that hold name=value, with commas between."""
NAME = "cm3"
WAIT_SECONDS = 3.0
"""How long the end of a run waits for a collector, and how long one request may take."""


@dataclass(frozen=True)
class _Instruments:
    tracer: "Tracer"
    seconds: "Histogram"
    counted: "Counter"
    steps: "Counter"


_CURRENT: ContextVar[_Instruments | None] = ContextVar("telemetry", default=None)


@contextmanager
def exported() -> Iterator[None]:
    """Export what is traced and counted in the block, a run; a collector that does not answer costs it nothing but
    `WAIT_SECONDS` at the end, and a line in the log."""
    providers = _providers() if os.environ.get(ENDPOINT) else None
    if providers is None:
        yield
        return
    traces, metrics = providers
    meter = metrics.get_meter(NAME, CODE_VERSION)
    instruments = _Instruments(
        tracer=traces.get_tracer(NAME, CODE_VERSION),
        seconds=meter.create_histogram("cm3.duration", "s", "Seconds of a run or a stage, by `name` and `outcome`."),
        counted=meter.create_counter("cm3.counted", "1", "What a stage counted, by `stage` and `name`."),
        steps=meter.create_counter("cm3.steps", "1", "Steps of long loops, by `stage` and `unit`."),
    )
    before = _CURRENT.get()
    _CURRENT.set(instruments)
    try:
        with span("run"):
            yield
    finally:
        _CURRENT.set(before)
        _end(traces, metrics)


def _end(traces: "TracerProvider", metrics: "MeterProvider") -> None:
    """Send what is left, as far as the collector takes it in time."""

    def shut_down() -> None:
        traces.shutdown()
        metrics.shutdown()

    sending = Thread(target=shut_down, name="telemetry", daemon=True)
    sending.start()
    sending.join(WAIT_SECONDS)


@contextmanager
def span(name: str) -> Iterator[None]:
    """Trace the block, a run or a stage, and measure its duration; the span carries the log's fields."""
    instruments = _CURRENT.get()
    if instruments is None:
        yield
        return
    from opentelemetry.trace import StatusCode

    begun, outcome = time.monotonic(), "ok"
    # The library would record the error's message, which may name an item.
    with instruments.tracer.start_as_current_span(
        name, attributes=_fields(), record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield
        except BaseException as error:
            outcome = type(error).__name__
            current.set_status(StatusCode.ERROR, outcome)
            raise
        finally:
            attributes = {"name": name, "outcome": outcome} | _dataset()
            instruments.seconds.record(time.monotonic() - begun, attributes)


def counted(counts: Mapping[str, float], versions: Mapping[str, str]) -> None:
    """Add what the current stage counted, and the versions of its tables, to its span and to the metrics."""
    instruments = _CURRENT.get()
    if instruments is None:
        return
    from opentelemetry.trace import get_current_span

    current, about = get_current_span(), _dataset()
    current.set_attributes({f"cm3.version.{table}": version for table, version in versions.items()})
    for name, count in counts.items():
        current.set_attribute(f"cm3.count.{name}", count)
        instruments.counted.add(count, {"name": name} | about)


@contextmanager
def parts(unit: str, part: str) -> Iterator[Callable[[int], None]]:
    """Count the steps of the loop in the block, and trace each of its parts, such as a shard: the block calls what it
    is given with the number of steps of the part that has ended."""
    instruments = _CURRENT.get()
    if instruments is None:
        yield _ignore
        return
    begun = time.time_ns()

    def ended(steps: int) -> None:
        nonlocal begun
        now = time.time_ns()
        instruments.steps.add(steps, {"unit": unit} | _dataset())
        if part:
            attributes = _fields() | {"cm3.steps": steps}
            instruments.tracer.start_span(part, start_time=begun, attributes=attributes).end(now)
        begun = now

    yield ended


def _ignore(_: int) -> None:
    """Where nothing is exported."""


def _fields() -> dict[str, str | int]:
    """The log's fields as attributes."""
    fields = log_fields.current().items()
    return {f"cm3.{name}": value if isinstance(value, int) else str(value) for name, value in fields}


def _dataset() -> dict[str, str]:
    """Those of the log's fields that few enough values have for a metric."""
    fields = log_fields.current()
    return {name: str(fields[name]) for name in ("dataset", "stage") if name in fields}


def _providers() -> "tuple[TracerProvider, MeterProvider] | None":
    """Providers of this run's own; None, and a line in the log, where the packages are not installed or a variable has
    a value that they do not take."""
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning("%s is set, but nothing is exported: install the extra `observe`", ENDPOINT)
        return None
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)  # not a line per attempt
    for name in ("util.re", "sdk.resources"):
        logging.getLogger(f"opentelemetry.{name}").setLevel(logging.ERROR)  # their warnings hold tokens
    _warn_of_pairs()
    service = os.environ.get("OTEL_SERVICE_NAME", NAME)
    try:
        with ExitStack() as begun:
            resource = Resource.create({SERVICE_NAME: service, SERVICE_VERSION: CODE_VERSION})
            traces = TracerProvider(resource=resource, shutdown_on_exit=False)
            begun.callback(traces.shutdown)
            traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=WAIT_SECONDS)))
            reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=WAIT_SECONDS))
            begun.callback(reader.shutdown)
            metrics = MeterProvider([reader], resource, shutdown_on_exit=False)
            begun.pop_all()
    except ValueError:  # its message may hold the value
        logger.warning("nothing is exported: OpenTelemetry does not take the value of one of the variables OTEL_*")
        return None
    return traces, metrics


def _warn_of_pairs() -> None:
    for name in PAIRS:
        if any("=" not in pair for pair in os.environ.get(name, "").split(",") if pair.strip()):
            logger.warning("%s: expected name=value, with commas between; what is none is left out", name)
