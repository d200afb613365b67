"""`exemplars.tracing`: what it sets up, what it refuses, warns of and keeps, and that it never gets in the way."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry import propagate
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, DEFAULT_ON, ParentBased, TraceIdRatioBased

from exemplars.demo.spans import receiving
from exemplars.tracing import watch
from exemplars.tracing.processes import TO_END, Ids, ProcessResource
from tests.otlp import Collected, receiving_grpc
from tests.programs import PACKAGES, PATIENCE

# A program that is set up, with its log on stderr; `tell` is its result.
PROGRAM: Final = """
import json, logging, os, signal, sys, threading, time
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
def tell(value):
    print(json.dumps(value), flush=True)
from opentelemetry import trace
from exemplars.tracing import configure
"""


@dataclass(frozen=True)
class Ran:
    status: int
    told: list[Any]
    log: str

    def said(self, level: str) -> list[str]:
        """What the library has logged at *level*."""
        start = f"exemplars {level} "
        return [line.removeprefix(start) for line in self.log.splitlines() if line.startswith(start)]


def environment(directory: Path, variables: Mapping[str, str]) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(PACKAGES), "HOME": str(directory), "PATH": os.environ["PATH"], **variables}


def run(source: str, directory: Path, *prefix: str, **variables: str) -> Ran:
    """Run `PROGRAM` and *source*, under the program *prefix* if there is one."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", PROGRAM + textwrap.dedent(source)],
        env=environment(directory, variables),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return Ran(done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr)


GRPC: Final = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


# What is set up


def test_it_is_the_sdk_with_a_parent_based_ratio_a_batch_and_the_services_attributes(tmp_path: Path) -> None:
    ran = run(
        """
        provider = configure("shop", resource_attributes={"deployment.environment": "test", "both": "argument"})
        assert trace.get_tracer_provider() is provider
        tell(provider.sampler.get_description())
        tell(dict(provider.resource.attributes))
        with trace.get_tracer("x").start_as_current_span("x") as span:
            span.set_attribute("a", "b")
        """,
        tmp_path,
        OTEL_RESOURCE_ATTRIBUTES="service.version=1.2,both=environment,service.name=other",
    )
    assert ran.status == 0, ran.log
    sampler, attributes = ran.told
    assert sampler.startswith("ParentBased{root:TraceIdRatioBased{0.05}")
    assert attributes.pop("service.instance.id")
    assert attributes.pop("process.pid") > 0
    assert attributes == {
        "service.name": "shop",
        "service.version": "1.2",
        "deployment.environment": "test",
        "both": "argument",
        "host.name": socket.gethostname(),
        "process.runtime.name": sys.implementation.name,
        "process.runtime.version": ".".join(map(str, sys.version_info[:3])),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": version("opentelemetry-sdk"),
    }
    (line,) = ran.said("INFO")
    assert line == (
        "tracing: of the traces that begin in service 'shop', 5 % are sampled (parentbased_traceidratio, the default); "
        "spans go to http://localhost:4318/v1/traces (the default) over http/protobuf"
    )
    assert ran.said("WARNING") == []


def test_the_share_is_of_traces_never_of_requests_and_a_callers_decision_stays(tmp_path: Path) -> None:
    ran = run(
        """
        from opentelemetry.trace import SpanKind
        from opentelemetry.propagate import extract
        sampler = configure("shop", ratio=0.05).sampler
        ids = [(0xABCDEF << 64) + (2 * number + 1 << 64) // 4000 for number in range(2000)]
        tell(sum(sampler.should_sample(None, each, "x").decision.is_sampled() for each in ids))
        tell(all(
            sampler.should_sample(None, each, "x").decision is sampler.should_sample(None, each, "y").decision
            for each in ids
        ))
        tracer = trace.get_tracer("x")
        for flags in ("00", "01"):
            context = extract({"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-" + flags})
            with tracer.start_as_current_span("served", context, SpanKind.SERVER) as span:
                with tracer.start_as_current_span("within") as within:
                    tell([each.get_span_context().trace_flags.sampled for each in (span, within)])
        """,
        tmp_path,
        OTEL_TRACES_EXPORTER="none",
    )
    assert ran.told == [100, True, [False, False], [True, True]], ran.log


