"""Ways in which a file comes to be another than the one that was written."""

import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from exemplars.store import layout

# Of the file's bytes, another file's, which is as valid, and chance: other bytes.
Mutation = Callable[[bytes, bytes, random.Random], bytes]


def used(data: bytes) -> int:
    """The offset after the last record, as the header of a valid file says."""
    return int.from_bytes(data[layout.USED_AT : layout.USED_AT + 8], "little")


def bits(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """A few bits, anywhere in what is used."""
    changed = bytearray(data)
    for _ in range(choose.choice((1, 1, 1, 2, 8))):
        changed[choose.randrange(used(data))] ^= 1 << choose.randrange(8)
    return bytes(changed)


def header_bits(data: bytes, other: bytes, choose: random.Random) -> bytes:
    changed = bytearray(data)
    changed[choose.randrange(layout.HEADER)] ^= 1 << choose.randrange(8)
    return bytes(changed)


def noise(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """A run of random bytes."""
    at, length = choose.randrange(used(data)), choose.choice((1, 8, 40, 500))
    return data[:at] + choose.randbytes(min(length, len(data) - at)) + data[at + length :]


def zeros(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """A run of zeros, as of a page that was never written."""
    at, length = choose.randrange(used(data)), choose.choice((8, 64, 4096))
    return data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]


def cut(data: bytes, other: bytes, choose: random.Random) -> bytes:
    return data[: choose.choice((0, 1, layout.HEADER, used(data) - 1, choose.randrange(used(data))))]


def cut_after_records(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """Nothing that is used is lost."""
    return data[: choose.randint(used(data), len(data))]


def extended(data: bytes, other: bytes, choose: random.Random) -> bytes:
    return data + choose.randbytes(choose.choice((1, 100, 4096)))


def moved(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """A part of it stands elsewhere in it."""
    length = choose.choice((16, 48, 256))
    source, target = choose.randrange(used(data)), choose.randrange(used(data))
    part = data[source : source + length]
    return data[:target] + part + data[target + len(part) :]


def mixed(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """A part of another file stands in it."""
    start, end = sorted((choose.randrange(used(data)), choose.randrange(used(data))))
    return data[:start] + other[start:end] + data[end:]


def other_version(data: bytes, other: bytes, choose: random.Random) -> bytes:
    version = choose.choice((0, 2, 3, 1 << 31)).to_bytes(4, "little")
    return data[:8] + version + data[12:]


def other_machine(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """Written where bytes have another order."""
    return data[:12] + data[12:16][::-1] + data[16:]


def other_end(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """The end of the records is said to be elsewhere."""
    size = len(data)
    end = choose.choice((0, 8, 64, used(data) + 16, used(data) - 16, size, size + 16, 1 << 63, choose.randrange(size)))
    return data[: layout.USED_AT] + end.to_bytes(8, "little") + data[layout.USED_AT + 8 :]


def foreign(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """What others write into files."""
    return choose.choice(
        (
            b"",
            b"\x7fELF" + choose.randbytes(500),
            b'{"a": "text"}\n' * 50,
            choose.randbytes(len(data)),
            bytes(len(data)),
            layout.MAGIC + choose.randbytes(2000),
        )
    )


def another_worker(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """The whole of another file."""
    return other


MUTATIONS: Final[dict[Mutation, int]] = {  # with how often each is wanted
    bits: 8,
    header_bits: 2,
    noise: 3,
    zeros: 1,
    cut: 2,
    cut_after_records: 1,
    extended: 1,
    moved: 2,
    mixed: 2,
    other_version: 1,
    other_machine: 1,
    other_end: 2,
    foreign: 1,
    another_worker: 1,
}


def no_file(path: Path, choose: random.Random) -> None:
    """Put something at *path* that is no file to be read."""
    aside = path.with_name("aside")
    kind = choose.choice(("directory", "link", "pipe", "socket", "hard link"))
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket must be short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(here)
    else:
        aside.write_bytes(b"somebody else's")
        path.hardlink_to(aside)


def remove(path: Path) -> None:
    """Remove whatever is at *path*, and what was put beside it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.with_name("aside").unlink(missing_ok=True)
