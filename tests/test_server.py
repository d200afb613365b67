"""`start_http_server`: the page on a port of its own, by TLS or in the clear."""

import http.client
import inspect
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry

from exemplars import Counter, Histogram, render, start_http_server
from tests.programs import PATIENCE, fetch, own_server, program

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry whose page changes only if something is observed."""
    registry = CollectorRegistry()
    Histogram("latency", "Time.", ["route"], registry=registry).labels("/a").observe(0.25, exemplar={"trace_id": "a"})
    Counter("jobs", "Jobs.", registry=registry).inc(2)
    return registry


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
