"""Untrusted input in the amount that is asked for, and its figures."""

import argparse
import secrets
import tempfile
import time
from pathlib import Path

from tests.fuzz.campaign import HITS_TO_A_PAGE, HITS_TO_A_REGISTRY, run
from tests.fuzz.scraping import scrape


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="requests to send, in whole hundreds (%(default)s)")
    parser.add_argument("--pages", type=int, default=1_000, help="pages for Prometheus to scrape (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="that of a run to be repeated")
    arguments = parser.parse_args()
    if arguments.inputs < HITS_TO_A_REGISTRY or arguments.inputs % HITS_TO_A_REGISTRY:
        parser.error(f"--inputs is {arguments.inputs}: give a multiple of {HITS_TO_A_REGISTRY}")
    seed = arguments.seed if arguments.seed is not None else secrets.randbits(32)
    started = time.perf_counter()
    print(f"{seed:>12}  seed", flush=True)
    summary = run(arguments.inputs, min(arguments.pages, arguments.inputs // HITS_TO_A_PAGE), seed)
    print(summary, flush=True)
    with tempfile.TemporaryDirectory() as directory:
        scraped = scrape(summary.kept, Path(directory))
    print(scraped)
    print(f"{time.perf_counter() - started:>12,.0f}  seconds")
    if scraped.failed or scraped.miscounted or any(scraped.dropped.values()):
        raise SystemExit(f"{scraped.failed[:5]} {scraped.miscounted[:5]} {scraped.dropped}")


if __name__ == "__main__":
    main()
