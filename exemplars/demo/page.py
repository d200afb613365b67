"""The exemplars on a page of metrics, read as Prometheus reads them."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from prometheus_client.openmetrics.parser import text_string_to_metric_families

# Without it the answer is the old text format, which has no exemplars.
ACCEPT: Final = "application/openmetrics-text"


class Exemplar(NamedTuple):
    """What one bucket of one series remembers; *time* in seconds since the epoch."""

    method: str
    route: str
    status: str
    error_type: str
    bound: str  # of the bucket, in seconds
    seconds: float
    time: float
    trace_id: str
    span_id: str


def exemplars(page: str) -> Iterator[Exemplar]:
    """The exemplars of request durations on *page*, which is in the OpenMetrics format."""
    for family in text_string_to_metric_families(page):  # type: ignore[no-untyped-call]
        if family.name != "http_server_request_duration_seconds":
            continue
        for sample in family.samples:
            exemplar = sample.exemplar
            if exemplar is not None and exemplar.timestamp is not None:
                labels = sample.labels
                yield Exemplar(
                    labels.get("http_request_method", ""),
                    labels.get("http_route", ""),
                    labels.get("http_response_status_code", ""),
                    labels.get("error_type", ""),
                    labels["le"],
                    exemplar.value,
                    float(exemplar.timestamp),
                    exemplar.labels["trace_id"],
                    exemplar.labels["span_id"],
                )
