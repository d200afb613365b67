"""The examples of the documents: each is shown in one page as it is, runs by itself, and does what the page says of it.

Programs run as a user would run them; what they send by OTLP is received here. Configurations are read by Prometheus's
own tools, and asked of real ones. What only the programs of the stack can tell is in `tests/stack`.
"""

import inspect
import math
import os
import re
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

import pytest
import yaml
from fastapi import FastAPI
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from exemplars import Histogram, instrument
from exemplars.demo.spans import Traces, receiving

from . import otel
from .drivers import make_scope, run_asgi
from .programs import PACKAGES, PATIENCE, Prometheus, eventually, own_server, program, prometheus

DOCS: Final = Path(__file__).parent.parent / "docs"
EXAMPLES: Final = sorted(path for path in (DOCS / "examples").iterdir() if path.is_file())
PAGES: Final = {page.name: page.read_text() for page in sorted(DOCS.glob("*.md"))}
LANGUAGES: Final = {".py": "python", ".yml": "yaml", ".yaml": "yaml", ".alloy": "alloy"}

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.name))


# The pages


@each_example
def test_an_example_is_shown_in_one_page_as_it_is(example: Path) -> None:
    shown = f"[examples/{example.name}](examples/{example.name})"
    block = f"```{LANGUAGES[example.suffix]}\n{example.read_text()}```\n"
    assert [name for name, text in PAGES.items() if shown in text and block in text] != [], f"no page shows {shown}"
    assert sum(text.count(block) for text in PAGES.values()) == 1


@each_example
def test_an_example_has_a_test_that_runs_it(example: Path) -> None:
    """Here, or of the stack: somebody names it."""
    tests = [Path(__file__), *(Path(__file__).parent / "stack").glob("test_*.py")]
    assert any(re.search(rf'"{re.escape(example.name)}"', test.read_text()) for test in tests)


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([a-z-]+\.md)", PAGES["README.md"]))
    assert linked == PAGES.keys() - {"README.md"}


# The programs


