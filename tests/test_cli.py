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
    """Into a directory made for them, over what was there before; each is named on a line."""
    output = tmp_path / "made" / "for them"
    for _ in range(2):
        assert main(["dashboards", "--output", str(output)]) == 0
        assert capsys.readouterr().out.splitlines() == [str(output / name) for name in sorted(DASHBOARDS)]
        assert {file.name: file.read_bytes() for file in output.iterdir()} == DASHBOARDS
        (output / "overview.json").write_text("old")


def test_dashboards_say_what_kept_them_from_being_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert main(["dashboards", "--output", str(file)]) == 1
    assert str(file) in capsys.readouterr().err


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
