"""The services of the shop that are not in Python, built from `compose/` and run here: payment (Go) and risk (Node)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.node import installed
from tests.programs import listening, program
from tests.stack import build

RISK: Final = build.ROOT / "compose" / "risk"


@contextlib.contextmanager
def payment(directory: Path, risk_url: str, **environment: str) -> Iterator[str]:
    """Where a payment service listens that asks risk at *risk_url*; its log is in *directory*. Ended on leaving."""
    ours = {"LISTEN_ADDRESS": "127.0.0.1:0", "RISK_URL": risk_url, **environment}
    with listening("payment", [str(build.binary("payment"))], directory, ours) as url:
        yield url


@contextlib.contextmanager
def risk(directory: Path, **environment: str) -> Iterator[str]:
    """Where a risk service listens; its log is in *directory*. Ended on leaving."""
    command = [program("node"), str(risk_with_packages() / "server.js")]
    with listening("risk", command, directory, {"LISTEN_ADDRESS": "127.0.0.1:0", **environment}) as url:
        yield url


def risk_with_packages() -> Path:
    """A copy of the risk service with the packages that its lock file names. Raises BuildError."""
    return installed(RISK)
