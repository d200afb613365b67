"""The compose files: by schema, against each other, and as far as their programs are here by running them.

There is no container engine in these tests. What the images do with the files of Tempo and Grafana is not covered.
"""

import re
import shlex
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest
import yaml

import exemplars
from exemplars import semconv

from .programs import PATIENCE, eventually, program, prometheus, serving

ROOT: Final = Path(__file__).parent.parent
COMPOSE: Final = ROOT / "compose"


def read(name: str) -> Any:
    return yaml.safe_load((COMPOSE / name).read_text())


ENVIRONMENT: Final = dict(
    line.split("=", 1) for line in (COMPOSE / ".env").read_text().splitlines() if line and not line.startswith("#")
)
SERVICES: Final[dict[str, Any]] = read("compose.yaml")["services"]
# The package under test, wherever it is.
IMPORTS: Final = {"PYTHONPATH": str(Path(exemplars.__file__).parent.parent)}


def filled(text: str) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: ENVIRONMENT[found[1]], text)


def command(service: str) -> list[str]:
    given = SERVICES[service]["command"]
    return shlex.split(given) if isinstance(given, str) else list(given)


def mounts(service: str) -> dict[str, str]:
    """Where in the container, and what file or volume."""
    return {target: source for source, target, *_ in (volume.split(":") for volume in SERVICES[service]["volumes"])}


# The compose file


def test_compose_file_is_valid() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*checker, str(COMPOSE / "compose.yaml")], check=True)


def test_env_gives_every_variable_and_no_other() -> None:
    asked = set(re.findall(r"\$\{(\w+)\}", (COMPOSE / "compose.yaml").read_text()))
    assert asked == set(ENVIRONMENT)


@pytest.mark.parametrize("service", SERVICES)
def test_images_are_pinned(service: str) -> None:
    """To a version with three numbers, or built from here on one."""
    if "build" in SERVICES[service]:
        assert "FROM python:${PYTHON_VERSION}-" in (COMPOSE / "Dockerfile").read_text()
        image = filled(SERVICES[service]["build"]["args"]["PYTHON_VERSION"])
    else:
        image = filled(SERVICES[service]["image"])
    assert re.search(r"(^|:v?)\d+\.\d+\.\d+$", image), image


@pytest.mark.parametrize("service", SERVICES)
def test_services_are_bounded_and_seen_from_this_machine_only(service: str) -> None:
    assert SERVICES[service]["mem_limit"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service].get("ports", ()))
    # Who only sends requests has nothing to be asked for.
    assert ("healthcheck" in SERVICES[service]) is (service != "customers")


@pytest.mark.parametrize("service", SERVICES)
def test_mounted_files_exist_and_cannot_be_written(service: str) -> None:
    for volume in SERVICES[service].get("volumes", ()):
        source, _, *mode = volume.split(":")
        if source.startswith("."):
            assert (COMPOSE / source).exists()
            assert mode == ["ro"]
        else:
            assert source in read("compose.yaml")["volumes"]


def test_the_image_of_the_shop_gets_what_the_wheel_is_built_from() -> None:
    """An ignore file lets nothing pass but what it names, and that is here."""
    lines = (COMPOSE / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    named = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert named == {"exemplars", "dashboards/*.json", "pyproject.toml", "README.md", "LICENSE"}
    assert all(list(ROOT.glob(name)) for name in named - {"exemplars"})


# Files against each other


def test_every_part_of_the_shop_is_scraped_by_its_name_in_traces() -> None:
    """The dashboard's links into Tempo take a job to be named as its service."""
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in read("prometheus.yml")["scrape_configs"]}
    served = {name for name, service in SERVICES.items() if "OTEL_SERVICE_NAME" in service.get("environment", {})}
    assert set(jobs) == served == {"front", "stock"}
    for name in served:
        assert SERVICES[name]["environment"]["OTEL_SERVICE_NAME"] == name
        assert jobs[name] == [f"{name}:8000"]
        assert "8000" in re.split(r"[ :]", SERVICES[name]["command"])


def test_hosts_and_ports_lead_somewhere() -> None:
    tempo = read("tempo.yaml")
    listening = {
        "front": {8000},
        "stock": {8000},
        "prometheus": {9090},
        "tempo": {
            tempo["server"]["http_listen_port"],
            int(tempo["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"].split(":")[1]),
        },
        "grafana": {3000},
    }
    named = "\n".join((COMPOSE / file).read_text() for file in ("compose.yaml", "grafana/datasources.yaml"))
    addresses = set(re.findall(r"http://([a-z]+):(\d+)", named))
    assert addresses
    for host, port in addresses:
        assert int(port) in listening[host]
    for name, service in SERVICES.items():
        for published in service.get("ports", ()):
            assert int(published.split(":")[-1]) in listening[name]


