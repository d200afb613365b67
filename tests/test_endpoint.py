"""The endpoint: one page behind an ASGI app, a WSGI app and a server of its own."""

import asyncio
import gzip
import http.client
import inspect
import socket
import ssl
import subprocess
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

from exemplars import Counter, Histogram, endpoint, make_asgi_app, make_wsgi_app, metrics, render, start_http_server
from exemplars.policy import Slot
from tests.drivers import BACKENDS, Backend, make_environ, make_scope, run_asgi, run_wsgi
from tests.programs import PATIENCE, eventually, program, prometheus

OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"
IDS: Final = {"trace_id": "a" * 32, "span_id": "b" * 16}

Answer = tuple[int, dict[str, str], bytes]  # status, headers by their names in lower case, body
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


def fetch(
    port: int, path: str = "/metrics", method: str = "GET", context: ssl.SSLContext | None = None, **headers: str
) -> Answer:
    connection = (
        http.client.HTTPSConnection("localhost", port, context=context, timeout=PATIENCE)
        if context
        else http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    )
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def test_uvicorn_serves_it(registry: CollectorRegistry) -> None:
    with served(make_asgi_app(registry), "asgi3") as port:
        status, headers, body = fetch(port, accept=OPENMETRICS, accept_encoding="gzip")
        assert status == 200
        assert gzip.decompress(body) == render(registry, accept=OPENMETRICS)[0]
        status, head, nothing = fetch(port, method="HEAD", accept=OPENMETRICS, accept_encoding="gzip")
        assert (status, nothing) == (200, b"")
        assert head["content-length"] == headers["content-length"]
        assert fetch(port, method="POST")[0] == 405


@contextmanager
def own_server(registry: CollectorRegistry, **options: Any) -> Iterator[int]:
    """The port of our own server."""
    server, thread = start_http_server(0, "127.0.0.1", registry, **options)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)


def test_a_server_of_its_own_answers_until_it_is_shut_down(registry: CollectorRegistry) -> None:
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    port = server.server_port
    assert thread.daemon
    assert thread.is_alive()
    status, headers, body = fetch(port, "/", accept=OPENMETRICS)
    assert (status, body) == (200, render(registry, accept=OPENMETRICS)[0])
    assert headers["content-length"] == str(len(body))
    assert fetch(port, method="HEAD", accept=OPENMETRICS)[2] == b""
    assert fetch(port, method="POST")[0] == 405

    server.shutdown()
    server.server_close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    with pytest.raises(ConnectionError):
        fetch(port)


def test_it_takes_what_prometheus_clients_server_takes() -> None:
    ours = inspect.signature(start_http_server).parameters
    theirs = inspect.signature(prometheus_client.start_http_server).parameters

    assert {name: parameter.default for name, parameter in ours.items()}.items() >= {
        name: parameter.default for name, parameter in theirs.items()
    }.items()
    assert list(ours)[: len(theirs)] == list(theirs)
    assert all(ours[name].kind == parameter.kind for name, parameter in theirs.items())


def test_a_port_that_is_taken_is_an_error_also_for_one_who_would_share_it(registry: CollectorRegistry) -> None:
    with own_server(registry) as port, pytest.raises(OSError, match="in use"):
        start_http_server(port, "127.0.0.1", registry)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            start_http_server(other.getsockname()[1], "127.0.0.1", registry)
    with own_server(registry) as port, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


def test_it_serves_ipv6(registry: CollectorRegistry) -> None:
    try:
        server, thread = start_http_server(0, "::1", registry)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    connection = http.client.HTTPConnection("::1", server.server_port, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 200
    connection.close()
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE)


def test_a_silent_client_keeps_nobody_waiting(registry: CollectorRegistry, certificates: "Certificates") -> None:
    """Neither in the clear nor in the middle of a TLS handshake; nor does one that leaves in disorder."""
    with own_server(registry) as port, socket.create_connection(("127.0.0.1", port)) as silent:
        silent.send(b"GET /metr")
        assert fetch(port)[0] == 200
    with (
        own_server(registry, certfile=certificates.server, keyfile=certificates.server_key) as port,
        socket.create_connection(("127.0.0.1", port)) as silent,
        socket.create_connection(("127.0.0.1", port)) as rude,
    ):
        rude.send(b"GET / HTTP/1.1\r\n\r\n")
        rude.close()
        assert fetch(port, context=certificates.trusting())[0] == 200
        assert silent.fileno() > 0


