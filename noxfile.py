"""The tests under every supported Python, and with the oldest supported frameworks; `make versions` runs them.

What they run against is what the Makefile has built: the wheel, in a tree that does not contain the package.
"""

from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = nox.project.python_versions(nox.project.load_toml(ROOT / "pyproject.toml"))

# pip cannot choose the lowest versions, uv can.
nox.options.default_venv_backend = "uv"
# An interpreter that is not there is skipped, or with CI set an error; none is fetched.
nox.options.download_python = "never"


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """With the newest of everything."""
    run_tests(session, ["--group", "dev"], [])


# The oldest Python, since what is as old as the oldest frameworks has no wheels for the newer ones.
@nox.session(python=PYTHONS[0])
def tests_oldest(session: nox.Session) -> None:
    """With the lower bound of everything that pyproject.toml names."""
    # What releases of years ago warn of is not mended any more. The demo, which is on the dashboards, has bounds of its
    # own, and nobody is measured by what was.
    others = [
        f"--ignore=tests/test_{name}.py" for name in ("bench", "compose", "dashboard_lint", "dashboards_asked", "demo")
    ]
    run_tests(session, ["--resolution=lowest-direct", "--group", "oldest"], ["-W", "default", *others])


def run_tests(session: nox.Session, requirements: list[str], arguments: list[str]) -> None:
    """Install *requirements* and the wheel, and run pytest with *arguments* and what is said after ``--``."""
    wheels = list((ROOT / "dist").glob("exemplars-*.whl"))
    if len(wheels) != 1:
        session.error("`make versions` builds the wheel first")
    session.install(*requirements, str(wheels[0]))
    session.chdir(ROOT / ".build")
    # The stack is for `make test-stack`: what is proven there does not hang on versions.
    session.run("python", "-m", "pytest", "--ignore=tests/stack", *arguments, *session.posargs)
