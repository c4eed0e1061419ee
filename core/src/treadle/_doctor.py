"""What is wrong with the installed plugins: each is imported in a child process, so none can harm or delay the others."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
import attrs

from treadle._clients import ClientHosts
from treadle._config import Config, PluginsConfig
from treadle._plugins import GIVEN, KINDS, Claim, Registry, normalise
from treadle._version import __version__
from treadle.errors import ConfigInvalidError, PluginBrokenError, TreadleError

Status = Literal["ok", "broken", "conflict", "blocked", "warning"]

CONNECT_S = 10.0
"""How long a client may take to open and to check its connection."""

_AT_ONCE = 2
_START_S = 30.0
"""How long a child may take besides importing plugins; only one that cannot even stop itself meets this limit."""


@attrs.frozen
class Covered:
    """What one executor's outputs are held to.

    Attributes:
        executor: The name that workflows use.
        family: Its family.
        contract: What holds, in words, like ``type Page``; empty: nothing, so that any output is taken for good.
    """

    executor: str
    family: str
    contract: Sequence[str] = ()


@attrs.frozen
class Diagnosis:
    """What there is to say of one plugin.

    Attributes:
        name: The name that users write; ``clients.NAME`` for a configured client; empty for a whole distribution.
        group: Its entry-point group; empty for a whole distribution.
        distribution: Who provides it; several for a conflict.
        version: Version of the distribution.
        status: ``ok``, ``broken``, ``conflict``, ``blocked`` or ``warning`` (it works, but).
        line: All of it in one line, for people.
        detail: More, over several lines: a traceback, or where an import hangs; may be empty.
        executors: The executors that it provides, when it could be loaded.
    """

    name: str
    group: str
    distribution: str
    version: str
    status: Status
    line: str
    detail: str = ""
    executors: tuple[Covered, ...] = ()


@attrs.frozen
class Coverage:
    """How many of the installed executors have a family, and a contract that their outputs are held to.

    Attributes:
        executors: All that could be loaded.
        with_family: How many belong to a family.
        with_contract: How many have a contract.
        without: The names of those that lack either.
    """

    executors: int
    with_family: int
    with_contract: int
    without: tuple[str, ...]


@attrs.frozen
class _Finding:
    """What a child found out about one plugin: nothing, why it is broken, or what its authors should know."""

    why: str = ""
    detail: str = ""
    warnings: Sequence[str] = ()
    executors: Sequence[Covered] = ()


def diagnose(registry: Registry, *, connect: bool = False, timeout_s: float = 5.0) -> list[Diagnosis]:
    """A diagnosis of every plugin, in the order of ``Registry.entries``; nothing is imported into this process.

    Args:
        registry: What is installed.
        connect: Also open every client of the configuration and run its ``check()``.
        timeout_s: How long one plugin may take to import.
    """
    claims = registry.claims()
    findings = _probe_all(registry, [claim for claim in claims if registry.status(claim) == "ok"], timeout_s)
    requirements = {claim.distribution: _requirements(claim.metadata) for claim in claims if claim.metadata is not None}
    found = [_unreadable(fault.distribution, fault.why) for fault in registry.faults]
    seen: set[tuple[str, str]] = set()
    for claim in claims:
        status = registry.status(claim)
        if status != "conflict":
            required = requirements.get(claim.distribution, _Requirements())
            found.append(_one(claim, status, findings.get(claim, _Finding()), required))
        elif (claim.group, claim.name) not in seen:
            seen.add((claim.group, claim.name))
            found.append(_conflict(registry.rivals(claim)))
    found += _unprovided(registry)
    return found + (_connect_all(registry) if connect else [])


def doctor_lines(diagnoses: Sequence[Diagnosis]) -> list[str]:
    """The diagnoses for people: a line each, those that ask for action last, then a summary."""
    ordered = sorted(diagnoses, key=lambda each: each.status != "ok")
    counts = Counter(each.status for each in diagnoses)
    listed = ", ".join(
        f"{counts[status]} {status}" for status in ("ok", "warning", "blocked", "conflict", "broken") if counts[status]
    )
    return [*(each.line for each in ordered), f"{len(diagnoses)} looked at: {listed or 'no plugin is installed'}"]


def coverage(diagnoses: Iterable[Diagnosis]) -> Coverage:
    """What the executors of all diagnoses are held to."""
    found = [executor for each in diagnoses for executor in each.executors]
    return Coverage(
        executors=len(found),
        with_family=sum(bool(executor.family) for executor in found),
        with_contract=sum(bool(executor.contract) for executor in found),
        without=tuple(sorted(each.executor for each in found if not (each.family and each.contract))),
    )


def coverage_line(covered: Coverage) -> str:
    """The coverage for people."""
    line = (
        f"contracts: of {covered.executors} executors {covered.with_family} have a family, {covered.with_contract} a contract"
    )
    if not covered.without:
        return line
    return f"{line}; without: {', '.join(covered.without)} (declare what they return, or give them a family)"


def is_healthy(diagnoses: Iterable[Diagnosis]) -> bool:
    """Whether nothing asks for action: no plugin is broken or in conflict."""
    return not any(each.status in ("broken", "conflict") for each in diagnoses)


# -- lines -------------------------------------------------------------------------------------------------------------


def _one(claim: Claim, status: str, finding: _Finding, required: _Requirements) -> Diagnosis:
    if status == "blocked":
        return _diagnosis(claim, "blocked", "[plugins] block names its distribution")
    if status == "overruled":
        return _diagnosis(claim, "ok", "not used, [plugins] prefer chooses another distribution")
    if finding.why:
        return _diagnosis(claim, "broken", "; ".join((finding.why, *required.unmet)), finding.detail)
    concerns = [*required.unmet, *required.concerns, *finding.warnings]
    found = _diagnosis(claim, "warning" if concerns else "ok", "; ".join(concerns), finding.detail)
    return attrs.evolve(found, executors=tuple(finding.executors))


def _diagnosis(claim: Claim, status: Status, what: str = "", detail: str = "", *, name: str = "") -> Diagnosis:
    """A diagnosis of a claim, or of the configured client ``name`` that it provides."""
    subject = f"[{name}]" if name else f"{KINDS[claim.group]} {claim.name}"
    line = f"{status}: {subject} ({_who(claim)})" + (f": {what}" if what else "")
    return Diagnosis(name or claim.name, claim.group, claim.distribution, claim.version, status, line, detail)


def _who(claim: Claim) -> str:
    return f"{claim.distribution} {claim.version}".strip()


def _conflict(rivals: Sequence[Claim]) -> Diagnosis:
    name, group = rivals[0].name, rivals[0].group
    prefer = f'[plugins] prefer = {{"{name}" = "{rivals[0].distribution}"}}'
    line = f"conflict: {KINDS[group]} {name} ({', '.join(map(_who, rivals))}): choose one in treadle.toml: {prefer}"
    return Diagnosis(name, group, ", ".join(claim.distribution for claim in rivals), "", "conflict", line)


def _unreadable(distribution: str, why: str) -> Diagnosis:
    return Diagnosis("", "", distribution, "", "broken", f"broken: {distribution}: {why}")


def _unprovided(registry: Registry) -> Iterator[Diagnosis]:
    """What the configuration names and nobody provides."""
    config = registry.config
    wanted = [("treadle.clients", f"clients.{name}", f"[clients.{name}]", _kind(config, name)) for name in config.clients]
    wanted += [("treadle.policies", f"policies.{name}", "[plugins] policies", name) for name in config.plugins.policies]
    for group, spelled, place, name in wanted:
        if name not in {claim.name for claim in registry.claims(group)}:
            line = f"broken: {place}: no installed plugin provides {KINDS[group]} {name!r}"
            yield Diagnosis(spelled, group, "", "", "broken", line)


def _kind(config: Config, client: str) -> str:
    return str(config.clients.get(client, {}).get("use", client))


# -- requirements ------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Requirements:
    """What is to be said of a distribution's requirements.

    Attributes:
        unmet: What it requires and the environment does not have.
        concerns: What it should say and does not.
    """

    unmet: Sequence[str] = ()
    concerns: Sequence[str] = ()


def _requirements(distribution: metadata.Distribution) -> _Requirements:
    """A distribution's requirements, held against the environment."""
    # Imported here: only the doctor needs it, and it is not free.
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        texts = distribution.requires or []
    except Exception as error:  # any file of a stranger may be in any state
        return _Requirements([f"its requirements cannot be read ({type(error).__name__})"])
    unmet: list[str] = []
    of_treadle: set[str] = set()
    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            unmet.append(f"its requirement {text!r} cannot be read")
            continue
        if normalise(requirement.name) == "treadle":
            of_treadle |= {specifier.operator for specifier in requirement.specifier}
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _installed(requirement.name)
        wanted = f"requires {requirement.name}{requirement.specifier}"
        if installed is None:
            unmet.append(f"{wanted}, which is not installed")
        elif not requirement.specifier.contains(installed, prereleases=True):
            unmet.append(f"{wanted}, but {installed} is installed")
    return _Requirements(unmet, _missing_bounds(of_treadle))


