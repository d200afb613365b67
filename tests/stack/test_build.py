"""What the stack's programs are built by, with a Go module of a few lines; and that what is built is what is pinned."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.programs import PACKAGES, PATIENCE, eventually, program
from tests.stack import build

GREETING: Final = 'package main\n\nfunc main() {\n\tprintln("good evening")\n}\n'
PINNED: Final = [name for each in build.programs().values() if each.release for name in each.binaries]
BUILDING: Final = 4 * PATIENCE  # the first build compiles the standard library too
MAKER: Final = [sys.executable, "-m", "tests.stack.build"]


@pytest.fixture
def greeter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a program, with a cache of its own."""
    monkeypatch.setenv("EXEMPLARS_STACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(PACKAGES))
    directory = tmp_path / "greeter"
    directory.mkdir()
    (directory / "go.mod").write_text("module greeter\n\ngo 1.21\n")
    (directory / "main.go").write_text(GREETING)
    return directory


def test_the_place_of_a_build_follows_the_content_of_its_directory(greeter: Path) -> None:
    before = build.read(greeter).place()
    assert build.read(greeter).place() == before
    (greeter / ".swap").write_text("an editor's")
    assert build.read(greeter).place() == before

    (greeter / "main.go").write_text(GREETING.replace("evening", "morning"))
    changed = build.read(greeter).place()
    (greeter / "main.go").rename(greeter / "greet.go")
    renamed = build.read(greeter).place()
    (greeter / "build.toml").write_text('[binaries]\nhello = "."\n')
    described = build.read(greeter).place()
    assert len({before, changed, renamed, described}) == 4


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXEMPLARS_STACK_CACHE", str(tmp_path))
    assert build.cache() == tmp_path
    monkeypatch.delenv("EXEMPLARS_STACK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache() == tmp_path / "exemplars" / "stack"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build.cache() == tmp_path / ".cache" / "exemplars" / "stack"


def test_two_builders_at_once_build_once(greeter: Path, tmp_path: Path) -> None:
    program("go")
    cache = tmp_path / "cache"
    cache.mkdir()
    logs = [tmp_path / f"{number}.log" for number in (1, 2)]
    with (cache / "lock-greeter").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that both have found nothing built before either begins
        builders = []
        for log in logs:
            with log.open("w") as output:
                builders.append(subprocess.Popen([*MAKER, str(greeter)], stdout=output, stderr=output))
        eventually(
            lambda: all("waiting" in log.read_text() for log in logs),
            "both to wait",
            lambda: [log.read_text() for log in logs],
        )
    assert [builder.wait(BUILDING) for builder in builders] == [0, 0], [log.read_text() for log in logs]

    assert sum(log.read_text().count("greeter: building") for log in logs) == 1
    (binary,) = {log.read_text().splitlines()[-1] for log in logs}
    assert Path(binary) == build.read(greeter).place() / "greeter"
    assert subprocess.run([binary], capture_output=True, text=True, timeout=PATIENCE).stderr == "good evening\n"
    assert {path.name for path in cache.iterdir()} == {"lock-greeter", build.read(greeter).place().name}


def test_what_is_built_is_not_built_again(greeter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program("go")
    assert build.main([str(greeter)]) == 0
    assert "building" in capsys.readouterr().out
    assert build.main([str(greeter)]) == 0
    assert capsys.readouterr().out == f"{build.read(greeter).place() / 'greeter'}\n"


def test_what_a_killed_build_left_goes_with_the_next(greeter: Path, tmp_path: Path) -> None:
    program("go")
    left = tmp_path / "cache" / ".building-greeter-killed"
    left.mkdir(parents=True)
    (left / "greeter").write_text("half")
    build.build(build.read(greeter))
    assert not left.exists()


def test_a_directory_that_changes_while_it_is_copied_is_not_built(
    greeter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the binary of one content would stand where the other's is looked for."""
    copy = shutil.copytree

    def edit_and_copy(source: Path, target: Path) -> None:
        (greeter / "main.go").write_text(GREETING.replace("evening", "morning"))
        copy(source, target)

    program("go")
    monkeypatch.setattr(shutil, "copytree", edit_and_copy)
    wanted = build.read(greeter)
    with pytest.raises(build.BuildError, match="greeter: its directory changed while it was copied"):
        build.build(wanted)
    assert [path.name for path in build.cache().iterdir()] == ["lock-greeter"]


def test_a_failing_build_shows_why_and_leaves_nothing(greeter: Path, tmp_path: Path) -> None:
    program("go")
    (greeter / "main.go").write_text(GREETING.replace("println(", "nowhere("))
    before = sorted(greeter.iterdir())

    failed = subprocess.run([*MAKER, str(greeter)], capture_output=True, text=True, timeout=BUILDING)

    assert failed.returncode == 1
    assert failed.stderr.startswith("greeter: `go` failed with 1:")
    assert "main.go:4:2: undefined: nowhere" in failed.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock-greeter"]
    assert sorted(greeter.iterdir()) == before


def test_a_source_that_is_not_pinned_fails_the_build(greeter: Path) -> None:
    """`go` would look for the newest of it and write down what it found."""
    program("go")
    (greeter / "main.go").write_text('package main\n\nimport _ "golang.org/x/text"\n\nfunc main() {}\n')
    with pytest.raises(build.BuildError, match=r"cannot find module providing package golang\.org/x/text"):
        build.build(build.read(greeter))


def test_without_go_the_error_says_which_is_needed(greeter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(greeter))
    with pytest.raises(build.BuildError, match=r"go is not on PATH, and Go 1\.21\.0 or newer is needed: .*go\.dev/dl"):
        build.build(build.read(greeter))


def test_too_old_a_go_is_refused_before_anything_is_built(greeter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = program("go")
    ours = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, timeout=PATIENCE).stdout.strip()
    monkeypatch.setenv("GOTOOLCHAIN", "local")  # otherwise it would look for that Go
    (greeter / "go.mod").write_text("module greeter\n\ngo 9.8.7\n")
    with pytest.raises(build.BuildError, match=rf"Go 9\.8\.7 or newer is needed, and this is {re.escape(ours)}: "):
        build.build(build.read(greeter))


def test_a_program_that_is_not_built_names_the_way_out(greeter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"promtool is not built: python -m tests\.stack\.build prometheus"):
        build.binary("promtool")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="otelcol is not built"):
        build.binary("otelcol")


def test_a_name_that_is_no_program_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build.main(["prometeus"])
    assert "prometeus: neither one of alloysyntax, collector, " in capsys.readouterr().err


@pytest.mark.parametrize("name", PINNED)
def test_a_built_program_says_the_pinned_release(name: str) -> None:
    release = next(each.release for each in build.programs().values() if name in each.binaries)
    said = subprocess.run([build.binary(name), "--version"], capture_output=True, text=True, timeout=PATIENCE)
    assert said.returncode == 0
    assert re.search(rf"\bv?{re.escape(release)}\b", said.stdout + said.stderr), said


@pytest.mark.parametrize("name", PINNED)
def test_a_built_program_consists_of_the_pinned_modules(name: str) -> None:
    """By what the linker wrote down: every module in the binary, in the version that go.mod names."""
    directory = next(each.directory for each in build.programs().values() if name in each.binaries)
    command = [program("go"), "version", "-m", str(build.binary(name))]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    built = dict(re.findall(r"(?m)^\t(?:mod|dep)\t(\S+)\t(v\S+)", listed))
    replacing = re.findall(r"(?m)^\t=>\t(\S+)\t(\S+)", listed)
    text = (directory / "go.mod").read_text()
    pinned = dict(re.findall(r"(?m)^(?:require)?\s+(\S+) (v\S+)(?: // indirect)?$", text))
    assert len(built) > 50
    assert built == {module: pinned[module] for module in built}
    assert [pair for pair in replacing if f"=> {' '.join(pair)}\n" not in text] == []


def test_the_collector_is_pinned_to_what_its_manifest_names() -> None:
    directory = build.programs()["collector"].directory
    manifest = yaml.safe_load((directory / "manifest.yaml").read_text())
    named = {part["gomod"] for parts in manifest.values() if isinstance(parts, list) for part in parts}
    pinned = set(re.findall(r"\S+ v\S+", (directory / "go.mod").read_text()))
    assert named and named <= pinned
    assert manifest["dist"]["version"] == build.programs()["collector"].release
