"""A disk whose power can be cut: what was not synchronised is gone, in part or in another order than it was written in."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from pathlib import Path
from typing import Literal

import apsw
from treadle_sqlite import SqliteStore

Survivors = Literal["nothing", "prefix", "subset"]


class Disk(apsw.VFS):
    """Passes everything on to the real file system, and remembers what each file would hold after a power cut.

    Args:
        cut_at: The number of the write or synchronisation at which the power goes.
    """

    def __init__(self, name: str, cut_at: int) -> None:
        self.label, self.cut_at, self.operations, self.is_dead = name, cut_at, 0, False
        self.durable: dict[str, bytearray] = defaultdict(bytearray)
        self.pending: dict[str, list[tuple[int, bytes | None]]] = defaultdict(list)
        super().__init__(name=name, base="")

    def xOpen(self, name: object, flags: list[int]) -> DiskFile:
        return DiskFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.step()
        super().xDelete(filename, syncdir)
        self.durable.pop(os.path.basename(filename), None)
        self.pending.pop(os.path.basename(filename), None)

    def step(self) -> None:
        self.operations += 1
        if self.operations >= self.cut_at:
            self.is_dead = True
        if self.is_dead:
            raise apsw.IOError("the power is off")

    def write_survivors(self, folder: Path, survivors: Survivors, chance: random.Random) -> None:
        """What a disk would hold when the power comes back."""
        for name in {*self.durable, *self.pending}:
            image = bytearray(self.durable.get(name, b""))
            pending = self.pending.get(name, [])
            if survivors == "nothing":
                kept = []
            elif survivors == "prefix":
                kept = pending[: chance.randint(0, len(pending))]
            else:
                kept = [one for one in pending if chance.random() < 0.5]
                chance.shuffle(kept)
            for offset, data in kept:
                change(image, offset, data)
            (folder / name).write_bytes(image)


class DiskFile(apsw.VFSFile):
    """One file on it."""

    def __init__(self, disk: Disk, name: object, flags: list[int]) -> None:
        self.disk = disk
        self.name = os.path.basename(name.filename() if isinstance(name, apsw.URIFilename) else str(name))
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self.disk.step()
        super().xWrite(data, offset)
        self.disk.pending[self.name].append((offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        self.disk.step()
        super().xTruncate(size)
        self.disk.pending[self.name].append((size, None))

    def xSync(self, flags: int) -> None:
        self.disk.step()
        super().xSync(flags)
        for offset, data in self.disk.pending.pop(self.name, []):
            change(self.disk.durable[self.name], offset, data)


def change(image: bytearray, offset: int, data: bytes | None) -> None:
    """A write, or a truncation when there is no data."""
    if data is None:
        del image[offset:]
        return
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


class PoweredStore(SqliteStore):
    """The store on such a disk. It has the file for itself: a file system in Python has no shared memory."""

    disk: Disk

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=self.disk.label)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        return connection