def test_a_dot_opens_its_trace() -> None:
    """The link's name is the exemplar's label, and it leads to the Tempo that the spans are sent to."""
    sources = {source["uid"]: source for source in read("grafana/datasources.yaml")["datasources"]}
    (link,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert link["name"] == semconv.TRACE_ID
    assert sources[link["datasourceUid"]]["type"] == "tempo"
    assert sources["tempo"]["jsonData"]["tracesToMetrics"]["datasourceUid"] in sources
    tempo = re.sub(r":\d+$", "", sources["tempo"]["url"])
    for name in ("front", "stock"):
        assert re.sub(r":\d+$", "", SERVICES[name]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]) == tempo


def test_from_a_trace_back_to_metrics_that_exist() -> None:
    sources = {source["uid"]: source for source in read("grafana/datasources.yaml")["datasources"]}
    back = sources["tempo"]["jsonData"]["tracesToMetrics"]
    assert {tag["value"] for tag in back["tags"]} == {"job", semconv.ROUTE}
    for query in back["queries"]:
        assert set(re.findall(r"(\w+)\{", query["query"])) <= {
            f"{semconv.DURATION}_{end}" for end in ("bucket", "count")
        }
        assert "{$$__tags}" in query["query"], "a single dollar sign is eaten when Grafana reads the file"


def test_grafana_finds_its_files() -> None:
    (provider,) = read("grafana/dashboards.yaml")["providers"]
    folder = mounts("grafana")[provider["options"]["path"]]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (COMPOSE / folder / Path(home).relative_to(provider["options"]["path"])).is_file()
    provisioned = [target for target in mounts("grafana") if target.startswith("/etc/grafana/provisioning/")]
    assert {Path(target).parent.name for target in provisioned} == {"datasources", "dashboards"}


def test_the_scrape_interval_is_what_grafana_takes_it_for() -> None:
    source = read("grafana/datasources.yaml")["datasources"][0]
    assert source["jsonData"]["timeInterval"] == read("prometheus.yml")["global"]["scrape_interval"]


@pytest.mark.parametrize("service", ["prometheus", "tempo"])
def test_the_configuration_named_is_the_one_mounted(service: str) -> None:
    (flag,) = (flag for flag in command(service) if "config.file=" in flag)
    assert (COMPOSE / mounts(service)[flag.split("=")[1]]).is_file()


# The programs themselves


def test_prometheus_takes_its_configuration() -> None:
    subprocess.run([program("promtool"), "check", "config", str(COMPOSE / "prometheus.yml")], check=True)


def served(service: str, directory: Path, **environment: str) -> AbstractContextManager[str]:
    """Where it listens: its own command, but on a port of 127.0.0.1 that the system picks."""
    arguments = [
        re.sub(r"^8000$", "0", argument.replace("0.0.0.0:8000", "127.0.0.1:0").replace("0.0.0.0", "127.0.0.1"))
        for argument in command(service)
    ]
    return serving(service, arguments, directory, OTEL_SERVICE_NAME=service, **environment)


def test_the_shop_is_scraped_and_its_dots_are_kept(tmp_path: Path) -> None:
    """Its own commands, Prometheus's own configuration and flags; only addresses and places of files are others."""
    config = read("prometheus.yml")
    flags = [flag for flag in command("prometheus") if not re.match(r"--(config\.file|storage\.tsdb\.path)=", flag)]
    customers = command("customers")
    assert customers[:4] == ["python", "-m", "exemplars.demo.load", "http://front:8000"]
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    start = time.time() - 1
    with ExitStack() as stack:
        stock = stack.enter_context(served("stock", tmp_path))
        front = stack.enter_context(served("front", tmp_path, STOCK_URL=stock))
        for job in config["scrape_configs"]:
            job["static_configs"][0]["targets"] = [{"front": front, "stock": stock}[job["job_name"]][7:]]
        server = stack.enter_context(prometheus(tmp_path, config, *flags))
        load = subprocess.Popen([sys.executable, *customers[1:3], front, *customers[4:]], cwd=tmp_path, env=IMPORTS)
        try:
            for service in ("front", "stock"):
                query = f'{semconv.DURATION}_bucket{{job="{service}"}}'
                found = eventually(
                    partial(server.exemplars, query, start, start + PATIENCE), f"dots of {service}", server.errors
                )
                assert all(set(dot["labels"]) == {semconv.TRACE_ID, semconv.SPAN_ID} for dot in found)
                server.scraped(service)
            ready = SERVICES["front"]["healthcheck"]["test"]
            assert ready[:3] == ["CMD", "python", "-c"]
            subprocess.run([sys.executable, "-c", ready[3].replace("http://127.0.0.1:8000", front)], check=True)
        finally:
            load.terminate()
            load.wait(PATIENCE)
        with urlopen(f"{front}/metrics", timeout=PATIENCE) as page:
            assert b"exemplars_plain_text_scrapes_total 1.0" in page.read(), "only this very request is plain text"
