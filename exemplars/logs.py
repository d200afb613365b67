"""Trace ids in log lines: a filter and a JSON formatter for `logging`, a processor for structlog.

A line gets the ids of the current span; where none is current, of the request that it is about, if one of our
middlewares measures that:

- the request that is served in this context, as in what surrounds its span;
- the request that the exception of the record ended, which servers log when its span is over.

An access line of gunicorn's, which writes it when the span is over, gets those of its request, whatever is current.

A span that is not sampled counts too: its lines belong together, and to those of other services, though no trace is
stored. ``trace_flags`` tells: its last bit is set in a sampled one, as in W3C's ``traceparent``. The three names are
those of https://opentelemetry.io/docs/specs/otel/compatibility/logging_trace_context/.
"""

import json
import logging
import weakref
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry import trace

from exemplars import faults, semconv
from exemplars._json import plain_dict, plain_key, shown
from exemplars.asgi import ASGIMiddleware
from exemplars.options import service_name_of
from exemplars.span import Cell, current_cell, current_context
from exemplars.wsgi import REQUEST, WSGIMiddleware

_NAMES: Final = (semconv.TRACE_ID, semconv.SPAN_ID, semconv.TRACE_FLAGS)
_NO_SPAN: Final = ("", "", "")

# Where an exception passed through one of our middlewares, its traceback leads through a frame of one of these.
_MIDDLEWARE: Final = (ASGIMiddleware.__call__.__code__, WSGIMiddleware.__call__.__code__)
_OF_GUNICORN: Final = f"{{{REQUEST}}}e"  # what gunicorn makes of a key of the environ, among the arguments of a line

# What every record has; the message once more as formatters leave it, and, by uvicorn, in colours.
_OF_RECORDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class TraceContextFilter(logging.Filter):
    """Give every record ``trace_id``, ``span_id`` (32 and 16 lower-case hex digits) and ``trace_flags`` (2).

    Without a span they are empty, so that ``%(trace_id)s`` can be formatted in any case. An attribute that is there
    already, as by ``extra={"trace_id": …}``, is left alone; the others are filled in only if it is the current span's,
    as the ids of a line are of one span. Drops no record and never raises: what fails is counted as a fault of kind
    ``span``, and the record has empty ids. Safe under threads.

    To be added to handlers: one of a logger sees no record of the loggers below it. It asks which span is current, so
    it must run in the thread and context that logs: with a `logging.handlers.QueueHandler`, on that, not on the
    handler behind the queue.
    """

    def __init__(self) -> None:
        super().__init__()  # without a name, by which `logging.Filter` drops records

    def filter(self, record: logging.LogRecord) -> bool:
        _add(record.__dict__, _ids(record.__dict__))
        return True


