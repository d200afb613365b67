"""The programs of `compose/` without Docker: its own files, flags and variables; only addresses and paths differ.

    with tempo(directory) as traces, loki(directory) as logs:
        with collector(directory, tempo=traces, loki=logs, DECISION_WAIT="5s") as spans:
            ...  # send to spans.otlp
            spans.stop(signal.SIGKILL)
            spans.start()  # where it was before

What a program gets is read from `compose.yaml` and `.env`: its command, its environment, and which files are mounted.
Everything listens on 127.0.0.1, and is ended by its own pid on leaving.
"""

import base64
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlencode

import yaml

from tests import programs
from tests.stack import composed
from tests.stack.build import binary
from tests.stack.process import HOST, SOON, Program, started, text

NOWHERE: Final = f"http://{HOST}:9"  # the port for discarding, where nobody listens


class Service(Program):
    """A service of `compose/`, whose environment is overridden by *variables*."""

    def __init__(self, name: str, directory: Path, service: dict[str, Any], variables: Mapping[str, str]) -> None:
        super().__init__(name, directory)
        self._service = service
        self._variables = variables

    def flags(self) -> Sequence[str]:
        return composed.command(self._service)

    def environment(self) -> Mapping[str, str]:
        return {**composed.environment(self._service), **self.addresses(), **self._variables}

    def addresses(self) -> Mapping[str, str]:
        return {}


class Tempo(Service):
    """It takes spans at *otlp* and answers at *url*."""

    names = ("HTTP", "GRPC", "GOSSIP", "OTLP")

    @property
    def url(self) -> str:
        return f"http://{self.address('HTTP')}"

    @property
    def otlp(self) -> str:
        return f"http://{self.address('OTLP')}"

    def command(self) -> Sequence[str]:
        return [str(binary("tempo")), *self.flags()]

    def addresses(self) -> Mapping[str, str]:
        ports = {f"TEMPO_{name}_PORT": str(self.ports[name]) for name in ("HTTP", "GRPC", "GOSSIP")}
        return {
            "TEMPO_HOST": HOST,
            "TEMPO_OTLP_ADDRESS": self.address("OTLP"),
            "TEMPO_DIR": str(self.directory),
            **ports,
        }

    def ready(self) -> bool:
        """Its /ready waits 15 s longer, for a ring of several."""
        states = re.findall(r"(?m)^\| [a-z-]+ +\| +(\w+)", text(f"{self.url}/status/services", timeout=SOON))
        return set(states) == {"Running"} and '"ACTIVE"' in text(f"{self.url}/ingester/ring", "application/json", SOON)

    def done(self) -> bool:
        """Tempo of 2024 waits forever for its query queues to be gone, once it was asked for something."""
        return 'msg="module stopped" module=ingester' in self.said()

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace, each with its `service`, its attributes as a plain `attributes` and ids in hex."""
        try:
            found = json.loads(text(f"{self.url}/api/traces/{trace_id}", "application/json"))
        except HTTPError as error:
            if error.code == 404:
                return []
            raise
        return [
            span
            | {
                "service": plain(batch["resource"].get("attributes", ())).get("service.name", ""),
                "attributes": plain(span.get("attributes", ())),
                "spanId": base64.b64decode(span["spanId"]).hex(),
                "parentSpanId": base64.b64decode(span.get("parentSpanId", "")).hex(),
            }
            for batch in found["batches"]
            for scope in batch["scopeSpans"]
            for span in scope["spans"]
        ]


class Loki(Service):
    """It answers at *url*, and takes logs there too."""

    names = ("HTTP", "GRPC")

    @property
    def url(self) -> str:
        return f"http://{self.address('HTTP')}"

    def command(self) -> Sequence[str]:
        return [str(binary("loki")), *self.flags()]

    def addresses(self) -> Mapping[str, str]:
        ports = {f"LOKI_{name}_PORT": str(self.ports[name]) for name in self.names}
        return {"LOKI_HOST": HOST, "LOKI_DIR": str(self.directory), **ports}

    def ready(self) -> bool:
        """Its /ready waits 15 s longer, for a ring of several."""
        states = re.findall(r"(?m)^[a-z-]+ => (\w+)", text(f"{self.url}/services", timeout=SOON))
        return set(states) == {"Running"} and '"ACTIVE"' in text(f"{self.url}/ring", "application/json", SOON)

    def lines(self, query: str, start: float, end: float) -> list[dict[str, Any]]:
        """What *query* finds between two times in seconds: `labels` (those beside the line, too), `time` and `line`."""
        span = {"query": query, "start": int(start * 1e9), "end": int(end * 1e9), "limit": 5000}
        found = json.loads(text(f"{self.url}/loki/api/v1/query_range?{urlencode(span)}"))["data"]["result"]
        return [
            {"labels": stream["stream"], "time": int(at) / 1e9, "line": line}
            for stream in found
            for at, line in stream["values"]
        ]


class Collector(Service):
    """It takes spans at *otlp* (HTTP) and *grpc*; its own metrics and those it counts from spans are pages."""

    names = ("GRPC", "HTTP", "OWN", "SPANS", "HEALTH")

    @property
    def otlp(self) -> str:
        return f"http://{self.address('HTTP')}"

    @property
    def grpc(self) -> str:
        return self.address("GRPC")

    def command(self) -> Sequence[str]:
        return [str(binary("otelcol")), *self.flags()]

    def addresses(self) -> Mapping[str, str]:
        return {
            "OTLP_GRPC_ADDRESS": self.address("GRPC"),
            "OTLP_HTTP_ADDRESS": self.address("HTTP"),
            "SPAN_METRICS_ADDRESS": self.address("SPANS"),
            "HEALTH_ADDRESS": self.address("HEALTH"),
            "OWN_METRICS_HOST": HOST,
            "OWN_METRICS_PORT": str(self.ports["OWN"]),
            "LOG_OFFSETS_DIR": str(self.directory / "offsets"),
        }

    def ready(self) -> bool:
        return bool(text(f"http://{self.address('HEALTH')}/", timeout=SOON))

    def decided(self) -> dict[str, float]:
        """How many traces it has kept ("true") and how many not ("false") since it was started."""
        pattern = r'(?m)^otelcol_processor_tail_sampling_global_count_traces_sampled\w*{.*sampled="(\w+)".*} (\S+)$'
        return {sampled: float(count) for sampled, count in re.findall(pattern, self.own_metrics())}

    def own_metrics(self) -> str:
        return text(f"http://{self.address('OWN')}/metrics")

    def span_metrics(self) -> str:
        return text(f"http://{self.address('SPANS')}/metrics", "application/openmetrics-text")


class Prometheus(Service):
    """It scrapes *targets*, addresses by job, with the configuration and the rules of `compose/`."""

    names = ("HTTP",)

    def __init__(
        self, directory: Path, service: dict[str, Any], targets: Mapping[str, Sequence[str]], flags: Sequence[str]
    ) -> None:
        super().__init__("prometheus", directory, service, {})
        self._more = flags
        rules = composed.COMPOSE / "rules"
        shutil.copytree(rules, self.directory / "rules") if rules.exists() else None
        shutil.copy(composed.COMPOSE / "prometheus.yml", self.directory)
        self.aim(targets)

    @property
    def server(self) -> programs.Prometheus:
        """What there is to ask it."""
        return programs.Prometheus(f"http://{self.address('HTTP')}")

    def aim(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Scrape other *targets* from now on; a running one sees it within seconds."""
        listed = [{"targets": list(addresses), "labels": {"job": job}} for job, addresses in targets.items()]
        file = self.directory / "targets.new"
        file.write_text(yaml.safe_dump(listed))
        file.rename(self.directory / "targets.yml")

    def command(self) -> Sequence[str]:
        ours = ("--config.file=", "--storage.tsdb.path=")
        return [
            str(binary("prometheus")),
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={self.address('HTTP')}",
            *(flag for flag in self.flags() if not flag.startswith(ours)),
            *self._more,
        ]

    def ready(self) -> bool:
        return bool(text(f"{self.server.url}/-/ready", timeout=SOON))


