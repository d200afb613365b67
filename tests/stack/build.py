"""The real programs of the stack, built from Go modules into a cache outside the tree.

`python -m tests.stack.build [program …]` builds what is missing; a test asks `binary` for the path. A program is a
directory with a `go.mod`: those of `programs/` pin what others publish, and `compose/` has services of its own.
`go.mod` and `go.sum` pin and verify every source; a `build.toml` says more, where there is more to say.

The cache is EXEMPLARS_STACK_CACHE, else `exemplars/stack` in XDG_CACHE_HOME, else in `~/.cache`. What is in it belongs
to the content of the program's directory: a change there makes another build, and without one nobody waits again.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
GET_GO: Final = "Debian's is too old, go.dev/dl has a newer one"
FLAGS: Final = ("-gcflags=all=-dwarf=false",)  # what -w leaves out anyway: a tenth of the compiler's time
SHOWN: Final = 30  # lines of a failed build's log


class BuildError(Exception):
    """Why there is no binary, and what to do about it."""


@dataclass(frozen=True)
class Program:
    """What one directory builds."""

    directory: Path
    binaries: Mapping[str, str]  # their names, each with its package
    release: str  # as the program counts; "" for what has no releases
    tags: str
    ldflags: str
    before: Sequence[Sequence[str]]  # commands that write sources

    @property
    def name(self) -> str:
        return self.directory.name

    def digest(self) -> str:
        """A hash of the directory's content: names and bytes, except of what is hidden."""
        hashed = hashlib.sha256()
        for path in sorted(self.directory.rglob("*")):
            name = path.relative_to(self.directory)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                content = path.read_bytes()
                hashed.update(f"{name.as_posix()}\0{len(content)}\0".encode() + content)
        return hashed.hexdigest()[:12]

    def place(self) -> Path:
        """The directory its binaries are in, once they are built."""
        return cache() / f"{self.name}-{self.digest()}"


def cache() -> Path:
    """Where binaries are kept."""
    if own := os.environ.get("EXEMPLARS_STACK_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exemplars" / "stack"


def read(directory: Path) -> Program:
    """The program in *directory*; without a `build.toml`, a module whose root is the program."""
    file = directory / "build.toml"
    said = tomllib.loads(file.read_text()) if file.exists() else {}
    return Program(
        directory,
        said.get("binaries", {directory.name: "."}),
        said.get("release", ""),
        said.get("tags", ""),
        said.get("ldflags", ""),
        said.get("before", ()),
    )


def programs() -> dict[str, Program]:
    """All there are, by name."""
    places = (Path(__file__).parent / "programs", ROOT / "compose")
    return {file.parent.name: read(file.parent) for place in places for file in sorted(place.glob("*/go.mod"))}


def binary(name: str) -> Path:
    """The path of a built program. Without it the test is skipped; where `CI` is set, it fails."""
    program = next(program for program in programs().values() if name in program.binaries)
    path = program.place() / name
    if path.is_file():
        return path
    missing = f"{name} is not built: python -m tests.stack.build {program.name}"
    if os.environ.get("CI"):
        pytest.fail(f"{missing}, and with CI set that is a failure")
    pytest.skip(missing)


def build(program: Program) -> Path:
    """The directory with the binaries of *program*, which are built if they are missing.

    Whoever else asks for it meanwhile waits and gets the same. A failed or killed build leaves no binaries behind.
    Raises BuildError.
    """
    place = program.place()
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with locked(place.parent / f"lock-{program.name}", program.name):
        if place.is_dir():  # another has built it meanwhile
            return place
        for left in place.parent.glob(f".building-{program.name}-*"):  # by a build that was killed: the lock is ours
            shutil.rmtree(left)
        check_go(program.directory)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".building-{program.name}-") as work:
            result = compile_in(Path(work), program)
            result.rename(place)
    return place


