"""What `compose/` says of a service: its command and environment, with the variables of `.env` filled in."""

import re
from collections.abc import Sequence
from typing import Any, Final

import yaml

from tests.stack.build import ROOT

COMPOSE: Final = ROOT / "compose"
VARIABLES: Final = dict(
    line.split("=", 1) for line in (COMPOSE / ".env").read_text().splitlines() if line and not line.startswith("#")
)


def services(*overrides: str) -> dict[str, Any]:
    """The services of `compose.yaml`, with *overrides* laid over them as `docker compose -f … -f …` does."""
    merged: dict[str, Any] = {}
    for name in ("compose.yaml", *overrides):
        for service, said in yaml.safe_load(filled((COMPOSE / name).read_text()))["services"].items():
            merged[service] = over(merged.get(service, {}), said)
    return merged


def over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One service over another: mappings are merged, volumes by where they are mounted; of the rest the last wins."""
    merged = below | above
    for key in ("environment", "depends_on"):
        if key in below and key in above:
            merged[key] = below[key] | above[key]
    if "volumes" in below and "volumes" in above:
        merged["volumes"] = list(
            {volume.split(":")[1]: volume for volume in (*below["volumes"], *above["volumes"])}.values()
        )
    return merged


def filled(text: str) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: VARIABLES[found[1]], text)


def command(service: dict[str, Any]) -> Sequence[str]:
    """Its flags, in which files of `compose/` have taken the place of where they are mounted."""
    flags: list[str] = list(service["command"])
    for volume in service["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            flags = [flag.replace(f"={target}", f"={COMPOSE / source}") for flag in flags]
    return flags


def environment(service: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items()}
