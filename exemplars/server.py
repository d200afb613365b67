"""`start_http_server`: the page on a port of its own, which the workers of a group serve together."""

import _thread
import errno
import logging
import os
import signal
import socket
import ssl
import time
from contextlib import ExitStack, suppress
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import REGISTRY, CollectorRegistry

from exemplars._lock import lock
from exemplars.endpoint import make_wsgi_app
from exemplars.store import group, ofd
from exemplars.store.port import Share

_MAX_SILENCE: Final = 30.0  # seconds that a client may keep a thread of `start_http_server` waiting
_CLOSING: Final = 1.0  # seconds that the kernel may need to close what a killed worker had open
_BIRTH: Final = 60.0  # seconds after which a forked process that is no worker yet will be none
_RETRY: Final = 5.0  # seconds between a worker's attempts to bind a port that others have

_log = logging.getLogger("exemplars")


def start_http_server(
    port: int,
    addr: str = "0.0.0.0",
    registry: CollectorRegistry = REGISTRY,
    certfile: str | None = None,
    keyfile: str | None = None,
    client_cafile: str | None = None,
    client_capath: str | None = None,
    protocol: int = ssl.PROTOCOL_TLS_SERVER,
    client_auth_required: bool = False,
    tls_min_version: ssl.TLSVersion | None = None,
    tls_max_version: ssl.TLSVersion | None = None,
) -> tuple[WSGIServer, Thread]:
    """Serve the page of *registry* on a port of its own, in daemon threads; return the server and its main thread.

    The arguments are prometheus_client's: with *certfile* (and *keyfile*, unless it holds both) by TLS, with
    *client_auth_required* only to clients whose certificate *client_cafile* or *client_capath* vouches for. Ended by
    ``server.shutdown()``, then ``server.server_close()``.

    Workers of one group serve the same port together, each of them answering for all: call it in each of them. Called
    in their master before the fork (gunicorn with ``--preload``, uWSGI without ``lazy-apps``), it binds nothing there,
    and every worker serves instead, on a thread of its own beside the one returned; the server returned ends it in the
    worker that asks for it, and in the master for all workers to come. What goes wrong in a worker is then logged as an
    error and tried again every few seconds. With port 0, every worker has a port of its own, which
    ``server.server_port`` tells in that worker. Where workers have no directory to share, one gets the port.

    Raises ``OSError`` when the port is taken, also by a server that would share it, or a file cannot be read, and
    ``ValueError`` for arguments of TLS without *certfile*, which would be served in the clear, and for a directory that
    is named in the environment and cannot be used.
    """
    context = None
    if certfile is not None:
        context = _tls(
            certfile,
            keyfile,
            client_cafile,
            client_capath,
            protocol,
            client_auth_required,
            tls_min_version,
            tls_max_version,
        )
    elif keyfile or client_cafile or client_capath or client_auth_required:
        raise ValueError("certfile is missing: without it the page would be served in the clear")
    server = _Server(addr, port, context)
    server.set_app(make_wsgi_app(registry))
    server.start()
    return server, server.thread


