"""The compose files: by schema, against each other, and as far as their programs are here by running them.

There is no container engine in these tests. `tests/stack` runs Collector, Tempo, Loki and Prometheus 3 by the same
files; what images, volumes and Grafana do with theirs is not covered.
"""

import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import yaml

import exemplars
from exemplars import semconv

from .programs import PATIENCE, eventually, program, prometheus, serving
from .stack import composed
from .stack.composed import COMPOSE, VARIABLES

ROOT: Final = Path(__file__).parent.parent
OVERRIDES: Final = ("compose.two-tier.yaml", "compose.object-storage.yaml")
SERVICES: Final = composed.services()
ALL: Final = composed.services(*OVERRIDES)
SHOP: Final = ("front", "stock", "payment", "risk")
COLLECTOR: Final = ("otel-collector.yaml", "otel-logs.yaml", "otel-first-tier.yaml")
# The package under test, wherever it is.
IMPORTS: Final = {"PYTHONPATH": str(Path(exemplars.__file__).parent.parent)}


def read(name: str) -> Any:
    return yaml.safe_load((COMPOSE / name).read_text())


def bare(name: str) -> Any:
    """A configuration with the defaults of its variables."""
    return yaml.safe_load(re.sub(r"\$\{(?:env:)?\w+:-([^}]*)\}", r"\1", (COMPOSE / name).read_text()))


def command(service: str) -> list[str]:
    given = SERVICES[service]["command"]
    return shlex.split(given) if isinstance(given, str) else list(given)


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Where in the container, and what file or volume."""
    return {target: source for source, target, *_ in (volume.split(":") for volume in service.get("volumes", ()))}


# The compose files


@pytest.mark.parametrize("file", ["compose.yaml", *OVERRIDES])
def test_compose_file_is_valid(file: str) -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*checker, str(COMPOSE / file)], check=True)


def test_env_gives_every_variable_and_no_other() -> None:
    files = "".join((COMPOSE / file).read_text() for file in ("compose.yaml", *OVERRIDES))
    assert set(re.findall(r"\$\{(\w+)\}", files)) == set(VARIABLES)
    assert "$$" not in files


@pytest.mark.parametrize("service", ALL)
def test_images_are_pinned(service: str) -> None:
    """To a version with three numbers, or built from here on images that are."""
    said = ALL[service]
    if "build" not in said:
        assert re.search(r":v?\d+\.\d+\.\d+$", said["image"]), said["image"]
        return
    build = said["build"]
    file = COMPOSE / build["context"] / build.get("dockerfile", "Dockerfile")
    stages = set(re.findall(r"(?m)^FROM .* AS (\w+)$", file.read_text()))
    given = {name: str(value) for name, value in build["args"].items()}
    for name, default in re.findall(r"(?m)^ARG (\w+)(?:=(.*))?$", file.read_text()):
        assert re.fullmatch(r"\d+\.\d+\.\d+", given[name])
        assert default in ("", given[name]), "the same where it is built by itself"
    for image in re.findall(r"(?m)^FROM (\S+)", file.read_text()):
        assert image in stages or image == "scratch" or re.search(r":v?\$\{(\w+)\}", image)[1] in given  # type: ignore[index]


@pytest.mark.parametrize("service", ALL)
def test_services_are_bounded_have_no_rights_and_are_seen_from_this_machine_only(service: str) -> None:
    said = ALL[service]
    assert said["mem_limit"]
    assert int(said["user"].split(":")[0]) > 0
    assert said["cap_drop"] == ["ALL"]
    assert said["security_opt"] == ["no-new-privileges:true"]
    assert said["read_only"] is (service != "grafana")
    assert all(port.startswith("127.0.0.1:") for port in said.get("ports", ()))


def test_health_is_asked_of_all_that_can_be_asked() -> None:
    """The Collector's image has nothing to ask with, so another does; some have nothing to be asked for."""
    unasked = {name for name, said in ALL.items() if "healthcheck" not in said}
    collectors = {name for name, said in ALL.items() if "/opentelemetry-collector-" in said["image"]}
    assert unasked == collectors | {"customers", "garage-set-up"}
    port = bare("otel-collector.yaml")["extensions"]["health_check"]["endpoint"].split(":")[1]
    for collector in collectors:
        assert ALL[f"{collector}-ready"]["healthcheck"]["test"][-1] == f"http://{collector}:{port}/"
        assert collector in ALL[f"{collector}-ready"]["depends_on"]