def _missing_bounds(operators: set[str]) -> list[str]:
    """What a plugin leaves open about the versions of treadle that it works with."""
    fixed = operators & {"==", "===", "~="}
    missing = [word for word, bounds in (("floor", {">", ">="}), ("cap", {"<", "<="})) if not (fixed or operators & bounds)]
    if not missing:
        return []
    return [f"names no {' and no '.join(missing)} of the treadle that it works with, like treadle{bounds(__version__)}"]


def bounds(version: str) -> str:
    """The floor and cap of a distribution that works with this version, like ``>=0.1,<1``; empty when it has no numbers."""
    found = re.match(r"(\d+)(\.\d+)?", version)
    return f">={found[0]},<{int(found[1]) + 1}" if found else ""


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except Exception:  # not there, or its metadata is in any state
        return None


# -- the parent's side of probing --------------------------------------------------------------------------------------


def _probe_all(registry: Registry, claims: Sequence[Claim], timeout_s: float) -> dict[Claim, _Finding]:
    """What importing each claim shows; one child per distribution, a few at a time."""
    findings = {claim: _probe(registry, claim) for claim in claims if claim.distribution == GIVEN}
    jobs: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim not in findings:
            jobs.setdefault(claim.distribution, []).append(claim)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for found in pool.map(lambda job: _probe_distribution(registry.config, job, timeout_s), jobs.values()):
            findings |= found
    return findings


