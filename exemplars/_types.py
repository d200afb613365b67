"""Aliases for ASGI and WSGI, and for what callers hand to us."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Callable[[bytes], object]]
WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

# What a route resolver or a label function is given: the scope of ASGI or the environ of WSGI.
Carrier: TypeAlias = MutableMapping[str, Any]
RouteResolver: TypeAlias = Callable[[Any], str | None]
LabelValue: TypeAlias = str | Callable[[Any], str]

# Exemplar labels as a caller gives them.
ExemplarLabels: TypeAlias = Mapping[str, str]
