"""The files of a store: where they are, who may read them, and whether they are still the ones that were opened."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from treadle.errors import StoreGoneError, StoreUnavailableError

_log = logging.getLogger("treadle.sqlite")

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs", "ncpfs", "virtiofs")
# FUSE file systems that keep their files on this machine.
_LOCAL_FUSE = ("fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.encfs", "fuse.ntfs-3g", "fuseblk")


def default_path() -> Path:
    """Where the store is unless ``[store] path`` says otherwise: in the user's state directory."""
    base = os.environ.get("XDG_STATE_HOME") or ""
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state") / "treadle" / "runs.db"


def prepare(path: Path, *, may_be_remote: bool) -> None:
    """Make folder and file, for the owner alone, before SQLite would make them readable by everybody.

    Raises:
        StoreUnavailableError: They cannot be made, or lie on a network file system.
    """
    if reason := why_read_only(path):
        raise StoreUnavailableError(
            f"Store {path} can only be read: {reason}.",
            "Make the file and its folder writable, or choose another path in [store].",
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kind = file_system(path.parent)
        if kind and not may_be_remote:
            raise StoreUnavailableError(
                f"Store {path} lies on a network file system ({kind}), where SQLite loses data.",
                "Choose a local path in [store], or use the Postgres store for several machines.",
            )
        # Only a file that is not there yet is opened: closing it would drop the locks of another store of this process.
        if not path.exists():
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreUnavailableError(
            f"Store {path} cannot be made: {error.strerror}.", "Make its folder writable, or choose another path in [store]."
        ) from error


def why_read_only(path: Path) -> str:
    """Why a store that there is cannot be written by this user; empty when it can, or when there is none."""
    if not path.is_file():
        return ""
    for place in (path, path.parent):  # SQLite keeps its log beside the file
        if not os.access(place, os.W_OK):
            is_medium = hasattr(os, "statvfs") and os.statvfs(place).f_flag & os.ST_RDONLY
            return f"{place} is on a medium that cannot be written" if is_medium else f"{place} may not be written"
    return ""


_TRIES = 5


def copy_to_read(path: Path) -> Path:
    """A copy of a store that cannot be written, in a folder of its own that the caller removes; answers the copy.

    SQLite cannot read such a file in place: it would need to make files beside it, or miss what is in the log.

    Raises:
        StoreUnavailableError: It cannot be read, or changes all the time.
    """
    folder = Path(tempfile.mkdtemp(prefix="treadle-store-"))
    copy, log, copied_log = folder / path.name, Path(f"{path}-wal"), folder / f"{path.name}-wal"
    try:
        for _ in range(_TRIES):
            before = _log_head(log)
            # In this order: pages that come out of the log meanwhile are still in the log that is copied after them.
            shutil.copyfile(path, copy)
            if log.exists():
                shutil.copyfile(log, copied_log)
            if _log_head(log) == before:
                return copy
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StoreUnavailableError(
            f"Store {path} cannot be read: {error.strerror}.",
            "Make it readable for this user, or choose another path in [store].",
        ) from error
    shutil.rmtree(folder, ignore_errors=True)
    raise StoreUnavailableError(
        f"Store {path} can only be read, and changes all the time.",
        "Read it as a user who may write it, or read a backup of it.",
    )


def _log_head(log: Path) -> bytes:
    """What changes when the write-ahead log begins anew."""
    try:
        with log.open("rb") as file:
            return file.read(32)
    except FileNotFoundError:
        return b""


def file_system(folder: Path) -> str:
    """The kind of network file system that a folder lies on; empty for a local one, or where it cannot be told."""
    try:
        lines = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # not Linux
        return ""
    return remote_kind(os.path.realpath(folder), lines)


def remote_kind(folder: str, mounts: list[str]) -> str:
    """The same, from the lines of ``/proc/self/mountinfo``."""
    best, kind = "", ""
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        point = fields.split(" ")[4].replace("\\040", " ")
        if len(point) >= len(best) and (folder == point or folder.startswith(point.rstrip("/") + "/")):
            best, kind = point, rest.split(" ")[0]
    is_remote = kind in _NETWORK or (kind.startswith("fuse") and kind not in _LOCAL_FUSE)
    return kind if is_remote else ""


class Guard:
    """Notices that the files are no longer those that were opened: somebody deleted or replaced them.

    Then SQLite goes on writing into files without a name, and everything that it acknowledges is lost.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._wal = f"{path}-wal"
        self._known: dict[str, tuple[int, int]] = {}

    def check(self) -> None:
        """Compare with what was there the first time.

        Raises:
            StoreGoneError: A file has gone or is another one.
        """
        for name in (self._path, self._wal):
            try:
                found = os.stat(name)
            except OSError:
                if name in self._known:
                    raise self._error(name, "was deleted") from None
                continue  # the log is made by the first write
            identity = (found.st_dev, found.st_ino)
            if self._known.setdefault(name, identity) != identity:
                raise self._error(name, "was replaced")

    def _error(self, name: str, what: str) -> StoreGoneError:
        return StoreGoneError(
            f"{name} {what} while it was in use; what this process writes would be lost.",
            "Stop every process that uses it, put the files back together (all of them, or a backup), then resume.",
        )


class Watch:
    """Warns when something else in this process opens the file of a store: closing it would drop the locks of all.

    What it was opened by cannot be stopped without breaking it; whoever wrote that has to know.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, int] = {}
        self._told: set[str] = set()
        self._is_there = False

    def begin(self, path: Path) -> None:
        """A store has this file open from now on."""
        with self._lock:
            if not self._is_there:
                self._is_there = True
                sys.addaudithook(self._hear)
            self._files[str(path)] = self._files.get(str(path), 0) + 1

    def end(self, path: Path) -> None:
        """One store less has it open."""
        with self._lock:
            left = self._files.pop(str(path), 1) - 1
            if left:
                self._files[str(path)] = left

    def _hear(self, event: str, args: tuple[object, ...]) -> None:
        # Called for every audit event of the process, in the middle of whatever it does: it must be quick, and never raise.
        if (event == "open" or event == "sqlite3.connect") and self._files:
            name = args[0]
            if isinstance(name, bytes):
                name = os.fsdecode(name)
            if isinstance(name, str | os.PathLike):
                found = os.path.abspath(os.fspath(name)).removesuffix("-wal").removesuffix("-shm")
                if found in self._files and found not in self._told:
                    self._told.add(found)
                    what = "Python's sqlite3" if event == "sqlite3.connect" else "open()"
                    _log.warning(
                        "%s opened %s, which treadle keeps runs in: once it closes the file, what others wrote may be lost."
                        " Look into a store from another process (the sqlite3 shell), and copy it with 'treadle store backup'",
                        what,
                        found,
                        stack_info=True,
                    )


watch = Watch()