def test_who_needs_another_waits_for_its_health() -> None:
    """Only who asks whether another is healthy cannot."""
    for service, said in ALL.items():
        needed = said.get("depends_on", {})
        if isinstance(needed, list):
            assert needed == [service.removesuffix("-ready")]
            continue
        for other, how in needed.items():
            healthy = how == {"condition": "service_healthy"} and "healthcheck" in ALL[other]
            over = how == {"condition": "service_completed_successfully"} and "restart" not in ALL[other]
            assert healthy or over, f"{service} on {other}"
    for service in SHOP:
        assert {"logs", "otel-collector-ready"} <= set(ALL[service]["depends_on"])


@pytest.mark.parametrize("service", ALL)
def test_mounted_files_exist_and_cannot_be_written(service: str) -> None:
    volumes = {name for file in ("compose.yaml", *OVERRIDES) for name in read(file).get("volumes", ())}
    for volume in ALL[service].get("volumes", ()):
        source, _, *mode = volume.split(":")
        if source.startswith("."):
            assert (COMPOSE / source).exists()
            assert mode == ["ro"]
        else:
            assert source in volumes


def test_the_image_of_the_shop_gets_what_the_wheel_is_built_from() -> None:
    """An ignore file lets nothing pass but what it names, and that is here."""
    lines = (COMPOSE / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    named = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert named == {"exemplars", "dashboards/*.json", "pyproject.toml", "README.md", "LICENSE"}
    assert all(list(ROOT.glob(name)) for name in named - {"exemplars"})


# Files against each other


def test_every_variable_of_a_configuration_has_a_default_and_is_explained() -> None:
    explained = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", (COMPOSE / "README.md").read_text()))
    configurations = [COMPOSE / name for name in (*COLLECTOR, "tempo.yaml", "loki.yaml")]
    used = set()
    for file in configurations:
        # Comments may speak of them.
        text = re.sub(r"(?m)#.*$", "", file.read_text())
        found = re.findall(r"\$\{(env:)?(\w+)(:-)?", text)
        assert all(default and bool(scheme) is (file.name in COLLECTOR) for scheme, _, default in found), file
        used |= {name for _, name, _ in found}
    versions_and_ports = {name for name in VARIABLES if name.endswith(("_VERSION", "_PORT"))}
    assert explained - {"OTEL_SERVICE_NAME"} == used | set(VARIABLES) - versions_and_ports
    given = {name for said in ALL.values() for name in said.get("environment", {})}
    assert {name for name in given if name.startswith(("TEMPO_", "LOKI_", "S3_"))} <= used


def test_defaults_of_variables_are_those_of_env() -> None:
    sampling = bare("otel-collector.yaml")["processors"]["tail_sampling"]
    assert sampling["decision_wait"] == VARIABLES["DECISION_WAIT"]
    assert bare("tempo.yaml")["overrides"]["defaults"]["compaction"]["block_retention"] == VARIABLES["TEMPO_RETENTION"]
    assert bare("loki.yaml")["limits_config"]["retention_period"] == VARIABLES["LOKI_RETENTION"]
    policies = {policy["name"]: policy for policy in sampling["policies"]}
    assert str(policies["slow"]["latency"]["threshold_ms"]) == VARIABLES["SLOW_TRACE_MS"]
    assert str(policies["base"]["probabilistic"]["sampling_percentage"]) == VARIABLES["BASE_PERCENT"]


def test_the_collector_keeps_what_the_library_marks() -> None:
    policies = bare("otel-collector.yaml")["processors"]["tail_sampling"]["policies"]
    assert {"key": semconv.MARK, "values": [semconv.MARK_VALUE]} in [p.get("string_attribute") for p in policies]
    # What had ended with an error before it became an exemplar has no mark.
    assert {"status_codes": ["ERROR"]} in [p.get("status_code") for p in policies]


def test_what_is_counted_from_spans_is_counted_before_sampling() -> None:
    pipelines = bare("otel-collector.yaml")["service"]["pipelines"]
    connectors = set(bare("otel-collector.yaml")["connectors"])
    (counting,) = (pipeline for pipeline in pipelines.values() if connectors <= set(pipeline["exporters"]))
    assert "tail_sampling" not in counting["processors"]
    buckets = [
        float(bound.removesuffix("ms")) / 1e3 if bound.endswith("ms") else float(bound.removesuffix("s"))
        for bound in bare("otel-collector.yaml")["connectors"]["span_metrics"]["histogram"]["explicit"]["buckets"]
    ]
    assert buckets == list(semconv.DURATION_BUCKETS)


def test_a_collector_refuses_before_it_is_killed() -> None:
    for name, said in ALL.items():
        for file in mounts(said).values():
            if Path(file).name in COLLECTOR and Path(file).name != "otel-logs.yaml":
                limit = bare(Path(file).name)["processors"]["memory_limiter"]["limit_mib"]
                assert limit < 1024 * int(said["mem_limit"].removesuffix("g")) * 0.8, name


def test_memory_of_the_collector_comes_first_in_every_pipeline() -> None:
    for file in COLLECTOR:
        for pipeline in bare(file)["service"]["pipelines"].values():
            assert pipeline["processors"][0] == "memory_limiter"


def test_traces_and_logs_outlive_the_metrics_that_point_to_them() -> None:
    hours = {name: int(VARIABLES[f"{name}_RETENTION"].removesuffix("h")) for name in ("PROMETHEUS", "TEMPO", "LOKI")}
    assert hours["PROMETHEUS"] < hours["TEMPO"] == hours["LOKI"]


def test_every_service_of_the_shop_sends_all_its_spans_by_one_name_and_its_lines_to_the_collector() -> None:
    """The dashboards' links into Tempo take a job to be named as its service in traces."""
    jobs = {group["labels"]["job"]: group["targets"] for group in read("targets.yml")}
    served = {name for name, said in SERVICES.items() if "OTEL_SERVICE_NAME" in said.get("environment", {})}
    assert served == set(SHOP)
    lines = bare("otel-logs.yaml")["receivers"]["file_log"]["include"]
    for name in served:
        environment = SERVICES[name]["environment"]
        assert environment["OTEL_SERVICE_NAME"] == name
        assert jobs[name] == [f"{name}:8000"]
        assert environment["OTEL_TRACES_SAMPLER"] == "parentbased_traceidratio"
        assert environment["OTEL_TRACES_SAMPLER_ARG"] == "1.0"
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector:4318"
        assert any(Path(environment["LOG_FILE"]).match(pattern) for pattern in lines)
        # As the same user, for its directory is nobody else's.
        assert SERVICES[name]["user"] == SERVICES["otel-collector"]["user"] == SERVICES["logs"]["user"]
        assert mounts(SERVICES[name])["/var/log/shop"] == mounts(SERVICES["otel-collector"])["/var/log/shop"]


def listening() -> dict[str, set[int]]:
    """On which ports a service can be asked, as its configuration says."""
    tempo, loki, garage = bare("tempo.yaml"), bare("loki.yaml"), (COMPOSE / "garage/garage.toml").read_text()
    collector = re.findall(r":-0\.0\.0\.0:(\d+)\}", (COMPOSE / "otel-collector.yaml").read_text())
    own = bare("otel-collector.yaml")["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"]["prometheus"]
    of_collectors = {*map(int, collector), own["port"]}
    return {
        **{name: {8000} for name in SHOP},
        **dict.fromkeys(("otel-collector", "otel-collector-a", "otel-collector-b"), of_collectors),
        "prometheus": {9090},
        "tempo": {
            tempo["server"]["http_listen_port"],
            int(tempo["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"].split(":")[1]),
        },
        "loki": {loki["server"]["http_listen_port"]},
        "grafana": {3000},
        "garage": {int(port) for port in re.findall(r'bind_addr = "0\.0\.0\.0:(\d+)"', garage)},
    }


def test_hosts_and_ports_lead_somewhere() -> None:
    files = ("compose.yaml", *OVERRIDES, *COLLECTOR, "targets.yml", "targets.two-tier.yml", "grafana/datasources.yaml")
    text = "\n".join(re.sub(r"(?m)#.*$", "", (COMPOSE / file).read_text()) for file in files)
    hosts = "|".join(ALL)
    addresses = set(re.findall(rf"(?<![\w.-])({hosts}):(\d+)\b", text))
    assert {host for host, _ in addresses} == set(listening()) - {"grafana"}
    for host, port in addresses:
        assert int(port) in listening()[host], f"{host}:{port}"
    for name, said in ALL.items():
        for published in said.get("ports", ()):
            assert int(published.split(":")[-1]) in listening()[name]


@pytest.mark.parametrize("file", ["targets.yml", "targets.two-tier.yml"])
def test_everything_that_has_metrics_is_scraped(file: str) -> None:
    jobs = {group["labels"]["job"] for group in read(file)}
    assert jobs == {*SHOP, "otel-collector", "span-metrics", "prometheus", "tempo", "loki"}
    hosts = {target.split(":")[0] for group in read(file) for target in group["targets"]}
    of_tiers = {"otel-collector-a", "otel-collector-b"} if "two-tier" in file else set()
    assert hosts == {*SHOP, "otel-collector", "prometheus", "tempo", "loki"} | of_tiers


SOURCES: Final[dict[str, Any]] = {source["uid"]: source for source in read("grafana/datasources.yaml")["datasources"]}


def uids(said: Any) -> set[str]:
    """Of every data source that is named below."""
    if isinstance(said, dict):
        return {said[k] for k in said if k == "datasourceUid"}.union(*map(uids, said.values()))
    return set().union(*map(uids, said)) if isinstance(said, list) else set()


def test_links_between_data_sources_lead_somewhere() -> None:
    for source in SOURCES.values():
        assert uids(source) <= set(SOURCES)
        assert urlsplit(source["url"]).hostname == source["type"]
    assert uids(SOURCES["prometheus"]) == {"tempo"}
    assert uids(SOURCES["tempo"]) == {"loki", "prometheus"}
    assert uids(SOURCES["loki"]) == {"tempo"}


def test_a_dot_opens_its_trace() -> None:
    """The link's name is the exemplar's label, and it leads to the Tempo that the Collector sends to."""
    (link,) = SOURCES["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert link["name"] == semconv.TRACE_ID
    assert SOURCES[link["datasourceUid"]]["type"] == "tempo"
    sent = bare("otel-collector.yaml")["exporters"]["otlp_http/tempo"]["endpoint"]
    assert urlsplit(SOURCES["tempo"]["url"]).hostname == urlsplit(sent).hostname


def test_from_a_trace_to_its_lines_and_back() -> None:
    forth = SOURCES["tempo"]["jsonData"]["tracesToLogsV2"]
    assert SOURCES[forth["datasourceUid"]]["type"] == "loki"
    assert f'| {semconv.TRACE_ID}="$${{__trace.traceId}}"' in forth["query"]
    (back,) = SOURCES["loki"]["jsonData"]["derivedFields"]
    assert (back["matcherType"], back["matcherRegex"]) == ("label", semconv.TRACE_ID)
    assert SOURCES[back["datasourceUid"]]["type"] == "tempo"
    assert back["url"] == "$${__value.raw}"


def test_from_a_trace_back_to_metrics_that_exist() -> None:
    back = SOURCES["tempo"]["jsonData"]["tracesToMetrics"]
    assert {tag["value"] for tag in back["tags"]} == {"job", semconv.ROUTE}
    for query in back["queries"]:
        assert set(re.findall(r"(\w+)\{", query["query"])) <= {
            f"{semconv.DURATION}_{end}" for end in ("bucket", "count")
        }
        assert "{$$__tags}" in query["query"], "a single dollar sign is eaten when Grafana reads the file"


def test_grafana_finds_its_files() -> None:
    (provider,) = read("grafana/dashboards.yaml")["providers"]
    folder = mounts(SERVICES["grafana"])[provider["options"]["path"]]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (COMPOSE / folder / Path(home).relative_to(provider["options"]["path"])).is_file()
    provisioned = [target for target in mounts(SERVICES["grafana"]) if target.startswith("/etc/grafana/provisioning/")]
    assert {Path(target).parent.name for target in provisioned} == {"datasources", "dashboards"}


def test_the_scrape_interval_is_what_grafana_takes_it_for() -> None:
    assert SOURCES["prometheus"]["jsonData"]["timeInterval"] == read("prometheus.yml")["global"]["scrape_interval"]


@pytest.mark.parametrize("service", [name for name, said in ALL.items() if "config" in str(said.get("command"))])
def test_the_configurations_named_are_those_mounted(service: str) -> None:
    flags = [flag for flag in ALL[service]["command"] if re.match(r"--?config(\.file)?=", flag)]
    assert flags or service == "stock"  # gunicorn's is a module
    for flag in flags:
        assert (COMPOSE / mounts(ALL[service])[flag.split("=")[1]]).is_file()


def test_both_tiers_take_spans_alike_and_the_second_is_there() -> None:
    first, second = bare("otel-first-tier.yaml"), bare("otel-collector.yaml")
    assert first["receivers"] == second["receivers"]
    hosts = first["exporters"]["load_balancing"]["resolver"]["static"]["hostnames"]
    assert {host.split(":")[0] for host in hosts} == {"otel-collector-a", "otel-collector-b"}
    assert first["exporters"]["load_balancing"]["routing_key"] == "traceID"


def test_object_storage_is_set_up_as_it_is_asked_for() -> None:
    script = (COMPOSE / "garage/set-up.sh").read_text()
    subprocess.run(["sh", "-n", str(COMPOSE / "garage/set-up.sh")], check=True)
    (buckets,) = re.findall(r"for bucket in (.*); do", script)
    asked = {
        bare("tempo.yaml")["storage"]["trace"]["s3"]["bucket"],
        bare("loki.yaml")["storage_config"]["aws"]["bucketnames"],
    }
    assert set(buckets.split()) == asked
    assert f's3_region = "{ALL["tempo"]["environment"]["S3_REGION"]}"' in (COMPOSE / "garage/garage.toml").read_text()
    for service in ("tempo", "loki"):
        assert ALL[service]["environment"][f"{service.upper()}_BACKEND"] == "s3"
    # Garage takes no others.
    assert re.fullmatch("GK[0-9a-f]{24}", VARIABLES["S3_ACCESS_KEY"])
    assert all(re.fullmatch("[0-9a-f]{64}", VARIABLES[name]) for name in ("S3_SECRET_KEY", "GARAGE_RPC_SECRET"))


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
        here = {"front": [front[7:]], "stock": [stock[7:]]}
        targets = [{"targets": addresses, "labels": {"job": job}} for job, addresses in here.items()]
        (tmp_path / "targets.yml").write_text(yaml.safe_dump(targets))
        shutil.copytree(COMPOSE / "rules", tmp_path / "rules")
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