def test_what_is_said_of_the_start_names_other_sources_and_no_secret(tmp_path: Path) -> None:
    ran = run(
        "configure()",
        tmp_path,
        OTEL_SERVICE_NAME="shop",
        OTEL_TRACES_SAMPLER="always_off",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://me:secret@collector.example/otlp?key=secret",
    )
    (line,) = ran.said("INFO")
    assert "0 % are sampled (always_off, OTEL_TRACES_SAMPLER)" in line
    assert "spans go to http://collector.example/otlp (OTEL_EXPORTER_OTLP_ENDPOINT) over http/protobuf" in line
    assert "secret" not in ran.log


SPANS: Final = """
provider = configure()
tracer = trace.get_tracer("x")
for number in range(700):  # more than a batch
    with tracer.start_as_current_span("x", attributes={"number": number}):
        pass
"""


def sent_to(url: str) -> dict[str, str]:
    """Everything is sent to *url*, and only when it is flushed, where it fits into the queue."""
    return {
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url,
        "OTEL_BSP_SCHEDULE_DELAY": "86400000",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2048",
    }


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise KeyError", 1),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -2),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -15),
    ],
    ids=["its end", "exit", "exception", "SIGINT", "SIGTERM"],
)
def test_the_last_spans_arrive_however_a_program_ends_and_it_ends_as_it_would(
    end: str, status: int, tmp_path: Path
) -> None:
    collected = Collected()
    with receiving(collected) as url:
        ran = run(SPANS + end, tmp_path, **sent_to(url))
    assert ran.status == status, ran.log
    assert sorted(span.attributes["number"] for span in collected.spans) == list(range(700))


def test_a_handler_of_sigterm_that_is_there_is_left_alone(tmp_path: Path) -> None:
    collected = Collected()
    with receiving(collected) as url:
        ran = run(
            f"""
            signal.signal(signal.SIGTERM, lambda *_: (tell("handled"), sys.exit(0)))
            {textwrap.indent(SPANS, " " * 12).strip()}
            os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)
            """,
            tmp_path,
            **sent_to(url),
        )
    assert (ran.status, ran.told) == (0, ["handled"]), ran.log
    assert len(collected.spans) == 700


def test_configured_in_a_thread_it_cannot_handle_sigterm_and_works(tmp_path: Path) -> None:
    collected = Collected()
    with receiving(collected) as url:
        ran = run(
            f"""
            thread = threading.Thread(target=configure); thread.start(); thread.join()
            {textwrap.indent(SPANS, " " * 12).strip()}
            """,
            tmp_path,
            **sent_to(url),
        )
    assert ran.status == 0, ran.log
    assert len(collected.spans) == 700


def test_what_others_add_to_the_provider_is_flushed_as_well(tmp_path: Path) -> None:
    collected = Collected()
    with receiving(collected) as url:
        ran = run(
            """
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            provider = configure()
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(os.environ["OTHER"])))
            with trace.get_tracer("x").start_as_current_span("x"):
                pass
            os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)
            """,
            tmp_path,
            **sent_to(url),
            OTHER=url,
        )
    assert ran.status == -15, ran.log
    assert len(collected.spans) == 2 and len(set(collected.span_ids)) == 1


@pytest.mark.parametrize("flush", ["force_flush", "shutdown"])
def test_the_provider_can_be_flushed_and_shut_down_by_hand(flush: str, tmp_path: Path) -> None:
    collected = Collected()
    with receiving(collected) as url:
        ran = run(
            SPANS + f"provider.{flush}()\ntell(1)\nwith tracer.start_as_current_span('x'): pass\nos._exit(0)",
            tmp_path,
            **sent_to(url),
        )
    assert ran.told == [1] and ran.status == 0, ran.log
    assert len(collected.spans) == 700


def test_spans_go_over_grpc_where_the_environment_says_so(tmp_path: Path) -> None:
    collected = Collected()
    with receiving_grpc(collected) as url:
        ran = run(SPANS, tmp_path, **sent_to(url), **GRPC)
    assert ran.status == 0, ran.log
    assert len(collected.spans) == 700
    assert "over grpc" in ran.said("INFO")[0]


