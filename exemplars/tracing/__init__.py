"""Tracing as production should have it: OpenTelemetry's SDK set up by one call, `configure`.

Needs the extra ``otel``: ``pip install 'exemplars[otel]'``.
"""

import importlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace

from exemplars import faults
from exemplars.store import group
from exemplars.tracing.processes import INSTANCE_ID, Exporting, Ids, ProcessResource
from exemplars.tracing.settings import (
    SERVICE_NAME,
    Arguments,
    Otlp,
    Sampling,
    Settings,
    is_disabled,
    resolve,
    resource_attributes_of,
)
from exemplars.tracing.watch import Load, check_propagation, samples_all_unasked

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

__all__ = ["configure"]

_EXTRA: Final = "pip install 'exemplars[otel]'"


@dataclass(frozen=True, slots=True)
class _Ours:
    provider: Any
    settings: Settings | None  # None: OTEL_SDK_DISABLED


_configuring = threading.RLock()
_ours: _Ours | None = None
_watched: list[Any] = []  # providers of others that we have looked at


def configure(
    service_name: str | None = None,
    *,
    ratio: float | None = None,
    endpoint: str | None = None,
    resource_attributes: "Mapping[str, AttributeValue] | None" = None,
) -> "TracerProvider":
    """Set OpenTelemetry's SDK up for traces, and return the tracer provider, which is the global one from now on.

    Each argument goes before the environment, and that before the default:

    - *service_name*: ``OTEL_SERVICE_NAME``, then ``service.name`` in ``OTEL_RESOURCE_ATTRIBUTES``; there is no default.
    - *ratio*: the share, from 0 to 1, of the traces that begin here to sample; what a caller has decided is kept.
      ``OTEL_TRACES_SAMPLER`` and ``OTEL_TRACES_SAMPLER_ARG``, then 0.05. Tail sampling in a Collector needs 1.0.
    - *endpoint*: the URL that spans go to by OTLP; without a path, ``/v1/traces`` is added for HTTP.
      ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``, ``OTEL_EXPORTER_OTLP_ENDPOINT``, then port 4318 of localhost, or 4317
      where ``OTEL_EXPORTER_OTLP_PROTOCOL`` is ``grpc``.
    - *resource_attributes*: what else to say of the service; ``OTEL_RESOURCE_ATTRIBUTES`` is added.

    Spans are exported in batches, from every process by itself, also after forks, and the last ones when the process
    ends: by itself, or by SIGTERM, for which a handler is installed where nobody has one. Nothing waits for the
    exporter: what does not fit into its queue is dropped and logged.

    A provider that is set already, by whoever, is kept and returned; arguments that are at odds with it are named in a
    warning. Raises ``ValueError`` for a bad argument, and for a bad variable that would be used, and ``ImportError``,
    which names the package, for one that is missing. Safe under threads. To be called once a process, before or after
    a fork, from the main thread for the handler.
    """
    global _ours
    arguments = Arguments(service_name, ratio, endpoint, resource_attributes)
    with _configuring:
        _import_propagators()
        there = trace.get_tracer_provider()
        if _ours is not None and there is _ours.provider:
            _say_at_odds(arguments, _ours.settings)
        elif not isinstance(there, trace.ProxyTracerProvider):
            _keep(there, arguments)
        else:
            _ours = made = _make(arguments)
            trace.set_tracer_provider(made.provider)
            there = trace.get_tracer_provider()
            if there is not made.provider:  # somebody was faster
                made.provider.shutdown()
                _keep(there, arguments)
        check_propagation()
    provider: Any = there
    return provider  # type: ignore[no-any-return]


def _import_propagators() -> None:
    """Import what reads ``OTEL_PROPAGATORS``, and raises for one that it does not know."""
    try:
        importlib.import_module("opentelemetry.propagate")
    except ValueError as error:
        raise ValueError(
            f"OTEL_PROPAGATORS is {os.environ.get('OTEL_PROPAGATORS')!r}: {error} "
            "Leave it unset, set it to 'tracecontext,baggage', or install the package of the one that is missing"
        ) from error


def _say_at_odds(arguments: Arguments, settings: Settings | None) -> None:
    odd = arguments.at_odds(settings) if settings is not None else []
    if odd:
        faults.say(
            logging.WARNING,
            "tracing is set up already and stays as it is: %s has no effect. Call configure() once, with all arguments",
            ", ".join(odd),
        )


def _keep(provider: Any, arguments: Arguments) -> None:
    """Say that *provider*, which somebody else has set, stays; and watch it."""
    resource = getattr(getattr(provider, "resource", None), "attributes", {})
    name = resource.get(SERVICE_NAME, "")
    sampler = getattr(provider, "sampler", None)
    faults.say(
        logging.INFO,
        "tracing is set up already, by somebody else, and stays as it is: %s of service %r, sampler %s",
        type(provider).__qualname__,
        name,
        sampler.get_description() if sampler is not None else "unknown",
    )
    odd = [
        f"{argument}={value!r}"
        for argument, value, there in (
            ("service_name", arguments.service_name, name),
            ("ratio", arguments.ratio, _ratio_of(sampler)),
            ("endpoint", arguments.endpoint, None),
        )
        if value is not None and value != there
    ]
    others = arguments.resource_attributes or {}
    if any(resource.get(key) != value for key, value in others.items()):
        odd.append(f"resource_attributes={dict(others)!r}")
    if odd:
        faults.say(
            logging.WARNING,
            "tracing was set up by somebody else (opentelemetry-instrument?): %s has no effect. Set OTEL_* variables "
            "for what has set it up, or leave it out",
            ", ".join(odd),
        )
    if name.startswith("unknown_service"):
        faults.say(logging.WARNING, "the service is traced as %r, as it has no name: set OTEL_SERVICE_NAME", name)
    if not any(provider is watched for watched in _watched):
        _watched.append(provider)
        if hasattr(provider, "add_span_processor") and arguments.ratio != 1.0 and samples_all_unasked(provider):
            provider.add_span_processor(Load())


