"""The command line."""

import argparse
import math
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Do what *argv* (default: the process's arguments) asks for and return the exit status.

    0: done; 1: it failed; 2: something is not installed, or arguments do not fit each other; 130: interrupted before
    it began. Bad arguments raise ``SystemExit`` with 2, as ``argparse`` does.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="exemplars", description="Latency histograms whose buckets remember a trace.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show it and end")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser("demo", help="a small shop under load, its metrics and its newest exemplars")
    demo.add_argument(
        "--seconds", type=_number_in(0.1, 86_400, float), help="end after that many; by default Ctrl-C ends it"
    )
    demo.add_argument(
        "--port",
        type=_number_in(0, 65_535, int),
        default=0,
        help="of the shop's front on 127.0.0.1 (default: a free one)",
    )
    demo.add_argument(
        "--rate", type=_number_in(0.1, 200, float), default=15.0, help="requests a second outside spikes (15)"
    )
    demo.add_argument("--seed", type=int, default=1, help="another number, other customers (1)")
    demo.set_defaults(command=_demo)

    dashboards = commands.add_parser("dashboards", help="write the Grafana dashboards into a directory")
    dashboards.add_argument("--output", type=Path, required=True, metavar="DIR", help="made where it does not exist")
    dashboards.add_argument("--force", action="store_true", help="overwrite files that differ")
    dashboards.set_defaults(command=_dashboards)

    rules = commands.add_parser("rules", help="write recording rules and burn-rate alerts for Prometheus")
    rules.add_argument("--objective", metavar="PERCENT", help="of the requests do not fail, such as 99.9")
    rules.add_argument(
        "--latency",
        action="append",
        default=[],
        metavar="BOUND:PERCENT",
        help="0.25:99: 99%% of the requests take no longer than 0.25 s, which is a bucket's bound; may be repeated",
    )
    rules.add_argument("--buckets", metavar="BOUND,...", help="yours, in seconds, if they are not the default ones")
    rules.add_argument("--job", metavar="REGEX", help="services that promise this (default: all)")
    rules.add_argument(
        "--interval", type=_number_in(1, 240, int), metavar="SECONDS", help="between evaluations (default: 30)"
    )
    rules.add_argument(
        "--least-bad",
        type=_number_in(1, 1_000_000, int),
        metavar="NUMBER",
        help="of bad requests in an alert's long window, below which it does not fire (default: 5)",
    )
    rules.add_argument("--dashboard-url", metavar="URL", help="of Grafana, for the alerts' links")
    rules.add_argument(
        "--runbook-url", metavar="URL", help="whose headings are the alerts' names (default: docs/slo.md)"
    )
    rules.add_argument("--output", required=True, metavar="FILE", help="to write; -: standard output")
    rules.add_argument("--force", action="store_true", help="overwrite a file that differs")
    rules.set_defaults(command=_rules)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from exemplars import __version__

        print(f"exemplars {__version__}")
        parser.exit()


def _demo(arguments: argparse.Namespace) -> int:
    from exemplars.demo import missing

    if names := missing():
        text = f"exemplars demo is made of more than the library itself. Not installed: {', '.join(names)}."
        print(textwrap.fill(text, 80), "", "  pip install 'exemplars[demo]'", sep="\n", file=sys.stderr)
        return 2
    from exemplars.demo.run import run

    return run(arguments.port, arguments.rate, arguments.seed, arguments.seconds)


def _dashboards(arguments: argparse.Namespace) -> int:
    here = Path(__file__).parent
    # In the wheel they lie inside the package, in a checkout beside it.
    files = sorted((here / "dashboards").glob("*.json")) or sorted((here.parent / "dashboards").glob("*.json"))
    try:
        if not files:
            raise FileNotFoundError(f"no dashboard beside {here}: install the package again")
        for target, what in _copying(files, arguments.output, arguments.force):
            print(f"{target}: {what}")
    except OSError as error:
        print(f"exemplars dashboards: {error}", file=sys.stderr)
        return 1
    return 0


def _copying(files: Sequence[Path], directory: Path, force: bool) -> Iterator[tuple[Path, str]]:
    """Copy *files* into *directory*, which is made where it is missing, and tell of each what was done, once it is.

    Raises `FileExistsError`, before anything is written, when a file there differs, unless *force*; `OSError` for what
    cannot be read or written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    there = {file: _content(directory / file.name) for file in files}
    differing = [str(directory / file.name) for file in files if there[file] not in (None, file.read_bytes())]
    if differing and not force:
        others = f"{', '.join(differing)}: not overwritten, as what is there differs"
        raise FileExistsError(f"{others}. Give another --output, or --force to lose it")
    for file, old in there.items():
        target, new = directory / file.name, file.read_bytes()
        if old != new:
            target.write_bytes(new)
        yield target, "written" if old is None else "unchanged" if old == new else "overwritten"


def _rules(arguments: argparse.Namespace) -> int:
    from exemplars import rules

    options = ("job", "interval", "least_bad", "dashboard_url", "runbook_url")
    given = {name: getattr(arguments, name) for name in options if getattr(arguments, name) is not None}
    try:
        buckets = rules.DEFAULT_BUCKETS if arguments.buckets is None else rules.bounds(arguments.buckets)
        objectives = rules.Objectives(
            None if arguments.objective is None else rules.percent(arguments.objective),
            tuple(rules.latency(text, buckets) for text in arguments.latency),
            **given,
        )
    except ValueError as error:
        print(f"exemplars rules: {error}", file=sys.stderr)
        return 2
    for line in rules.out_of_reach(objectives):
        print(f"exemplars rules: {line}", file=sys.stderr)
    text = rules.text(objectives)
    if arguments.output == "-":
        print(text, end="")
        return 0
    try:
        print(f"{arguments.output}: {_put(Path(arguments.output), text.encode(), arguments.force)}")
    except OSError as error:
        print(f"exemplars rules: {error}", file=sys.stderr)
        return 1
    return 0


def _put(file: Path, new: bytes, force: bool) -> str:
    """Write *new* to *file* and return what was done. Raises `OSError`, for a file that differs unless *force*."""
    old = _content(file)
    if old == new:
        return "unchanged"
    if old is not None and not force:
        raise FileExistsError(f"{file}: not overwritten, as it differs. Give another --output, or --force to lose it")
    file.write_bytes(new)
    return "written" if old is None else "overwritten"


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _number_in(low: float, high: float, kind: type[int] | type[float]) -> Callable[[str], float]:
    """A reader of arguments for numbers from *low* to *high*."""

    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: give a number from {low:g} to {high:g}")
        return number

    return read
