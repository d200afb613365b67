"""Workers of a group find one directory, nobody else's is trusted, and what nobody uses any more is removed."""

import contextlib
import errno
import json
import mmap
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exemplars.store import directory, ofd
from exemplars.store.directory import Directory, named, of_group, remove_abandoned
from exemplars.store.group import Group
from tests.programs import PACKAGES, eventually

pytestmark = pytest.mark.skipif(not ofd.SUPPORTED, reason="shared files are for 64-bit Linux")

NOBODY: Final = 65534
HOURS: Final = 7200.0
OURS: Final = Group("gunicorn", os.getpid(), "shop")  # a master that lives: this process


@pytest.fixture(params=["memory", "disk"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only place in which directories of ours may lie: in memory, and on the disk where tests usually write."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if request.param == "memory" else None) as path:
        os.chmod(path, 0o1777)
        only(monkeypatch, Path(path))
        yield Path(path)


def only(monkeypatch: pytest.MonkeyPatch, *places: Path, kind: str = "tmpfs") -> None:
    monkeypatch.setattr(directory, "_places", lambda: {str(place): kind for place in places})


@contextlib.contextmanager
def mounted(kind: str, options: str, point: Path) -> Iterator[Path]:
    """A file system of its own on *point*; skips where this user may not mount."""
    point.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", kind, "-o", options, "none", str(point)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no {kind} can be mounted here: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=True)


@contextlib.contextmanager
def somebody_else() -> Iterator[None]:
    """This process as another user; skips where it may not become one."""
    if os.geteuid():
        pytest.skip("only root may become somebody else")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def program(source: str, *arguments: str, wrapper: tuple[str, ...] = ()) -> Iterator["subprocess.Popen[str]"]:
    """A process of its own that runs *source*; killed and waited for on leaving."""
    with subprocess.Popen(
        [*wrapper, sys.executable, "-c", PRELUDE + source, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(PACKAGES)),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


PRELUDE: Final = """
import os, random, sys, time
from exemplars.store import directory, ofd
from exemplars.store.group import Group
"""


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def worker_file(found: Directory, name: str = "worker-1") -> int:
    """A file as a worker makes it, locked; who has the descriptor owns it."""
    fd = found.open(name, os.O_RDWR | os.O_CREAT)
    assert ofd.take(fd)
    return fd


def abandoned(found: Directory, **changed: str) -> Path:
    """A directory beside *found*, of a group like its own but for what is *changed*, with two files nobody owns."""
    fields = re.fullmatch(
        r"group-(?P<euid>\d+)-(?P<boot>\w+)-(?P<namespace>\d+)-(?P<master>\d+)-(?P<start>\d+)-(?P<application>\w+)",
        Path(found.path).name,
    )
    assert fields
    assert changed.keys() <= fields.groupdict().keys()
    path = Path(found.path).with_name("-".join(("group", *(fields.groupdict() | changed).values())))
    path.mkdir(mode=0o700)
    for name in ("lock", "worker-1", "worker-12"):
        (path / name).touch(mode=0o600)
    return path


def untouched_for(seconds: float, path: Path) -> None:
    for file in (*path.iterdir(), path):
        os.utime(file, (time.time() - seconds,) * 2)


# One group, one directory.


def test_all_of_a_group_find_the_same_directory_and_others_another(place: Path) -> None:
    first, again = of_group(OURS, None), of_group(OURS, None)
    assert first.path == again.path
    assert os.path.samestat(os.fstat(first.fd), os.fstat(again.fd))
    assert Path(first.path).parent == place / f"exemplars-{os.geteuid()}"

    others = [of_group(OURS._replace(application="billing"), None), of_group(OURS._replace(master=os.getppid()), None)]
    assert len({first.path, *(other.path for other in others)}) == 3
    for opened in (first, again, *others):
        opened.close()


def test_the_name_says_whose_it_is() -> None:
    with contextlib.closing(of_group(OURS, None)) as found:
        shutil.rmtree(found.path)
    stat_line = Path(f"/proc/{os.getpid()}/stat").read_text()
    started = stat_line[stat_line.rindex(")") + 2 :].split()[19]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:12]
    namespace = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))

    name = Path(found.path).name
    assert name.startswith(f"group-{os.geteuid()}-{boot}-{namespace}-{os.getpid()}-{started}-")


def test_nobody_else_may_enter_what_it_makes(place: Path) -> None:
    with contextlib.closing(of_group(OURS, None)) as found, found.locked():
        os.close(worker_file(found))

    made = [Path(found.path).parent, *Path(found.path).parent.rglob("*")]
    assert {path.name for path in made} >= {"lock", "worker-1"}
    for path in made:
        assert not path.stat().st_mode & 0o077, path


