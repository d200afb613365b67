"""The README's examples run as they stand, and what it says of the commands is so."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.bench import readme

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)

# Asks the application of a snippet for a page inside a span, then for its metrics.
ASK = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

trace.set_tracer_provider(TracerProvider())
tracer = trace.get_tracer("snippet")

def ask(app, path):
    from tests.drivers import make_environ, make_scope, run_asgi, run_wsgi
    from exemplars.instrument import _speaks_asgi
    with tracer.start_as_current_span("request", kind=trace.SpanKind.SERVER):
        if hasattr(app, "wsgi_app") or not _speaks_asgi(app):
            return run_wsgi(app, make_environ(path)).status[:3]
        return run_asgi(app, make_scope(path)).status
"""
CHECK = """
from exemplars import render

served = globals().get("app", globals().get("application"))
if served is not None:
    path = "/items/1" if "items" in source else "/"
    print("status", ask(served, path))
    if "metrics_path=None" not in source:
        print("metrics", ask(served, "/metrics"))
page, _ = render(accept="application/openmetrics-text; version=1.0.0")
print("exemplars", page.count(b"# {"))
"""
DJANGO = """
import types
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
urls = types.ModuleType("urls")
urls.urlpatterns = [path("", lambda request: HttpResponse("hello"))]
sys.modules["urls"] = urls
settings.configure(ROOT_URLCONF="urls", ALLOWED_HOSTS=["*"], SECRET_KEY="x")
import django
django.setup()
"""


def _name(snippet: str) -> str:
    for word in ("tracing", "FastAPI", "Flask", "django", "CHECKOUT", "hello"):
        if word in snippet:
            return "port" if "start_http_server" in snippet else word
    raise AssertionError(f"no name for this snippet:\n{snippet}")


def test_every_framework_has_its_snippet() -> None:
    assert sorted(map(_name, SNIPPETS)) == sorted(
        ["FastAPI", "Flask", "django", "hello", "port", "CHECKOUT", "tracing"]
    )


@pytest.mark.parametrize("snippet", SNIPPETS, ids=_name)
def test_a_snippet_runs_unedited_and_its_metrics_have_exemplars(snippet: str, tmp_path: Path) -> None:
    program = ASK + (DJANGO if "django" in snippet else "")
    # The one change: a port that the system picks, for that of the text may be taken here.
    runnable = snippet.replace("9464", "0")
    span = "with tracer.start_as_current_span('own', kind=trace.SpanKind.SERVER):\n"
    program += span + textwrap.indent(runnable, "    ") if "CHECKOUT" in snippet else runnable
    program += f"\nsource = {snippet!r}\n" + CHECK
    script = tmp_path / "snippet.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split() for line in done.stdout.splitlines())
    assert int(said["exemplars"]) >= 1, done.stdout
    if "CHECKOUT" not in snippet:
        assert said["status"] == ("404" if _name(snippet) in ("port", "tracing") else "200")
        assert said.get("metrics", "200") == "200"


def test_the_test_command_is_the_one_that_ci_calls() -> None:
    assert "$ make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_figures_are_those_of_the_last_run_of_the_bench() -> None:
    results = json.loads((ROOT / "tests" / "bench" / "results.json").read_text())
    assert readme.quoted() == readme.quote(results)


def test_every_option_is_in_the_table() -> None:
    from exemplars import Options

    table = set(re.findall(r"^\| `([a-z_]+)` \|", README, re.M))
    assert {*Options.__annotations__, "metrics_path"} <= table


def test_the_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name} links to {link}"
