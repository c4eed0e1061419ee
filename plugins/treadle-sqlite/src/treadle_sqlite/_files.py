"""The files of a store: where they are, who may read them, and whether they are still the ones that were opened."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from treadle.errors import StoreUnavailableError

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
            StoreUnavailableError: A file has gone or is another one.
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

    def _error(self, name: str, what: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"{name} {what} while it was in use; what this process writes would be lost.",
            "Stop every process that uses it, put the files back together (all of them, or a backup), then resume.",
        )