def tempo(directory: Path, *overrides: str, **variables: str) -> AbstractContextManager[Tempo]:
    return started(Tempo("tempo", directory, composed.services(*overrides)["tempo"], variables))


def loki(directory: Path, *overrides: str, **variables: str) -> AbstractContextManager[Loki]:
    return started(Loki("loki", directory, composed.services(*overrides)["loki"], variables))


def collector(
    directory: Path,
    tempo: Tempo | None = None,
    loki: Loki | None = None,
    logs: Path | None = None,
    name: str = "otel-collector",
    **variables: str,
) -> AbstractContextManager[Collector]:
    """One that sends to *tempo* and *loki* what comes to it and what is in the files of *logs*.

    Without one of them what it is for goes nowhere. *variables* are those of its files: DECISION_WAIT, BASE_PERCENT, …
    With a *name* that only `compose.two-tier.yaml` has, it is of the second tier.
    """
    given = {
        "TEMPO_OTLP_ENDPOINT": tempo.otlp if tempo else NOWHERE,
        "LOKI_OTLP_ENDPOINT": f"{loki.url}/otlp" if loki else NOWHERE,
        "LOG_DIR": str(logs or directory / "no-logs"),
    }
    services = composed.services()
    service = services[name] if name in services else composed.services("compose.two-tier.yaml")[name]
    return started(Collector(name, directory, service, given | variables))


def first_tier(
    directory: Path, a: Collector, b: Collector, loki: Loki | None = None, logs: Path | None = None, **variables: str
) -> AbstractContextManager[Collector]:
    """The Collector of `compose.two-tier.yaml` that distributes to *a* and *b*."""
    given = {
        "SECOND_TIER_A": a.grpc,
        "SECOND_TIER_B": b.grpc,
        "LOKI_OTLP_ENDPOINT": f"{loki.url}/otlp" if loki else NOWHERE,
        "LOG_DIR": str(logs or directory / "no-logs"),
    }
    service = composed.services("compose.two-tier.yaml")["otel-collector"]
    return started(Collector("otel-first-tier", directory, service, given | variables))


def prometheus(
    directory: Path, targets: Mapping[str, Sequence[str]], *flags: str
) -> AbstractContextManager[Prometheus]:
    """One that scrapes *targets*, addresses by job; *flags* are added to those it has in `compose/`."""
    return started(Prometheus(directory, composed.services()["prometheus"], targets, flags))


def plain(attributes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """OTLP's list of attributes as a mapping."""
    return {a["key"]: next(iter(a["value"].values()), None) for a in attributes}
