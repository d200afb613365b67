"""What tracing is set up with: an argument before ``OTEL_*`` before a default, and where each value came from."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

DEFAULT_RATIO: Final = 0.05
THE_DEFAULT: Final = "the default"
SERVICE_NAME: Final = "service.name"

_HTTP: Final = "http/protobuf"
_GRPC: Final = "grpc"
_DEFAULT_ENDPOINTS: Final = {_HTTP: "http://localhost:4318", _GRPC: "http://localhost:4317"}
_TRACES_PATH: Final = "/v1/traces"
# The names that OpenTelemetry's specification gives; any other is that of a plug-in.
_RATIO_SAMPLERS: Final = ("parentbased_traceidratio", "traceidratio")
_SAMPLERS: Final = {
    "always_on": 1.0,
    "always_off": 0.0,
    "parentbased_always_on": 1.0,
    "parentbased_always_off": 0.0,
}
_OTLP_EXPORTERS: Final = {"otlp": "", "otlp_proto_http": _HTTP, "otlp_proto_grpc": _GRPC}
_HOST: Final = re.compile(r"[\w.-]+|[0-9a-f:.]+(%[\w.-]+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampler by its name in ``OTEL_TRACES_SAMPLER``; *ratio* is ``None`` for a plug-in, which gets *argument*."""

    sampler: str
    ratio: float | None
    argument: str | None
    source: str


@dataclass(frozen=True, slots=True)
class Otlp:
    """Where spans go by OTLP; *endpoint* is what the exporter gets, *source* what named it."""

    protocol: str
    endpoint: str
    source: str

    @property
    def is_grpc(self) -> bool:
        return self.protocol == _GRPC

    def __str__(self) -> str:
        """For the log, so without a password or a key."""
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} ({self.source}) over {self.protocol}"


@dataclass(frozen=True, slots=True)
class Batch:
    """The arguments of the SDK's ``BatchSpanProcessor``, under its own names."""

    max_queue_size: int
    schedule_delay_millis: int
    max_export_batch_size: int
    export_timeout_millis: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything, valid. *exporters* are `Otlp` or the names of plug-ins, none at all where no span is to be sent."""

    service_name: str
    attributes: Mapping[str, Any]
    sampling: Sampling
    exporters: tuple[Otlp | str, ...]
    batch: Batch
    id_generator: str | None


@dataclass(frozen=True, slots=True)
class Arguments:
    """What `configure` was called with; each by itself is valid, or constructing this raises ``ValueError``."""

    service_name: str | None = None
    ratio: float | None = None
    endpoint: str | None = None
    resource_attributes: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.service_name is not None:
            _check_service_name(self.service_name, "service_name")
        if self.ratio is not None:
            _check_ratio(self.ratio, "ratio")
        if self.endpoint is not None:
            _check_endpoint(self.endpoint, "endpoint")
        if self.resource_attributes is not None:
            _check_attributes(self.resource_attributes)

    def at_odds(self, settings: Settings) -> list[str]:
        """Those given that say something else than *settings*, each as it was written."""
        odd = []
        if self.service_name is not None and self.service_name != settings.service_name:
            odd.append(f"service_name={self.service_name!r}")
        if self.ratio is not None and self.ratio != settings.sampling.ratio:
            odd.append(f"ratio={self.ratio!r}")
        if self.endpoint is not None:
            known = [otlp for otlp in settings.exporters if isinstance(otlp, Otlp)]
            if not any(_full(self.endpoint, otlp.protocol) == otlp.endpoint for otlp in known):
                odd.append(f"endpoint={self.endpoint!r}")
        attributes = self.resource_attributes or {}
        if any(settings.attributes.get(key) != value for key, value in attributes.items() if key != SERVICE_NAME):
            odd.append(f"resource_attributes={dict(attributes)!r}")
        return odd


def resolve(arguments: Arguments, environ: Mapping[str, str]) -> Settings:
    """Fill in what *arguments* leave open.

    An empty variable counts as unset, as OpenTelemetry's specification has it. Raises ``ValueError`` for a bad value
    that would be used; it names the value, where it came from, and the way out.
    """
    return Settings(
        service_name=_service_name(arguments, environ),
        attributes=dict(arguments.resource_attributes or {}),
        sampling=_sampling(arguments.ratio, environ),
        exporters=tuple(_exporters(arguments.endpoint, environ)),
        batch=_batch(environ),
        id_generator=_first(environ, "OTEL_PYTHON_ID_GENERATOR")[0] or None,
    )


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether ``OTEL_SDK_DISABLED`` says so."""
    return _first(environ, "OTEL_SDK_DISABLED")[0].lower() == "true"


