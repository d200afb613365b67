"""Flask, traced by OpenTelemetry's instrumentation."""

import time
from collections.abc import Iterator

from flask import Flask, Response
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from exemplars import instrument
from tests.apps import traced

traced.configure()
app = Flask(__name__)


@app.get("/items/<int:item>")
def item(item: int) -> str:
    return str(item)


@app.get("/slow")
def slow() -> str:
    time.sleep(traced.SLOW)
    return ""


@app.get("/stream")
def stream() -> Response:
    def parts() -> Iterator[str]:
        for part in "abc":
            time.sleep(0.002)
            yield part

    return Response(parts())


@app.get("/fail")
def fail() -> str:
    raise RuntimeError("as it should")


FlaskInstrumentor().instrument_app(app)  # type: ignore[no-untyped-call]
app = instrument(app, policy=traced.POLICY)
