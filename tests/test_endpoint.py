"""The endpoint: one page behind an ASGI app and a WSGI app."""

import asyncio
import gzip
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote
from urllib.request import urlopen
from wsgiref.validate import validator

import prometheus_client
import pytest
import trio
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from exemplars import Counter, Histogram, endpoint, make_asgi_app, make_wsgi_app, metrics, render
from exemplars.policy import Slot
from tests.drivers import BACKENDS, Backend, make_environ, make_scope, run_asgi, run_wsgi
from tests.programs import PATIENCE, Answer, eventually, fetch, own_server, prometheus

OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"
IDS: Final = {"trace_id": "a" * 32, "span_id": "b" * 16}

Ask = Callable[..., Answer]


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry whose page changes only if something is observed."""
    registry = CollectorRegistry()
    latency = Histogram("latency", "Time.", ["route"], registry=registry)
    for route in ("/a", "/b"):
        latency.labels(route).observe(0.25, exemplar=IDS)
    Counter("jobs", "Jobs.", registry=registry).inc(2)
    return registry


def asgi(backend: Backend) -> Callable[..., Ask]:
    def make(registry: CollectorRegistry, **options: bool) -> Ask:
        app = make_asgi_app(registry, **options)

        def ask(path: str = "/metrics", method: str = "GET", **headers: str) -> Answer:
            named = [(name.replace("_", "-"), value) for name, value in headers.items()]
            done = run_asgi(app, make_scope(path, method=method, headers=named), backend)
            assert done.exception is None
            start = done.messages[0]
            assert done.complete
            found = {name.decode(): value.decode() for name, value in start["headers"]}
            assert len(found) == len(start["headers"])
            assert all(name == name.lower() for name in found)
            return start["status"], found, done.body

        return ask

    return make


def wsgi(registry: CollectorRegistry, **options: bool) -> Ask:
    app: Any = validator(make_wsgi_app(registry, **options))  # which raises for what PEP 3333 forbids

    def ask(path: str = "/metrics", method: str = "GET", **headers: str) -> Answer:
        environ = make_environ(path, method=method, headers=headers.items())
        done = run_wsgi(app, {**environ, "QUERY_STRING": environ["QUERY_STRING"]})
        assert done.exception is None
        assert done.status is not None
        status, _, reason = done.status.partition(" ")
        assert reason
        return int(status), {name.lower(): value for name, value in done.headers}, done.body

    return ask


EVERYWHERE: Final = pytest.mark.parametrize(
    "make", [asgi("asyncio"), asgi("trio"), wsgi], ids=["asgi-asyncio", "asgi-trio", "wsgi"]
)


@EVERYWHERE
@pytest.mark.parametrize("accept", [OPENMETRICS, "text/plain", ""])
def test_get_answers_with_the_page_in_the_format_asked_for(
    make: Callable[..., Ask], registry: CollectorRegistry, accept: str
) -> None:
    status, headers, body = make(registry)(accept=accept)
    page, content_type = render(registry, accept=accept)

    assert status == 200
    assert headers == {
        "content-type": content_type,
        "content-length": str(len(body)),
        "cache-control": "no-store",
        "vary": "Accept, Accept-Encoding",
    }
    # Every scrape in plain text is one more of those that are counted.
    count = b"exemplars_plain_text_scrapes_total"
    assert [line for line in body.splitlines() if count not in line] == [
        line for line in page.splitlines() if count not in line
    ]


@EVERYWHERE
def test_the_page_is_compressed_where_that_is_accepted(make: Callable[..., Ask], registry: CollectorRegistry) -> None:
    ask = make(registry)
    _, plain, page = ask(accept=OPENMETRICS)
    status, headers, body = ask(accept=OPENMETRICS, accept_encoding="br, gzip;q=0.5")

    assert status == 200
    assert headers == plain | {"content-encoding": "gzip", "content-length": str(len(body))}
    assert gzip.decompress(body) == page
    assert len(body) < len(page) / 2
    assert ask(accept=OPENMETRICS, accept_encoding="gzip;q=0") == (200, plain, page)
    assert make(registry, disable_compression=True)(accept=OPENMETRICS, accept_encoding="gzip") == (200, plain, page)


@EVERYWHERE
@pytest.mark.parametrize("accept_encoding", ["", "gzip"])
def test_head_answers_with_the_headers_alone(
    make: Callable[..., Ask], registry: CollectorRegistry, accept_encoding: str
) -> None:
    ask = make(registry)
    status, headers, _ = ask(accept=OPENMETRICS, accept_encoding=accept_encoding)

    assert ask(method="HEAD", accept=OPENMETRICS, accept_encoding=accept_encoding) == (status, headers, b"")


@EVERYWHERE
def test_a_large_page_comes_whole(make: Callable[..., Ask]) -> None:
    registry = CollectorRegistry()
    latency = Histogram("latency", "Time.", ["route"], registry=registry)
    for number in range(200):
        latency.labels(f"{number} {'x' * 100}").observe(0.25, exemplar=IDS)
    status, headers, body = make(registry)(accept=OPENMETRICS)

    assert len(body) > 400_000
    assert (status, headers["content-length"]) == (200, str(len(body)))
    assert body == render(registry, accept=OPENMETRICS)[0]
    _, _, compressed = make(registry)(accept=OPENMETRICS, accept_encoding="gzip")
    assert gzip.decompress(compressed) == body


@EVERYWHERE
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(make: Callable[..., Ask], registry: CollectorRegistry, method: str) -> None:
    status, headers, body = make(registry)(method=method, accept=OPENMETRICS)

    assert status == 405
    assert headers["allow"] == "GET, HEAD"
    assert headers["content-length"] == str(len(body))
    assert b"GET or HEAD" in body


@EVERYWHERE
def test_the_query_restricts_the_page(make: Callable[..., Ask], registry: CollectorRegistry) -> None:
    ask = make(registry)
    _, _, body = ask(f"/metrics?name[]=jobs_total&x=y&{quote('name[]')}=latency_count", accept=OPENMETRICS)

    assert body == render(registry, accept=OPENMETRICS, names=("jobs_total", "latency_count"))[0]
    assert b"latency_bucket" not in body
    assert ask("/metrics?name[]=", accept=OPENMETRICS) == ask(accept=OPENMETRICS)
    assert ask("/metrics?name[]=%ff%00", accept=OPENMETRICS)[2] == b"# EOF\n"


@EVERYWHERE
def test_a_query_without_end_is_refused(make: Callable[..., Ask], registry: CollectorRegistry) -> None:
    ask = make(registry)
    assert ask("/metrics?" + "&".join(["name[]=jobs_total"] * 1000), accept=OPENMETRICS)[0] == 200
    status, _, body = ask("/metrics?" + "&".join(["name[]=jobs_total"] * 1001), accept=OPENMETRICS)

    assert status == 400
    assert b"1000" in body


HEADER: Final = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=30)


@given(
    query=st.one_of(HEADER, st.text(alphabet="name[]=&;%ff_jobstl+", max_size=60)),
    accept=HEADER,
    encoding=HEADER,
    make=st.sampled_from([asgi("asyncio"), wsgi]),
)
def test_no_request_makes_it_fail(query: str, accept: str, encoding: str, make: Callable[..., Ask]) -> None:
    registry = CollectorRegistry()
    Counter("jobs", "Jobs.", registry=registry).inc(2)
    raw = quote(query, safe="[]=&;%+")
    status, headers, body = make(registry)(f"/metrics?{raw}", accept=accept, accept_encoding=encoding)

    assert status == 200
    assert len(body) == int(headers["content-length"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_headers_may_come_in_any_case_and_several_times(registry: CollectorRegistry, backend: Backend) -> None:
    scope = make_scope("/metrics")
    scope["headers"] = [(b"ACCEPT", b"text/plain;q=0.1"), (b"accept", OPENMETRICS.encode()), (b"x", b"\xff")]
    done = run_asgi(make_asgi_app(registry), scope, backend)

    assert (b"content-type", b"application/openmetrics-text; version=1.0.0; charset=utf-8") in done.messages[0][
        "headers"
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_kind_of_scope_gets_no_answer(registry: CollectorRegistry, backend: Backend) -> None:
    assert run_asgi(make_asgi_app(registry), {"type": "something"}, backend).messages == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_lifespan_is_lived_through(registry: CollectorRegistry, backend: Backend) -> None:
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(events)

    async def send(message: Any) -> None:
        sent.append(message)

    app = make_asgi_app(registry)
    run(backend, lambda: app({"type": "lifespan"}, receive, send))
    assert sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_websocket_is_turned_away(registry: CollectorRegistry, backend: Backend) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    app = make_asgi_app(registry)
    run(backend, lambda: app({"type": "websocket"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1000}]


def run(backend: Backend, main: Callable[[], Awaitable[object]]) -> None:
    async def call() -> None:
        await main()

    if backend == "asyncio":
        asyncio.run(call())
    else:
        trio.run(call)


@pytest.mark.parametrize("accept_encoding", ["", "gzip"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_event_loop_goes_on_while_a_page_is_made(
    backend: Backend, accept_encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices of no length: between every two pieces another task has its turn."""
    monkeypatch.setattr(endpoint, "_SLICE", 0.0)
    registry = CollectorRegistry()
    latency = Histogram("latency", "Time.", ["route"], registry=registry)
    for number in range(300):
        latency.labels(number).observe(0.25, exemplar=IDS)
    scope = make_scope("/metrics", headers=[("accept", OPENMETRICS), ("accept-encoding", accept_encoding)])
    app = make_asgi_app(registry)
    turns = 0
    during: list[int] = []

    async def receive() -> Any:
        raise AssertionError("nothing of the request's body is of interest")

    async def send(message: Any) -> None:
        during.append(turns)

    async def on_asyncio() -> None:
        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.ensure_future(tick())
        await app(scope, receive, send)
        ticking.cancel()

    async def on_trio() -> None:
        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await app(scope, receive, send)
            nursery.cancel_scope.cancel()

    run(backend, on_asyncio if backend == "asyncio" else on_trio)
    assert during[0] > 10