def _first(environ: Mapping[str, str], *names: str) -> tuple[str, str]:
    """The first of the variables *names* that is set, and its name; two empty texts where none is."""
    for name in names:
        if value := environ.get(name, "").strip():
            return value, name
    return "", ""


def _service_name(arguments: Arguments, environ: Mapping[str, str]) -> str:
    if arguments.service_name is not None:
        return arguments.service_name
    if arguments.resource_attributes and SERVICE_NAME in arguments.resource_attributes:
        return str(arguments.resource_attributes[SERVICE_NAME])
    name, source = _first(environ, "OTEL_SERVICE_NAME")
    if not name:
        name, source = resource_attributes_of(environ).get(SERVICE_NAME, ""), "OTEL_RESOURCE_ATTRIBUTES"
    if not name:
        raise ValueError(
            "the service has no name, so nobody would find its traces: give one, as in configure('shop'), "
            "or set OTEL_SERVICE_NAME"
        )
    return _check_service_name(name, source)


def resource_attributes_of(environ: Mapping[str, str]) -> dict[str, str]:
    """The pairs in ``OTEL_RESOURCE_ATTRIBUTES``; what is none is left out, of which the SDK warns."""
    pairs = (item.partition("=") for item in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    return {key.strip(): unquote(value.strip()) for key, equals, value in pairs if equals and key.strip()}


def _check_service_name(name: object, source: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{source} is {name!r}: give the name of the service, such as 'shop'")
    if name.startswith("unknown_service"):
        raise ValueError(f"{source} is {name!r}, as services without a name are called: give it one, such as 'shop'")
    return name


def _sampling(ratio: float | None, environ: Mapping[str, str]) -> Sampling:
    if ratio is not None:
        return Sampling(_RATIO_SAMPLERS[0], float(ratio), None, "argument")
    argument, argument_source = _first(environ, "OTEL_TRACES_SAMPLER_ARG")
    sampler, source = _first(environ, "OTEL_TRACES_SAMPLER")
    sampler = sampler.lower() or _RATIO_SAMPLERS[0]  # an argument alone is that of our own default
    if sampler in _SAMPLERS:
        return Sampling(sampler, _SAMPLERS[sampler], None, source)
    if sampler not in _RATIO_SAMPLERS:
        return Sampling(sampler, None, argument, source)
    if not argument:
        return Sampling(sampler, DEFAULT_RATIO, None, THE_DEFAULT)
    try:
        number: object = float(argument)
    except ValueError:
        number = argument
    return Sampling(sampler, _check_ratio(number, argument_source), None, argument_source)


def _check_ratio(ratio: object, source: str) -> float:
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1 or math.isnan(ratio):
        raise ValueError(f"{source} is {ratio!r}: give a number from 0 to 1, such as 0.05 for 5 %")
    return float(ratio)


def _exporters(argument: str | None, environ: Mapping[str, str]) -> list[Otlp | str]:
    said, _ = _first(environ, "OTEL_TRACES_EXPORTER")
    names = [name for item in (said or "otlp").split(",") if (name := item.strip())]
    if [name.lower() for name in names] == ["none"]:
        return []
    return [_otlp(name, argument, environ) if name in _OTLP_EXPORTERS else name for name in names]


def _otlp(name: str, argument: str | None, environ: Mapping[str, str]) -> Otlp:
    variables = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    said, protocol_source = _first(environ, *variables)
    protocol = _OTLP_EXPORTERS[name] or said or _HTTP
    if protocol not in _DEFAULT_ENDPOINTS:
        raise ValueError(f"{protocol_source} is {protocol!r}: Python's exporters speak {_HTTP!r} and {_GRPC!r}")
    if argument is not None:
        return Otlp(protocol, _full(argument, protocol), "argument")
    # The variable for traces is taken as it is, that for all signals is what their paths are added to.
    endpoint, source = _first(environ, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if endpoint:
        return Otlp(protocol, _check_endpoint(endpoint, source), source)
    endpoint, source = _first(environ, "OTEL_EXPORTER_OTLP_ENDPOINT")
    endpoint = _check_endpoint(endpoint, source) if endpoint else _DEFAULT_ENDPOINTS[protocol]
    if protocol == _HTTP:
        endpoint = endpoint.removesuffix("/") + _TRACES_PATH
    return Otlp(protocol, endpoint, source or THE_DEFAULT)


def _full(endpoint: str, protocol: str) -> str:
    """The address that *endpoint*, the argument, means: with a path it is the whole, without one the usual is added."""
    bare = protocol == _HTTP and urlsplit(endpoint).path in ("", "/") and not urlsplit(endpoint).query
    return endpoint.removesuffix("/") + _TRACES_PATH if bare else endpoint


def _check_endpoint(endpoint: object, source: str) -> str:
    way_out = "give a URL such as 'http://localhost:4318'"
    if not isinstance(endpoint, str):
        raise ValueError(f"{source} is {endpoint!r}: {way_out}")
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{source} is {endpoint!r}, which cannot be parsed ({error}): {way_out}") from None
    if parts.scheme not in ("http", "https") or "://" not in endpoint:
        raise ValueError(f"{source} is {endpoint!r}, which does not begin with http:// or https://: {way_out}")
    if re.search(r"[\s\x00-\x1f\x7f]", endpoint) or not host or not _HOST.fullmatch(host):
        raise ValueError(f"{source} is {endpoint!r}, which names no host: {way_out}")
    if port == 0:
        raise ValueError(f"{source} is {endpoint!r}, and nothing listens on port 0: {way_out}")
    return endpoint


def _check_attributes(attributes: object) -> None:
    if not isinstance(attributes, Mapping):
        raise ValueError(f"resource_attributes is {attributes!r}: give a mapping from attribute name to value")
    for key, value in attributes.items():
        if not isinstance(key, str) or not key.strip():
            raise ValueError(f"resource_attributes has the name {key!r}: give a text, such as 'deployment.environment'")
        several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        if not all(isinstance(one, (str, bool, int, float)) for one in (value if several else [value])):
            raise ValueError(
                f"resource_attributes[{key!r}] is {value!r}: give a text, a number, a bool, or a list of such"
            )
    if SERVICE_NAME in attributes:
        _check_service_name(attributes[SERVICE_NAME], f"resource_attributes[{SERVICE_NAME!r}]")


def _batch(environ: Mapping[str, str]) -> Batch:
    queue = _whole(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048)
    size = _whole(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", min(512, queue))
    if size > queue:
        raise ValueError(
            f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE is {size}, more than OTEL_BSP_MAX_QUEUE_SIZE, {queue}: "
            "no batch could ever be full; give a smaller one"
        )
    return Batch(
        max_queue_size=queue,
        schedule_delay_millis=_whole(environ, "OTEL_BSP_SCHEDULE_DELAY", 5000),
        max_export_batch_size=size,
        export_timeout_millis=_whole(environ, "OTEL_BSP_EXPORT_TIMEOUT", 30000),
    )


def _whole(environ: Mapping[str, str], name: str, default: int) -> int:
    said, _ = _first(environ, name)
    if not said:
        return default
    if not said.isdecimal() or int(said) < 1:
        raise ValueError(f"{name} is {said!r}: give a whole number of 1 or more")
    return int(said)
