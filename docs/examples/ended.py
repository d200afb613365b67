"""Three ways to have a span end whatever happens."""

from collections.abc import Generator

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from exemplars import tracing

tracing.configure("shop", ratio=1.0)
tracer = trace.get_tracer("shop")


@tracer.start_as_current_span("rank")  # all of a function, also of an async one; else a with statement
def rank(words: list[str]) -> list[str]:
    return sorted(words, key=len)


def rows(pages: list[list[str]]) -> Generator[str, None, None]:
    """In a generator the span is not made the current one: the code between two `next` is somebody else's."""
    span = tracer.start_span("read rows")
    try:
        for page in pages:
            yield from page
    finally:
        span.end()


class Upload:
    """Begins in one call and ends in another: both ways out end the span."""

    def __init__(self, name: str) -> None:
        self.span = tracer.start_span("upload", attributes={"shop.file": name})

    def done(self) -> None:
        self.span.end()

    def failed(self, error: Exception) -> None:
        self.span.record_exception(error)
        self.span.set_status(Status(StatusCode.ERROR, str(error)))
        self.span.end()


rank(["ladder", "lamp"])
first = rows([["ladder", "lamp"], ["saw"]])
next(first)
first.close()  # nobody wants the rest
Upload("a.csv").done()
Upload("b.csv").failed(OSError("disk full"))
