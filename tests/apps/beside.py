"""An application that counts its requests with prometheus_client and with us, on prometheus_client's own registry."""

import os
from collections.abc import Iterable, Iterator
from typing import Final

import prometheus_client
from prometheus_client import REGISTRY
from prometheus_client import Metric as MetricFamily
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

import exemplars
from exemplars._types import Environ, StartResponse

ours: Final = exemplars.Counter("orders", "Requests, as we count them.")
theirs: Final = prometheus_client.Counter("jobs", "Requests, as prometheus_client counts them.")
seconds: Final = prometheus_client.Summary("job_seconds", "A second for each request.")
build: Final = prometheus_client.Info("build", "What runs.")
build.info({"version": "1"})


class OfAnother(Collector):
    """It knows what holds for all workers, without our help."""

    def collect(self) -> Iterator[MetricFamily]:
        yield GaugeMetricFamily("queue_length", "Jobs that wait.", 7)


REGISTRY.register(OfAnother())
_page: Final = exemplars.make_wsgi_app()


def wsgi(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer ``/metrics`` with the page, all else with the pid, and count that."""
    if environ["PATH_INFO"] == "/metrics":
        return _page(environ, start_response)
    ours.inc()
    theirs.inc()
    seconds.observe(1.0)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
