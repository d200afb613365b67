"""The command line."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Do what *argv* (default: the process's arguments) asks for and return the exit status.

    0: done; 1: it failed; 2: something is not installed; 130: interrupted before it began. Bad arguments raise
    ``SystemExit`` with 2, as ``argparse`` does.
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
    demo.add_argument("--seconds", type=_positive, help="end after that many; by default Ctrl-C ends it")
    demo.add_argument("--port", type=_port, default=0, help="of the shop's front on 127.0.0.1 (default: a free one)")
    demo.add_argument("--rate", type=_rate, default=20.0, help="requests a second outside spikes, up to 200 (20)")
    demo.add_argument("--seed", type=int, default=1, help="another number, other customers (1)")
    demo.set_defaults(command=_demo)

    dashboards = commands.add_parser("dashboards", help="write the Grafana dashboards into a directory")
    dashboards.add_argument("--output", type=Path, required=True, metavar="DIR", help="made where it does not exist")
    dashboards.set_defaults(command=_dashboards)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from exemplars import __version__

        print(f"exemplars {__version__}")
        parser.exit()


def _demo(arguments: argparse.Namespace) -> int:
    from exemplars.demo import missing

    if names := missing():
        print(
            f"exemplars demo is not complete here, {', '.join(names)} cannot be found:\n"
            "  pip install 'exemplars[demo]'",
            file=sys.stderr,
        )
        return 2
    from exemplars.demo.run import run

    return run(arguments.port, arguments.rate, arguments.seed, arguments.seconds)


def _dashboards(arguments: argparse.Namespace) -> int:
    here = Path(__file__).parent
    files = sorted((here / "dashboards").glob("*.json")) or sorted((here.parent / "dashboards").glob("*.json"))
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
        for file in files:
            print(shutil.copyfile(file, arguments.output / file.name))
    except OSError as error:
        print(f"exemplars dashboards: {error}", file=sys.stderr)
        return 1
    return 0


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _rate(text: str) -> float:
    number = _positive(text)
    if number > 200:
        raise argparse.ArgumentTypeError(f"{text} is above 200")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port")
    return number