def test_trio_is_not_asked_where_asyncio_runs(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be it imported, as it is wherever a library brought it along, or not."""
    monkeypatch.setattr(endpoint, "_SLICE", 0.0)
    monkeypatch.setattr(trio.lowlevel, "checkpoint", None)
    assert run_asgi(make_asgi_app(registry), make_scope("/metrics"), "asyncio").status == 200
    monkeypatch.delitem(sys.modules, "trio")
    assert run_asgi(make_asgi_app(registry), make_scope("/metrics"), "asyncio").status == 200


@contextmanager
def served(app: Any, interface: Literal["asgi3", "wsgi"]) -> Iterator[int]:
    """The port of a uvicorn that serves *app*."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, interface=interface, log_level="critical", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started, "uvicorn")
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def test_uvicorn_serves_it(registry: CollectorRegistry) -> None:
    with served(make_asgi_app(registry), "asgi3") as port:
        status, headers, body = fetch(port, accept=OPENMETRICS, accept_encoding="gzip")
        assert status == 200
        assert gzip.decompress(body) == render(registry, accept=OPENMETRICS)[0]
        status, head, nothing = fetch(port, method="HEAD", accept=OPENMETRICS, accept_encoding="gzip")
        assert (status, nothing) == (200, b"")
        assert head["content-length"] == headers["content-length"]
        assert fetch(port, method="POST")[0] == 405


ROUTES: Final = [
    "/a/{id}",
    'say "hi"',
    "back\\slash\\n",
    "new\nline",
    "100%d %s %%",
    "{brace}, comma",
    "# EOF",
    "tab\tand\rreturn",
    "é漢🙂\u2028",
    " ",
]


def test_a_real_prometheus_scrapes_it_and_finds_every_exemplar(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    latency = Histogram(
        "latency", 'Say "hi"\nto C:\\', ["route"], unit="seconds", buckets=[0.1, 1.0], registry=registry
    )
    jobs = Counter("jobs", "Jobs.", registry=registry)
    prometheus_client.Counter("things", "Theirs.", registry=registry).inc(exemplar={"trace_id": "theirs"})
    now = time.time_ns() // 1_000_000
    expected = set()
    for number, route in enumerate(ROUTES):
        child = latency.labels(route)
        for index, amount in enumerate((0.05, 0.5, 5.0)):
            child.observe(amount, exemplar={})
            trace_id = 1 + 3 * number + index
            slot = Slot(amount, now - trace_id, metrics.monotonic(), 0.0, trace_id, 0xB)
            assert child.record.put(index, slot, instead_of=None)
            expected.add((route, ("0.1", "1.0", "+Inf")[index], f"{trace_id:032x}", "000000000000000b", now - trace_id))
    jobs.inc(5, exemplar=IDS)
    with own_server(registry) as own, served(make_asgi_app(registry), "asgi3") as asgi_port:
        config = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
                for job, port in (("own", own), ("uvicorn", asgi_port))
            ],
        }
        with prometheus(tmp_path, config, "--enable-feature=exemplar-storage") as server:
            start, end = now / 1000 - 60, now / 1000 + 600
            for job in ("own", "uvicorn"):
                server.scraped(job, 3)
                found = server.exemplars(f'latency_seconds_bucket{{job="{job}"}}', start, end)
                assert {
                    (
                        exemplar["series"]["route"],
                        exemplar["series"]["le"],
                        exemplar["labels"]["trace_id"],
                        exemplar["labels"]["span_id"],
                        round(float(exemplar["timestamp"]) * 1000),
                    )
                    for exemplar in found
                } == expected
                (ours,) = server.exemplars(f'jobs_total{{job="{job}"}}', start, end)
                assert ours["labels"] == IDS
                (theirs,) = server.exemplars(f'things_total{{job="{job}"}}', start, end)
                assert theirs["labels"] == {"trace_id": "theirs"}
            (known,) = server.ask("metadata", metric="latency_seconds")["latency_seconds"]
            assert known == {"type": "histogram", "help": 'Say "hi"\nto C:\\', "unit": "seconds"}
            with urlopen(f"{server.url}/metrics", timeout=PATIENCE) as response:
                own_metrics = response.read().decode()
            assert "\nprometheus_target_scrapes_exemplar_out_of_order_total 0\n" in own_metrics
