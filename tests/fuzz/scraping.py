"""Pages served to a real Prometheus, each as a target of its own, and what it made of them."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from tests.fuzz.campaign import OPENMETRICS, Page
from tests.programs import PATIENCE, Prometheus, eventually, prometheus

# What a scrape that counts as successful may yet have dropped.
_DROPPED: Final = (
    "prometheus_target_scrapes_sample_duplicate_timestamp_total",
    "prometheus_target_scrapes_sample_out_of_order_total",
    "prometheus_target_scrapes_sample_out_of_bounds_total",
    "prometheus_target_scrapes_exemplar_out_of_order_total",
    "prometheus_tsdb_exemplar_out_of_order_exemplars_total",
)


@dataclass(frozen=True)
class Scraped:
    """What Prometheus made of the pages."""

    pages: int
    failed: list[str]  # the error of every scrape that failed
    miscounted: list[str]  # pages in which it found another number of samples than prometheus_client did
    samples: int
    exemplars: int
    dropped: dict[str, float]
    version: str

    def __str__(self) -> str:
        figures = {
            f"pages scraped by Prometheus {self.version}": self.pages,
            "failed scrapes": len(self.failed),
            "pages read otherwise than by prometheus_client": len(self.miscounted),
            "samples scraped": self.samples,
            "exemplars stored": self.exemplars,
            "samples and exemplars dropped": round(sum(self.dropped.values())),
        }
        return "\n".join(f"{value:>12,}  {name}" for name, value in figures.items())


@contextmanager
def served(pages: Sequence[Page]) -> Iterator[str]:
    """The address at which ``/0``, ``/1`` and so on are *pages*."""

    class Handler(BaseHTTPRequestHandler):
        # HTTP/1.0, which closes every connection: a thousand targets would keep a thousand open.
        def do_GET(self) -> None:
            page = pages[int(self.path[1:])]
            self.send_response(200)
            self.send_header("Content-Type", OPENMETRICS)
            self.end_headers()
            self.wfile.write(page.body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 1024

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def scrape(pages: Sequence[Page], directory: Path) -> Scraped:
    """Let a Prometheus that works in *directory* scrape every one of *pages*."""
    with served(pages) as address:
        targets = [
            {"targets": [address], "labels": {"__metrics_path__": f"/{number}", "page": str(number)}}
            for number in range(len(pages))
        ]
        config = {
            "global": {"scrape_interval": "10s", "scrape_timeout": "10s"},
            "scrape_configs": [{"job_name": "fuzz", "static_configs": targets}],
        }
        with prometheus(directory, config, "--enable-feature=exemplar-storage") as server:
            eventually(lambda: one(server, "count(up)") == len(pages), f"{len(pages)} pages to be scraped")
            found = {
                sample["metric"]["page"]: float(sample["value"][1])
                for sample in server.ask("query", query="max_over_time(scrape_samples_scraped[1h])")["result"]
            }
            failed = server.errors()
            failed += ["down"] * round(one(server, "count(min_over_time(up[1h]) < 1)") - len(failed))
            own = figures(server)
            return Scraped(
                pages=len(pages),
                failed=failed,
                miscounted=[number for number, samples in found.items() if samples != pages[int(number)].samples],
                samples=round(sum(found.values())),
                exemplars=round(own["prometheus_tsdb_exemplar_exemplars_appended_total"]),
                dropped={name: own.get(name, 0.0) for name in _DROPPED},
                version=server.ask("status/buildinfo")["version"],
            )


def one(server: Prometheus, query: str) -> float:
    """The value of a query with one result; 0 without any."""
    result = server.ask("query", query=query)["result"]
    return float(result[0]["value"][1]) if result else 0.0


def figures(server: Prometheus) -> dict[str, float]:
    """What Prometheus says of itself, as far as it needs no labels."""
    with urlopen(server.url + "/metrics", timeout=PATIENCE) as response:
        page = response.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", page, re.MULTILINE)}