def _probe_distribution(config: Config, claims: Sequence[Claim], timeout_s: float) -> dict[Claim, _Finding]:
    """Findings for the claims of one distribution; a child that ends early is followed by another for the rest."""
    findings: dict[Claim, _Finding] = {}
    stuck: dict[str, _Finding] = {}
    late = f"took longer than {timeout_s:g} s to import"
    while rest := [claim for claim in claims if claim not in findings]:
        if rest[0].module in stuck:
            findings[rest[0]] = stuck[rest[0].module]
            continue
        task = {"probe": [[claim.group, claim.name] for claim in rest], "late": late, "timeout_s": timeout_s}
        answers, ending = _child(config, task, _START_S + timeout_s * len(rest), doing="its import")
        findings |= zip(rest, answers, strict=False)
        if len(answers) < len(rest) and not (answers and answers[-1].why == late):
            findings[rest[len(answers)]] = ending
        stuck |= {claim.module: findings[claim] for claim in rest if claim in findings and findings[claim].why == late}
    return findings


def _child(config: Config, task: Mapping[str, Any], limit_s: float, *, doing: str) -> tuple[list[_Finding], _Finding]:
    """Run a child; its answers, one per claim that it got to, and how it ended if it did so too early."""
    request = json.dumps({"path": sys.path, "config": _pack(config), **task}, default=str)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, noise = process.communicate(request.encode(), timeout=limit_s)
        why = f"{doing} {_ended(process.returncode)}"
    except subprocess.TimeoutExpired:  # the plugin keeps even the child's own deadline from being met
        _kill(process)
        output, noise = process.communicate()
        why = task["late"]
    finally:
        _kill(process)  # and what the plugin may have started
    answers = [_finding(json.loads(line)) for line in output.decode().splitlines()]
    return answers, _Finding(why, noise.decode(errors="replace"))