class Spans(Traces):
    """What came by OTLP, whole."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[Span] = []

    def add(self, export: ExportTraceServiceRequest) -> None:
        super().add(export)
        self.received += [span for resource in export.resource_spans for s in resource.scope_spans for span in s.spans]

    def named(self, name: str) -> Span:
        """The one of that name."""
        (span,) = [span for span in self.received if span.name == name]
        return span

    def names(self) -> list[str]:
        return sorted(span.name for span in self.received)


@dataclass(frozen=True)
class Ran:
    """What came of a program: its spans, what it said, and its page at the end."""

    spans: Spans
    said: str
    page: str

    def exemplars(self) -> list[tuple[str, str, str]]:
        """Labels of the series, trace id and span id of each on the page."""
        found = r'^[a-z_]+_bucket\{(.*?),?le="[^"]*"\} \S+ # \{trace_id="([0-9a-f]{32})",span_id="([0-9a-f]{16})"\}'
        return re.findall(found, self.page, re.M)


PAGE_TOO: Final = """
import runpy, sys
runpy.run_path(sys.argv[1], run_name="__main__")
from exemplars import render
print("THE PAGE")
print(render(accept="application/openmetrics-text; version=1.0.0")[0].decode())
"""


def ran(name: str, *, ratio: float | None = None, page: bool = False) -> Ran:
    """Run an example to its end, with nothing of the tests in it. It must not warn, nor fail."""
    spans = Spans()
    example = str(DOCS / "examples" / name)
    with receiving(spans) as url:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(PACKAGES),
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url,
            **({} if ratio is None else {"OTEL_TRACES_SAMPLER_ARG": str(ratio)}),
        }
        command = [sys.executable, *(["-c", PAGE_TOO] if page else []), example]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    said, _, shown = done.stdout.partition("THE PAGE\n")
    return Ran(spans, said, shown)


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in of.attributes}


def failed(span: Span) -> bool:
    return span.status.code == Status.STATUS_CODE_ERROR


def is_child(span: Span, parent: Span) -> bool:
    return (span.trace_id, span.parent_span_id) == (parent.trace_id, parent.span_id)


def of_exemplars(spans: Spans) -> set[tuple[str, str]]:
    """The ids of the spans that bear the mark."""
    marked = [span for span in spans.received if attributes(span).get("exemplar") == "true"]
    return {(span.trace_id.hex(), span.span_id.hex()) for span in marked}


def test_a_span_says_what_was_done_and_what_went_wrong() -> None:
    spans = ran("spans.py").spans
    pays = {attributes(span)["shop.order"]: span for span in spans.received if span.name == "pay"}
    assert attributes(pays["lamp-1"]) == {"shop.order": "lamp-1", "shop.pieces": 1, "shop.receipt": "receipt-0"}
    assert not pays["lamp-1"].events

    # Went well in the end: told, but no error.
    (event,) = pays["lamp-2"].events
    assert attributes(event)["exception.type"].endswith("TimeoutError")
    assert attributes(pays["lamp-2"])["shop.receipt"] == "receipt-1"
    assert not failed(pays["lamp-2"])

    # Left the block by an exception: recorded and an error, without a line of ours, with the place where it was raised.
    (event,) = pays["lamp-3"].events
    assert event.name == "exception"
    assert attributes(event)["exception.type"].endswith("Declined")
    assert attributes(event)["exception.message"] == "call your bank"
    assert "in charge" in attributes(event)["exception.stacktrace"]
    assert failed(pays["lamp-3"])
    assert "shop.receipt" not in attributes(pays["lamp-3"])

    # Caught there, so said there.
    (checkout,) = [span for span in spans.received if is_child(pays["lamp-3"], span)]
    assert failed(checkout)
    assert checkout.status.message == "declined"
    assert [attributes(event)["exception.message"] for event in checkout.events] == ["call your bank"]
    assert sum(map(failed, spans.received)) == 2


def test_spans_end_whatever_happens() -> None:
    spans = ran("ended.py").spans
    assert spans.names() == ["rank", "read rows", "upload", "upload"]
    uploads = {attributes(span)["shop.file"]: span for span in spans.received if span.name == "upload"}
    assert not failed(uploads["a.csv"])
    assert failed(uploads["b.csv"])
    assert uploads["b.csv"].status.message == "disk full"


def test_a_span_that_nobody_ends_is_not_exported_and_its_dot_opens_nothing() -> None:
    example = ran("unended.py", page=True)
    dots = {labels: (trace_id, span_id) for labels, trace_id, span_id in example.exemplars()}
    assert dots.keys() == {'how="ended"', 'how="forgotten"', 'how="lost"'}
    assert example.spans.names() == ["child", "ended"]

    there = {span.trace_id.hex() for span in example.spans.received}
    assert dots['how="ended"'] in of_exemplars(example.spans)
    # Of the one a part is found, without the mark, so tail sampling has no reason to keep it; of the other nothing.
    assert dots['how="forgotten"'][0] in there
    assert example.spans.named("child").parent_span_id.hex() == dots['how="forgotten"'][1]
    assert of_exemplars(example.spans) == {dots['how="ended"']}
    assert dots['how="lost"'][0] not in there


def test_one_trace_through_two_services() -> None:
    example = ran("services.py", ratio=1.0, page=True)
    asked, served, counted = (example.spans.named(name) for name in ("ask the stock", "GET /stock", "count"))
    assert is_child(served, asked)
    assert is_child(counted, served)
    assert {span.trace_id for span in example.spans.received} == {asked.trace_id}
    assert [span_id for _, _, span_id in example.exemplars()] == [served.span_id.hex()]


def test_the_caller_decides_for_both() -> None:
    example = ran("services.py", ratio=0.0, page=True)
    assert not example.spans.received
    assert not example.exemplars()
    assert "http_server_request_duration_seconds_count{" in example.page


def test_threads_are_handed_the_context() -> None:
    spans = ran("threads.py").spans
    request = spans.named("request")
    assert is_child(spans.named("submitted"), request)
    assert is_child(spans.named("started"), request)
    assert not spans.named("astray").parent_span_id
    assert spans.named("astray").trace_id != request.trace_id


def test_tasks_take_the_context_along() -> None:
    spans = ran("tasks.py").spans
    request, mail = spans.named("request"), spans.named("mail")
    for name in ("to_thread", "run_in_executor", "mail"):
        assert is_child(spans.named(name), request), name
    assert mail.start_time_unix_nano > request.end_time_unix_nano
    assert spans.named("astray").trace_id != request.trace_id


@pytest.mark.skipif("telemetry" not in inspect.signature(FastAPI).parameters, reason="has no telemetry of its own")
def test_a_background_task_is_part_of_the_trace_or_linked_to_it() -> None:
    example = ran("background.py", page=True)
    request, mail, report = (example.spans.named(name) for name in ("POST /orders/{order}", "mail", "report"))
    assert mail.trace_id == request.trace_id
    assert mail.start_time_unix_nano > request.end_time_unix_nano  # FastAPI's own span ends with the response
    assert report.trace_id != request.trace_id
    assert not report.parent_span_id
    assert [link.trace_id for link in report.links] == [request.trace_id]
    ((_, trace_id, span_id),) = example.exemplars()
    assert (trace_id, span_id) == (request.trace_id.hex(), request.span_id.hex())


def test_another_process_goes_on_with_the_trace_and_exports_its_spans() -> None:
    spans = ran("processes.py").spans
    assert spans.names() == ["request", "square"]
    assert is_child(spans.named("square"), spans.named("request"))


def test_a_message_carries_the_trace() -> None:
    spans = ran("messages.py").spans
    request = spans.named("request")
    assert is_child(spans.named("send orders"), request)
    assert is_child(spans.named("process orders"), spans.named("send orders"))
    assert spans.named("process orders").kind == Span.SPAN_KIND_CONSUMER

    sent, processed = spans.named("send reports"), spans.named("process reports")
    assert processed.trace_id != request.trace_id
    assert [(link.trace_id, link.span_id) for link in processed.links] == [(sent.trace_id, sent.span_id)]


def test_a_generator_lends_its_current_span_to_whoever_asks_for_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """What the page warns of, and why the example makes no span current there."""
    spans = otel.Spans()

    def rows() -> Generator[int, None, None]:
        with spans.tracer.start_as_current_span("read rows"):
            yield from range(3)

    def ask() -> None:
        reading = rows()
        next(reading)
        with spans.tracer.start_as_current_span("somebody else's"):
            pass
        Context().run(reading.close)

    copy_context().run(ask)  # where the span stays the current one, for ever
    other, row = spans.exported
    assert (other.name, row.name) == ("somebody else's", "read rows")
    assert other.parent is not None
    assert other.parent.span_id == row.context.span_id
    assert "Failed to detach context" in caplog.text


def test_opentelemetrys_server_span_ends_before_background_tasks(registry: CollectorRegistry) -> None:
    """And so they hold no mark back. An endpoint that is no coroutine has the context too."""
    spans = otel.Spans()

    def task() -> None:
        with spans.tracer.start_as_current_span("task"):
            pass

    def endpoint(_: Request) -> PlainTextResponse:
        with spans.tracer.start_as_current_span("endpoint"):
            pass
        return PlainTextResponse("hello", background=BackgroundTask(task))

    app = instrument(Starlette(routes=[Route("/", endpoint)]), registry=registry)
    served = OpenTelemetryMiddleware(app, tracer_provider=spans.provider)
    assert run_asgi(served, make_scope("/")).status == 200
    ended = {span.name: span for span in spans.exported}
    for name in ("task", "endpoint"):
        parent = ended[name].parent
        assert parent is not None
        assert parent.span_id == spans.server.context.span_id
    assert (spans.server.end_time or math.inf) < (ended["task"].start_time or 0)
    assert (spans.server.attributes or {})["exemplar"] == "true"


# Sampling

TRACES: Final = 1_000  # that the example makes
BURST: Final = 20  # marks that a process has at the start
A_SECOND: Final = 10


def test_head_sampling_exports_a_share_and_every_dot_is_of_it() -> None:
    example = ran("sampling.py", ratio=0.1, page=True)
    exported = {span.trace_id.hex() for span in example.spans.received}
    # Chosen by the id alone, so that every service chooses the same. That none was, of a thousand, does not happen.
    assert all(int(trace_id[16:], 16) <= 0.1 * 2**64 for trace_id in exported)
    assert 0 < len(exported) < TRACES / 2
    dots = {trace_id for _, trace_id, _ in example.exemplars()}
    assert dots
    assert dots <= exported


def test_tail_sampling_needs_all_spans_and_keeps_the_marked() -> None:
    example = ran("sampling.py", ratio=1.0, page=True)
    assert len(example.spans.received) == TRACES
    kept = of_exemplars(example.spans)
    dots = {(trace_id, span_id) for _, trace_id, span_id in example.exemplars()}
    assert dots
    assert dots <= kept
    ends = [span.end_time_unix_nano for span in example.spans.received]
    assert len(kept) <= BURST + A_SECOND * math.ceil((max(ends) - min(ends)) / 1e9)


def test_nothing_sampled_is_no_dot() -> None:
    example = ran("sampling.py", ratio=0.0, page=True)
    assert not example.spans.received
    assert not example.exemplars()
    assert "work_seconds_count" in example.page


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_what_a_span_costs_is_measured(ratio: float) -> None:
    example = ran("span_cost.py", ratio=ratio)
    assert re.fullmatch(r"\d+\.\d µs a span\n", example.said)
    assert len(example.spans.received) == ratio * 6 * 2_000  # none was dropped, or the figure would be of fewer


def excerpt(page: str, key: str) -> dict[str, Any]:
    """The piece of YAML in *page* that begins with *key*."""
    (block,) = re.findall(rf"^```yaml\n({key}:\n.*?)^```", PAGES[page], re.M | re.S)
    loaded: dict[str, Any] = yaml.safe_load(block)[key]
    return loaded


def composed(name: str) -> dict[str, Any]:
    """A file of `compose/` with the defaults of its variables."""
    text = (DOCS.parent / "compose" / name).read_text()
    loaded: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{(?:env:)?\w+:-([^}]*)\}", r"\1", text))
    return loaded


def test_what_the_page_shows_of_the_collectors_configuration_is_of_it() -> None:
    shown = excerpt("sampling.md", "tail_sampling")
    whole = composed("otel-collector.yaml")["processors"]["tail_sampling"]
    policies = shown.pop("policies")
    assert policies
    assert all(policy in whole["policies"] for policy in policies)
    assert shown.items() <= whole.items()


def test_what_the_page_shows_of_tempos_configuration_is_of_it() -> None:
    whole = composed("tempo.yaml")
    shown = excerpt("storage.md", "storage")["trace"]
    assert shown["wal"] == whole["storage"]["trace"]["wal"]
    assert shown["s3"].keys() <= whole["storage"]["trace"]["s3"].keys()
    assert "block_retention: 48h\n" in PAGES["storage.md"]
    assert whole["overrides"]["defaults"]["compaction"]["block_retention"] == "48h"


def test_the_page_reckons_how_long_dots_live() -> None:
    """From marks (10 a second and process) and series (one a scrape), whichever are fewer."""

    def seconds(room: int, processes: int, series: int, marks: float = 10) -> float:
        return room / min(processes * marks, series / 15)

    rows = re.findall(r"^\| (.*) \| .* by .* \| (.*) \| (.*) \|$", PAGES["storage.md"], re.M)
    assert len(rows) == 3
    for (_, small, large), (processes, series) in zip(rows, [(4, 80), (40, 800), (100, 150_000)], strict=True):
        for room, said in ((100_000, small), (500_000, large)):
            units = {"h": 3600, "min": 60, "s": 1}
            stated = sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (h|min|s)\b", said))
            assert stated == pytest.approx(seconds(room, processes, series), rel=0.05), said
    assert "1 makes it 17 minutes" in PAGES["storage.md"]
    assert seconds(100_000, 100, 150_000, marks=1) / 60 == pytest.approx(17, rel=0.05)


# Prometheus

PROMETHEUS: Final = ("prometheus.yml", "remote-write.yml")
RULES: Final = "exemplar-storage.rules.yml"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
STORAGE: Final = "--enable-feature=exemplar-storage"


def config(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCS / "examples" / name).read_text())
    return loaded


def aimed(name: str, port: int) -> dict[str, Any]:
    """The configuration *name*, but that it scrapes this machine's *port*, and often, and has no rules."""
    changed = config(name)
    changed.pop("rule_files", None)
    changed["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    jobs = [job for job in changed["scrape_configs"] if job["job_name"] == "shop"]
    for job in jobs:
        job.pop("scrape_interval", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    return changed | {"scrape_configs": jobs}


@pytest.mark.parametrize("name", PROMETHEUS)
def test_promtool_accepts_the_configuration(name: str) -> None:
    command = [program("promtool"), "check", "config", str(DOCS / "examples" / name)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


TOLD: Final = "prometheus_tsdb_exemplar_"
EARLY: Final = {"alertname": "ExemplarsAreEvictedEarly"}
OFF: Final = {"alertname": "ExemplarStorageIsOff"}


@pytest.mark.parametrize(
    ("most", "stored", "oldest", "fires"),
    [
        ("0x60", "0x60", "0x60", [OFF]),
        ("1000x60", "1000x60", "0+60x60", [EARLY]),  # full, and the oldest one is of this minute
        ("1000x60", "999x60", "0+60x60", []),  # nothing was evicted yet
        ("1000x120", "1000x120", "0x120", []),  # full, and old
    ],
    ids=["off", "early", "not full", "old"],
)
def test_the_alerts_fire_when_dots_are_lost(
    most: str, stored: str, oldest: str, fires: list[Mapping[str, str]], tmp_path: Path
) -> None:
    at = "30m" if oldest != "0x120" else "90m"
    names = ("max_exemplars", "exemplars_in_storage", "last_exemplars_timestamp_seconds")
    series = [
        {"series": TOLD + name, "values": values} for name, values in zip(names, (most, stored, oldest), strict=True)
    ]
    rules = [rule for group in config(RULES)["groups"] for rule in group["rules"]]
    expected = [
        {
            "eval_time": at,
            "alertname": rule["alert"],
            "exp_alerts": [
                {"exp_labels": {}, "exp_annotations": {**rule["annotations"]} | said(rule["alert"])}
                for fired in fires
                if fired["alertname"] == rule["alert"]
            ],
        }
        for rule in rules
    ]
    test = {
        "rule_files": [str(DOCS / "examples" / RULES)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": expected}],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(test))
    tested = subprocess.run([program("promtool"), "test", "rules", str(file)], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def said(alert: str) -> dict[str, str]:
    """The annotation that has a number in it, as it is said."""
    return {"summary": "Dots live for 0s only"} if alert == EARLY["alertname"] else {}


@contextmanager
def page_of(exemplars: int) -> Iterator[int]:
    """The port of a page with so many exemplars, which never change."""
    registry = CollectorRegistry()
    histogram = Histogram("work_seconds", "Time that work took.", ["route"], registry=registry)
    for number in range(exemplars):
        histogram.labels(str(number)).observe(0.1, {"trace_id": f"{number + 1:032x}"})
    with own_server(registry) as port:
        yield port


def own_metric(server: Prometheus, name: str) -> float:
    with urlopen(f"{server.url}/metrics", timeout=PATIENCE) as response:
        return float(re.findall(rf"^{name} (\S+)", response.read().decode(), re.M)[0])


def appended(server: Prometheus, scrapes: int) -> list[float]:
    """How many exemplars had been appended after each of so many scrapes."""
    counts = []
    for _ in range(scrapes):
        server.scraped("shop")
        counts.append(own_metric(server, "prometheus_tsdb_exemplar_exemplars_appended_total"))
    return counts


def test_a_storage_that_holds_the_page_takes_an_exemplar_once(tmp_path: Path) -> None:
    with page_of(12) as port, prometheus(tmp_path, aimed("prometheus.yml", port), STORAGE) as server:
        assert set(appended(server, 4)) == {12}
        assert len(server.exemplars("work_seconds_bucket", 0, 2**33)) == 12

        federate = UrlRequest(f"{server.url}/federate?match[]=work_seconds_bucket", headers={"Accept": OPENMETRICS})
        with urlopen(federate, timeout=PATIENCE) as response:
            page = response.read().decode()
        assert page.count("work_seconds_bucket{") >= 12
        assert " # {" not in page


def test_a_storage_smaller_than_the_page_takes_the_same_ones_again_and_again(tmp_path: Path) -> None:
    with page_of(12) as port:
        small = aimed("prometheus.yml", port)
        small["storage"]["exemplars"]["max_exemplars"] = 10
        with prometheus(tmp_path, small, STORAGE) as server:
            counts = appended(server, 4)
            assert all(later > earlier for earlier, later in pairwise(counts)), counts
            assert own_metric(server, "prometheus_tsdb_exemplar_exemplars_in_storage") == 10


@pytest.mark.parametrize("sent", [True, False])
def test_remote_write_sends_exemplars_where_it_is_told_to(sent: bool, tmp_path: Path) -> None:
    for name in ("near", "far"):
        (tmp_path / name).mkdir()
    receives = "--web.enable-remote-write-receiver"
    with page_of(12) as port, prometheus(tmp_path / "far", {}, STORAGE, receives) as far:
        written = aimed("remote-write.yml", port)
        (target,) = written["remote_write"]
        assert target["send_exemplars"] is True
        target["url"] = f"{far.url}/api/v1/write"
        if not sent:
            del target["send_exemplars"]
        with prometheus(tmp_path / "near", written, STORAGE) as near:
            near.scraped("shop", 1)
            assert len(near.exemplars("work_seconds_bucket", 0, 2**33)) == 12
            # Samples of later scrapes have arrived, so what was to come of the first one has.
            count = 'count_over_time(work_seconds_count{route="0"}[1h]) >= 3'
            eventually(lambda: far.ask("query", query=count)["result"], "three scrapes to be far away", near.errors)
            assert len(far.exemplars("work_seconds_bucket", 0, 2**33)) == (12 if sent else 0)


# Others' programs, which are not here: what there is to say of their files without them.


def test_mimir_is_given_a_limit_above_zero() -> None:
    assert config("mimir.yaml")["limits"]["max_global_exemplars_per_user"] > 0