def test_descriptors_do_not_reach_programs_that_are_started(place: Path) -> None:
    with contextlib.closing(of_group(OURS, None)) as found:
        fd = worker_file(found)
        assert not os.get_inheritable(found.fd)
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_nothing_stays_open_but_what_is_handed_out(place: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with contextlib.closing(of_group(OURS, None)) as found, found.locked():
            os.close(worker_file(found))
            abandoned(found, start="1")
            assert remove_abandoned(found) == 1
            assert found.files() == ["worker-1"]
    shutil.rmtree(found.path)
    (Path(found.path)).touch()
    with pytest.raises(OSError):
        of_group(OURS, None)
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_a_master_whose_start_is_known_there_is_none() -> None:
    with subprocess.Popen(["sleep", "0"]) as process:
        process.wait()
    with pytest.raises(OSError, match=f"start time of the master, process {process.pid}, is unknown: No such file"):
        of_group(OURS._replace(master=process.pid), None)


def test_a_masters_program_may_have_any_name(tmp_path: Path) -> None:
    """The kernel shows it in parentheses, before the start time, as it is."""
    odd = tmp_path / ") S 1 (x y"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", odd)
    with subprocess.Popen([odd, "1000"]) as process:
        try:
            ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
            assert directory._started(os.getpid()) < directory._started(process.pid) <= ticks
        finally:
            process.kill()


def test_with_neither_a_group_nor_a_name_there_is_none() -> None:
    with pytest.raises(OSError, match="neither a group"):
        of_group(None, None)


def test_any_application_has_a_name_of_its_own(place: Path) -> None:
    """Whatever a server calls it, also what is no text in any encoding."""
    applications = ["", "a", "a/../../b", "\udcff", "x" * 5_000, "\0"]
    found = [of_group(OURS._replace(application=application), None) for application in applications]
    assert len({one.path for one in found}) == len(applications)
    assert {Path(one.path).parent for one in found} == {place / f"exemplars-{os.geteuid()}"}
    for one in found:
        one.close()


CREATORS: Final = """
place, other, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
directory._places = lambda: {place: "tmpfs", other: "tmpfs"}

def moody(fd):
    if random.random() < 0.5:
        raise OSError("no room, as it seems to this one just now")

for number in range(rounds):
    group = Group("gunicorn", os.getpid(), str(number))
    barrier, answers, children = os.pipe(), os.pipe(), []
    for _ in range(12):
        child = os.fork()
        if not child:
            os.close(barrier[1])
            random.seed()
            tries = []
            # The last place has room for everybody: who finds none anywhere is no case of this test.
            directory._check_room = lambda fd: None if tries or tries.append(fd) else moody(fd)
            os.read(barrier[0], 1)
            os.write(answers[1], directory.of_group(group, None, 60.0).path.encode() + b"\\n")
            os._exit(0)
        children.append(child)
    os.close(barrier[0]), os.close(barrier[1])  # all go at once
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
    found = set(os.read(answers[0], 65536).decode().split())
    os.close(answers[0]), os.close(answers[1])
    assert len(found) == 1, found
    print(*found, flush=True)
"""


def test_racing_creators_agree_even_where_they_find_different_room(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with program(CREATORS, str(place), str(other), "15") as process:
        found = [line(process) for _ in range(15)]
        assert process.wait() == 0

    made = [str(path) for parent in (place, other) for path in parent.glob("exemplars-*/group-*")]
    assert sorted(made) == sorted(found), "one each, and nothing beside"


@pytest.mark.parametrize("name", [None, "EXEMPLARS_DIR"])
def test_what_is_removed_in_the_moment_it_was_made_is_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """By somebody who removes what was there before, under the same name."""
    real, removed = os.open, list[str]()

    def open_late(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path.startswith("group-") and len(removed) < 3:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(path, dir_fd=dir_fd)
                removed.append(path)
        return real(path, flags, mode, dir_fd=dir_fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", open_late)
        found = of_group(OURS, (name, str(place)) if name else None)
    assert len(removed) == 3
    assert not found.lost()
    found.close()


# What others have put there.


def parent_of(place: Path) -> Path:
    return place / f"exemplars-{os.geteuid()}"


def linked(path: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    path.symlink_to(target)


def somebody_elses(path: Path, target: Path) -> None:
    path.mkdir(mode=0o700)
    if os.geteuid():
        pytest.skip("only root may give files away")
    os.chown(path, NOBODY, NOBODY)


def open_to_all(path: Path, target: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def open_to_the_group(path: Path, target: Path) -> None:
    path.mkdir()
    path.chmod(0o750)


def a_file(path: Path, target: Path) -> None:
    path.touch(mode=0o600)


ATTACKS: Final = (linked, somebody_elses, open_to_all, open_to_the_group, a_file)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_parent_that_is_not_ours_is_refused_and_the_next_place_taken(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Callable[[Path, Path], None]
) -> None:
    attack(parent_of(place), tmp_path / "target")
    with pytest.raises(OSError, match=f"no place for shared files: {place}: (Not a directory|.* not a directory of)"):
        of_group(OURS, None)

    second = tmp_path / "second"
    second.mkdir()
    only(monkeypatch, place, second)
    with contextlib.closing(of_group(OURS, None)) as found:
        assert Path(found.path).parent == parent_of(second)
    if parent_of(place).is_dir():
        assert not list(parent_of(place).iterdir()), "nothing was put there"


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_groups_directory_that_is_not_ours_is_refused(
    place: Path, tmp_path: Path, attack: Callable[[Path, Path], None]
) -> None:
    with contextlib.closing(of_group(OURS, None)) as found:
        os.rmdir(found.path)
    attack(Path(found.path), tmp_path / "target")
    with pytest.raises(OSError, match="no place for shared files"):
        of_group(OURS, None)
    with pytest.raises(OSError, match="EXEMPLARS_DIR names"):
        of_group(OURS, ("EXEMPLARS_DIR", str(Path(found.path).parent)))


def test_a_parent_that_may_not_be_entered_is_somebody_elses(place: Path) -> None:
    (place / f"exemplars-{NOBODY}").mkdir(mode=0o700)
    with somebody_else(), pytest.raises(OSError, match=rf"{place}: Permission denied: 'exemplars-{NOBODY}'"):
        of_group(OURS, None)


def test_two_users_have_a_directory_each(place: Path) -> None:
    of_group(OURS, None).close()
    with somebody_else(), contextlib.closing(of_group(OURS, None)) as theirs, theirs.locked():
        os.close(worker_file(theirs))
    assert Path(theirs.path).parent == place / f"exemplars-{NOBODY}"
    assert os.stat(theirs.path).st_uid == NOBODY
    assert len(list(place.glob("exemplars-*/group-*"))) == 2


@pytest.fixture
def found(place: Path) -> Iterator[Directory]:
    """A group's directory, open."""
    with contextlib.closing(of_group(OURS, None)) as opened:
        yield opened


def test_a_file_is_made_and_opened_again(found: Directory) -> None:
    fd = found.open("worker-1", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.write(fd, b"numbers")
    os.close(fd)
    fd = found.open("worker-1", os.O_RDONLY)
    assert os.pread(fd, 100, 0) == b"numbers"
    os.close(fd)

    with pytest.raises(FileExistsError):
        found.open("worker-1", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    with pytest.raises(FileNotFoundError, match=re.escape(f"{found.path}/worker-2")):
        found.open("worker-2", os.O_RDWR)


def test_a_file_can_be_mapped(found: Directory) -> None:
    """Opened without blocking, against pipes, it still is a file like any other."""
    fd = found.open("worker-1", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, 4096)
    with mmap.mmap(fd, 4096) as mapped:
        mapped[:4] = b"abcd"
        assert os.pread(fd, 4, 0) == b"abcd"
    os.close(fd)


def test_files_that_are_not_this_users_alone_are_not_opened(found: Directory, tmp_path: Path) -> None:
    """Each would have us wait, write elsewhere or trust somebody; and none keeps a descriptor."""
    inside = Path(found.path)
    (tmp_path / "elsewhere").write_text("theirs")
    (inside / "symlink").symlink_to(tmp_path / "elsewhere")
    (inside / "dangling").symlink_to(tmp_path / "nowhere")
    (inside / "one").touch()
    os.link(inside / "one", inside / "another")
    os.mkfifo(inside / "pipe")
    (inside / "directory").mkdir()
    os.mknod(inside / "socket", stat.S_IFSOCK | 0o600)
    names = ["symlink", "dangling", "one", "another", "pipe", "directory", "socket"]
    if not os.geteuid():
        os.mknod(inside / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        (inside / "given").touch()
        os.chown(inside / "given", NOBODY, NOBODY)
        names += ["device", "given"]

    before = len(os.listdir("/proc/self/fd"))
    for name in names:
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT):
            with pytest.raises(OSError):
                found.open(name, flags)
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / "elsewhere").read_text() == "theirs"
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_is_removed_while_it_is_opened_is_not_there(
    found: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path(found.path) / "worker-1").touch()
    real = os.open

    def open_and_remove(name: str, *arguments: int, dir_fd: int) -> int:
        fd = real(name, *arguments, dir_fd=dir_fd)
        os.unlink(name, dir_fd=dir_fd)
        return fd

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched, pytest.raises(FileNotFoundError, match="worker-1 was removed"):
        patched.setattr(os, "open", open_and_remove)
        found.open("worker-1", os.O_RDONLY)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_lock_that_leads_elsewhere_is_not_taken(found: Directory, tmp_path: Path) -> None:
    (Path(found.path) / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), found.locked():
        pytest.fail("unreachable")
    assert not (tmp_path / "elsewhere").exists()


def test_files_come_in_the_order_of_their_numbers(found: Directory) -> None:
    for name in ("worker-10", "worker-2", "worker-1", "lock", "inherited", "worker-03", "worker-", "worker-0", "x"):
        (Path(found.path) / name).touch()
    assert found.files() == ["worker-1", "worker-2", "worker-10"]


def test_threads_and_children_that_list_at_once_all_see_everything(found: Directory) -> None:
    """They share the descriptor, and would share its position in the list."""
    names = [f"worker-{number}" for number in range(1, 400)]
    for name in names:
        (Path(found.path) / name).touch()
    wrong: list[int] = []

    def look() -> None:
        for _ in range(60):
            seen = found.files()
            if seen != names:
                wrong.append(len(seen))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Which place.


def test_room_decides_where_it_is_made(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted("tmpfs", "size=64k", tmp_path / "tiny") as tiny:
        only(monkeypatch, tiny, place)
        with contextlib.closing(of_group(OURS, None)) as found:
            assert Path(found.path).parent == parent_of(place)

        only(monkeypatch, tiny)
        with pytest.raises(OSError, match=f"{tiny}: only 64 KiB of the 8192 needed are free"):
            of_group(OURS._replace(application="another"), None)


def test_where_inodes_are_few_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted("tmpfs", "size=16m,nr_inodes=10", tmp_path / "tiny") as tiny:
        only(monkeypatch, tiny)
        with pytest.raises(OSError, match="inodes needed are free"):
            of_group(OURS, None)


def test_an_existing_one_wins_even_when_there_is_no_room_any_more(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that starts later, or with other places before, joins the others."""
    with mounted("tmpfs", "size=16m", tmp_path / "small") as small:
        only(monkeypatch, small)
        with contextlib.closing(of_group(OURS, None)) as first:
            (small / "ballast").write_bytes(bytes(15 << 20))
            only(monkeypatch, place, small)
            with contextlib.closing(of_group(OURS, None)) as later:
                assert later.path == first.path
                with later.locked():
                    pass
        assert not parent_of(place).exists()

        with contextlib.closing(of_group(OURS._replace(application="another"), None)) as another:
            assert Path(another.path).parent == parent_of(place)


@pytest.mark.parametrize(("kind", "options"), [("ramfs", "mode=1777"), ("tmpfs", "size=0,nr_inodes=0")])
def test_a_file_system_without_limits_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str
) -> None:
    with mounted(kind, options, tmp_path / "unlimited") as unlimited:
        assert directory._kind(str(unlimited)) == kind
        only(monkeypatch, unlimited)
        with contextlib.closing(of_group(OURS, None)) as found:
            assert Path(found.path).parent == parent_of(unlimited)


def test_a_place_that_cannot_be_written_is_passed(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted("tmpfs", "ro", tmp_path / "frozen") as frozen:
        only(monkeypatch, frozen, tmp_path / "nowhere", place)
        with contextlib.closing(of_group(OURS, None)) as found:
            assert Path(found.path).parent == parent_of(place)

        only(monkeypatch, frozen, tmp_path / "nowhere")
        with pytest.raises(OSError, match="frozen: Read-only file system.*nowhere: No such file or directory"):
            of_group(OURS._replace(application="another"), None)


@pytest.mark.parametrize(
    "kind", ["btrfs", "zfs", "bcachefs", "nfs", "nfs4", "cifs", "9p", "fuse.sshfs", "virtiofs", ""]
)
def test_none_is_made_on_a_file_system_that_is_not_for_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    only(monkeypatch, place, kind=kind)
    with pytest.raises(OSError, match=f"{place}: {kind or 'unknown'} is not a file system for this"):
        of_group(OURS, None)
    assert not list(place.iterdir())


def test_a_process_without_descriptors_says_so_and_goes_nowhere_else(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another place it would be alone, while the other workers meet in the first."""
    second = tmp_path / "second"
    second.mkdir()
    only(monkeypatch, place, second)
    real = os.open

    def none_left(path: str, *arguments: int, dir_fd: int | None = None) -> int:
        if path == str(place):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return real(path, *arguments, dir_fd=dir_fd)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="Too many open files"):
        patched.setattr(os, "open", none_left)
        of_group(OURS, None)
    assert not list(second.iterdir())


def test_memory_goes_before_disks_and_both_before_what_is_not_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"/dev/shm": "9p", "/tmp": "ext4", "/var/tmp": "tmpfs", str(tmp_path): "xfs"}
    monkeypatch.setattr(directory, "_kind", kinds.__getitem__)
    environ = {"XDG_RUNTIME_DIR": "relative", "TMPDIR": str(tmp_path)}

    assert list(directory._places(environ)) == ["/var/tmp", str(tmp_path), "/tmp", "/dev/shm"]


def test_the_users_own_runtime_directory_comes_after_the_shared_memory_of_all(tmp_path: Path) -> None:
    with mounted("tmpfs", "size=16m", tmp_path / "run") as run:
        environ = {"XDG_RUNTIME_DIR": str(run), "TMPDIR": str(tmp_path / "missing")}
        places = directory._places(environ)
        assert places[str(run)] == "tmpfs"
        assert str(tmp_path / "missing") not in places
        if places.get("/dev/shm") == "tmpfs":
            assert list(places)[:2] == ["/dev/shm", str(run)]


# Which file system.


def escaped(path: str) -> bytes:
    return re.sub(rb"[ \t\n\\#]", lambda found: b"\\%03o" % found[0][0], os.fsencode(path))


NAMES: Final = st.text(st.sampled_from("ab \\\t\n#0é\udcff-"), min_size=1, max_size=3)
PATHS: Final = st.lists(NAMES, max_size=3).map(lambda names: "/" + "/".join(names))
KINDS: Final = st.sampled_from(["tmpfs", "ext4", "btrfs", "fuse.sshfs", "-"])


@given(
    st.lists(st.tuples(PATHS, KINDS, st.integers(0, 3)), max_size=6), PATHS, st.integers(4, 6), st.sampled_from([0, 1])
)
def test_the_longest_mount_point_decides_and_the_last_of_several(
    mounts: list[tuple[str, str, int]], path: str, unlisted: int, shown: int
) -> None:
    """Where the path's device is in the table (*shown*), only mounts of that device count."""
    table = b"".join(
        b"%d 1 0:%d / %s rw%s - %s source with fields\n"
        % (number, device, escaped(point), b" x:1" * device, kind.encode())
        for number, (point, kind, device) in enumerate(mounts)
    )
    above = [mount for mount in mounts if Path(path).is_relative_to(mount[0])]
    device = above[0][2] if shown and above else unlisted
    candidates = [mount for mount in above if mount[2] == device] or above
    best = max(range(len(candidates)), key=lambda index: (len(candidates[index][0]), index), default=None)
    expected = candidates[best][1] if best is not None else ""

    assert directory._filesystem(table, path, f"0:{device}") == expected


@given(st.binary(max_size=200), st.binary(max_size=30))
def test_no_table_of_mounts_is_too_strange(noise: bytes, inside: bytes) -> None:
    assert isinstance(directory._filesystem(noise, "/a/b", "0:1"), str)
    table = b"1 2 0:1 / / rw - ext4 x y\n%s\n3 2 0:%s / /%s rw %s - tmpfs" % (noise, inside, inside, noise)
    assert isinstance(directory._filesystem(table, "/a/b", "0:1"), str)


def test_a_mount_hidden_by_a_later_one_does_not_decide(tmp_path: Path) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    with mounted("tmpfs", "size=64k", tmp_path / "outer" / "inner"), mounted("ramfs", "mode=700", tmp_path / "outer"):
        (tmp_path / "outer" / "inner").mkdir()
        assert directory._kind(str(tmp_path / "outer" / "inner")) == "ramfs"


def test_the_machines_own_file_systems_are_told_apart(tmp_path: Path) -> None:
    assert directory._kind("/proc/self") == "proc"
    assert directory._kind("/sys") == "sysfs"
    (tmp_path / "link").symlink_to("/proc")
    assert directory._kind(str(tmp_path / "link")) == "proc"

    layers = [tmp_path / name for name in ("lower", "upper", "work")]
    for layer in layers:
        layer.mkdir()
    options = ",".join(f"{layer.name}dir={layer}" for layer in layers)
    with mounted("tmpfs", "size=64k", tmp_path / "with a space"), mounted("overlay", options, tmp_path / "merged"):
        assert directory._kind(str(tmp_path / "with a space")) == "tmpfs"
        assert directory._kind(str(tmp_path / "merged")) == "overlay"


def test_where_no_table_of_mounts_is_a_directory_can_be_named_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other systems, where nothing is shared: the same configuration must not be an error there."""

    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(directory, "open", missing, raising=False)
    assert directory._kind(str(tmp_path)) == ""
    assert named({"EXEMPLARS_DIR": str(tmp_path)}) == ("EXEMPLARS_DIR", str(tmp_path))

    monkeypatch.setattr(ofd, "SUPPORTED", False)
    with pytest.raises(OSError, match="on 64-bit Linux only"):
        of_group(OURS, ("EXEMPLARS_DIR", str(tmp_path)))


# Named ones.


def test_nothing_is_named_where_no_variable_is_set() -> None:
    assert named({}) is None
    assert named({"EXEMPLARS_DIR": "", "PROMETHEUS_MULTIPROC_DIR": ""}) is None


def test_our_own_variable_goes_first_then_theirs_then_theirs_as_it_was(tmp_path: Path) -> None:
    variables = ["EXEMPLARS_DIR", "PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"]
    environ = {}
    for variable in reversed(variables):
        path = tmp_path / variable
        path.mkdir()
        environ[variable] = str(path)
        assert named(environ) == (variable, str(path))


def test_a_relative_path_is_that_of_where_the_process_first_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("first", "second"):
        (tmp_path / place / "here").mkdir(parents=True)
    directory._absolute.cache_clear()
    for place in ("first", "second"):
        monkeypatch.chdir(tmp_path / place)
        found = named({"PROMETHEUS_MULTIPROC_DIR": "here"})
        assert found == ("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "first" / "here"))
    directory._absolute.cache_clear()


def test_our_own_is_made_if_only_the_last_part_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "one"
    assert named({"EXEMPLARS_DIR": str(path)}) == ("EXEMPLARS_DIR", str(path))
    assert path.stat().st_mode & 0o777 == 0o700

    with pytest.raises(ValueError, match="EXEMPLARS_DIR is '.*/two/three'.*No such file.*name a directory"):
        named({"EXEMPLARS_DIR": str(tmp_path / "two" / "three")})
    with pytest.raises(ValueError, match="PROMETHEUS_MULTIPROC_DIR is '.*/four'.*No such file.* in EXEMPLARS_DIR"):
        named({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "four")})
    assert not (tmp_path / "four").exists(), "that is the client library's to make"


@pytest.mark.parametrize("variable", ["EXEMPLARS_DIR", "PROMETHEUS_MULTIPROC_DIR"])
def test_what_is_no_directory_is_an_error(tmp_path: Path, variable: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for value in (str(tmp_path / "file"), str(tmp_path / "dangling"), "a\0b", str(tmp_path / ("x" * 300))):
        with pytest.raises(ValueError, match=rf"^{variable} is .*: name a directory on tmpfs, ext4 or xfs"):
            named({variable: value})


def test_where_this_user_may_not_write_is_an_error(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as readable:
        os.chmod(readable, 0o755)
        with somebody_else(), pytest.raises(ValueError, match=f"EXEMPLARS_DIR is '{readable}', where this process may"):
            named({"EXEMPLARS_DIR": readable})
    with mounted("tmpfs", "ro", tmp_path / "frozen") as frozen, pytest.raises(ValueError, match="may not write"):
        named({"EXEMPLARS_DIR": str(frozen)})


@pytest.mark.parametrize("kind", ["btrfs", "zfs", "bcachefs"])
def test_a_file_system_that_copies_on_write_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(directory, "_kind", lambda path: kind)
    with pytest.raises(ValueError, match=f"PROMETHEUS_MULTIPROC_DIR is '{tmp_path}' on {kind}, which copies on write"):
        named({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)})


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "fuse.sshfs", "fuse.glusterfs"])
def test_a_file_system_of_a_network_or_a_process_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its space may go while it is mapped, which ends the process that counts there."""
    monkeypatch.setattr(directory, "_kind", lambda path: kind)
    with pytest.raises(ValueError, match=f"EXEMPLARS_DIR is '{tmp_path}' on {kind}, .*: name a directory on tmpfs"):
        named({"EXEMPLARS_DIR": str(tmp_path)})


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs", "overlay", "f2fs", ""])
def test_other_file_systems_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(directory, "_kind", lambda path: kind)
    assert named({"EXEMPLARS_DIR": str(tmp_path)}) == ("EXEMPLARS_DIR", str(tmp_path))


def test_a_named_one_holds_a_directory_for_each_group(tmp_path: Path) -> None:
    name = ("EXEMPLARS_DIR", str(tmp_path))
    with contextlib.closing(of_group(OURS, name)) as one, contextlib.closing(of_group(OURS, name)) as again:
        assert one.path == again.path
        assert Path(one.path).parent == tmp_path
        with contextlib.closing(of_group(OURS._replace(application="billing"), name)) as other:
            assert Path(other.path).parent == tmp_path
            assert other.path != one.path


def test_all_who_name_it_without_a_group_are_one_in_this_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = ("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with contextlib.closing(of_group(None, name)) as one, contextlib.closing(of_group(None, name)) as other:
        assert one.path == other.path
        assert re.fullmatch(rf"shared-{os.geteuid()}-[0-9a-f]{{12}}", Path(one.path).name)
        monkeypatch.setattr(directory, "_boot", lambda: "0123456789ab")
        with contextlib.closing(of_group(None, name)) as next_boot:
            assert next_boot.path != one.path


def test_a_named_one_that_was_removed_is_made_anew_only_if_it_is_ours_to_make(tmp_path: Path) -> None:
    path = tmp_path / "named"
    with contextlib.closing(of_group(OURS, ("EXEMPLARS_DIR", str(path)))) as found:
        assert not found.lost()
        shutil.rmtree(path)
        assert found.lost()
    of_group(OURS, ("EXEMPLARS_DIR", str(path))).close()
    shutil.rmtree(path)
    with pytest.raises(OSError, match=f"PROMETHEUS_MULTIPROC_DIR names {path}: No such file or directory"):
        of_group(OURS, ("PROMETHEUS_MULTIPROC_DIR", str(path)))


# The lock.


def test_one_at_a_time_is_inside_in_threads_too(found: Directory) -> None:
    inside, most = 0, 0

    def come_and_go() -> None:
        nonlocal inside, most
        for _ in range(30):
            with found.locked(patience=60.0):
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside) == (1, 0)


HOLDER: Final = """
path = sys.argv[1]
found = directory.Directory(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY))
with found.locked():
    print("held", flush=True)
    sys.stdin.readline()
print("left", flush=True)
sys.stdin.readline()
"""


def test_patience_ends_where_the_holder_is_stopped(found: Directory) -> None:
    with program(HOLDER, found.path) as holder:
        assert line(holder) == "held"
        holder.send_signal(signal.SIGSTOP)
        os.waitpid(holder.pid, os.WUNTRACED)
        for patience in (0.0, 0.05):
            with pytest.raises(TimeoutError, match="lock was held by another"), found.locked(patience=patience):
                pytest.fail("unreachable")

        holder.send_signal(signal.SIGCONT)
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        with found.locked(patience=60.0):
            assert line(holder) == "left"


def test_a_killed_holder_leaves_the_lock_free(found: Directory) -> None:
    with program(HOLDER, found.path) as holder:
        assert line(holder) == "held"
        holder.kill()
        holder.wait()
        with found.locked(patience=0.0):
            pass


def test_what_fails_inside_or_while_waiting_leaves_the_lock_free(found: Directory) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError), found.locked():
        raise ZeroDivisionError

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with program(HOLDER, found.path) as holder:
        assert line(holder) == "held"
        last = signal.signal(signal.SIGALRM, stop)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(KeyboardInterrupt), found.locked(patience=60.0):
                pytest.fail("unreachable")
        finally:
            signal.signal(signal.SIGALRM, last)
    assert len(os.listdir("/proc/self/fd")) == before
    with found.locked(patience=0.0):
        pass


FORKED_INSIDE: Final = """
path = sys.argv[1]
found = directory.Directory(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY))
with found.locked():
    child = os.fork()  # as one forked in C by another thread: it knows nothing of the lock
    if not child:
        sys.stdin.readline()
        os._exit(0)
with found.locked(patience=0.0):
    print("taken again", flush=True)
sys.stdin.close()
os.kill(child, 9)
os.waitpid(child, 0)
"""


def test_a_child_forked_meanwhile_does_not_keep_it(found: Directory) -> None:
    with program(FORKED_INSIDE, found.path) as process:
        assert line(process) == "taken again"
        assert process.wait() == 0


GREENLETS: Final = """
import gevent, gevent.monkey
gevent.monkey.patch_all()
path = sys.argv[1]
found = directory.Directory(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY))
turns = []

def turn():
    while True:
        turns.append(1)
        time.sleep(0)

other = gevent.spawn(turn)
gevent.sleep(0)
assert turns, "greenlets do take turns"
with found.locked():
    before = len(turns)
    try:
        with found.locked(patience=0.1):
            print("taken twice")
    except TimeoutError:
        print("waited while", len(turns) - before, "turns were taken", flush=True)
other.kill()
"""


def test_no_greenlet_is_switched_to_while_it_waits(found: Directory) -> None:
    """The caller holds a lock of the process, for which another greenlet would wait for ever."""
    with program(GREENLETS, found.path) as process:
        assert line(process) == "waited while 0 turns were taken"


def test_the_lock_of_a_directory_that_is_gone_cannot_be_taken(found: Directory) -> None:
    shutil.rmtree(found.path)
    with pytest.raises(FileNotFoundError, match=re.escape(found.path)), found.locked():
        pytest.fail("unreachable")

    with contextlib.closing(of_group(OURS, None)) as another:
        os.rename(another.path, another.path + ".moved")
        with pytest.raises(FileNotFoundError, match="was removed"), another.locked():
            pytest.fail("unreachable")


def test_who_waits_for_a_lock_that_is_removed_does_not_enter_with_it(
    found: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is unlinked between its being opened and its being locked: another may hold the new one."""
    real = ofd.take
    removed: list[int] = []

    def take(fd: int) -> bool:
        if not removed:
            removed.append(fd)
            os.unlink("lock", dir_fd=found.fd)
        return real(fd)

    monkeypatch.setattr(ofd, "take", take)
    with found.locked():
        inside = os.stat("lock", dir_fd=found.fd)
        other = os.open("lock", os.O_RDWR, dir_fd=found.fd)
        assert os.fstat(other).st_ino == inside.st_ino
        assert ofd.held(other), "the file that has the name is the one that is locked"
        os.close(other)
    assert removed


# Lost.


def replaced(path: str) -> None:
    os.rename(path, path + ".old")
    os.mkdir(path, 0o700)


def led_elsewhere(path: str) -> None:
    os.rename(path, path + ".old")
    os.symlink(path + ".old", path)


@pytest.mark.parametrize("happens", [os.rmdir, replaced, led_elsewhere, lambda path: shutil.rmtree(Path(path).parent)])
def test_a_directory_that_was_removed_or_replaced_is_lost(found: Directory, happens: Callable[[str], None]) -> None:
    assert not found.lost()
    happens(found.path)
    assert found.lost()


def test_a_directory_made_anew_is_another(found: Directory) -> None:
    os.rmdir(found.path)
    with contextlib.closing(of_group(OURS, None)) as anew:
        assert anew.path == found.path
        assert found.lost()
        assert not anew.lost()
        os.dup2(anew.fd, found.fd, inheritable=False)
        assert found.lost(), "also where somebody closed the first, and the second has got its number"
        os.close(found.fd)


def test_a_descriptor_closed_behind_its_back_is_lost_and_not_closed_again(place: Path) -> None:
    """As those do who make daemons; the number is given to somebody else."""
    found = of_group(OURS, None)
    os.close(found.fd)
    assert found.lost()
    with open("/dev/null") as another:
        os.dup2(another.fileno(), found.fd)
    assert found.lost()
    found.close()
    os.close(found.fd)  # raises if it was closed
    found.close()


# What is abandoned.


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Directory]:
    """The directory of a living group in memory, beside which others may be abandoned."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        only(monkeypatch, Path(place))
        with contextlib.closing(of_group(OURS, None)) as opened:
            fd = worker_file(opened)
            yield opened
            os.close(fd)


def test_a_group_whose_master_has_ended_is_removed(here: Directory) -> None:
    with subprocess.Popen(["sleep", "1000"]) as master:
        try:
            with contextlib.closing(of_group(OURS._replace(master=master.pid), None)) as other:
                with other.locked():
                    os.close(worker_file(other))
                    os.close(other.open(directory.INHERITED, os.O_RDWR | os.O_CREAT))
                assert remove_abandoned(here) == 0, "nobody owns the file, but the master may start a worker any time"
        finally:
            master.kill()
    assert remove_abandoned(here) == 1
    assert not os.path.exists(other.path)
    assert other.lost()
    assert not here.lost()
    assert here.files() == ["worker-1"]


def test_a_group_is_kept_while_one_of_its_workers_lives(here: Directory) -> None:
    path = abandoned(here, start="1")
    fd = os.open(path / "worker-12", os.O_RDWR)
    assert ofd.take(fd)
    assert remove_abandoned(here) == 0
    assert sorted(os.listdir(path)) == ["lock", "worker-1", "worker-12"]

    os.close(fd)
    assert remove_abandoned(here) == 1


def test_a_pid_that_has_been_given_to_another_process_is_not_the_master(here: Directory) -> None:
    reused = abandoned(here, start="1")
    living = abandoned(here, application="0123456789abcdef")
    assert remove_abandoned(here) == 1
    assert not reused.exists()
    assert living.exists()


def test_a_living_master_that_proc_hides_is_not_gone(here: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hidepid` shows nobody the processes of others."""

    def hidden(pid: int) -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"/proc/{pid}/stat")

    def is_another_users(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    abandoned(here, start="1")
    monkeypatch.setattr(directory, "_started", hidden)
    assert remove_abandoned(here) == 0
    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", is_another_users)
        assert remove_abandoned(here) == 0
    never = abandoned(here, master="99999999999999")
    assert remove_abandoned(here) == 0
    assert never.exists(), "no system has such a process: not a name that we have given"


def test_a_group_of_another_boot_is_removed(here: Directory) -> None:
    """Its master's pid and start time may be those of a process of this boot."""
    path = abandoned(here, boot="0123456789ab")
    assert remove_abandoned(here) == 1
    assert not path.exists()


def test_where_the_master_cannot_be_seen_an_hour_decides(here: Directory) -> None:
    path = abandoned(here, namespace="1", start="1")
    untouched_for(HOURS, path)
    for young in (path / "worker-1", path / "lock", path):
        os.utime(young)
        assert remove_abandoned(here) == 0
        untouched_for(HOURS, path)

    with contextlib.closing(Directory(str(path), os.open(path, os.O_RDONLY))) as theirs:
        fd = os.open(path / "worker-1", os.O_RDWR)
        assert ofd.take(fd)
        assert remove_abandoned(here) == 0, "nobody has come for long, but one is there"
        os.close(fd)
        untouched_for(HOURS, path)
        with theirs.locked():
            pass
        assert remove_abandoned(here) == 0, "somebody has just come"
    untouched_for(HOURS, path)
    assert remove_abandoned(here) == 1


@pytest.mark.parametrize("inside", ["notes.txt", "worker-x", "worker-1.db", "worker-2/", "inherited/"])
def test_a_directory_that_holds_anything_else_is_left_whole(here: Directory, inside: str) -> None:
    path = abandoned(here, start="1")
    if inside.endswith("/"):
        (path / inside).mkdir()
    else:
        (path / inside).touch()
    assert remove_abandoned(here) == 0
    assert sorted(os.listdir(path)) == sorted(("lock", "worker-1", "worker-12", inside.rstrip("/")))


def test_links_are_neither_followed_nor_removed(here: Directory) -> None:
    target = Path(here.path).with_name("target")
    abandoned(here, start="1").rename(target)
    link = Path(here.path).with_name(Path(here.path).name.replace(f"-{os.getpid()}-", "-999999999-"))
    link.symlink_to(target)
    half = abandoned(here, start="2")
    (half / "worker-1").unlink()
    (half / "worker-1").symlink_to(target / "worker-1")

    assert remove_abandoned(here) == 0
    assert link.is_symlink()
    for path in (target, half):
        assert sorted(os.listdir(path)) == ["lock", "worker-1", "worker-12"]


def test_only_what_is_named_as_ours_is_removed(here: Directory) -> None:
    gone = abandoned(here, start="1")
    names = [
        "shared-0-0123456789ab",
        gone.name + ".old",
        "group-",
        gone.name[6:],
        "group-x-" + gone.name[8:],
        "worker-1",
    ]
    for name in names:
        shutil.copytree(gone, gone.with_name(name))
        gone.with_name(name).chmod(0o700)
    assert remove_abandoned(here) == 1
    assert not gone.exists()
    for name in names:
        assert sorted(os.listdir(gone.with_name(name))) == ["lock", "worker-1", "worker-12"]


def test_somebody_elses_is_left(here: Directory) -> None:
    named_theirs = abandoned(here, euid="12345", start="1")
    if os.geteuid():
        pytest.skip("only root may give files away")
    owned_theirs = abandoned(here, start="2")
    os.chown(owned_theirs, NOBODY, NOBODY)
    one_file_theirs = abandoned(here, start="3")
    os.chown(one_file_theirs / "worker-1", NOBODY, NOBODY)
    assert remove_abandoned(here) == 0
    for path in (named_theirs, owned_theirs, one_file_theirs):
        assert sorted(os.listdir(path)) == ["lock", "worker-1", "worker-12"]


def test_one_that_resists_does_not_keep_the_others(here: Directory) -> None:
    paths = [abandoned(here, start=str(start)) for start in range(1, 8)]
    for refused in (paths[0], paths[-1]):  # whichever is looked at first
        (refused / "worker-1").unlink()
        os.mkfifo(refused / "worker-1")
    (paths[2] / "notes.txt").touch()
    lock = os.open(paths[4] / "lock", os.O_RDWR)
    assert ofd.take(lock)
    assert remove_abandoned(here) == 3
    assert [path.exists() for path in paths] == [True, False, True, False, True, False, True]
    os.close(lock)


def test_the_lock_is_removed_last(here: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds none makes another, and is alone with it: then nothing may be removed any more."""
    abandoned(here, start="1")
    real, order = os.unlink, list[str]()

    def unlink(name: str, *, dir_fd: int) -> None:
        order.append(name)
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    assert remove_abandoned(here) == 1
    assert set(order) == {"lock", "worker-1", "worker-12"}
    assert order[-1] == "lock"


def test_what_an_earlier_removal_left_half_done_is_finished(here: Directory) -> None:
    """It was killed in the middle."""
    for start, names in enumerate((["lock"], [], ["worker-12", "lock"], ["worker-1"]), start=1):
        path = abandoned(here, start=str(start))
        for name in {"lock", "worker-1", "worker-12"} - set(names):
            (path / name).unlink()
    assert remove_abandoned(here) == 4


def test_nothing_is_removed_by_those_without_a_master_nor_where_other_machines_may_be(
    here: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = abandoned(here, boot="0123456789ab")
    with contextlib.closing(of_group(None, ("EXEMPLARS_DIR", str(path.parent)))) as shared:
        assert remove_abandoned(shared) == 0
    for kind in ("nfs4", "9p", "virtiofs", ""):
        with monkeypatch.context() as patched:
            patched.setattr(directory, "_kind", lambda path, kind=kind: kind)
            assert remove_abandoned(here) == 0
    assert path.exists()
    assert remove_abandoned(here) == 1


def test_removing_never_raises(here: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned(here, start="1")

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for function in ("listdir", "open", "unlink", "rmdir", "stat", "fstat", "readlink"):
        with monkeypatch.context() as patched:
            patched.setattr(os, function, broken)
            removed = remove_abandoned(here)
        assert removed == 0, function
    shutil.rmtree(here.path)
    assert remove_abandoned(here) == 0


REMOVAL_RACE: Final = """
# Whoever removes takes every group for abandoned whose files nobody owns: as if its master ended again and again.
place, attachments = sys.argv[1], int(sys.argv[2])
directory._places = lambda: {place: "tmpfs"}
group, beside = Group("gunicorn", os.getpid(), "raced"), Group("gunicorn", os.getpid(), "beside")

def attach(times):
    started_over = 0
    while times > 0 or not os.path.exists(place + "/enough"):
        times -= 1
        while True:
            try:
                found = directory.of_group(group, None, 60.0)
                with found.locked(patience=60.0):
                    name = f"worker-{os.getpid()}"
                    fd = found.open(name, os.O_RDWR | os.O_CREAT)
                    assert ofd.take(fd)
            except FileNotFoundError:
                started_over += 1
                continue
            break
        for _ in range(3):
            assert not found.lost(), "attached to a directory that is gone"
            assert os.fstat(fd).st_nlink == 1, "its file was removed"
            time.sleep(0)
        os.close(fd)
        found.close()
    return started_over

def remove(parent):
    directory._is_gone = lambda group, sibling: True
    here, removed = directory.of_group(beside, None, 60.0), 0
    fd = here.open(f"worker-{os.getpid()}", os.O_RDWR | os.O_CREAT)
    assert ofd.take(fd)
    while os.getppid() == parent and not os.path.exists(place + "/stop"):
        removed += directory.remove_abandoned(here)
        if removed >= 20:
            open(place + "/enough", "w").close()
    return removed

def forked(function, argument):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, str(function(argument)).encode())
        os._exit(0)
    os.close(writing)
    return child, reading

me = os.getpid()
removers = [forked(remove, me) for _ in range(2)]
attachers = [forked(attach, attachments) for _ in range(3)]
statuses = [os.waitpid(child, 0)[1] for child, _ in attachers]
os.close(os.open(place + "/stop", os.O_CREAT))
statuses += [os.waitpid(child, 0)[1] for child, _ in removers]
print(statuses, *(sum(int(os.read(reading, 100)) for _, reading in some) for some in (attachers, removers)), flush=True)
"""


def test_who_attaches_while_it_is_removed_is_never_left_in_a_directory_that_is_gone() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place, program(REMOVAL_RACE, place, "300") as process:
        statuses, started_over, removed = line(process).rsplit(" ", 2)
        assert json.loads(statuses) == [0] * 5
        assert int(removed) >= 20, "they did race"
        print(f"{started_over} starts over, {removed} removals")


# Other namespaces.

INSIDE: Final = """
directory._places = lambda: {sys.argv[1]: "tmpfs"}
found = directory.of_group(Group("gunicorn", os.getpid(), "shop"), None)
with found.locked():
    fd = found.open("worker-1", os.O_RDWR | os.O_CREAT)
    assert ofd.take(fd)
print(os.getpid(), found.path, flush=True)
sys.stdin.readline()
print(directory.remove_abandoned(found), flush=True)
sys.stdin.readline()
"""
UNSHARE: Final = ("unshare", "--pid", "--fork", "--kill-child")


@pytest.fixture
def unshare() -> tuple[str, ...]:
    """What runs a program in a namespace of process ids of its own; skips where this user may not make one."""
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("no namespace of process ids can be made here")
    return UNSHARE


def test_containers_that_share_a_place_do_not_share_a_group_and_do_not_remove_each_other(
    here: Directory, unshare: tuple[str, ...]
) -> None:
    """In each, the master is process 1; from outside it cannot be looked up, nor ours from there."""
    place = str(Path(here.path).parent.parent)
    wrapper = (*unshare, "--mount-proc")
    with program(INSIDE, place, wrapper=wrapper) as one, program(INSIDE, place, wrapper=wrapper) as two:
        answers = [line(process).split() for process in (one, two)]
        assert [pid for pid, _ in answers] == ["1", "1"]
        paths = [Path(path) for _, path in answers]
        assert len({here.path, *map(str, paths)}) == 3

        for path in paths:
            untouched_for(HOURS, path)
        untouched_for(HOURS, Path(here.path))
        assert remove_abandoned(here) == 0, "their workers live"
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
        assert line(one) == "0", "nor do they remove what lives outside"

    def all_gone() -> bool:
        remove_abandoned(here)
        return not any(path.exists() for path in paths)

    eventually(all_gone, "their processes, no children of ours, to end, and what was untouched for long to be removed")
    assert not here.lost()


def test_a_proc_of_another_namespace_is_not_asked(here: Directory, unshare: tuple[str, ...]) -> None:
    """Process ids mean other processes there: a start time would be anybody's."""
    source = """
directory._places = lambda: {sys.argv[1]: "tmpfs"}
try:
    directory.of_group(Group("gunicorn", os.getpid(), "shop"), None)
except OSError as error:
    print(error, flush=True)
"""
    with program(source, str(Path(here.path).parent.parent), wrapper=unshare) as process:
        assert line(process).endswith("is unknown: /proc is that of another namespace of process ids")
