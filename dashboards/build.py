"""Writes the dashboards: `make dashboards`, or `python -m dashboards.build`.

The JSON beside this file is generated, committed and shipped; a test compares it with what the code here says.
"""

import json
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from .overview import overview
from .pipeline import pipeline
from .route import route
from .slo import slo

HERE: Final = Path(__file__).parent
DASHBOARDS: Final = {"overview": overview, "pipeline": pipeline, "route": route, "slo": slo}


def files() -> dict[str, str]:
    """Every dashboard by its file's name, as it is to be committed."""
    return {f"{name}.json": encoded(build().build()) for name, build in DASHBOARDS.items()}


def encoded(board: Dashboard) -> str:
    text = json.loads(JSONEncoder().encode(board), object_hook=_in_sight)
    return json.dumps(text, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _in_sight(part: dict[str, Any]) -> dict[str, Any]:
    """The builder puts every link into a menu, where nobody sees it; without a place it stands at the top."""
    return {name: value for name, value in part.items() if (name, value) != ("placement", "inControlsMenu")}


def main() -> None:
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
