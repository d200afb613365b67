"""Real programs that tests run: where they are, and a Prometheus that scrapes what a test serves."""

import contextlib
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client import CollectorRegistry

import exemplars

T = TypeVar("T")
Answer = tuple[int, dict[str, str], bytes]  # status, headers by their names in lower case, body

PATIENCE: Final = 60.0  # seconds until a wait counts as failed; nothing is judged by how long it took

# For processes of their own: the package under test, wherever it is, and the tests.
PACKAGES: Final = (str(Path(exemplars.__file__).parent.parent), str(Path(__file__).parent.parent))

# For gunicorn, whose newer versions listen for orders.
NO_ORDERS: Final = ("--no-control-socket",) if tuple(map(int, version("gunicorn").split(".")[:2])) >= (25, 1) else ()


def program(name: str) -> str:
    """Its path. Without it the test is skipped; where `CI` is set, it fails."""
    path = shutil.which(name)
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed, and with CI set that is a failure")
    pytest.skip(f"{name} is not installed")


def eventually(ask: Callable[[], T | None], what: str, state: Callable[[], object] = str) -> T:
    """The first truthy answer; if none comes, a failure that shows *state*."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := ask()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE:.0f} s in vain for {what}: {state()}")
        time.sleep(0.05)
    return answer


@contextlib.contextmanager
def serving(name: str, arguments: Sequence[str], directory: Path, **environment: str) -> Iterator[str]:
    """Where a web server listens that logs it: `python -m` with *arguments*, which let the system pick a port.

    Its log and its home are in *directory*; it sees `tests` and `exemplars` as we do, and *environment*. Ended, and
    waited for, on leaving.
    """
    ours = {"PYTHONPATH": os.pathsep.join(PACKAGES), "HOME": str(directory), **environment}
    with listening(name, [sys.executable, "-m", *arguments], directory, ours) as url:
        yield url


@contextlib.contextmanager
def listening(name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The same of any *command*, which sees *environment* only."""
    log = directory / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=directory)

    def address() -> str | None:
        assert process.poll() is None, log.read_text()
        found = re.search(r"http://127\.0\.0\.1:[1-9]\d*", log.read_text())
        return found and found[0]

    try:
        yield eventually(address, f"{name} to listen", log.read_text)
    finally:
        process.terminate()
        process.wait(PATIENCE)
        print(log.read_text())  # pytest shows it where a test fails


@dataclass(frozen=True)
class Prometheus:
    """A running one; *url* without a slash at its end."""

    url: str

    def ask(self, path: str, **parameters: str | float) -> Any:
        """The `data` of an answer of `/api/v1/…`; what the server refuses is raised."""
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=PATIENCE) as response:
            return json.load(response)["data"]

    def exemplars(self, query: str, start: float, end: float) -> list[dict[str, Any]]:
        """What `query_exemplars` finds, as Grafana asks: of all series that *query* selects."""
        found = self.ask("query_exemplars", query=query, start=start, end=end)
        return [exemplar | {"series": series["seriesLabels"]} for series in found for exemplar in series["exemplars"]]

    def scraped(self, job: str, times: int = 1) -> None:
        """Wait for *times* more successful scrapes of *job*."""

        def successes() -> float:
            result = self.ask("query", query=f'sum_over_time(up{{job="{job}"}}[1h])')["result"]
            return float(result[0]["value"][1]) if result else 0.0

        goal = successes() + times
        eventually(lambda: successes() >= goal, f"{times} more scrapes of {job}", self.errors)

    def errors(self) -> list[str]:
        """What was wrong with the last scrape of each target, where something was."""
        return [target["lastError"] for target in self.ask("targets")["activeTargets"] if target["lastError"]]


@contextlib.contextmanager
def prometheus(directory: Path, config: dict[str, Any], *flags: str) -> Iterator[Prometheus]:
    """One with *config* and *flags* on a free port of 127.0.0.1; ended, and waited for, on leaving."""
    binary = program("prometheus")
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    command = [binary, f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}", *flags]
    process = subprocess.Popen(
        [*command, "--web.listen-address=127.0.0.1:0"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    log: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=log.extend, args=(process.stderr,))
    reader.start()

    def address() -> str | None:
        assert process.poll() is None, "".join(log)
        return next((found[1] for line in log if (found := re.search(r"Listening on.*address=(\S+)", line))), None)

    try:
        server = Prometheus(f"http://{eventually(address, 'the address of Prometheus', lambda: ''.join(log))}")
        eventually(lambda: "Server is ready" in "".join(log), "Prometheus to be ready", lambda: "".join(log))
        yield server
    finally:
        process.terminate()
        process.wait(PATIENCE)
        reader.join(PATIENCE)
        process.stderr.close()


def fetch(
    port: int, path: str = "/metrics", method: str = "GET", context: ssl.SSLContext | None = None, **headers: str
) -> Answer:
    """What a server of ours on *port* answers."""
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


@contextlib.contextmanager
def own_server(registry: CollectorRegistry, **options: Any) -> Iterator[int]:
    """The port of our own server."""
    server, thread = exemplars.start_http_server(0, "127.0.0.1", registry, **options)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)