def _ratio_of(sampler: Any) -> float | None:
    """The share of the traces which begin here that an SDK's *sampler* takes; ``None`` where it does not tell."""
    root = getattr(sampler, "_root", sampler)
    rate = getattr(root, "rate", None)
    if rate is not None:
        return float(rate)
    description = root.get_description() if root is not None else ""
    return {"AlwaysOnSampler": 1.0, "AlwaysOffSampler": 0.0}.get(description)


def _make(arguments: Arguments) -> _Ours:
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ImportError(f"exemplars.tracing needs OpenTelemetry's SDK: {_EXTRA}") from error
    if is_disabled(os.environ):
        faults.say(logging.INFO, "there is no tracing: OTEL_SDK_DISABLED is set")
        return _Ours(TracerProvider(resource=Resource({}), shutdown_on_exit=False), None)
    settings = resolve(arguments, os.environ)
    makers = [_exporter(exporter) for exporter in settings.exporters]
    batch = asdict(settings.batch)
    resource: Any = _resource(settings, Resource)
    ids: Any = _plug_in("opentelemetry_id_generator", settings.id_generator)() if settings.id_generator else Ids()
    provider = TracerProvider(
        sampler=_sampler(settings.sampling), resource=resource, id_generator=ids, shutdown_on_exit=not makers
    )
    if makers:
        exporting: Any = Exporting(provider, lambda: [BatchSpanProcessor(make(), **batch) for make in makers])
        provider.add_span_processor(exporting)
        # What is wrong with the exporter's own settings shows here; but a master leaves all of it to its workers.
        if not group.is_master():
            try:
                exporting.begin()
            except Exception as error:
                raise ValueError(f"the exporter refuses its settings (OTEL_EXPORTER_…): {error}") from error
    _say_what(settings)
    return _Ours(provider, settings)


def _say_what(settings: Settings) -> None:
    sampling = settings.sampling
    share = "what its sampler takes" if sampling.ratio is None else f"{100 * sampling.ratio:g} %"
    faults.say(
        logging.INFO,
        "tracing: of the traces that begin in service %r, %s are sampled (%s, %s); spans go to %s",
        settings.service_name,
        share,
        sampling.sampler,
        sampling.source,
        ", ".join(map(str, settings.exporters)) or "nowhere, as OTEL_TRACES_EXPORTER says",
    )


def _resource(settings: Settings, resource_class: Any) -> ProcessResource:
    """All attributes: the SDK's own, what detectors and the environment say, and on top of it what was given."""
    process = {
        "host.name": socket.gethostname(),
        "process.runtime.name": sys.implementation.name,
        "process.runtime.version": ".".join(map(str, sys.version_info[:3])),
    }
    given = {**settings.attributes, SERVICE_NAME: settings.service_name}
    chosen = {**resource_attributes_of(os.environ), **given}
    fixed = {INSTANCE_ID: chosen[INSTANCE_ID]} if INSTANCE_ID in chosen else {}
    return ProcessResource(resource_class(process).merge(resource_class.create(given)), fixed)


def _sampler(sampling: Sampling) -> Any:
    from opentelemetry.sdk.trace import sampling as samplers

    if sampling.ratio is None:
        return _plug_in("opentelemetry_traces_sampler", sampling.sampler)(sampling.argument)
    known = {
        "always_on": samplers.ALWAYS_ON,
        "always_off": samplers.ALWAYS_OFF,
        "parentbased_always_on": samplers.ParentBased(samplers.ALWAYS_ON),
        "parentbased_always_off": samplers.DEFAULT_OFF,
        "traceidratio": samplers.TraceIdRatioBased(sampling.ratio),
        "parentbased_traceidratio": samplers.ParentBased(samplers.TraceIdRatioBased(sampling.ratio)),
    }
    return known[sampling.sampler]


def _exporter(exporter: Otlp | str) -> Callable[[], Any]:
    """What makes *exporter* in a process. Raises ``ImportError`` or ``ValueError`` where there is none such."""
    if isinstance(exporter, str):
        plug_in: Callable[[], Any] = _plug_in("opentelemetry_traces_exporter", exporter)
        return plug_in
    module, package = (
        ("grpc", "pip install opentelemetry-exporter-otlp-proto-grpc") if exporter.is_grpc else ("http", _EXTRA)
    )
    try:
        made_by = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{module}.trace_exporter")
    except ImportError as error:
        raise ImportError(f"spans are to go out over {exporter.protocol}, which needs a package: {package}") from error
    return partial(made_by.OTLPSpanExporter, endpoint=exporter.endpoint)


_VARIABLES: Final = {
    "opentelemetry_id_generator": "OTEL_PYTHON_ID_GENERATOR",
    "opentelemetry_traces_exporter": "OTEL_TRACES_EXPORTER",
    "opentelemetry_traces_sampler": "OTEL_TRACES_SAMPLER",
}


def _plug_in(kind: str, name: str) -> Any:
    """What an installed package registers under *name*. Raises ``ValueError`` where none does."""
    for found in entry_points(group=kind, name=name):
        return found.load()
    there = ", ".join(sorted({found.name for found in entry_points(group=kind)}))
    raise ValueError(f"{_VARIABLES[kind]} has {name!r}, which no installed package provides; there is {there}")
