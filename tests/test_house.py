"""The house keeps its order: modules in layers, frameworks not imported, public names that are public on purpose."""

import ast
import importlib.metadata
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import exemplars

ROOT: Final = Path(exemplars.__file__).parent

# A module imports only from rows above its own. The numbers are those of the design; where a layer has two rows, the
# second is built on the first.
LAYERS: Final = (
    (1, ("_types", "_lock", "_json", "semconv", "policy")),
    (1, ("tallies",)),
    (1, ("faults",)),
    (2, ("options",)),
    (3, ("span", "store")),
    (4, ("metrics",)),
    (5, ("beside", "selfmetrics", "negotiation")),
    (5, ("exposition",)),
    (6, ("endpoint", "routes")),
    (6, ("server",)),
    (7, ("recorder",)),
    (8, ("asgi", "wsgi")),
    (9, ("instrument", "django", "tracing", "logs", "rules")),
    (10, ("demo",)),
    (11, ("cli",)),
)
ROW: Final = {module: row for row, (_, modules) in enumerate(LAYERS) for module in modules}

PUBLIC: Final = {
    "ASGIMiddleware",
    "Counter",
    "Gauge",
    "Histogram",
    "Options",
    "Policy",
    "WSGIMiddleware",
    "__version__",
    "instrument",
    "make_asgi_app",
    "make_wsgi_app",
    "render",
    "start_http_server",
}

# Modules that users import by name, with a public contract of their own.
PUBLIC_MODULES: Final = {"django", "logs", "tracing"}

FILES: Final = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}
MODULES: Final = [name for name in FILES if name != "__init__.py"]
SUBMODULES: Final = {module.name for module in pkgutil.iter_modules([str(ROOT)])}


def part(file: str) -> str:
    """The module or package of the house that *file* belongs to."""
    return file.partition("/")[0].removesuffix(".py")


def imports(node: ast.AST, *, lazy: bool = True) -> Iterator[tuple[str, str]]:
    """Modules that *node* imports, with the name taken from each, if one is.

    With *lazy* also inside functions, and what only a type checker imports.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield alias.name, ""
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                yield str(child.module), alias.name
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            if lazy:
                yield from imports(child)
        elif lazy or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imports(child, lazy=lazy)


def own(file: str) -> Iterator[str]:
    """The parts of the house that *file* imports from, ``""`` for the package's public names."""
    for module, name in imports(ast.parse(FILES[file].read_text())):
        top, _, rest = module.partition(".")
        if top != "exemplars":
            continue
        if rest:
            yield rest.partition(".")[0]
        elif name in SUBMODULES and not (part(file) in ("demo", "cli") and name in PUBLIC):
            yield name
        else:
            yield ""


def test_every_module_has_its_place_and_every_place_its_module() -> None:
    assert {part(file) for file in MODULES} == set(ROW)


@pytest.mark.parametrize("file", MODULES)
def test_a_module_imports_only_from_layers_above_its_own(file: str) -> None:
    place = part(file)
    for imported in own(file):
        if imported == "":
            assert place in ("demo", "cli"), "only programs use the public names"
        elif imported != place:
            assert ROW[imported] < ROW[place], f"{file} imports {imported}"


@pytest.mark.parametrize("file", [file for file in MODULES if part(file) == "demo"])
def test_the_demo_is_built_on_public_names_only(file: str) -> None:
    assert set(own(file)) <= {"", "demo", *PUBLIC_MODULES}


def test_the_command_line_imports_what_it_runs_when_it_runs_it() -> None:
    eager = imports(ast.parse(FILES["cli.py"].read_text()), lazy=False)

    assert not [module for module, _ in eager if module.partition(".")[0] not in sys.stdlib_module_names]


@pytest.mark.parametrize("file", [file for file in FILES if part(file) != "demo"])
def test_no_module_imports_a_framework_or_the_sdk_when_it_is_imported(file: str) -> None:
    for module, _ in imports(ast.parse(FILES[file].read_text()), lazy=False):
        top = module.partition(".")[0]
        assert (
            top in sys.stdlib_module_names
            or top in ("exemplars", "prometheus_client")
            or module.startswith(("opentelemetry.trace", "opentelemetry.context"))
            or module == "opentelemetry"
        ), f"{file} imports {module}"


def test_importing_it_imports_neither_a_framework_nor_the_sdk() -> None:
    modules = [f"exemplars.{part(file)}" for file in MODULES if part(file) != "demo"]
    script = f"import json, sys, exemplars, {', '.join(modules)}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    loaded = set(json.loads(done.stdout))

    assert "exemplars.django" in loaded
    unwanted = {
        *("starlette", "fastapi", "flask", "werkzeug", "django", "asgiref", "anyio", "trio", "gevent"),
        *("uvicorn", "gunicorn", "opentelemetry.sdk", "opentelemetry.instrumentation"),
    }
    assert not loaded & unwanted


def test_the_public_names_are_what_the_package_exports() -> None:
    assert exemplars.__all__ == sorted(exemplars.__all__)
    assert set(exemplars.__all__) == PUBLIC

    taken = {name for module, name in imports(ast.parse(FILES["__init__.py"].read_text())) if "exemplars" in module}
    assert taken | {"__version__"} == PUBLIC
    for name in PUBLIC - {"__version__"}:
        exported = getattr(exemplars, name)
        assert exported.__module__.startswith("exemplars."), name
        assert exported.__doc__, name


def test_the_version_is_that_of_the_distribution() -> None:
    try:
        version = importlib.metadata.version("exemplars")
    except importlib.metadata.PackageNotFoundError:
        if os.environ.get("CI"):
            raise
        pytest.skip("exemplars is not installed")

    assert exemplars.__version__ == version
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = exemplars.nonsense


def test_types_are_shipped() -> None:
    assert (ROOT / "py.typed").exists()
