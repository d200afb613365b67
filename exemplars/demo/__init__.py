"""A small shop to see exemplars at work: `exemplars demo`.

`front` (FastAPI) and `stock` (Flask) are what an application of yours would look like: applications to be served by
uvicorn and gunicorn, traced by OpenTelemetry, measured by `exemplars.instrument`. `load` sends them requests. The rest
starts these as processes, receives their spans, reads the front's ``/metrics`` and shows both together.

They need the extra: ``pip install 'exemplars[demo]'``.
"""

from importlib.util import find_spec

_NEEDS = (
    "fastapi",
    "flask",
    "gunicorn",
    "httpx",
    "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry.instrumentation.flask",
    "opentelemetry.instrumentation.httpx",
    "opentelemetry.sdk",
    "uvicorn",
)


def missing() -> list[str]:
    """The modules that the demo needs and that are not installed."""
    return [name for name in _NEEDS if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a package above it
        return False
