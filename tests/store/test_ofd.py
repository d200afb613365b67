"""A file is owned by one open file description, for as long as somebody has that open, and asking takes nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from exemplars.store import ofd
from tests.programs import PACKAGES

pytestmark = pytest.mark.skipif(not ofd.SUPPORTED, reason="open-file-description locks of 64-bit Linux")


@pytest.fixture(params=["memory", "disk"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty file on a file system in memory, and one where tests usually write."""
    if request.param == "disk":
        path = tmp_path / "file"
        path.touch()
        yield str(path)
    else:
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as made:
            yield made.name


@contextlib.contextmanager
def opened(path: str, flags: int = os.O_RDWR) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def program(source: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A process of its own that runs *source*; killed and waited for on leaving."""
    with subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(PACKAGES)),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


OWNER = """
import os, sys
from exemplars.store import ofd
fd = os.open(sys.argv[1], os.O_RDWR)
print(ofd.take(fd), flush=True)
sys.stdin.readline()
"""


def test_one_description_has_the_lock_and_a_second_one_does_not_get_it(file: str) -> None:
    with opened(file) as first, opened(file) as second:
        assert ofd.take(first)
        assert ofd.take(first), "taking what one holds changes nothing"
        assert not ofd.take(second)

        ofd.release(second)
        assert not ofd.take(second), "what another holds cannot be released"
        ofd.release(first)
        assert ofd.take(second)


def test_asking_takes_nothing_and_needs_no_right_to_write(file: str) -> None:
    with opened(file) as owner, opened(file, os.O_RDONLY) as reader, opened(file) as other:
        assert not ofd.held(reader)
        assert ofd.take(owner), "asking has taken nothing"
        assert ofd.held(reader)
        assert ofd.held(other)
        assert not ofd.held(owner), "what one holds oneself is held by nobody else"


def test_a_shared_lock_lets_others_share_and_nobody_take(file: str) -> None:
    with opened(file) as first, opened(file) as second, opened(file, os.O_RDONLY) as asking:
        assert ofd.share(first)
        assert not ofd.held(first)
        assert ofd.held(asking)
        assert ofd.share(second)
        assert not ofd.take(second)

        ofd.release(first)
        assert ofd.held(asking), "the second still does"
        assert ofd.take(second)
        assert not ofd.share(first)


def test_a_lock_needs_a_descriptor_that_may_write(file: str) -> None:
    with opened(file, os.O_RDONLY) as reader, pytest.raises(OSError):
        ofd.take(reader)


def test_opening_and_closing_the_file_elsewhere_does_not_cost_the_lock(file: str) -> None:
    with opened(file) as owner:
        assert ofd.take(owner)
        with opened(file) as passing:
            assert ofd.held(passing)
        with opened(file) as later:
            assert ofd.held(later)


def test_a_file_grown_after_the_lock_was_taken_is_locked_as_a_whole(file: str) -> None:
    with opened(file) as owner, opened(file) as other:
        assert ofd.take(owner)
        os.write(owner, bytes(100_000))
        assert not ofd.take(other)
        os.ftruncate(owner, 0)
        assert not ofd.take(other)


def test_the_lock_of_a_killed_process_is_free_when_it_has_been_waited_for(file: str) -> None:
    for _ in range(5):
        with program(OWNER, file) as process, opened(file) as fd:
            assert line(process) == "True"
            assert ofd.held(fd)
            assert not ofd.take(fd)

            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not ofd.held(fd)
            assert ofd.take(fd)


def test_a_stopped_process_keeps_its_lock(file: str) -> None:
    with program(OWNER, file) as process, opened(file) as fd:
        assert line(process) == "True"
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert not ofd.take(fd)


FORK = """
import os, sys
from exemplars.store import ofd
fd = os.open(sys.argv[1], os.O_RDWR)
assert ofd.take(fd)
child = os.fork()
if not child:
    if sys.argv[2] == "closes":
        os.close(fd)
    elif sys.argv[2] == "releases":
        ofd.release(fd)
    print("child", os.getpid(), flush=True)
    sys.stdin.readline()
    os._exit(0)
sys.stdin.readline()
os.waitpid(child, 0)
"""


@pytest.mark.parametrize(
    ("does", "while_both_live", "after_the_parent"), [("closes", True, False), ("keeps", True, True)]
)
def test_a_forked_child_keeps_the_lock_beyond_its_parent_unless_it_closes(
    file: str, does: str, while_both_live: bool, after_the_parent: bool
) -> None:
    with program(FORK, file, does) as process, opened(file) as fd:
        child = int(line(process).removeprefix("child "))
        assert ofd.held(fd) is while_both_live
        process.kill()
        process.wait()
        assert ofd.held(fd) is after_the_parent
        os.kill(child, signal.SIGKILL)
        assert process.stdout is not None and not process.stdout.read(), "the child is gone: nobody else has the pipe"
        assert not ofd.held(fd)


def test_a_child_that_releases_takes_the_lock_from_its_parent(file: str) -> None:
    """Why a child must close and not release."""
    with program(FORK, file, "releases") as process, opened(file) as fd:
        child = int(line(process).removeprefix("child "))
        try:
            assert not ofd.held(fd)
        finally:
            os.kill(child, signal.SIGKILL)


BYSTANDER = "import sys; print('up', flush=True); sys.stdin.readline()"


def test_a_program_that_the_owner_starts_has_no_part_in_the_lock(file: str) -> None:
    with opened(file) as fd, contextlib.ExitStack() as programs:
        with opened(file) as owner:
            assert ofd.take(owner)
            assert line(programs.enter_context(program(BYSTANDER))) == "up"
            assert ofd.held(fd)
        assert not ofd.held(fd)


RACE = """
import os, sys
from exemplars.store import ofd
path, processes, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
children = []
for _ in range(processes):
    child = os.fork()
    if not child:
        fd, taken = os.open(path, os.O_RDWR), 0
        while taken < rounds:
            if ofd.take(fd):
                os.close(os.open(path + ".inside", os.O_CREAT | os.O_EXCL))  # raises where somebody else is inside
                os.unlink(path + ".inside")
                ofd.release(fd)
                taken += 1
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * processes
print("done", flush=True)
"""


def test_of_many_processes_one_at_a_time_has_the_lock(file: str) -> None:
    with program(RACE, file, "4", "300") as process:
        assert line(process) == "done"


ASKING = """
import os, sys
from exemplars.store import ofd
fd = os.open(sys.argv[1], os.O_RDONLY)
print("asking", flush=True)
while True:
    ofd.held(fd)
"""


def test_those_who_ask_never_keep_a_free_file_from_being_taken(file: str) -> None:
    with program(ASKING, file) as one, program(ASKING, file) as two, opened(file) as fd:
        assert line(one) == line(two) == "asking"
        for _ in range(5_000):
            assert ofd.take(fd)
            ofd.release(fd)