class JSONFormatter(logging.Formatter):
    """Format a record as one line of JSON.

    - ``timestamp`` (RFC 3339, UTC, microseconds), ``level``, ``logger``, ``message``;
    - ``trace_id``, ``span_id``, ``trace_flags``, absent without a span;
    - ``service.name``, absent if nobody tells it: *service_name*, else ``OTEL_SERVICE_NAME``, else ``service.name`` in
      ``OTEL_RESOURCE_ATTRIBUTES``, as they are when this is constructed;
    - ``exception.type``, ``exception.message``, ``exception.stacktrace`` where there is one, ``code.stacktrace`` where
      ``stack_info`` was asked for;
    - what was given by ``extra=``. A field of ours is never replaced: ``extra={"level": 1}`` becomes ``extra.level``.

    Whatever is logged, the line is one line, valid JSON, and ASCII, which is UTF-8 under any encoding of the handler.
    What JSON has not is shown by its `repr`; NaN, infinities and integers beyond 64 bits as texts; lone surrogates by
    their escapes; a container inside itself, or inside eight others, as ``[…]`` or ``{…}``; what comes after 10,000
    values is left out. A message that its arguments do not fit is shown with them, and ``logging_error`` says why.
    Never raises. Safe under threads.

    The ids are those that `TraceContextFilter` left in the record; without that, of the span that is current where the
    record is formatted, which is right in the thread and context that logs, and wrong behind a queue.

    The arguments before *service_name* are those by which `logging.config` constructs formatters. Raises ``ValueError``
    for a format, as the fields are fixed.
    """

    def __init__(
        self,
        fmt: None = None,
        datefmt: None = None,
        style: str = "%",
        validate: bool = True,
        *,
        defaults: None = None,
        service_name: str | None = None,
    ) -> None:
        for name, value in (("format", fmt), ("datefmt", datefmt), ("defaults", defaults)):
            if value is not None:
                raise ValueError(f"{name} is {value!r}, but the fields of JSONFormatter are fixed: leave it out")
        if service_name is not None and not isinstance(service_name, str):
            raise ValueError(f"service_name is {service_name!r}: give a text")
        super().__init__()
        self._service_name = service_name or service_name_of()

    def format(self, record: logging.LogRecord) -> str:
        try:
            fields = self._fields(record)
        except Exception as error:  # a record that is none
            fields = {"timestamp": _time(None), "level": "ERROR", "logger": __name__, "message": shown(record)}
            fields["logging_error"] = shown(error)
        return json.dumps(fields)

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        given = dict(record.__dict__)
        if semconv.TRACE_ID not in given:
            _add(given, _ids(given))
        fields: dict[str, Any] = {
            "timestamp": _time(given.get("created")),
            "level": given.get("levelname"),
            "logger": given.get("name"),
        }
        try:
            fields["message"] = record.getMessage()
        except Exception as error:
            fields["message"] = f"{shown(given.get('msg'))} % {shown(given.get('args'))}"
            fields["logging_error"] = shown(error)
        for name in _NAMES:
            if not _is_empty(given.get(name)):
                fields[name] = given[name]
        if self._service_name:
            fields["service.name"] = self._service_name
        fields.update(self._stacks(given))
        for key, value in given.items():
            if key not in _OF_RECORDS and key not in _NAMES:
                name = plain_key(key)
                while name in fields:
                    name = f"extra.{name}"
                fields[name] = value
        return plain_dict(fields)

    def _stacks(self, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        info = given.get("exc_info")
        if isinstance(info, tuple) and len(info) == 3 and isinstance(info[1], BaseException):
            kind = type(info[1])
            module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
            yield "exception.type", f"{module}{kind.__qualname__}"
            try:
                yield "exception.message", str(info[1])
            except Exception:
                yield "exception.message", shown(info[1])
            try:
                yield "exception.stacktrace", self.formatException(info)
            except Exception as error:
                yield "exception.stacktrace", shown(error)
        elif given.get("exc_text"):
            yield "exception.stacktrace", given["exc_text"]
        if given.get("stack_info"):
            yield "code.stacktrace", given["stack_info"]


def add_trace_context(logger: Any, method_name: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add ``trace_id``, ``span_id`` and ``trace_flags`` to *event_dict*, if there is a span: a processor for structlog.

    What is there already is left alone, as by `TraceContextFilter`. For a record of `logging` in
    ``ProcessorFormatter(foreign_pre_chain=…)`` the ids are those that the filter left in it, if it did. Never raises.
    """
    record = event_dict.get("_record")
    given = record.__dict__ if isinstance(record, logging.LogRecord) else {}
    if semconv.TRACE_ID in given:
        ids = tuple(given.get(name, "") for name in _NAMES)
    else:
        ids = _ids(given or event_dict)
    if not _is_empty(ids[0]):
        _add(event_dict, ids)
    return event_dict


def _ids(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids of the span that a line belongs to which is written now, with what is *given* in its record."""
    try:
        # First the request that the line is about: an instrumentation may have left its span behind as the current one.
        answered = _answered(given.get("args"))
        span = trace.get_current_span(current_context()) if answered is None else answered.span()
        if not span.get_span_context().is_valid:
            cell = current_cell() or _failed(given.get("exc_info"))
            span = trace.INVALID_SPAN if cell is None else cell.span()
        context = span.get_span_context()
        if not context.is_valid:
            return _NO_SPAN
        return f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{context.trace_flags:02x}"
    except Exception as error:
        faults.note("span", error)
        return _NO_SPAN


def _answered(arguments: object) -> Cell | None:
    """The request that gunicorn has answered and writes its access line for, with these *arguments*."""
    request = arguments.get(_OF_GUNICORN) if isinstance(arguments, dict) else None
    cell = request() if isinstance(request, weakref.ref) else None
    return cell if isinstance(cell, Cell) else None


def _failed(exc_info: object) -> Cell | None:
    """The request that the exception in *exc_info* ended: our middleware's frame in its traceback has it."""
    step = exc_info[2] if isinstance(exc_info, tuple) and len(exc_info) == 3 else None
    while step is not None:
        if step.tb_frame.f_code in _MIDDLEWARE:
            request = step.tb_frame.f_locals.get("request")
            return request if isinstance(request, Cell) else None
        step = step.tb_next
    return None


def _add(fields: MutableMapping[str, Any], ids: tuple[str, ...]) -> None:
    """Add to *fields* those of *ids* that are not there, empty ones if what is there is of another span."""
    for name, own in zip(_NAMES, ids, strict=True):
        if name in fields and not (type(fields[name]) is str and fields[name] == own):
            ids = _NO_SPAN
    for name, own in zip(_NAMES, ids, strict=True):
        fields.setdefault(name, own)


def _is_empty(given: object) -> bool:
    # By its type: anything may have been given, and what `==` or `isinstance` do with it is its own affair.
    return given is None or (type(given) is str and not given)


def _time(created: Any) -> str:
    try:
        moment = datetime.fromtimestamp(created, UTC)
    except Exception:  # no number, or none of this calendar
        moment = datetime.now(UTC)
    return f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
