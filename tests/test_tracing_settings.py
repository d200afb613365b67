"""The settings of `exemplars.tracing`: which source goes before which, and what is refused from each."""

from typing import Any, Final

import pytest

from exemplars.tracing import settings
from exemplars.tracing.settings import Arguments, Batch, Otlp, Sampling, Settings

NAMED: Final = {"OTEL_SERVICE_NAME": "shop"}


def resolved(arguments: Arguments = Arguments(), /, **environ: str) -> Settings:  # noqa: B008
    return settings.resolve(arguments, NAMED | environ)


def test_without_anything_but_a_name_there_are_defaults() -> None:
    assert resolved() == Settings(
        service_name="shop",
        attributes={},
        sampling=Sampling("parentbased_traceidratio", 0.05, None, "the default"),
        exporters=(Otlp("http/protobuf", "http://localhost:4318/v1/traces", "the default"),),
        batch=Batch(2048, 5000, 512, 30000),
        id_generator=None,
    )


@pytest.mark.parametrize(
    ("arguments", "environ", "name"),
    [
        (Arguments("a", resource_attributes={"service.name": "b"}), {"OTEL_SERVICE_NAME": "c"}, "a"),
        (Arguments(resource_attributes={"service.name": "b"}), {"OTEL_SERVICE_NAME": "c"}, "b"),
        (Arguments(), {"OTEL_SERVICE_NAME": "c", "OTEL_RESOURCE_ATTRIBUTES": "service.name=d"}, "c"),
        (Arguments(), {"OTEL_SERVICE_NAME": " ", "OTEL_RESOURCE_ATTRIBUTES": "x=y, service.name = d%20e"}, "d e"),
    ],
)
def test_the_name_is_that_of_the_nearest_source(arguments: Arguments, environ: dict[str, str], name: str) -> None:
    assert settings.resolve(arguments, environ).service_name == name


@pytest.mark.parametrize(
    ("ratio", "environ", "sampling"),
    [
        (0.5, {"OTEL_TRACES_SAMPLER": "always_on"}, ("parentbased_traceidratio", 0.5, None, "argument")),
        (1, {}, ("parentbased_traceidratio", 1.0, None, "argument")),
        (0, {"OTEL_TRACES_SAMPLER_ARG": "x"}, ("parentbased_traceidratio", 0.0, None, "argument")),
        (None, {"OTEL_TRACES_SAMPLER": "always_on"}, ("always_on", 1.0, None, "OTEL_TRACES_SAMPLER")),
        (None, {"OTEL_TRACES_SAMPLER": "always_off"}, ("always_off", 0.0, None, "OTEL_TRACES_SAMPLER")),
        (
            None,
            {"OTEL_TRACES_SAMPLER": "ParentBased_Always_On", "OTEL_TRACES_SAMPLER_ARG": "x"},
            ("parentbased_always_on", 1.0, None, "OTEL_TRACES_SAMPLER"),
        ),
        (
            None,
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"},
            ("traceidratio", 0.25, None, "OTEL_TRACES_SAMPLER_ARG"),
        ),
        (
            None,
            {"OTEL_TRACES_SAMPLER_ARG": "0.25"},
            ("parentbased_traceidratio", 0.25, None, "OTEL_TRACES_SAMPLER_ARG"),
        ),
        (
            None,
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": ""},
            ("parentbased_traceidratio", 0.05, None, "the default"),
        ),
        (
            None,
            {"OTEL_TRACES_SAMPLER": "xray", "OTEL_TRACES_SAMPLER_ARG": "endpoint=x"},
            ("xray", None, "endpoint=x", "OTEL_TRACES_SAMPLER"),
        ),
    ],
)
def test_the_ratio_is_that_of_the_nearest_source(
    ratio: float | None, environ: dict[str, str], sampling: tuple[str, float | None, str | None, str]
) -> None:
    assert resolved(Arguments(ratio=ratio), **environ).sampling == Sampling(*sampling)


ALL: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
GRPC: Final = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


@pytest.mark.parametrize(
    ("argument", "environ", "endpoint", "source"),
    [
        ("http://a:1", {TRACES: "http://b:2", ALL: "http://c:3"}, "http://a:1/v1/traces", "argument"),
        ("https://a/", {}, "https://a/v1/traces", "argument"),
        ("http://a:1/v1/traces", {}, "http://a:1/v1/traces", "argument"),
        ("http://a:1/otlp", {}, "http://a:1/otlp", "argument"),
        ("http://[::1]:4318", {}, "http://[::1]:4318/v1/traces", "argument"),
        ("http://user:word@a:1/?key=value", {}, "http://user:word@a:1/?key=value", "argument"),
        (None, {TRACES: " http://b:2 ", ALL: "http://c:3"}, "http://b:2", TRACES),
        (None, {TRACES: "http://b:2/x/"}, "http://b:2/x/", TRACES),
        (None, {TRACES: "", ALL: "http://c:3"}, "http://c:3/v1/traces", ALL),
        (None, {ALL: "http://c_d:3/otlp/"}, "http://c_d:3/otlp/v1/traces", ALL),
        (None, {ALL: "http://münchen.example"}, "http://münchen.example/v1/traces", ALL),
        ("http://a:1", GRPC, "http://a:1", "argument"),
        (None, {**GRPC, TRACES: "https://b:2"}, "https://b:2", TRACES),
        (None, {**GRPC, ALL: "http://c:3"}, "http://c:3", ALL),
        (None, GRPC, "http://localhost:4317", "the default"),
    ],
)
def test_the_endpoint_is_that_of_the_nearest_source_by_the_rules_of_each(
    argument: str | None, environ: dict[str, str], endpoint: str, source: str
) -> None:
    (otlp,) = resolved(Arguments(endpoint=argument), **environ).exporters
    assert isinstance(otlp, Otlp)
    assert (otlp.endpoint, otlp.source) == (endpoint, source)
    assert "word" not in str(otlp) and "value" not in str(otlp), "a secret in the log"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OTEL_TRACES_EXPORTER": ""}, ["http/protobuf"]),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "http/protobuf"]),
        ({"OTEL_TRACES_EXPORTER": "otlp_proto_grpc"}, ["grpc"]),
        ({"OTEL_TRACES_EXPORTER": "otlp_proto_http", **GRPC}, ["http/protobuf"]),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, ["grpc"]),
    ],
)
def test_exporters_and_protocol_are_those_that_the_environment_names(
    environ: dict[str, str], expected: list[str]
) -> None:
    exporters = resolved(**environ).exporters
    assert [each if isinstance(each, str) else each.protocol for each in exporters] == expected


