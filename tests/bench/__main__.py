"""`python -m tests.bench`: run the rows, print what they cost and keep it beside this file."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType

from opentelemetry import trace

# OpenTelemetry's instrumentation emits its stable metric names only when asked to, before it is made.
os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")

from . import asgi, observations, profiling, reading, readme, render, report, requests, served, workers, wsgi
from .result import ROWS, Cell, Row
from .spans import SAMPLED

HERE = Path(__file__).parent


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--row", action="append", choices=ROWS, help="only this row (may be given again)")
    parser.add_argument("--rounds", type=int, default=151, help="rounds for requests (%(default)s); pages take fewer")
    parser.add_argument("--block", type=int, default=180, help="requests in a row of one contender (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a smoke run: it proves everything but the speed")
    parser.add_argument("--output", type=Path, help="where the results go; a whole run keeps them beside the code")
    parser.add_argument("--reading", action="store_true", help="draw pages of many workers and series instead")
    parser.add_argument(
        "--profile", choices=("asgi", "wsgi", "render"), help="print where our time goes in this row instead"
    )
    return parser.parse_args(args)


def cells(rows: Sequence[Row], rounds: int, block: int) -> Iterator[Cell]:
    # First those that nothing else in this process may slow down.
    if "render" in rows:
        yield render.measure(max(rounds // 2, 1))
    modules: dict[Row, ModuleType] = {"asgi": asgi, "wsgi": wsgi}
    for row, module in modules.items():
        if row in rows:
            with closing(module.Interface()) as interface:
                for setting in requests.settings(module.APPS):
                    yield requests.measure(row, setting, interface, module.subjects, rounds, block)
    if "shared" in rows:
        yield observations.measure(rounds, block)
    if "workers" in rows or "loop" in rows:
        yield from workers.measure(rows, max(rounds // 5, 1))
    if "cpu" in rows:
        yield served.measure(2 * rounds, block // 2)


def main() -> None:
    args = arguments()
    trace.set_tracer_provider(SAMPLED)
    if args.profile:
        profiling.profile(args.profile)
        return
    if args.reading:
        load = os.getloadavg()[0]
        measured_points = []
        for point in reading.measure(reading.points(), reading.SCRAPES):
            measured_points.append(point)
            print(point, file=sys.stderr)
        reading.keep(measured_points, report.conditions(reading.SCRAPES, 0, load))
        return
    if args.quick:
        args.rounds, args.block = 3, 60
    rows: Sequence[Row] = args.row or list(ROWS)
    load = os.getloadavg()[0]
    measured = []
    for cell in cells(rows, args.rounds, args.block):
        measured.append(cell)
        print(f"{cell.row}: {report.place(cell)}", file=sys.stderr)
    under = report.conditions(args.rounds, args.block, load)
    page = report.as_markdown(measured, under)
    print(page)
    output = args.output or (HERE if len(rows) == len(ROWS) and not args.quick else None)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / "results.md").write_text(page)
        results = report.as_json(measured, under)
        (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        if output == HERE:
            readme.update(results)


if __name__ == "__main__":
    main()
