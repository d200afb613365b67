"""The documents' examples that only the stack's programs can run: a look-up in Tempo, and the syntax of Alloy."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

from tests.programs import PACKAGES, PATIENCE, eventually
from tests.stack.build import binary
from tests.stack.running import tempo

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
PAGE: Final = """
import runpy, sys
runpy.run_path(sys.argv[1], run_name="__main__")
from exemplars import render
print(render(accept="application/openmetrics-text; version=1.0.0")[0].decode())
"""


def run(*command: str, **environment: str) -> str:
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(PACKAGES), **environment}
    done = subprocess.run([sys.executable, *command], env=given, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def served(page: str) -> Iterator[str]:
    """Where *page* is to be had."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()


def test_a_dot_opens_by_its_id_and_that_of_a_lost_span_never_does(tmp_path: Path) -> None:
    with tempo(tmp_path) as traces:
        page = run("-c", PAGE, str(EXAMPLES / "unended.py"), OTEL_EXPORTER_OTLP_ENDPOINT=traces.otlp)
        found = re.findall(r'_bucket\{how="(\w+)".* # \{trace_id="(\w{32})"', page)
        ids = dict(found)
        assert ids.keys() == {"ended", "forgotten", "lost"}
        for there in ("ended", "forgotten"):
            eventually(partial(traces.trace, ids[there]), f"the trace of {there} to be there")
        with served(page) as url:
            said = run(str(EXAMPLES / "lookup.py"), url, traces.url)
        assert dict(line.split(" ", 1) for line in said.splitlines()) == {
            ids["ended"]: "is there",
            ids["forgotten"]: "is there",
            ids["lost"]: "is not there",
        }
        # A part of the trace, without the span that the dot is of.
        assert [span["name"] for span in traces.trace(ids["forgotten"])] == ["child"]


def test_alloy_reads_its_configuration() -> None:
    """By the parser that it uses itself; whether components and arguments are called so, it does not know."""
    file = EXAMPLES / "forwarding.alloy"
    parsed = subprocess.run([binary("alloysyntax"), file], capture_output=True, text=True, timeout=PATIENCE)
    assert parsed.returncode == 0, parsed.stderr
    components = dict(line.split() for line in parsed.stdout.splitlines())
    assert len(components) == 6
    # Whatever one hands on to is there.
    handed = re.findall(r"\[((?:prometheus|otelcol)\.[\w.]+)\.(?:receiver|input)\]", file.read_text())
    assert sorted(handed) == sorted(f"{name}.{label}" for name, label in components.items() if takes(name))


def takes(component: str) -> bool:
    return component not in ("prometheus.scrape", "otelcol.receiver.otlp")


def test_alloy_refuses_what_is_none(tmp_path: Path) -> None:
    broken = tmp_path / "broken.alloy"
    broken.write_text((EXAMPLES / "forwarding.alloy").read_text().replace("{", "", 1))
    parsed = subprocess.run([binary("alloysyntax"), broken], capture_output=True, text=True, timeout=PATIENCE)
    assert parsed.returncode == 1
    assert "broken.alloy:" in parsed.stderr
