"""Kills runs, and judges what became of them by what an outside witness saw."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import apsw
import attrs
from workload import ITEMS

HERE = Path(__file__).parent
POINTS = (
    *("before", "in_the_middle", "after_effect", "acknowledged"),
    *("in_transaction", "committed", "in_checkpoint", "in_migration"),
)
"""Where a kill can be placed, beside those at random moments."""

ENUMERATED = (*(f"{point}:{count}" for count in range(1, 49) for point in POINTS[:6]), "in_checkpoint:1", "in_migration:1")
"""Every place of every step, one after the other."""

STEPS = 50
PLACES = 37 + ITEMS + 1
MOST_STINTS = 40


@attrs.define
class Verdict:
    """What a trial showed.

    Attributes:
        kills: How often the process was really killed.
        doubled: Effects that happened twice.
        faults: What must not be.
    """

    kills: int = 0
    doubled: int = 0
    faults: list[str] = attrs.Factory(list)


def trial(folder: Path, seed: int, *, kills: int = 1, point: str = "") -> Verdict:
    """One run that is killed some times, where and when the seed says (or once at ``point``), and then left alone."""
    chance = random.Random(seed)
    verdict = Verdict()
    for stint in range(MOST_STINTS):
        is_last = stint >= kills
        fault: dict[str, float | str] = {"point": point} if point else _fault(chance, is_relentless=kills > 1)
        code = _stint(folder, {} if is_last else fault, max_crashes=3 if kills == 1 else 0)
        if code == -signal.SIGKILL:
            verdict.kills += 1
        elif code != 0:
            verdict.faults.append(f"a stint ended with exit code {code}")
        if code == 0:
            break
    _judge(folder, verdict)
    return verdict


def _fault(chance: random.Random, *, is_relentless: bool) -> dict[str, float | str]:
    """Where or when the next process is killed; a relentless one is killed early, however little is left to do."""
    if is_relentless:
        return {"point": f"{chance.choice(POINTS[:6])}:{chance.randint(2, 7)}"}
    point = chance.choice((*POINTS[:6] * 3, *POINTS[6:], "moment", "moment"))
    if point == "moment":
        return {"timeout": chance.uniform(0.25, 1.2)}
    return {"point": f"{point}:{chance.randint(1, 30) if point in POINTS[:6] else 1}"}


def _stint(folder: Path, fault: dict[str, float | str], *, max_crashes: int) -> int:
    """One process; killed where a fault point says, or after some time, or not at all.

    Who is killed from outside again and again is no step's fault: then none may be poisoned (0).
    """
    environ = os.environ | {"TREADLE_FAULTS": str(fault.get("point", "")), "TREADLE_CHAOS_CRASHES": str(max_crashes)}
    command = [sys.executable, str(HERE / "workload.py"), str(folder)]
    with (
        (folder / "stderr.log").open("ab") as errors,
        subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        try:
            return process.wait(float(fault.get("timeout", 60.0)))
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _judge(folder: Path, verdict: Verdict) -> None:
    lines = [line.split() for line in (folder / "witness.log").read_text("utf-8").splitlines()]
    acknowledged: set[tuple[str, str]] = set()
    keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    effects: Counter[tuple[str, str]] = Counter()
    ends = [line for line in lines if line[0] == "R"]
    for kind, *words in lines:
        if kind == "R":
            continue
        place = (words[0], words[1])
        if kind == "A":
            acknowledged.add(place)
        elif kind == "S":
            keys[place].add(words[2])
            if place in acknowledged:
                verdict.faults.append(f"{place} was begun again after it was acknowledged")
        elif kind == "E":
            effects[place] += 1
    expected = str(sum(number * number for number in range(ITEMS)))
    if not ends or ends[-1] != ["R", "completed", expected]:
        verdict.faults.append(f"the run did not complete: {ends}")
    verdict.faults += [f"{place} had the keys {found}" for place, found in keys.items() if len(found) != 1]
    if len(effects) != PLACES:
        verdict.faults.append(f"{len(effects)} of {PLACES} steps and items took effect")
    verdict.doubled = sum(count - 1 for count in effects.values())
    _judge_store(folder / "runs.db", acknowledged, verdict)


def _judge_store(path: Path, acknowledged: set[tuple[str, str]], verdict: Verdict) -> None:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        if connection.pragma("integrity_check") != "ok":
            verdict.faults.append("the file is damaged")
        done = connection.execute("SELECT path, item_index FROM steps WHERE status = 'completed'")
        kept = {(str(name), "None" if index == -1 else str(index)) for name, index in done}
        verdict.faults += [f"{place} was acknowledged and lost" for place in acknowledged - kept]
        others = list(connection.execute("SELECT path, status FROM steps WHERE status NOT IN ('completed', 'skipped')"))
        verdict.faults += [f"{row} is left over" for row in others]
        if len(list(connection.execute("SELECT run_id FROM runs"))) != 1:
            verdict.faults.append("there is more than one run")
    finally:
        connection.close()