def _finding(told: Mapping[str, Any]) -> _Finding:
    return _Finding(**{**told, "executors": [Covered(**one) for one in told["executors"]]})


def _ended(code: int) -> str:
    if code < 0:
        return f"was ended by signal {signal.Signals(-code).name}"
    return f"ended the process with exit code {code}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child and everything in its session."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _connect_all(registry: Registry) -> list[Diagnosis]:
    """A diagnosis of the connection of each configured client that somebody provides."""
    jobs: list[tuple[str, Claim]] = []
    for name in registry.config.clients:
        claims = [claim for claim in registry.claims("treadle.clients") if claim.name == _kind(registry.config, name)]
        jobs += [(name, claim) for claim in claims if registry.status(claim) == "ok"]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda job: _connection(registry, *job), jobs))


def _connection(registry: Registry, name: str, claim: Claim) -> Diagnosis:
    if claim.distribution == GIVEN:
        finding = _try_connect(registry, name, CONNECT_S)
    else:
        task = {"connect": name, "late": _unanswered(CONNECT_S), "timeout_s": CONNECT_S}
        answers, ending = _child(registry.config, task, _START_S + CONNECT_S, doing="opening it")
        finding = answers[0] if answers else ending
    status: Status = "broken" if finding.why else "ok"
    return _diagnosis(claim, status, finding.why or "connected", finding.detail, name=f"clients.{name}")


def _pack(config: Config) -> dict[str, object]:
    """The configuration as JSON data, for the child."""
    places = [[list(path), list(place)] for path, place in config.places.items()]
    return {**attrs.asdict(config), "root": str(config.root), "file": str(config.file or ""), "places": places}


# -- the child's side --------------------------------------------------------------------------------------------------

_CHILD = """
import json, sys
request = json.loads(sys.stdin.read())
sys.path[:] = request["path"]
from treadle._doctor import answer
answer(request)
"""


def answer(request: Mapping[str, Any]) -> None:
    """Do what the parent asks, in the child: one JSON line per answer, on a channel that no print of a plugin reaches."""
    channel = os.dup(1)
    os.dup2(2, 1)
    registry = Registry.discover(_unpack(request["config"]))
    late, timeout_s = request["late"], request["timeout_s"]
    if "connect" in request:
        with _deadline(channel, late, timeout_s + 1):  # the check's own deadline comes first, and is kinder
            finding = _try_connect(registry, request["connect"], timeout_s)
        _say(channel, finding)
    for group, name in request.get("probe", ()):
        claim = registry.claim(group, name)
        assert claim is not None, "the parent asks only for what is there"
        with _deadline(channel, late, timeout_s):
            finding = _probe(registry, claim)
        _say(channel, finding)
    os._exit(0)  # threads of plugins must not keep the child


def _unpack(packed: Mapping[str, Any]) -> Config:
    plugins: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in packed["plugins"].items()
    }
    places = {tuple(path): tuple(place) for path, place in packed["places"]}
    file = Path(packed["file"]) if packed["file"] else None
    same = {**packed, "plugins": PluginsConfig(**plugins), "places": places, "root": Path(packed["root"]), "file": file}
    return Config(**same)


