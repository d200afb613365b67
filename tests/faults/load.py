"""Clients that ask a server without pause, know each request's trace, and remember how each ended."""

import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from tests.faults.app import ROUTES, WORKER

AT_ONCE: Final = 8
_TIMEOUT: Final = 30.0  # seconds
_LONG: Final = 150  # characters of the label of a series, so that a few hundred need room
_UNTRACED: Final = 5  # each request of this number in turn bears no trace


class Request(NamedTuple):
    """One request. Moments are seconds of the monotonic clock; *worker* and *status* are 0 where none answered."""

    number: int
    route: str
    started: float
    ended: float
    worker: int
    status: int

    @property
    def completed(self) -> bool:
        """Whether all of the response came, and the server closed the connection."""
        return self.status != 0


class Load:
    """Requests to *address*, numbered from 1; the number tells route, trace and span.

    *series* is how many series of the application's own counter the requests spread over, which may be changed.
    """

    def __init__(self, host: str, port: int, *, pause: float = 0.0, series: int = 1) -> None:
        self._address = host, port
        self._pause = pause
        self.series = series
        self.query = ""  # what the application is asked for besides, which may be changed
        self.handled: Counter[str] = Counter()  # requests by series of that counter
        self._run = secrets.randbits(63) | 1
        self._numbering = threading.Lock()
        self._stop = threading.Event()
        self.requests: list[Request] = []  # appending is atomic
        self.seen: set[int] = set()  # pids of workers that have answered
        self.issued = 0

    def route(self, number: int) -> str:
        return ROUTES[number % len(ROUTES)]

    def is_traced(self, number: int) -> bool:
        return number % _UNTRACED != 0

    def trace(self, number: int) -> tuple[str, str]:
        """Trace id and span id of the request of this number."""
        return f"{self._run:016x}{number:016x}", f"{number ^ self._run:016x}"

    def number(self, trace_id: str, span_id: str) -> int | None:
        """The number of the request with this trace, if it was handed out; else ``None``."""
        try:
            number = int(trace_id[16:], 16)
        except ValueError:
            return None
        known = 0 < number <= self.issued and self.is_traced(number) and self.trace(number) == (trace_id, span_id)
        return number if known else None

    def ask(self, *, route: str = "") -> Request:
        """Send the next request and remember how it ended; to *route*, without a trace, if given."""
        with self._numbering:
            self.issued = number = self.issued + 1
            series = f"{number % self.series:x<{_LONG}}" if self.series > 1 else ""
            self.handled[series] += 1
        traced = self.is_traced(number) and not route
        route = route or self.route(number)
        head = f"GET {route}?series={series}&{self.query} HTTP/1.1\r\nHost: campaign\r\nConnection: close\r\n"
        if traced:
            head += "traceparent: 00-{}-{}-01\r\n".format(*self.trace(number))
        started = time.monotonic()
        worker, status = exchange(self._address, head.encode() + b"\r\n")
        request = Request(number, route, started, time.monotonic(), worker, status)
        self.requests.append(request)
        if worker:
            self.seen.add(worker)
        return request

    def _client(self) -> None:
        while not self._stop.is_set():
            if not self.ask().completed:
                time.sleep(0.02)  # nobody there
            if self._pause:
                time.sleep(self._pause)

    @contextmanager
    def going_on(self, at_once: int = AT_ONCE) -> Iterator[None]:
        """Requests by *at_once* clients as long as this lasts; each is waited for."""
        clients = [threading.Thread(target=self._client) for _ in range(at_once)]
        self._stop.clear()
        for client in clients:
            client.start()
        try:
            yield
        finally:
            self._stop.set()
            for client in clients:
                client.join()


def exchange(address: tuple[str, int], request: bytes) -> tuple[int, int]:
    """Worker and status of the response to *request*, read to the end of the connection; zeros if it is not whole."""
    received = bytearray()
    try:
        with socket.create_connection(address, _TIMEOUT) as connection:
            connection.sendall(request)
            while part := connection.recv(65536):
                received += part
    except OSError:
        return 0, 0
    head, separator, body = bytes(received).partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if not separator or len(body) != int(headers.get("content-length", -1)):
        return 0, 0
    return int(headers.get(WORKER, 0)), int(status_line.split()[1])