def _tls(
    certfile: str,
    keyfile: str | None,
    client_cafile: str | None,
    client_capath: str | None,
    protocol: int,
    client_auth_required: bool,
    tls_min_version: ssl.TLSVersion | None,
    tls_max_version: ssl.TLSVersion | None,
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    try:
        context.load_cert_chain(certfile, keyfile)
    except OSError as error:
        raise type(error)(f"cannot load certfile {certfile!r} with keyfile {keyfile!r}: {error}") from error
    if client_cafile is None and client_capath is None:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    else:
        try:
            context.load_verify_locations(client_cafile, client_capath)
        except OSError as error:
            files = f"client_cafile {client_cafile!r}, client_capath {client_capath!r}"
            raise type(error)(f"cannot load {files}: {error}") from error
    if client_auth_required:
        context.verify_mode = ssl.CERT_REQUIRED
    if tls_min_version is not None:
        context.minimum_version = tls_min_version
    if tls_max_version is not None:
        context.maximum_version = tls_max_version
    return context


class _Handler(WSGIRequestHandler):
    timeout = _MAX_SILENCE

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a scrape every few seconds is no news."""


class _Thread(Thread):
    def join(self, timeout: float | None = None) -> None:
        """Wait for its end; not where it was never started, as in a master of workers."""
        if self.ident is not None:
            super().join(timeout)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, so that a slow client keeps no other waiting, not even in its TLS handshake.

    A process forked from this one, which would have the socket but not the thread, closes the socket. If this one is
    the master of a group, its workers start instead.
    """

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # elsewhere that would share them too

    def __init__(self, addr: str, port: int, context: ssl.SSLContext | None) -> None:
        found = socket.getaddrinfo(addr, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, *_, (host, *_) = found[0]
        self._context = context
        super().__init__((str(host), port), _Handler, bind_and_activate=False)
        self.socket.close()  # forked processes would have the same one: each makes its own
        self.server_name, self.server_port = str(host), port
        self.thread: Final = _Thread(target=self.serve_forever, name="exemplars-metrics", daemon=True)
        self._share: Share | None = None
        self._serving = False
        self._ended = False
        self._master = 0  # pid of the process whose workers serve
        self._worker = 0  # pid of the worker that was told to

    def start(self) -> None:
        """Serve, or have workers do it. Raises ``OSError``."""
        with lock:
            _servers.add(self)
        if group.is_master():
            self._master = os.getpid()
            return
        try:
            self._bind()
        except BaseException:
            self.server_close()
            raise
        if self._may_serve():
            self.thread.start()

    def shutdown(self) -> None:
        with lock:
            self._ended = True
            serving = self._serving
        if serving:
            super().shutdown()

    def server_close(self) -> None:
        with lock:
            self._ended = True
            _servers.discard(self)
        super().server_close()
        if self._share is not None:
            self._share.close()

    def service_actions(self) -> None:
        if self._share is not None:
            self._share.look_after()

    def after_fork(self) -> None:
        """In a forked child: let go of what is the parent's. Opens nothing."""
        self.socket.close()
        if self._share is not None:
            self._share.close()
        self._serving = False
        if self._ended or self._worker == os.getpid() or self._master not in (os.getppid(), os.getpid()):
            return
        self._worker = os.getpid()
        # Not by `threading`, which waits for a thread to begin: with gevent, that would switch greenlets here. And no
        # other thread after this one: it would be a greenlet in it if gevent takes over when the worker begins.
        _thread.start_new_thread(self._serve_as_worker, (signal.getsignal(signal.SIGTERM),))

    def _serve_as_worker(self, masters_handler: object) -> None:
        """Serve in this process, once it is a worker."""
        try:
            if not self._becomes_worker(masters_handler):
                return
            said = False
            while not self._ended:
                try:
                    self._bind()
                    break
                except OSError as error:
                    if not said:
                        _log.error(
                            "this worker cannot serve the page on port %d, and tries again every %.0f s: %s",
                            self.server_port,
                            _RETRY,
                            error,
                        )
                        said = True
                time.sleep(_RETRY)
            if self._may_serve():
                self.serve_forever()
        except Exception:
            _log.exception("this worker cannot serve the page on port %d", self.server_port)

    def _becomes_worker(self, masters_handler: object) -> bool:
        """Wait until this process is a worker; whether it becomes one. Not all that a master forks is."""
        until = time.monotonic() + _BIRTH
        while not self._ended and time.monotonic() < until:
            # gunicorn's handles signals by itself only after it has become the user that it is to be.
            own_signals = not callable(masters_handler) or signal.getsignal(signal.SIGTERM) != masters_handler
            if own_signals and isinstance(group.find(), group.Group):
                return True
            time.sleep(0.02)
        return False

    def _bind(self) -> None:
        """Listen, in a worker beside its siblings. Raises ``OSError``."""
        found = group.find()
        if isinstance(found, str) or not self.server_port or not ofd.SUPPORTED:
            self._listen()
            return
        self._share = share = Share(found, str(self.server_address[0]), self.server_port)
        until = time.monotonic() + _CLOSING
        while True:
            try:
                self._listen_beside_siblings(share)
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() >= until:
                    raise
            time.sleep(0.05)

    def _listen_beside_siblings(self, share: Share) -> None:
        with ExitStack() as entered:
            try:
                siblings = entered.enter_context(share.joined())
            except OSError as error:
                try:
                    self._listen()
                except OSError as refused:
                    refused.add_note(f"The workers cannot share the port: {error}")
                    raise
            else:
                self._listen(siblings)

    def _listen(self, siblings: bool | None = None) -> None:
        """Listen for this process alone, or where there may be *siblings* that do; whether there are any is told."""
        self.socket.close()
        self.socket = socket.socket(self.address_family, self.socket_type)
        try:
            # Else Python's HTTP server shares ports in some versions: half of the scrapes would go to another process.
            self.allow_reuse_port = bool(siblings)
            self.server_bind()
            if siblings is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self.server_activate()
        except BaseException:
            self.socket.close()
            raise

    def _may_serve(self) -> bool:
        """Whether nobody has ended the server meanwhile; if not, `shutdown` waits for it from now on."""
        with lock:
            self._serving = not self._ended
        if not self._serving:
            self.server_close()
        return self._serving

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        # Python's HTTP server would ask DNS for the name, which may take its time; nothing here needs it.
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_MAX_SILENCE)
        with self._context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log for debugging only: port scanners and clients that went away are no news either."""
        _log.debug("a scrape from %s failed", client_address, exc_info=True)


# Those that are not closed; nobody may hold one whose thread runs in workers only.
_servers: Final[set[_Server]] = set()


def _after_fork() -> None:
    for server in list(_servers):
        with suppress(Exception):
            server.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
group.at_unhooked_fork(_after_fork)
