"""The kit over what is installed, without anything written: each executor in a process of its own, with a time limit."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Literal

import anyio
import anyio.to_thread
import attrs

from treadle._clients import ClientHosts
from treadle._config import Config, load_config
from treadle._executor import client_mark
from treadle._plugins import Registry
from treadle.errors import TreadleError
from treadle.testing._rules import RULES, Verdict, judge, tried_backends
from treadle.testing._subject import EXECUTORS, Subject, none_needed, owner_of

__all__ = ["Certificate", "Finding", "Level", "certify", "names_of"]

Level = Literal["ok", "failed", "untested"]

CONNECT_S = 10.0
"""How long a client may take to open and to check its connection."""

_AT_ONCE = 2
_ANY = ".*"


@attrs.frozen
class Finding:
    """One thing to know about an executor.

    Attributes:
        kind: ``failure``; ``advice`` for a rule that is newer than the core that its distribution asks for; ``untested`` for a
            rule that could not be judged.
        rule: Id of the rule; ``load`` when it cannot be had at all, ``live`` for a client's connection.
        backend: The event loop; empty when it does not matter.
        message: What is wrong or missing.
        remedy: What to do; may be empty.
    """

    kind: Literal["failure", "advice", "untested"]
    rule: str
    backend: str
    message: str
    remedy: str = ""


@attrs.frozen
class Certificate:
    """What the kit found out about one executor.

    Attributes:
        name: Its name.
        distribution: Who provides it.
        version: Of the distribution.
        declared: Whether the static rules hold.
        tested: Whether the runnable rules hold.
        live: Whether its clients, as they are configured, can be connected.
        findings: What is wrong, and what could not be found out.
        duration_s: How long it took.
    """

    name: str
    distribution: str
    version: str
    declared: Level
    tested: Level
    live: Level
    findings: tuple[Finding, ...] = ()
    duration_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return "failed" not in (self.declared, self.tested, self.live)


def names_of(registry: Registry) -> list[str]:
    """The names to certify: every executor that can be used, and of a source only its own, like ``tool.*``."""
    entries = [entry for entry in registry.entries(EXECUTORS) if entry.status in ("ok", "conflict")]
    return list(dict.fromkeys(entry.name for entry in entries))


def certify(names: Sequence[str], *, connect: bool = False, timeout_s: float = 60.0) -> list[Certificate]:
    """Certificates of executors, in order; a source such as ``tool.*`` gives one for each of its names.

    Args:
        names: Names of executors.
        connect: Also open the clients that they need, as configured.
        timeout_s: How long one name may take.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda name: _in_child(name, connect=connect, timeout_s=timeout_s), names)
        return [certificate for certificates in found for certificate in certificates]


# -- the parent's side -------------------------------------------------------------------------------------------------

_CHILD = """
import json, sys
request = json.loads(sys.stdin.read())
sys.path[:] = request["path"]
from treadle.testing._certificate import answer
answer(request)
"""


def _in_child(name: str, *, connect: bool, timeout_s: float) -> list[Certificate]:
    request = json.dumps({"path": sys.path, "name": name, "connect": connect})
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, noise = process.communicate(request.encode(), timeout=timeout_s)
        ending = f"its process ended with exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        _kill(process)
        output, noise = process.communicate()
        ending = f"it was not over after {timeout_s:g} s"
    finally:
        _kill(process)  # and whatever it started
    answers = [json.loads(line) for line in output.decode().splitlines()]
    certificates = [_read(each) for each in answers if each]
    if not answers or answers[-1]:  # an empty object says that there is nothing more to come
        last = noise.decode(errors="replace").strip().rpartition("\n")[2]
        why = f"{name} could not be judged to the end: {ending}{f' ({last})' if last else ''}."
        certificates.append(
            _unloadable(name, why, "Run its contract test alone; a child, a signal or an endless loop ends it.")
        )
    return certificates


def _read(data: Mapping[str, object]) -> Certificate:
    findings = data["findings"]
    assert isinstance(findings, list), "the child writes what attrs.asdict gives"
    return Certificate(**{**data, "findings": tuple(Finding(**each) for each in findings)})  # type: ignore[arg-type] # as written


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child and everything in its session."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


# -- the child's side --------------------------------------------------------------------------------------------------


def answer(request: Mapping[str, object]) -> None:
    """Certify, in the child: one JSON line for each executor, on a channel that no print reaches, then an empty object."""
    channel = os.dup(1)
    os.dup2(2, 1)
    for certificate in _certificates(str(request["name"]), connect=bool(request["connect"])):
        os.write(channel, (json.dumps(attrs.asdict(certificate)) + "\n").encode())
    os.write(channel, b"{}\n")
    os._exit(0)  # threads of executors must not keep the child


def _certificates(name: str, *, connect: bool) -> Iterator[Certificate]:
    config = load_config()
    registry = Registry.discover(config)
    try:
        names = _expanded(registry, name)
    except TreadleError as error:
        yield _unloadable(name, error.problem, error.remedy)
        return
    for each in names:
        begun = time.monotonic()
        certificate = _certificate(registry, each, connect=connect)
        yield attrs.evolve(certificate, duration_s=round(time.monotonic() - begun, 3))


