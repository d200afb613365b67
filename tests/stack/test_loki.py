"""Lines in files, by the real Collector, into the real Loki: found by their trace, each of them once."""

import json
import logging
import re
import secrets
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from exemplars.logs import JSONFormatter
from tests.programs import eventually
from tests.stack import running
from tests.stack.process import text


@pytest.fixture
def loki(tmp_path: Path) -> Iterator[running.Loki]:
    with running.loki(tmp_path) as started:
        yield started


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    directory = tmp_path / "logs"
    directory.mkdir()
    return directory


def append(file: Path, *lines: str) -> None:
    with file.open("a") as output:
        output.writelines(f"{line}\n" for line in lines)


def found(loki: running.Loki, query: str, count: int) -> list[dict[str, Any]]:
    """The lines of *query*, once there are *count*; more of them is an error."""

    def enough() -> list[dict[str, Any]] | None:
        lines = loki.lines(query, time.time() - 3600, time.time() + 60)
        return lines if len(lines) >= count else None

    lines = eventually(enough, f"{count} lines of {query}", loki.tail)
    assert len(lines) == count
    return lines


def line(service: str, message: str, **more: str) -> str:
    """As every service of the shop writes one."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"timestamp": now, "level": "INFO", "message": message, "service.name": service, **more})


def test_lines_of_a_trace_are_found_by_its_id(tmp_path: Path, logs: Path, loki: running.Loki) -> None:
    """Of all its services; what JSONFormatter wrote is all there."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    ids = {"trace_id": trace_id, "span_id": span_id, "trace_flags": "01"}
    record = logging.makeLogRecord(
        {"name": "shop", "msg": "no %s", "args": ("kettle",), "levelno": 30, "levelname": "WARNING", "order": 7, **ids}
    )
    append(logs / "front.jsonl", JSONFormatter(service_name="front").format(record), line("front", "another trace"))
    append(logs / "stock.jsonl", line("stock", "shelf 7", trace_id=trace_id, span_id=secrets.token_hex(8)))
    with running.collector(tmp_path, None, loki, logs):
        both = found(loki, f'{{service_name=~".+"}} | trace_id="{trace_id}"', 2)
        assert {entry["labels"]["service_name"]: entry["line"] for entry in both} == {
            "front": "no kettle",
            "stock": "shelf 7",
        }
        (ours,) = found(loki, f'{{service_name="front"}} | trace_id="{trace_id}" | severity_text="WARNING"', 1)
        assert ours["labels"]["span_id"] == span_id
        assert ours["labels"]["logger"] == "shop"
        assert ours["labels"]["order"] == "7"
        assert abs(ours["time"] - record.created) < 1e-5
        found(loki, '{service_name="front"} | detected_level="warn"', 1)


def test_an_id_is_no_stream(tmp_path: Path, logs: Path, loki: running.Loki) -> None:
    """One stream a service, however many traces."""
    append(logs / "front.jsonl", *(line("front", f"line {n}", trace_id=f"{n + 1:032x}") for n in range(300)))
    with running.collector(tmp_path, None, loki, logs):
        found(loki, '{service_name="front"}', 300)
    url = f"{loki.url}/loki/api/v1/series?start={int(time.time() - 3600)}000000000"
    assert json.loads(text(url))["data"] == [{"service_name": "front"}]


def test_a_line_that_is_no_json_or_has_no_trace_comes_too(tmp_path: Path, logs: Path, loki: running.Loki) -> None:
    append(logs / "any.jsonl", "Killed", '{"half":', line("any", "no span"), line("any", "bad", trace_id="zz"), '["a"]')
    with running.collector(tmp_path, None, loki, logs):
        lines = found(loki, '{service_name=~".+"}', 5)
    assert {entry["line"] for entry in lines} == {"Killed", '{"half":', "no span", "bad", '["a"]'}
    assert {entry["labels"]["service_name"] for entry in lines} == {"any", "unknown_service"}


def sent(collector: running.Collector) -> float:
    """Log records since this Collector was started."""
    pattern = r"(?m)^otelcol_exporter_sent_log_records(?:_total|__records__total)?\{.*otlp_http/loki.*\} (\S+)$"
    return sum(map(float, re.findall(pattern, collector.own_metrics())))


def test_a_collector_that_was_killed_goes_on_where_it_was(tmp_path: Path, logs: Path, loki: running.Loki) -> None:
    file = logs / "front.jsonl"
    append(file, *(line("front", f"before {n}") for n in range(20)))
    with running.collector(tmp_path, None, loki, logs) as collector:
        found(loki, '{service_name="front"}', 20)
        assert sent(collector) == 20
        collector.stop(signal.SIGKILL)
        append(file, *(line("front", f"meanwhile {n}") for n in range(5)))
        collector.start()
        found(loki, '{service_name="front"}', 25)
        assert sent(collector) == 5


def test_a_file_may_be_emptied(tmp_path: Path, logs: Path, loki: running.Loki) -> None:
    """As the service *logs* of `compose.yaml` does with one that has become long."""
    file = logs / "front.jsonl"
    append(file, *(line("front", f"before {n}") for n in range(100)))
    with running.collector(tmp_path, None, loki, logs):
        found(loki, '{service_name="front"}', 100)
        file.write_text("")
        append(file, *(line("front", f"after {n}") for n in range(10)))
        found(loki, '{service_name="front"}', 110)


def waiting(collector: running.Collector) -> float:
    """Log records that were read and have not been sent."""
    (size,) = re.findall(r"(?m)^otelcol_exporter_queue_size{.*otlp_http/loki.*} (\S+)$", collector.own_metrics())
    return float(size)


def test_lines_wait_for_a_loki_that_is_away_though_the_collector_is_killed(
    tmp_path: Path, logs: Path, loki: running.Loki
) -> None:
    with running.collector(tmp_path, None, loki, logs) as collector:
        loki.stop()
        append(logs / "front.jsonl", *(line("front", f"line {n}") for n in range(10)))
        eventually(lambda: waiting(collector) > 0, "the lines to be read", collector.tail)
        collector.stop(signal.SIGKILL)
        append(logs / "front.jsonl", *(line("front", f"line {n}") for n in range(10, 15)))
        collector.start()
        loki.start()
        assert {entry["line"] for entry in found(loki, '{service_name="front"}', 15)} == {
            f"line {n}" for n in range(15)
        }
