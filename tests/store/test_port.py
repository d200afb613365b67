"""Workers of a group know of each other that they serve a port: for as long as they do, and nobody else."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from exemplars.store import ofd
from exemplars.store.directory import named, of_group
from exemplars.store.group import Group
from exemplars.store.port import Share
from tests.programs import eventually
from tests.store.test_ofd import line, program

pytestmark = pytest.mark.skipif(not ofd.SUPPORTED, reason="workers share on 64-bit Linux only")

GROUP = Group("gunicorn", os.getpid(), "")
SIBLING = f"""
import sys
from exemplars.store.group import Group
from exemplars.store.port import Share
share = Share(Group("gunicorn", {os.getpid()}, ""), "127.0.0.1", 80)
with share.joined() as siblings:
    print(siblings, flush=True)
print("joined", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of `GROUP`, which this process and the programs it starts find."""
    monkeypatch.setenv("EXEMPLARS_DIR", str(tmp_path))
    with closing(of_group(GROUP, named())) as found:
        return Path(found.path)


@pytest.fixture
def share(directory: Path) -> Iterator[Share]:
    made = Share(GROUP, "127.0.0.1", 80)
    yield made
    made.close()


def siblings(share: Share) -> bool:
    """Whether *share* finds siblings; it joins."""
    with share.joined() as any_sibling:
        pass
    return any_sibling


def test_who_comes_later_finds_those_who_serve_and_no_longer(share: Share) -> None:
    with program(SIBLING) as first:
        assert (line(first), line(first)) == ("False", "joined")
        with program(SIBLING) as second:
            assert (line(second), line(second)) == ("True", "joined")
            first.kill()
            first.wait()
            assert siblings(share), "the second is there still"
            share.close()
        second.wait()
    assert not siblings(share)


def test_who_failed_to_bind_is_no_sibling(share: Share, directory: Path) -> None:
    with pytest.raises(OSError, match="in use"), share.joined():
        raise OSError("in use")
    with program(SIBLING) as other:
        assert line(other) == "False"
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="in use"), share.joined():
            raise OSError("in use")
        assert len(os.listdir("/proc/self/fd")) == before, "nothing stays open"


def test_while_one_joins_another_waits(share: Share) -> None:
    """Else both could find the port free of siblings, and the slower one find it taken."""
    with share.joined(), program(SIBLING) as other:
        assert other.wait() != 0, "it gives up after half a second, not knowing"
    with program(SIBLING) as other:
        assert line(other) == "True"


def test_another_port_or_address_is_another_share(share: Share) -> None:
    with program(SIBLING) as other:
        assert (line(other), line(other)) == ("False", "joined")
        for elsewhere in (Share(GROUP, "127.0.0.1", 81), Share(GROUP, "0.0.0.0", 80), Share(GROUP, "::1", 80)):
            assert not siblings(elsewhere)
            elsewhere.close()
        assert siblings(share)


def test_a_second_share_of_one_process_is_no_siblings(share: Share) -> None:
    assert not siblings(share)
    second = Share(GROUP, "127.0.0.1", 80)
    assert not siblings(second)
    second.close()


def test_a_file_that_was_removed_is_made_again(share: Share, directory: Path) -> None:
    assert not siblings(share)
    for gone in (directory / "port-80-127.0.0.1", directory):
        if gone.is_dir():
            shutil.rmtree(gone)
        else:
            gone.unlink()
        with program(SIBLING) as unaware:
            assert line(unaware) == "False"
        share.look_after()
        with program(SIBLING) as other:
            assert line(other) == "True"


def test_looking_after_what_is_there_or_was_never_held_changes_nothing(share: Share, directory: Path) -> None:
    share.look_after()
    assert not (directory / "port-80-127.0.0.1").exists()
    siblings(share)
    identity = (directory / "port-80-127.0.0.1").stat().st_ino
    opened = sorted(os.listdir("/proc/self/fd"))
    share.look_after()
    assert (directory / "port-80-127.0.0.1").stat().st_ino == identity
    assert sorted(os.listdir("/proc/self/fd")) == opened


def test_a_forked_child_that_closes_it_leaves_the_parent_its_share(share: Share) -> None:
    assert not siblings(share)
    child = os.fork()
    if not child:
        share.close()
        signal.pause()
    try:
        with program(SIBLING) as other:
            assert line(other) == "True", "the parent's is untouched"
        share.close()

        def alone() -> bool:
            with program(SIBLING) as other:
                return line(other) == "False"

        eventually(alone, "the child to have closed its own")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
