"""The pinned Prometheus with the files of `compose/`."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from exemplars import Histogram
from tests.programs import eventually, own_server
from tests.stack import composed, running
from tests.stack.build import binary

TRACE = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}


def test_configuration_rules_and_targets_are_valid(tmp_path: Path) -> None:
    laid_out = running.Prometheus(tmp_path, composed.services()["prometheus"], {"front": ["front:8000"]}, ())
    subprocess.run([binary("promtool"), "check", "config", laid_out.directory / "prometheus.yml"], check=True)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_exemplars_survive_its_end(tmp_path: Path, by: signal.Signals) -> None:
    """By its write-ahead log, from which it fills its ring again: whoever had them is gone by then."""
    registry = CollectorRegistry()
    Histogram("request_seconds", "", registry=registry).observe(0.3, exemplar=TRACE)
    with own_server(registry) as port:
        with running.prometheus(tmp_path, {"front": [f"127.0.0.1:{port}"]}) as prometheus:

            def dots() -> list[dict[str, str]]:
                now = time.time()
                found = prometheus.server.exemplars("request_seconds_bucket", now - 3600, now + 60)
                return [dot["labels"] for dot in found]

            assert eventually(dots, "the exemplar", prometheus.server.errors) == [TRACE]
            prometheus.aim({})
            prometheus.stop(by)
            prometheus.start()
            assert eventually(dots, "the exemplar again", prometheus.tail) == [TRACE]
            assert prometheus.server.ask("targets")["activeTargets"] == []
