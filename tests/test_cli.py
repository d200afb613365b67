"""The command line, without what `exemplars demo` does: that is in `test_demo`."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import pytest

from exemplars.cli import main

DASHBOARDS = {file.name: file.read_bytes() for file in (Path(__file__).parent.parent / "dashboards").glob("*.json")}


def test_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        installed = version("exemplars")
    except PackageNotFoundError:
        pytest.skip("runs in a source tree that is not installed")
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code in (None, 0)
    assert capsys.readouterr().out == f"exemplars {installed}\n"
    (script,) = entry_points(group="console_scripts", name="exemplars")
    assert script.load() is main


def test_dashboards_are_written_as_they_are_shipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Into a directory made for them; each is named on a line, with what was done to it."""
    output = tmp_path / "made" / "for them"
    for what in ("written", "unchanged"):
        assert main(["dashboards", "--output", str(output)]) == 0
        assert capsys.readouterr().out.splitlines() == [f"{output / name}: {what}" for name in sorted(DASHBOARDS)]
        assert {file.name: file.read_bytes() for file in output.iterdir()} == DASHBOARDS


def test_a_dashboard_that_differs_is_overwritten_only_by_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it nothing is written at all, and the file is named; other files there are nobody's business."""
    mine, other = tmp_path / "overview.json", tmp_path / "other.json"
    for file in (mine, other):
        file.write_text("mine")
    assert main(["dashboards", "--output", str(tmp_path)]) == 1
    message = capsys.readouterr()
    assert message.out == "" and str(mine) in message.err and "--force" in message.err
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {mine.name: "mine", other.name: "mine"}

    assert main(["dashboards", "--output", str(tmp_path), "--force"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{mine}: overwritten" in lines and sum(line.endswith(": written") for line in lines) == len(DASHBOARDS) - 1
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {**DASHBOARDS, other.name: b"mine"}


@pytest.mark.parametrize("place", ["file", "file/below it", "directory"])
def test_dashboards_say_what_kept_them_from_being_written(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the directory's place or above it, a directory in a dashboard's."""
    (tmp_path / "file").write_text("")
    (tmp_path / "directory" / "overview.json").mkdir(parents=True)
    assert main(["dashboards", "--output", str(tmp_path / place)]) == 1
    message = capsys.readouterr()
    assert message.out == "" and str(tmp_path) in message.err
    assert (tmp_path / "file").read_text() == "" and len(list(tmp_path.rglob("*.json"))) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["dashboards"],
        ["demo", "--rate", "0"],
        ["demo", "--rate", "201"],
        ["demo", "--rate", "nan"],
        ["demo", "--port", "65536"],
        ["demo", "--port", "1.5"],
        ["demo", "--seconds", "inf"],
        ["demo", "--seed", "x"],
    ],
)
def test_arguments_that_make_no_sense_end_it_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "usage: exemplars" in message and (not arguments or arguments[-1] in message or "--output" in message)


@pytest.mark.parametrize("module", ["fastapi", "flask", "opentelemetry.sdk", "opentelemetry.instrumentation"])
def test_demo_without_its_extra_says_how_to_have_it(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # cannot be imported, nor what is below it
    assert main(["demo"]) == 2
    message = capsys.readouterr().err
    assert module in message and "pip install 'exemplars[demo]'" in message


def test_the_command_line_imports_what_a_command_needs_and_no_more() -> None:
    """No framework, no SDK: they may be missing, and `exemplars dashboards` does not need them."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, exemplars.cli; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    heavy = {"fastapi", "flask", "starlette", "django", "httpx", "opentelemetry.sdk", "exemplars.demo"}
    assert heavy.isdisjoint(loaded)
