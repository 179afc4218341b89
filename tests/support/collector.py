"""The far end of telemetry and lineage events on loopback: OTLP over HTTP, and OpenLineage."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """Remembers what it was sent, by path.

    Args:
        answers: else it takes a request and leaves it without an answer until `release` is called.
    """

    def __init__(self, *, answers: bool = True) -> None:
        received: dict[str, list[bytes]] = {}
        asked, released = Event(), Event()
        if answers:
            released.set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.setdefault(self.path, []).append(self.rfile.read(int(self.headers["Content-Length"])))
                asked.set()
                released.wait()
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.received, self.asked, self.release = received, asked, released.set
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list[Span]:
        """In the order of their end."""
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.received.get("/v1/traces", [])]
        return [s for r in requests for of in r.resource_spans for scope in of.scope_spans for s in scope.spans]

    def metrics(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Name, attributes, and the sum of a counter or the count of a histogram."""
        request = ExportMetricsServiceRequest.FromString(self.received["/v1/metrics"][-1])
        for metric in [m for of in request.resource_metrics for scope in of.scope_metrics for m in scope.metrics]:
            for point in [*metric.sum.data_points, *metric.histogram.data_points]:
                value = point.as_double or point.as_int if metric.HasField("sum") else point.count
                yield metric.name, attributes(point), value

    def events(self) -> list[dict[str, Any]]:
        """OpenLineage events, in their order."""
        return [json.loads(body) for body in self.received.get("/api/v1/lineage", [])]


def attributes(of: Any) -> dict[str, Any]:
    """Attributes of a span or a metric's point."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}
