"""Writes the dashboards: `make dashboards`, or `python -m dashboards.build`.

The JSON beside this file is generated, committed and shipped; a test compares it with what the code here says.
"""

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from .overview import overview
from .pipeline import pipeline
from .route import route
from .slo import slo

HERE: Final = Path(__file__).parent
DASHBOARDS: Final = {"overview": overview, "pipeline": pipeline, "route": route, "slo": slo}


def files() -> dict[str, str]:
    """Every dashboard by its file's name, as it is to be committed."""
    encoder = JSONEncoder(indent=2, sort_keys=True)
    return {f"{name}.json": encoder.encode(build().build()) + "\n" for name, build in DASHBOARDS.items()}


def main() -> None:
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
