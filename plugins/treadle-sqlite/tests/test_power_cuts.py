"""Power cuts at any write or synchronisation, over the store's own class."""

from __future__ import annotations

import os
import random
import sys
from functools import partial
from pathlib import Path
from typing import get_args

import anyio
import apsw
import pytest
from power_cut import Disk, PoweredStore, Survivors
from treadle.errors import StoreUnavailableError
from treadle_sqlite import _worker
from writing import numbers, write_records

CUTS = int(os.environ.get("TREADLE_POWER_CUTS", "102"))
RECORDS = 60
MODES: tuple[Survivors, ...] = get_args(Survivors)


@pytest.fixture(autouse=True)
def without_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small log, made longer often, so that cuts fall into all that is done with it.

    What SQLite does not ask about is nobody's.

    The disk counts as quick, so that a run that is alone commits on its own thread.
    """
    monkeypatch.setattr(_worker, "CHECKPOINT_PAGES", 20)
    monkeypatch.setattr(_worker, "STRETCH_FROM", 4)
    monkeypatch.setattr(_worker, "STRETCH_PAGES", 16)
    monkeypatch.setattr(_worker, "QUICK_S", 1e6)
    hook = sys.unraisablehook

    def ignore(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, apsw.Error):
            hook(unraisable)

    monkeypatch.setattr(sys, "unraisablehook", ignore)


def cut(folder: Path, durability: str, survivors: Survivors, seed: int) -> tuple[list[int], list[int]]:
    """Write until the power goes; answers what was acknowledged and what is there afterwards."""
    chance = random.Random(seed)
    before, after = folder / "before", folder / "after"
    before.mkdir()
    after.mkdir()
    disk = Disk(f"disk-{folder.name}", chance.randint(1, 1100 if durability == "full" else 900))
    store = PoweredStore(path=before / "runs.db", durability=durability)  # type: ignore[arg-type]  # one of the two
    store.disk = disk
    acknowledged: list[int] = []
    try:
        anyio.run(partial(write_records, store, RECORDS, acknowledged, is_alone=seed % 2 == 1))
    except StoreUnavailableError:
        pass
    finally:
        survived = list(acknowledged)
        disk.is_dead = True
        store.close()
    disk.write_survivors(after, survivors, chance)
    return survived, numbers(after / "runs.db")


@pytest.mark.parametrize("survivors", MODES)
def test_full_loses_nothing(tmp_path: Path, survivors: Survivors) -> None:
    """With ``durability: full`` every acknowledged record is there after a power cut, whatever the disk did not write (G1)."""
    cuts = written = 0
    for seed in range(CUTS // 3):
        folder = tmp_path / f"full-{survivors}-{seed}"
        folder.mkdir()

        acknowledged, kept = cut(folder, "full", survivors, seed)

        assert kept[: len(acknowledged)] == acknowledged, f"seed {seed}"
        assert len(kept) <= len(acknowledged) + 1, f"seed {seed}: at most the one that was being written is more"
        cuts += len(acknowledged) < RECORDS + 1
        written += len(acknowledged)
    assert cuts > CUTS // 6, "the power was really cut in mid-run"
    assert written > 10 * cuts, "and mostly after a good many records"


@pytest.mark.parametrize("survivors", MODES)
def test_normal_loses_only_a_tail(tmp_path: Path, survivors: Survivors) -> None:
    """With ``durability: normal`` a power cut may take the last records, never some in between, and never the file."""
    lost = 0
    for seed in range(CUTS // 9):
        folder = tmp_path / f"normal-{survivors}-{seed}"
        folder.mkdir()

        acknowledged, kept = cut(folder, "normal", survivors, seed)

        assert kept == list(range(1, len(kept) + 1)), f"seed {seed}"
        lost += max(0, len(acknowledged) - len(kept))
    assert lost, "these cuts do take what was not synchronised: they would show a store that loses acknowledged records"