def test_the_console_gets_whole_spans(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM + "configure('shop', ratio=1)\nwith trace.get_tracer('x').start_as_current_span('x'): pass",
        ],
        env=environment(tmp_path, {"OTEL_TRACES_EXPORTER": "console"}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    span = json.loads(done.stdout)
    assert span["name"] == "x"
    assert span["resource"]["attributes"]["service.name"] == "shop"
    assert span["resource"]["attributes"]["service.instance.id"]


def test_a_sampler_and_an_id_generator_of_another_package_are_taken(tmp_path: Path) -> None:
    """By the SDK's own entry points here, which are found as anybody's are."""
    ran = run(
        "tell(type(configure('shop').id_generator).__module__)",
        tmp_path,
        OTEL_TRACES_EXPORTER="none",
        OTEL_PYTHON_ID_GENERATOR="random",
    )
    assert ran.told == ["opentelemetry.sdk.trace.id_generator"], ran.log


def test_switched_off_there_is_nothing(tmp_path: Path) -> None:
    ran = run(
        """
        provider = configure()
        assert configure("other") is provider is trace.get_tracer_provider()
        with trace.get_tracer("x").start_as_current_span("x") as span:
            tell(span.get_span_context().is_valid)
        tell(threading.active_count())
        """,
        tmp_path,
        OTEL_SDK_DISABLED="True",
    )
    assert ran.told == [False, 1], ran.log
    assert ran.said("INFO") == ["there is no tracing: OTEL_SDK_DISABLED is set"]
    assert ran.said("WARNING") == []


# What is refused at the call


def test_what_is_refused_sets_nothing_up_and_can_be_mended(tmp_path: Path) -> None:
    ran = run(
        """
        def refused(arguments, **environ):
            os.environ.update(environ)
            try:
                configure(**arguments)
            except Exception as error:
                tell([type(error).__name__, str(error)])
            for name in environ:
                del os.environ[name]
        refused({})
        refused({"service_name": "unknown_service:python"})
        refused({"service_name": "shop", "ratio": 2})
        refused({"service_name": "shop", "endpoint": "collector:4318"})
        refused({"service_name": "shop"}, OTEL_TRACES_SAMPLER_ARG="5")
        refused({"service_name": "shop"}, OTEL_TRACES_SAMPLER="allways_on")
        refused({"service_name": "shop"}, OTEL_TRACES_EXPORTER="jaeger")
        refused({"service_name": "shop"}, OTEL_PYTHON_ID_GENERATOR="xray")
        refused({"service_name": "shop"}, OTEL_EXPORTER_OTLP_COMPRESSION="bzip2",
            OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER="bzip2")  # old exporters, new ones
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        assert configure("shop") is trace.get_tracer_provider()
        """,
        tmp_path,
    )
    assert ran.status == 0, ran.log
    expected = [
        ("no name", "OTEL_SERVICE_NAME"),
        ("service_name is 'unknown_service:python'", "'shop'"),
        ("ratio is 2", "from 0 to 1"),
        ("endpoint is 'collector:4318'", "http://"),
        ("OTEL_TRACES_SAMPLER_ARG is 5.0", "from 0 to 1"),
        ("OTEL_TRACES_SAMPLER has 'allways_on'", "always_on"),
        ("OTEL_TRACES_EXPORTER has 'jaeger'", "otlp"),
        ("OTEL_PYTHON_ID_GENERATOR has 'xray'", "random"),
        ("the exporter refuses its settings", "bzip2"),
    ]
    assert len(ran.told) == len(expected)
    for (kind, message), (what, way_out) in zip(ran.told, expected, strict=True):
        assert kind == "ValueError" and what in message and way_out in message, message


@pytest.mark.parametrize(
    ("blocked", "environ", "package"),
    [
        ("opentelemetry.sdk", {}, "pip install 'exemplars[otel]'"),
        ("opentelemetry.exporter.otlp.proto.http", {}, "pip install 'exemplars[otel]'"),
        ("opentelemetry.exporter.otlp.proto.grpc", GRPC, "pip install opentelemetry-exporter-otlp-proto-grpc"),
    ],
)
def test_a_package_that_is_missing_is_named(
    blocked: str, environ: dict[str, str], package: str, tmp_path: Path
) -> None:
    ran = run(
        f"""
        sys.modules[{blocked!r}] = None  # as if it were not there
        try:
            configure("shop")
        except ImportError as error:
            tell(str(error))
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        """,
        tmp_path,
        **environ,
    )
    assert ran.status == 0, ran.log
    assert ran.told[0].endswith(package)


# Propagation


# Older ones know neither, and cannot even be imported then.
NONE: Final = pytest.mark.skipif(not hasattr(propagate, "_load_propagators"), reason="OpenTelemetry is too old")


@pytest.mark.parametrize(
    ("propagators", "warned"),
    [
        pytest.param("", False, marks=NONE),
        ("tracecontext,baggage", False),
        ("tracecontext", False),
        pytest.param("none", True, marks=NONE),
        ("baggage", True),
    ],
)
def test_traces_that_end_at_the_border_are_warned_of_once(propagators: str, warned: bool, tmp_path: Path) -> None:
    ran = run(
        """
        from opentelemetry.propagate import inject
        for _ in range(3):
            configure("shop", ratio=1.0)
        with trace.get_tracer("x").start_as_current_span("x"):
            inject(carrier := {})
        tell(sorted(carrier))
        """,
        tmp_path,
        OTEL_TRACES_EXPORTER="none",
        OTEL_PROPAGATORS=propagators,
    )
    assert ran.told == [[] if warned else ["traceparent"]], ran.log
    assert len(ran.said("WARNING")) == warned
    for line in ran.said("WARNING"):
        assert repr(propagators) in line and "tracecontext,baggage" in line


def test_propagation_that_code_has_switched_off_is_warned_of(tmp_path: Path) -> None:
    ran = run(
        """
        from opentelemetry.propagate import set_global_textmap
        from opentelemetry.propagators.composite import CompositePropagator
        set_global_textmap(CompositePropagator([]))
        configure("shop")
        """,
        tmp_path,
    )
    assert len(ran.said("WARNING")) == 1, ran.log


def test_a_propagator_that_is_not_there_is_refused(tmp_path: Path) -> None:
    ran = run(
        """
        try:
            configure("shop")
        except ValueError as error:
            tell(str(error))
        """,
        tmp_path,
        OTEL_PROPAGATORS="nonsense",
    )
    assert "OTEL_PROPAGATORS is 'nonsense'" in ran.told[0] and "tracecontext,baggage" in ran.told[0], ran.log


# An SDK that is there already


def test_a_second_call_returns_the_first_provider_and_names_arguments_that_are_at_odds(tmp_path: Path) -> None:
    ran = run(
        """
        first = configure("shop", ratio=0.5, endpoint="http://127.0.0.1:9")
        assert configure() is first
        assert configure("shop", ratio=0.5, endpoint="http://127.0.0.1:9/v1/traces") is first
        assert configure("other", ratio=0.1, endpoint="http://a", resource_attributes={"a": "b"}) is first
        """,
        tmp_path,
    )
    assert ran.status == 0, ran.log
    (line,) = ran.said("WARNING")
    for argument in ("service_name='other'", "ratio=0.1", "endpoint='http://a'", "resource_attributes={'a': 'b'}"):
        assert argument in line
    assert len(ran.said("INFO")) == 1


def test_calls_at_once_make_one_provider(tmp_path: Path) -> None:
    ran = run(
        """
        together = threading.Barrier(8)
        found = []
        def call():
            together.wait()
            found.append(configure("shop"))
        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        tell([len(found), len(set(map(id, found)))])
        """,
        tmp_path,
    )
    assert ran.told == [[8, 1]], ran.log
    assert len(ran.said("INFO")) == 1 and not ran.said("WARNING")


def test_a_provider_that_others_have_set_is_kept(tmp_path: Path) -> None:
    ran = run(
        """
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
        there = TracerProvider(sampler=TraceIdRatioBased(0.5), resource=Resource.create({"service.name": "shop"}))
        trace.set_tracer_provider(there)
        processors = there._active_span_processor._span_processors
        assert configure("shop", ratio=0.5) is there
        assert configure() is there
        assert there._active_span_processor._span_processors == processors == ()
        assert configure("other", ratio=0.1, endpoint="http://a", resource_attributes={"a": "b"}) is there
        """,
        tmp_path,
    )
    assert ran.status == 0, ran.log
    assert "stays as it is" in ran.said("INFO")[0] and "'shop'" in ran.said("INFO")[0]
    assert "TraceIdRatioBased{0.5}" in ran.said("INFO")[0]
    (line,) = ran.said("WARNING")
    for argument in ("service_name='other'", "ratio=0.1", "endpoint='http://a'", "resource_attributes={'a': 'b'}"):
        assert argument in line


def test_a_provider_that_is_not_the_sdks_is_kept_too(tmp_path: Path) -> None:
    ran = run(
        """
        there = trace.NoOpTracerProvider()
        trace.set_tracer_provider(there)
        assert configure("shop") is there
        """,
        tmp_path,
    )
    assert ran.status == 0, ran.log
    assert "NoOpTracerProvider" in ran.said("INFO")[0]


def test_what_opentelemetry_instrument_has_set_up_is_kept_and_its_nameless_service_named(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.instrumentation.auto_instrumentation")
    command = Path(sys.executable).parent / "opentelemetry-instrument"
    configurator = tmp_path / "here"  # as the package opentelemetry-distro has one
    (configurator / "configurator.dist-info").mkdir(parents=True)
    (configurator / "configurator.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: c\nVersion: 1\n")
    (configurator / "configurator.dist-info" / "entry_points.txt").write_text(
        "[opentelemetry_configurator]\nconfigurator = opentelemetry.sdk._configuration:_OTelSDKConfigurator\n"
    )
    paths = os.pathsep.join((*PACKAGES, str(configurator)))
    collected = Collected()
    with receiving(collected) as url:
        ran = run(
            """
            assert not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
            provider = configure("shop")
            assert provider is trace.get_tracer_provider()
            with trace.get_tracer("x").start_as_current_span("x"):
                pass
            """,
            tmp_path,
            str(command),
            PYTHONPATH=paths,
            OTEL_TRACES_EXPORTER="otlp_proto_http",
            OTEL_METRICS_EXPORTER="none",
            OTEL_LOGS_EXPORTER="none",
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=url,
        )
    assert ran.status == 0, ran.log
    assert len(collected.spans) == 1
    assert "stays as it is" in ran.said("INFO")[0]
    odd, nameless = ran.said("WARNING")
    assert "service_name='shop'" in odd
    assert "unknown_service" in nameless and "OTEL_SERVICE_NAME" in nameless


# Everything sampled, and nobody asked for it


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(watch, "monotonic", lambda: self.now)


def begin(provider: TracerProvider, clock: Clock, rate: float, seconds: float) -> None:
    """Begin *rate* traces a second for *seconds*, each with a span inside."""
    tracer = provider.get_tracer("x")
    for _ in range(round(rate * seconds)):
        clock.now += 1 / rate
        with tracer.start_as_current_span("x"), tracer.start_as_current_span("within"):
            pass


def warned(caplog: pytest.LogCaptureFixture) -> int:
    return sum("nobody asked for it" in record.message for record in caplog.records)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def watched(sampler: Any = None) -> TracerProvider:
    provider = TracerProvider(sampler=sampler, resource=Resource({}), shutdown_on_exit=False)
    load: Any = watch.Load()
    provider.add_span_processor(load)
    return provider


def test_under_load_it_is_warned_of_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    provider = watched()
    begin(provider, clock, rate=40, seconds=29)
    assert warned(caplog) == 0, "a short burst"
    begin(provider, clock, rate=40, seconds=200)
    assert warned(caplog) == 1
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert " 40 a second" in record.message
    for way_out in ("OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER=parentbased_always_on"):
        assert way_out in record.message


def test_without_load_it_is_nobodys_business(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    provider = watched()
    begin(provider, clock, rate=19, seconds=200)
    for _ in range(10):
        begin(provider, clock, rate=100, seconds=5)
        clock.now += 60
    assert warned(caplog) == 0
    unsampled = watched(TraceIdRatioBased(0))
    begin(unsampled, clock, rate=100, seconds=100)
    assert warned(caplog) == 0


@pytest.mark.parametrize(
    ("sampler", "environ", "unasked"),
    [
        (None, {}, True),
        (DEFAULT_ON, {"OTEL_TRACES_SAMPLER": ""}, True),
        (DEFAULT_ON, {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, False),
        (ALWAYS_ON, {}, False),
        (ParentBased(ALWAYS_ON), {}, False),
        (ParentBased(TraceIdRatioBased(1.0)), {}, False),
    ],
)
def test_nobody_has_asked_where_it_is_the_sdks_own_choice(sampler: Any, environ: dict[str, str], unasked: bool) -> None:
    provider = TracerProvider(sampler=sampler, resource=Resource({}), shutdown_on_exit=False)
    assert watch.samples_all_unasked(provider, environ) is unasked


@pytest.mark.parametrize(
    ("code", "environ", "watching"),
    [
        ("configure()", {}, 1),
        ("configure(ratio=1.0)", {}, 0),
        ("configure()", {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, 0),
        ("configure(); configure()", {}, 1),
    ],
)
def test_what_is_kept_is_watched_where_it_samples_all_unasked(
    code: str, environ: dict[str, str], watching: int, tmp_path: Path
) -> None:
    ran = run(
        f"""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from exemplars.tracing import watch
        now = 0.0
        watch.monotonic = lambda: now
        trace.set_tracer_provider(TracerProvider(resource=Resource({{"service.name": "shop"}})))
        {code}
        tracer = trace.get_tracer("x")
        for number in range(4000):
            now = number / 40
            with tracer.start_as_current_span("x"):
                pass
        """,
        tmp_path,
        **environ,
    )
    assert ran.status == 0, ran.log
    assert sum("nobody asked for it" in line for line in ran.said("WARNING")) == watching, ran.log


# What is of one process


def test_ids_are_not_zero_and_do_not_repeat() -> None:
    ids = Ids()
    traces = {ids.generate_trace_id() for _ in range(1000)}
    spans = {ids.generate_span_id() for _ in range(1000)}
    assert len(traces) == len(spans) == 1000 and 0 not in traces | spans
    assert max(traces) < 2**128 and max(spans) < 2**64
    assert ids.is_trace_id_random()


def test_an_instance_id_that_was_chosen_stays_whatever_is_merged_in(tmp_path: Path) -> None:
    common = Resource({"service.name": "shop"})
    own = ProcessResource(common, {})
    generated = own.attributes["service.instance.id"]
    merged = own.merge(Resource({"service.instance.id": "x", "a": "b"}))
    assert merged.attributes == {**own.attributes, "a": "b"}
    assert ProcessResource(common, {}).attributes["service.instance.id"] == generated, "one a process"

    chosen = ProcessResource(common, {"service.instance.id": "mine"})
    merged = chosen.merge(Resource({"service.instance.id": "x"}))
    assert chosen.attributes["service.instance.id"] == merged.attributes["service.instance.id"] == "mine"

    ran = run(
        """
        provider = configure("shop", ratio=1)
        pid = os.fork()
        tell([provider.resource.attributes["service.instance.id"], provider.resource.attributes["process.pid"]])
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        """,
        tmp_path,
        OTEL_RESOURCE_ATTRIBUTES="service.instance.id=mine",
    )
    assert [instance for instance, _ in ran.told] == ["mine", "mine"], ran.log
    assert len({pid for _, pid in ran.told}) == 2


# Trouble


@contextlib.contextmanager
def in_trouble(how: str) -> Iterator[str]:
    """Where something is that is no help: it refuses connections, never answers, or answers with 503."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(503)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.server_bind()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    if how != "refuses":
        server.server_activate()
    if how == "fails":
        thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        if how == "fails":
            server.shutdown()
            thread.join()
        server.server_close()


REQUESTS: Final = """
import gc
from opentelemetry.sdk.trace import ReadableSpan
configure("shop", ratio=1.0)
tracer = trace.get_tracer("x")
for _ in range(20000):
    with tracer.start_as_current_span("request"):
        pass
gc.collect()  # tracebacks, which older exporters log
tell(sum(isinstance(each, ReadableSpan) for each in gc.get_objects()))
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["refuses", "hangs", "fails"])
def test_a_collector_in_trouble_costs_spans_and_nothing_else(how: str, tmp_path: Path) -> None:
    """Nothing waits for it, what is kept for it is bounded, what is dropped is logged, and the end comes soon."""
    queue, batch = 64, 32
    with in_trouble(how) as url:
        ran = run(
            REQUESTS,
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_BSP_MAX_QUEUE_SIZE=str(queue),
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE=str(batch),
        )
    assert ran.status == -15, ran.log
    (kept,) = ran.told
    assert kept <= queue + 2 * batch, "spans pile up"
    assert re.search(r"^opentelemetry.* WARNING Queue (is )?full", ran.log, re.MULTILINE), ran.log
    if how == "hangs":
        assert [line for line in ran.said("WARNING") if "not taken within 5 s, and are lost" in line], ran.log


# The page

PAGE: Final = (Path(__file__).resolve().parent.parent / "docs" / "tracing.md").read_text()


@pytest.mark.parametrize("example", re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
def test_an_example_of_the_page_runs_unedited(example: str, tmp_path: Path) -> None:
    ran = run(example, tmp_path)
    assert ran.status == 0, ran.log
    assert len(ran.said("INFO")) == 1 and not ran.said("WARNING")


def test_the_log_line_of_the_page_is_that_of_its_first_example(tmp_path: Path) -> None:
    ran = run('configure("shop")', tmp_path)
    assert ran.said("INFO")[0] in PAGE


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    assert f"more than {watch.LOAD:.0f} traces a second began in this process for {watch.WHILE:.0f}\n" in PAGE
    assert f"waits {TO_END:.0f} seconds at most" in PAGE