@contextlib.contextmanager
def locked(file: Path, name: str) -> Iterator[None]:
    """Hold *file*, and say so where another holds it; the kernel ends the lock with its process."""
    with file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: waiting for another who builds it", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def compile_in(work: Path, program: Program) -> Path:
    """A directory in *work* with the binaries and the log."""
    print(f"{program.name}: building", flush=True)
    since, used = time.monotonic(), processor_time()
    sources, result = work / "sources", work / "result"
    digest = program.digest()
    shutil.copytree(program.directory, sources)
    if replace(program, directory=sources).digest() != digest:
        raise BuildError(f"{program.name}: its directory changed while it was copied; build again")
    result.mkdir()
    for command in program.before:
        run(command, sources, result / "build.log", program.name)
    for pinned in ("go.mod", "go.sum"):  # whatever has been written since
        if (program.directory / pinned).exists():
            shutil.copy(program.directory / pinned, sources)
    for name, package in program.binaries.items():
        command = ["go", "build", "-mod=readonly", "-trimpath", f"-tags={program.tags}", *FLAGS]
        command += [f"-ldflags=-s -w {program.ldflags}", "-o", str(result / name), package]
        run(command, sources, result / "build.log", program.name)
    passed = time.monotonic() - since
    print(f"{program.name}: built in {passed:.0f} s ({processor_time() - used:.0f} s of processors)", flush=True)
    return result


def run(command: Sequence[str], directory: Path, log: Path, name: str) -> None:
    """One step of a build; if it fails, the end of its log is in the error."""
    with log.open("a") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        ended = subprocess.run(
            command, cwd=directory, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    if ended.returncode:
        lines = log.read_text(errors="replace").splitlines()[-SHOWN:]
        raise BuildError("\n".join([f"{name}: `{command[0]}` failed with {ended.returncode}:", *lines]))


def environment() -> dict[str, str]:
    """Ours, and no C compiler and no workspace around the module."""
    return {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "on", "GOWORK": "off"}


def check_go(directory: Path) -> None:
    """Raise BuildError where `go` is missing or older than *directory* asks for and may not get a newer one itself."""
    wanted = needed(directory)
    spelled = ".".join(map(str, wanted))
    if shutil.which("go") is None:
        raise BuildError(f"{directory.name}: go is not on PATH, and Go {spelled} or newer is needed: {GET_GO}")
    # In the directory, so that it may choose a toolchain (GOTOOLCHAIN); an old one trips over a go.mod of today.
    ours = go_version(directory) or go_version(Path("/"))
    found = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", ours)
    if found and tuple(int(number or 0) for number in found.groups()) < wanted:
        raise BuildError(f"{directory.name}: Go {spelled} or newer is needed, and this is {ours}: {GET_GO}")


def needed(directory: Path) -> tuple[int, int, int]:
    """The oldest Go that the modules in *directory* accept."""
    spelled = [re.search(r"(?m)^go (\d+)\.(\d+)(?:\.(\d+))?", file.read_text()) for file in directory.rglob("go.mod")]
    major, minor, patch = max(tuple(int(n or 0) for n in found.groups()) for found in spelled if found)
    return major, minor, patch


def go_version(directory: Path) -> str:
    """As `go` says it there; "" where it refuses."""
    command = ["go", "env", "GOVERSION"]
    return subprocess.run(command, cwd=directory, env=environment(), capture_output=True, text=True).stdout.strip()


def processor_time() -> float:
    """Seconds that our children have used so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(arguments: Sequence[str]) -> int:
    """Build what is missing and print where everything is."""
    known = programs()
    parser = argparse.ArgumentParser("python -m tests.stack.build", description="Builds the programs of the stack.")
    parser.add_argument("program", nargs="*", help=f"one of {', '.join(known)}, or a directory; default: all")
    for name in parser.parse_args(arguments).program or known:
        program = known.get(name) or read(Path(name).absolute())
        if not (program.directory / "go.mod").is_file():
            parser.error(f"{name}: neither one of {', '.join(known)} nor a directory with a go.mod")
        try:
            place = build(program)
        except BuildError as error:
            print(error, file=sys.stderr)
            return 1
        for each in program.binaries:
            print(place / each, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