def test_batches_are_as_the_environment_says_and_fit_into_a_small_queue() -> None:
    assert resolved(OTEL_BSP_MAX_QUEUE_SIZE="100").batch == Batch(100, 5000, 100, 30000)
    environ = {"OTEL_BSP_SCHEDULE_DELAY": "1", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2", "OTEL_BSP_EXPORT_TIMEOUT": "3"}
    assert resolved(**environ).batch == Batch(2048, 1, 2, 3)


BAD_NAMES: Final = ["", "  ", "unknown_service", "unknown_service:python", 7]
BAD_RATIOS: Final = [-0.1, 1.1, 5, float("nan"), float("inf"), True, "0.5", 10**400]
BAD_ENDPOINTS: Final = [
    "",
    "localhost:4318",
    "collector",
    "//collector:4318",
    "http:collector",
    "grpc://collector:4317",
    "http://",
    "http://:4318",
    "http://collector:port",
    "http://collector:99999",
    "http://collector:0",
    "http://[::1",
    "http://{{ host }}:4318",
    "http://${COLLECTOR}:4318",
    "http://coll ector:4318",
    "http://collector\n:4318",
    b"http://collector:4318",
    4318,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=rf"^service_name is {name!r}.*'shop'"):
        Arguments(service_name=name)
    with pytest.raises(ValueError, match=r"^resource_attributes\['service.name'\] is .*'shop'"):
        Arguments(resource_attributes={"service.name": name})


@pytest.mark.parametrize("variable", ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"])
def test_a_name_that_is_none_is_refused_from_the_environment(variable: str) -> None:
    text = "unknown_service:python"
    environ = {variable: text if variable == "OTEL_SERVICE_NAME" else f"a=b,service.name={text}"}
    with pytest.raises(ValueError, match=f"^{variable} is '{text}'.*'shop'"):
        settings.resolve(Arguments(), environ)


@pytest.mark.parametrize("environ", [{}, {"OTEL_SERVICE_NAME": ""}, {"OTEL_RESOURCE_ATTRIBUTES": "service.name,a=b"}])
def test_no_name_at_all_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"no name.*configure\('shop'\).*OTEL_SERVICE_NAME"):
        settings.resolve(Arguments(), environ)


@pytest.mark.parametrize("ratio", BAD_RATIOS)
def test_a_ratio_that_is_none_is_refused(ratio: Any) -> None:
    with pytest.raises(ValueError, match=r"^ratio is .*from 0 to 1"):
        Arguments(ratio=ratio)


@pytest.mark.parametrize("text", ["-0.1", "1.1", "5 %", "nan", "half", "1e400"])
@pytest.mark.parametrize("sampler", ["", "traceidratio", "parentbased_traceidratio"])
def test_a_ratio_that_is_none_is_refused_from_the_environment(text: str, sampler: str) -> None:
    with pytest.raises(ValueError, match=r"^OTEL_TRACES_SAMPLER_ARG is .*from 0 to 1"):
        resolved(OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=text)


@pytest.mark.parametrize("endpoint", BAD_ENDPOINTS)
def test_an_endpoint_that_is_none_is_refused_whichever_way_it_comes(endpoint: Any) -> None:
    with pytest.raises(ValueError, match=r"(?s)^endpoint is .*'http://localhost:4318'$") as refused:
        Arguments(endpoint=endpoint)
    assert repr(endpoint) in str(refused.value)
    if isinstance(endpoint, str) and endpoint:
        for variable in (TRACES, ALL):
            for protocol in ({}, GRPC):
                with pytest.raises(ValueError, match=f"^{variable} is .*'http://localhost:4318'$"):
                    resolved(**{variable: endpoint}, **protocol)


def test_what_would_not_be_used_is_not_refused() -> None:
    resolved(Arguments(endpoint="http://a"), **{TRACES: "b", ALL: "c"})
    resolved(**{ALL: "c", "OTEL_TRACES_EXPORTER": "none"})


@pytest.mark.parametrize("attributes", [["a"], {1: "a"}, {"": "a"}, {"a": None}, {"a": object()}, {"a": [None]}])
def test_attributes_that_are_none_are_refused(attributes: Any) -> None:
    with pytest.raises(ValueError, match=r"^resource_attributes.*: give a "):
        Arguments(resource_attributes=attributes)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'.*'grpc'"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "GRPC"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is 'GRPC'.*'grpc'"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "OTEL_BSP_MAX_QUEUE_SIZE is '0': give a whole number"),
        ({"OTEL_BSP_SCHEDULE_DELAY": "1s"}, "OTEL_BSP_SCHEDULE_DELAY is '1s': give a whole number"),
        (
            {"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "11"},
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE is 11, more than OTEL_BSP_MAX_QUEUE_SIZE, 10",
        ),
    ],
)
def test_other_variables_that_cannot_be_meant_are_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolved(**environ)
