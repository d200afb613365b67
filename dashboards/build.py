"""Writes the dashboards: `make dashboards`, or `python -m dashboards.build`.

The JSON beside this file is generated, committed and shipped; a test compares it with what the code here says.
"""

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from .overview import overview

HERE: Final = Path(__file__).parent


def files() -> dict[str, str]:
    """Every dashboard by its file's name, as it is to be committed."""
    encoder = JSONEncoder(indent=2, sort_keys=True)
    return {"overview.json": encoder.encode(overview().build()) + "\n"}


def main() -> None:
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
