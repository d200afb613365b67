"""What is warned of, once a process: traces all sampled though nobody asked for it, and traces that stop here."""

import logging
import os
import time
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from exemplars import faults
from exemplars._lock import lock

LOAD: Final = 20.0  # traces a second: what a sampler of everything costs is felt from about there
WHILE: Final = 30.0  # seconds over which that is averaged
monotonic = time.monotonic


class Load:
    """A span processor that warns once when more than `LOAD` sampled traces a second began here, for `WHILE`."""

    def __init__(self) -> None:
        self._count = 0
        self._since: float | None = None  # seconds, monotonic; of the first trace of the window
        self._said = False

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._said or span.parent is not None or not span.context.trace_flags.sampled:
            return
        now = monotonic()
        with lock:
            if self._since is None:
                self._since = now
            self._count += 1
            passed = now - self._since
            if passed < WHILE:
                return
            rate, self._count, self._since = self._count / passed, 0, None
            if rate <= LOAD or self._said:
                return
            self._said = True
        faults.say(
            logging.WARNING,
            "every trace is sampled, %.0f a second, and nobody asked for it: so OpenTelemetry's SDK does where it is "
            "told nothing. Set OTEL_TRACES_SAMPLER=parentbased_traceidratio and OTEL_TRACES_SAMPLER_ARG=0.05; or, "
            "where a Collector samples and needs them all, OTEL_TRACES_SAMPLER=parentbased_always_on",
            rate,
        )

    def _on_ending(self, span: Any) -> None:
        pass

    def on_end(self, span: Any) -> None:
        pass

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def samples_all_unasked(provider: Any, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether *provider* has the very sampler that the SDK takes when neither code nor *environ* names one."""
    from opentelemetry.sdk.trace.sampling import DEFAULT_ON

    return getattr(provider, "sampler", None) is DEFAULT_ON and not environ.get("OTEL_TRACES_SAMPLER", "").strip()


_said_no_propagation = False


def check_propagation(environ: Mapping[str, str] = os.environ) -> None:
    """Warn, once, unless what is sent to another service there names the same trace again."""
    global _said_no_propagation
    from opentelemetry.propagate import extract, inject

    sent = SpanContext(0x1, 0x1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    carrier: dict[str, str] = {}
    inject(carrier, trace.set_span_in_context(NonRecordingSpan(sent)))
    taken = trace.get_current_span(extract(carrier)).get_span_context()
    if taken.trace_id == sent.trace_id or _said_no_propagation:
        return
    _said_no_propagation = True
    faults.say(
        logging.WARNING,
        "traces end at the border of this service: no propagator carries them on (OTEL_PROPAGATORS is %r). Leave it "
        "unset, or set it to 'tracecontext,baggage'",
        environ.get("OTEL_PROPAGATORS", ""),
    )
