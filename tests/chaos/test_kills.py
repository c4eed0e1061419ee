"""Kill -9 at places and moments that a seed says, judged by an outside witness. ``nox -s chaos`` does it 1,000 times."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from oracle import ENUMERATED, trial

KILLS = int(os.environ.get("TREADLE_KILLS", "20"))
RELENTLESS = int(os.environ.get("TREADLE_RELENTLESS", "1"))
SEED = int(os.environ.get("TREADLE_CHAOS_SEED", "0"))


def folders(base: Path, count: int) -> list[Path]:
    made = [base / str(number) for number in range(count)]
    for folder in made:
        folder.mkdir()
    return made


def test_a_run_that_is_killed_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """50 steps: no acknowledged result is lost, none runs again, every run completes, each step keeps its key (G1, G2, G5).

    With enough kills, every place of every step is one of them; the others come at places and moments by chance.
    """
    points = ENUMERATED if 2 * len(ENUMERATED) <= KILLS else ()
    with ThreadPoolExecutor(2) as pool:
        numbered = list(enumerate(folders(tmp_path, KILLS)))
        verdicts = list(
            pool.map(
                lambda one: (SEED + one[0], trial(one[1], SEED + one[0], point=dict(enumerate(points)).get(one[0], ""))),
                numbered,
            )
        )

    faults = [f"seed {seed}: {fault}" for seed, verdict in verdicts for fault in verdict.faults]
    assert not faults
    kills = sum(verdict.kills for _, verdict in verdicts)
    doubled = sum(verdict.doubled for _, verdict in verdicts)
    print(f"{kills} kills of {len(verdicts)} runs, {doubled} effects doubled, 0 lost, 0 run again after they were acknowledged")
    assert kills >= KILLS // 2, "the seeds do kill"
    assert doubled <= 5 * kills, "only what may have been running is made again"


@pytest.mark.parametrize("number", range(RELENTLESS))
def test_a_resume_that_is_killed_again_and_again_ends(tmp_path: Path, number: int) -> None:
    """However often its resumes are killed, the run gets on and completes (G9)."""
    verdict = trial(tmp_path, 10_000 + SEED + number, kills=10 if RELENTLESS == 1 else 20)

    assert not verdict.faults
    assert verdict.kills >= 5