class Certificates:
    """A certificate authority, a certificate for localhost, one for a client, and a stranger's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._openssl = program("openssl")
        self.authority, self._authority_key = self._make("authority", "/CN=authority")
        self.server, self.server_key = self._make("server", "/CN=localhost", "subjectAltName=DNS:localhost")
        self.client, self.client_key = self._make("client", "/CN=client", "extendedKeyUsage=clientAuth")
        self.stranger, self.stranger_key = self._make("stranger", "/CN=stranger")

    def trusting(self, certfile: str | None = None, keyfile: str | None = None) -> ssl.SSLContext:
        """What a client needs that trusts the authority, and shows *certfile*."""
        context = ssl.create_default_context(cafile=self.authority)
        if certfile:
            context.load_cert_chain(certfile, keyfile)
        return context

    def _make(self, name: str, subject: str, extension: str = "") -> tuple[str, str]:
        certificate, key = str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key")
        command = [self._openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", subject, "-keyout", key, "-out", certificate]
        if extension:
            command += ["-CA", self.authority, "-CAkey", self._authority_key, "-addext", extension]
            command += ["-addext", "basicConstraints=critical,CA:FALSE"]
        else:
            command += ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]  # Python 3.13 trusts no authority without
        subprocess.run(command, check=True, capture_output=True)
        return certificate, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_it_serves_by_tls(registry: CollectorRegistry, certificates: Certificates, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text(Path(certificates.server).read_text() + Path(certificates.server_key).read_text())
    for files in ({"certfile": certificates.server, "keyfile": certificates.server_key}, {"certfile": str(both)}):
        with own_server(registry, **files) as port:
            assert fetch(port, context=certificates.trusting(), accept=OPENMETRICS)[0] == 200
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                fetch(port)  # in the clear


def test_clients_are_known_by_their_certificates(registry: CollectorRegistry, certificates: Certificates) -> None:
    with own_server(
        registry,
        certfile=certificates.server,
        keyfile=certificates.server_key,
        client_cafile=certificates.authority,
        client_auth_required=True,
    ) as port:
        known = certificates.trusting(certificates.client, certificates.client_key)
        assert fetch(port, context=known)[0] == 200
        for context in (
            certificates.trusting(),
            certificates.trusting(certificates.stranger, certificates.stranger_key),
        ):
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                fetch(port, context=context)


def test_versions_of_tls_can_be_bounded(registry: CollectorRegistry, certificates: Certificates) -> None:
    files = {"certfile": certificates.server, "keyfile": certificates.server_key}
    context = certificates.trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with own_server(registry, **files, tls_min_version=ssl.TLSVersion.TLSv1_3) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            fetch(port, context=context)
        assert fetch(port, context=certificates.trusting())[0] == 200
    with own_server(registry, **files, tls_max_version=ssl.TLSVersion.TLSv1_2) as port:
        assert fetch(port, context=context)[0] == 200


def test_files_that_cannot_be_loaded_are_named(registry: CollectorRegistry, certificates: Certificates) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.pem"):
        start_http_server(0, "127.0.0.1", registry, certfile="nowhere.pem")
    with pytest.raises(OSError, match="client.key"):
        start_http_server(0, "127.0.0.1", registry, certfile=certificates.server, keyfile=certificates.client_key)
    with pytest.raises(FileNotFoundError, match="nobody.pem"):
        start_http_server(
            0,
            "127.0.0.1",
            registry,
            certfile=certificates.server,
            keyfile=certificates.server_key,
            client_cafile="nobody.pem",
        )


@pytest.mark.parametrize("options", [{"keyfile": "x"}, {"client_cafile": "x"}, {"client_auth_required": True}])
def test_what_was_meant_for_tls_is_never_served_in_the_clear(
    registry: CollectorRegistry, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="certfile"):
        start_http_server(0, "127.0.0.1", registry, **options)


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
