"""What Prometheus is told."""

import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import REGISTRY, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable, read when the library is imported: where the serving processes add up their counts."""
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)

REQUESTS = Counter("cm3_requests", "Requests answered.", ("route", "status"))
DURATION = Histogram("cm3_request_seconds", "From the head of a request to its answer.", ("route",), buckets=SECONDS)
TOGETHER = Histogram("cm3_scored_together", "Users scored in one product.", buckets=(1, 2, 4, 8, 16, 32, 64))


class _Served(Collector):
    """What is served at this moment, and what is wrong."""

    def __init__(self, served: dict[str, str], problems: dict[str, str], looked: float) -> None:
        self.served, self.problems, self.looked = served, problems, looked

    def collect(self) -> Iterator[Metric]:
        served = GaugeMetricFamily("cm3_served", "1 for the version that is served.", labels=("dataset", "version"))
        for dataset, version in self.served.items():
            served.add_metric((dataset, version), 1)
        yield served
        wrong = GaugeMetricFamily(
            "cm3_problem", '1 if the champion is not what is served, or, for dataset="", the store does not answer.',
            labels=("dataset",),
        )  # fmt: skip
        for dataset in ("", *self.served, *self.problems):
            wrong.add_metric((dataset,), float(dataset in self.problems))
        yield wrong
        yield GaugeMetricFamily("cm3_looked_seconds", "Last look at the store, seconds since 1970.", value=self.looked)


def exposed(served: dict[str, str], problems: dict[str, str], looked: float) -> bytes:
    """Everything in Prometheus' text format, counts added up over all serving processes."""
    now = CollectorRegistry()
    now.register(_Served(served, problems, looked))
    counts = REGISTRY
    if os.environ.get(FOLDER):
        counts = CollectorRegistry()
        MultiProcessCollector(counts)  # type: ignore[no-untyped-call]
    return generate_latest(counts) + generate_latest(now)