def _say(channel: int, finding: _Finding) -> None:
    os.write(channel, (json.dumps(attrs.asdict(finding)) + "\n").encode())


@contextmanager
def _deadline(channel: int, why: str, timeout_s: float) -> Iterator[None]:
    """End this process when the block takes longer, saying where it hangs; no plugin can catch or delay that."""
    main = threading.get_ident()

    def give_up() -> None:
        frame = sys._current_frames().get(main)
        _say(channel, _Finding(why, "".join(traceback.format_stack(frame))))
        os._exit(1)

    timer = threading.Timer(timeout_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _probe(registry: Registry, claim: Claim) -> _Finding:
    """Load one plugin and everything that can be checked of it without running it."""
    started = time.perf_counter()
    try:
        if claim.group == "treadle.executors":
            warnings, executors = [], _look_at_executors(registry, claim)
        else:
            warnings, executors = _use(registry, claim), []
    except TreadleError as error:
        return _Finding(_why(error), _trace(error.__cause__))
    return _Finding("", f"imported in {time.perf_counter() - started:.2f} s", warnings, executors)


def _look_at_executors(registry: Registry, claim: Claim) -> list[Covered]:
    """Load the executors of a claim, one or a source of many, with all of their schemas."""
    names = list(registry.source(claim).names()) if claim.name.endswith(".*") else [claim.name]
    found: list[Covered] = []
    for bound in [registry.executor(name) for name in names]:
        bound.input_schema()
        bound.output_schema()
        found.append(Covered(bound.name, bound.family, bound.contract))
    return found


def _use(registry: Registry, claim: Claim) -> list[str]:
    """Load anything else and look at all of it; answers what its authors should know."""
    match claim.group:
        case "treadle.families":
            registry.family(claim.name)
        case "treadle.clients":
            registry.check_client(claim)
            for name in registry.config.clients:
                if _kind(registry.config, name) == claim.name:
                    registry.client(name)
        case "treadle.policies":
            registry.check_hooks(claim)
            if claim.name in {*registry.config.plugins.policies, *registry.config.policies}:
                registry.policy(claim.name)
            return registry.deprecations(claim)
        case _:
            registry.load(claim)
    return []


def _why(error: TreadleError) -> str:
    if isinstance(error, PluginBrokenError):
        return error.why
    if isinstance(error, ConfigInvalidError):
        return "; ".join(str(fault) for fault in error.faults)
    return error.problem.partition("\n")[0].rstrip(".")


def _trace(error: BaseException | None) -> str:
    return "".join(traceback.format_exception(error)) if error is not None else ""


def _try_connect(registry: Registry, name: str, timeout_s: float) -> _Finding:
    try:
        return anyio.run(_open_and_check, registry.client(name), name, timeout_s)
    except TreadleError as error:
        return _Finding(_why(error), _trace(error.__cause__))
    except Exception as error:  # what open() or check() of a stranger raises
        text = str(error).strip().partition("\n")[0]
        return _Finding(f"{type(error).__name__}{': ' if text else ''}{text}", _trace(error))


def _unanswered(timeout_s: float) -> str:
    return f"did not answer within {timeout_s:g} s"


@attrs.frozen
class _Single:
    """A source of one client, which is already made."""

    made: object

    def client(self, name: str) -> object:
        """The client."""
        return self.made


async def _open_and_check(client: object, name: str, timeout_s: float) -> _Finding:
    with anyio.move_on_after(timeout_s) as scope:
        async with ClientHosts(_Single(client)) as hosts:
            await hosts.get(name)
            check = getattr(client, "check", None)
            if inspect.iscoroutinefunction(check):
                await check()
            elif check is not None:
                await anyio.to_thread.run_sync(check, abandon_on_cancel=True)
    return _Finding(_unanswered(timeout_s)) if scope.cancelled_caught else _Finding()
