"""Node programs of this repository, with the packages that their lock files name, outside the tree."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.programs import program
from tests.stack import build


def installed(directory: Path) -> Path:
    """A copy of the Node program in *directory* with its packages, by the rules of `tests.stack.build`.

    Without npm the test is skipped; where `CI` is set, it fails. Raises BuildError.
    """
    place = build.read(directory).place()
    if place.is_dir():
        return place
    npm = program("npm")
    place.parent.mkdir(parents=True, exist_ok=True)
    with build.locked(place.parent / "lock-npm", directory.name):
        if place.is_dir():  # another has built it meanwhile
            return place
        for left in place.parent.glob(".installing-*"):  # by one that was killed: the lock is ours
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".installing-") as work:
            copy = Path(work) / directory.name
            shutil.copytree(directory, copy)
            ended = subprocess.run(
                [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=copy,
                env=dict(os.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            if ended.returncode:
                raise build.BuildError(
                    f"{directory.name}: `npm ci` failed with {ended.returncode}:\n{ended.stderr.strip()}"
                )
            copy.rename(place)
    return place