def _expanded(registry: Registry, name: str) -> list[str]:
    claim = registry.claim(EXECUTORS, name)
    if claim is None or not name.endswith(_ANY):
        return [name]
    return sorted(str(one) for one in registry.source(claim).names())


def _certificate(registry: Registry, name: str, *, connect: bool) -> Certificate:
    try:
        subject = _subject(registry, name)
    except TreadleError as error:
        return _unloadable(name, error.problem, error.remedy)
    verdicts = [judge(subject, rule, backend) for rule in RULES for backend in tried_backends(subject, rule)]
    static = [verdict for verdict in verdicts if verdict.rule.kind == "static"]
    runnable = [verdict for verdict in verdicts if verdict.rule.kind == "runnable"]
    lost = list(_connections(registry, subject)) if connect else []
    return Certificate(
        name=name,
        distribution=subject.bound.distribution,
        version=subject.bound.version,
        declared=_level(static),
        tested=_level(runnable),
        live="failed" if lost else "ok" if connect and subject.bound.needs else "untested",
        findings=(*_findings(verdicts), *lost),
    )


def _subject(registry: Registry, name: str) -> Subject:
    """An executor with what its plugin says of it: its examples, and the fakes of its clients."""
    claim = registry.claim(EXECUTORS, name)
    bound = registry.executor(name)
    fakes = {need.name: _fake(registry, need.name) for need in bound.needs}
    clients = {need: fake for need, fake in fakes.items() if fake is not None}
    executor = bound if claim is None else registry.load(claim)
    is_harmful = bound.effects == "unsafe" and not bound.needs
    return Subject(
        executor=executor,
        bound=bound,
        examples=() if is_harmful else bound.examples or none_needed(bound),
        clients=clients,
        claim=claim,
        owner=owner_of(str(getattr(executor, "__module__", ""))),
        config=registry.config,
    )


def _fake(registry: Registry, need: str) -> object | None:
    """A fake of the client that serves a need: by convention the module ``testing`` of its package has one, marked alike."""
    kind = str(_settings(registry.config, need).get("use", need))
    claim = registry.claim("treadle.clients", kind)
    package = claim.module.partition(".")[0] if claim is not None else ""
    if not package or importlib.util.find_spec(package) is None or importlib.util.find_spec(f"{package}.testing") is None:
        return None
    module = importlib.import_module(f"{package}.testing")
    for value in vars(module).values():
        mark = client_mark(value)
        # The real client may be imported there too.
        if mark is not None and mark.name == kind and value.__module__ == module.__name__:
            fake: object = value()
            return fake
    return None


def _settings(config: Config, client: str) -> Mapping[str, object]:
    return config.clients.get(client, {})


def _level(verdicts: Iterable[Verdict]) -> Level:
    """``failed`` when one fails, ``ok`` when the rest could be judged at least in part."""
    listed = list(verdicts)
    if any(verdict.is_failure for verdict in listed):
        return "failed"
    return "ok" if any(not verdict.gap for verdict in listed) else "untested"


def _findings(verdicts: Iterable[Verdict]) -> Iterator[Finding]:
    """Failures and advice one by one; what could not be judged once for each reason."""
    gaps: dict[str, None] = {}
    for verdict in verdicts:
        for problem in verdict.problems:
            kind: Literal["failure", "advice"] = "advice" if verdict.floor else "failure"
            yield Finding(kind, verdict.rule.id, verdict.backend, problem, verdict.rule.remedy)
        if verdict.gap and verdict.gap not in gaps:
            gaps[verdict.gap] = None
            yield Finding("untested", verdict.rule.id, verdict.backend, verdict.gap)


def _unloadable(name: str, why: str, remedy: str) -> Certificate:
    return Certificate(name, "", "", "failed", "untested", "untested", (Finding("failure", "load", "", why, remedy),))


# -- live --------------------------------------------------------------------------------------------------------------


def _connections(registry: Registry, subject: Subject) -> Iterator[Finding]:
    """What keeps the clients that an executor needs from being connected."""
    for need in subject.bound.needs:
        try:
            client = registry.client(need.name)
            anyio.run(_connect, client, need.name)
        except Exception as error:  # what open() or check() of a stranger raises
            why = error.problem if isinstance(error, TreadleError) else f"{type(error).__name__}: {error}".partition("\n")[0]
            yield Finding(
                "failure", "live", "", f"The client {need.name!r} cannot be used: {why}", f"See [clients.{need.name}]."
            )


@attrs.frozen
class _Single:
    """A source of one client, which is already made."""

    made: object

    def client(self, name: str) -> object:
        """The client."""
        return self.made


async def _connect(client: object, name: str) -> None:
    with anyio.fail_after(CONNECT_S):
        async with ClientHosts(_Single(client)) as hosts:
            await hosts.get(name)
            check = getattr(client, "check", None)
            if inspect.iscoroutinefunction(check):
                await check()
            elif check is not None:
                await anyio.to_thread.run_sync(check, abandon_on_cancel=True)
