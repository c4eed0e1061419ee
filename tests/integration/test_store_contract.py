"""The contract of stores has teeth: for each of its tests there is a store with one fault that fails it, and it alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Literal

import anyio
import anyio.lowlevel
import attrs
import pytest
from treadle.errors import LeaseLostError, OwnedElsewhereError, RunEndedError, RunKeyConflictError, StoreUnavailableError
from treadle.ports import (
    AttemptEnded,
    BeatRow,
    CancelRequest,
    Checkpoint,
    CheckpointStatistics,
    Claim,
    Commit,
    Creation,
    LineQuery,
    LogLine,
    NewRun,
    ProcessRow,
    Record,
    RetryScheduled,
    Rows,
    RunPage,
    RunQuery,
    Signal,
    SlotRequest,
    SpanExport,
    SpanRow,
    Store,
    StoreStats,
    TimerRow,
)
from treadle.testing import StoreContract
from treadle_sqlite import SqliteStore, _upkeep
from treadle_sqlite import _queries as sql

ALL = bool(os.environ.get("TREADLE_MUTANTS"))
"""Whether every store is held against every test, rather than against its own."""

Gone = Callable[[str], bool]


class Faulty(SqliteStore):
    """A store with one fault, which one test of the contract finds.

    Attributes:
        found_by: The test, without ``test_``.
    """

    found_by: ClassVar[str]
    at_once = 0

    @contextmanager
    def busy(self) -> Iterator[bool]:
        """Whether others are at the same thing at this moment."""
        self.at_once += 1
        try:
            yield self.at_once > 1
        finally:
            self.at_once -= 1


class IgnoresAfter(Faulty):
    found_by = "a_log_is_read_as_it_was_written"

    async def read(self, run_id: str, after: int = 0) -> Sequence[Record]:
        return await super().read(run_id)


class CutsLongOutputs(Faulty):
    found_by = "outputs_of_every_size_come_back"

    async def read(self, run_id: str, after: int = 0) -> Sequence[Record]:
        return [self._cut(record) for record in await super().read(run_id, after)]

    def _cut(self, record: Record) -> Record:
        entry = record.entry
        if isinstance(entry, AttemptEnded) and isinstance(entry.outcome.output, dict):
            text = entry.outcome.output.get("text")
            if isinstance(text, str) and len(text) > 300_000:
                output = {**entry.outcome.output, "text": text[:300_000]}
                entry = attrs.evolve(entry, outcome=attrs.evolve(entry.outcome, output=output))
        return attrs.evolve(record, entry=entry)


class KeepsNoEndOfSpans(Faulty):
    found_by = "rows_are_those_of_the_log"

    async def spans(self, run_id: str) -> Sequence[SpanRow]:
        return [attrs.evolve(span, ended_at=None) for span in await super().spans(run_id)]


class SwallowsRepetitions(Faulty):
    found_by = "a_commit_out_of_place_is_refused_whole"

    async def commit(self, commit: Commit) -> None:
        if commit.seq > len(await self.read(commit.run_id)) or commit.epoch > 1:
            await super().commit(commit)
        elif commit.seq != 1:
            raise StoreUnavailableError("no")


class KeepsHalfOfACommit(Faulty):
    found_by = "a_commit_survives_whoever_waits_for_it"

    async def commit(self, commit: Commit) -> None:
        first, rest = commit.entries[:1], commit.entries[1:]
        await super().commit(Commit(commit.run_id, commit.epoch, commit.seq, first, commit.rows if not rest else Rows()))
        if rest:
            await anyio.lowlevel.checkpoint()
            await super().commit(Commit(commit.run_id, commit.epoch, commit.seq + 1, rest, commit.rows))


class OneFailsAll(Faulty):
    found_by = "many_runs_write_at_once"
    poisoned = ""

    async def commit(self, commit: Commit) -> None:
        if self.poisoned and self.poisoned != commit.run_id:
            self.poisoned = ""
            raise StoreUnavailableError("another one's fault")
        try:
            await super().commit(commit)
        except StoreUnavailableError:
            self.poisoned = commit.run_id
            raise


class IgnoresFingerprints(Faulty):
    found_by = "creating_under_a_key_is_idempotent"

    async def create(self, new: NewRun) -> Creation:
        try:
            return await super().create(new)
        except RunKeyConflictError as error:
            return Creation(error.run_id, None)


class TwoWinACreation(Faulty):
    found_by = "of_many_creators_under_one_key_one_wins"

    async def create(self, new: NewRun) -> Creation:
        with self.busy() as is_busy:
            made = await super().create(new)
        return Creation(made.run_id, made.claim or (Claim(made.run_id, new.owner, 1) if is_busy else None))


class HidesSince(Faulty):
    found_by = "a_run_has_one_owner"

    async def claim(self, run_id: str, owner: str, lease_s: float, is_gone: Gone) -> Claim:
        try:
            return await super().claim(run_id, owner, lease_s, is_gone)
        except OwnedElsewhereError as error:
            raise OwnedElsewhereError(run_id, error.owner) from None


class AsksForAnother(Faulty):
    found_by = "the_run_of_a_process_that_is_gone_is_free"

    async def claim(self, run_id: str, owner: str, lease_s: float, is_gone: Gone) -> Claim:
        return await super().claim(run_id, owner, lease_s, lambda current: is_gone(current.partition("@")[0]))


class AnybodyLetsGo(Faulty):
    found_by = "an_earlier_owner_writes_nothing"

    async def release(self, claim: Claim, rows: Rows | None = None) -> None:
        ((_, epoch, *_),) = await self._all(sql.OWNERSHIP, (claim.run_id,))
        await super().release(Claim(claim.run_id, claim.owner, int(str(epoch))), rows)


class BeatsForNothing(Faulty):
    found_by = "a_beat_keeps_the_claim"

    def beat(self, claim: Claim, steps: Sequence[BeatRow] = ()) -> None:
        super().beat(attrs.evolve(claim, lease_s=0.0), steps)


class NamesTheLoser(Faulty):
    found_by = "of_many_claimants_one_wins"

    async def claim(self, run_id: str, owner: str, lease_s: float, is_gone: Gone) -> Claim:
        with self.busy() as is_busy:
            try:
                return await super().claim(run_id, owner, lease_s, is_gone)
            except OwnedElsewhereError as error:
                raise OwnedElsewhereError(run_id, owner if is_busy else error.owner, error.since) from None


class ForgetsWhatIsSuspended(Faulty):
    found_by = "a_run_that_is_let_go_of_may_say_so"

    async def release(self, claim: Claim, rows: Rows | None = None) -> None:
        await super().release(claim)


class WeakensCancels(Faulty):
    found_by = "a_cancel_reaches_the_owner"
    last: CancelRequest | None = None

    async def request_cancel(self, run_id: str, request: CancelRequest) -> None:
        await super().request_cancel(run_id, request)
        self.last = request

    def cancel_request(self, run_id: str) -> CancelRequest | None:
        return self.last if super().cancel_request(run_id) is not None else None


class SignalsAreNeverLate(Faulty):
    found_by = "signals_reach_the_owner_in_order"

    def signals(self, run_id: str, after: int) -> Sequence[Signal]:
        return [attrs.evolve(signal, due=None) for signal in super().signals(run_id, after)]


class SaysNothingOfTheEnd(Faulty):
    found_by = "a_run_that_has_ended_takes_no_signal"

    async def send_signal(self, run_id: str, signal: Signal) -> None:
        with suppress(RunEndedError):
            await super().send_signal(run_id, signal)


class LosesSignals(Faulty):
    found_by = "of_many_senders_none_is_lost"
    sent = 0

    async def send_signal(self, run_id: str, signal: Signal) -> None:
        self.sent += 1
        with self.busy() as is_busy:
            if not is_busy or self.sent % 5:
                await super().send_signal(run_id, signal)


class AllAreEqual(Faulty):
    found_by = "slots_are_given_up_to_the_limit"

    async def take_slots(self, claim: Claim, requests: Sequence[SlotRequest], is_gone: Gone) -> frozenset[str]:
        return await super().take_slots(claim, [attrs.evolve(request, priority=0) for request in requests], is_gone)


class OneSlotAtATime(Faulty):
    found_by = "a_run_may_hold_several_slots"

    async def take_slots(self, claim: Claim, requests: Sequence[SlotRequest], is_gone: Gone) -> frozenset[str]:
        return await super().take_slots(claim, requests[:1], is_gone)


class SlotsWithoutAFence(Faulty):
    found_by = "slots_of_the_dead_are_free"

    async def take_slots(self, claim: Claim, requests: Sequence[SlotRequest], is_gone: Gone) -> frozenset[str]:
        try:
            return await super().take_slots(claim, requests, is_gone)
        except LeaseLostError:
            return frozenset()


class GivesInAtLast(Faulty):
    found_by = "never_more_slots_than_the_limit"
    refused = 0

    async def take_slots(self, claim: Claim, requests: Sequence[SlotRequest], is_gone: Gone) -> frozenset[str]:
        taken = await super().take_slots(claim, requests, is_gone)
        with self.busy():
            self.refused += bool(requests) and not taken
        return taken if taken or self.refused < 8 else frozenset(request.holder for request in requests)


class AllTimersAreDue(Faulty):
    found_by = "timers_of_all_runs_are_found_by_their_time"

    async def pending_timers(self, *, until: float | None = None, limit: int = 100) -> Sequence[TimerRow]:
        return await super().pending_timers(limit=limit)


class IgnoresVariants(Faulty):
    found_by = "the_latest_checkpoint_is_kept"

    async def load(self, run_id: str, path: str, index: int | None = None, variant: str = "primary") -> Checkpoint | None:
        return await super().load(run_id, path, index)


class CountsOnFromTheLastOwner(Faulty):
    found_by = "a_new_owner_starts_its_checkpoints_anew"

    async def save(self, claim: Claim, checkpoint: Checkpoint) -> None:
        known = await self.load(claim.run_id, checkpoint.path, checkpoint.index, checkpoint.variant)
        if known is not None and known.seq > checkpoint.seq and claim.epoch > 1:
            return
        await super().save(claim, checkpoint)


class ForgetsWhenItRetries(Faulty):
    found_by = "checkpoints_go_with_the_result"

    async def commit(self, commit: Commit) -> None:
        await super().commit(commit)
        for entry in commit.entries:
            if isinstance(entry, RetryScheduled) and commit.seq > 2:
                place = (commit.run_id, entry.path, -1)
                await self._write().ask(lambda connection, place=place: connection.execute(sql.DROP_CHECKPOINTS, place))  # type: ignore[misc]  # bound


class FlattensLines(Faulty):
    found_by = "lines_are_read_as_they_were_kept"

    async def lines(self, query: LineQuery) -> Sequence[LogLine]:
        return [attrs.evolve(line, text=line.text.replace("\n", " ")) for line in await super().lines(query)]


class IgnoresLevels(Faulty):
    found_by = "lines_are_found_by_place_attempt_and_level"

    async def lines(self, query: LineQuery) -> Sequence[LogLine]:
        return await super().lines(attrs.evolve(query, level=0))


class CountsBadly(Faulty):
    found_by = "checkpoints_are_counted"

    async def checkpoint_statistics(self) -> CheckpointStatistics:
        found = await super().checkpoint_statistics()
        return attrs.evolve(found, total_bytes=found.total_bytes + 1)


class AnybodyDropsProcesses(Faulty):
    found_by = "processes_are_kept_until_their_step_has_ended"

    async def drop_process(self, claim: Claim, process: ProcessRow) -> None:
        with suppress(LeaseLostError):
            await super().drop_process(claim, process)


class KeepsTheLastBeat(Faulty):
    found_by = "signs_of_life_are_kept_for_audit"

    async def heartbeats(self, run_id: str) -> Sequence[BeatRow]:
        return list(await super().heartbeats(run_id))[-1:]


class SaysNotFromWhom(Faulty):
    found_by = "orphaned_runs_are_found"

    async def claim(self, run_id: str, owner: str, lease_s: float, is_gone: Gone) -> Claim:
        return attrs.evolve(await super().claim(run_id, owner, lease_s, is_gone), taken_from="")


class IgnoresUntil(Faulty):
    found_by = "runs_are_found_by_what_they_are"

    async def runs(self, query: RunQuery) -> RunPage:
        return await super().runs(attrs.evolve(query, until=None))


class PagesWithoutEnd(Faulty):
    found_by = "pages_stay_right_while_runs_come"

    async def runs(self, query: RunQuery) -> RunPage:
        page = await super().runs(query)
        return attrs.evolve(page, cursor=page.cursor or "0.0 r")


class DryRunsAreWet(Faulty):
    found_by = "what_is_old_is_removed"

    async def clean(self, days: float, *, dry_run: bool = False) -> int:
        return await super().clean(days)


class CleansWhatIsUnsent(Faulty):
    found_by = "what_is_old_waits_until_its_spans_are_sent"

    async def clean(self, days: float, *, dry_run: bool = False) -> int:
        if not dry_run:
            await self.drop_unsent(days)
        return await super().clean(days, dry_run=dry_run)


class GivesUpOnTheYoung(Faulty):
    found_by = "what_is_old_waits_until_its_spans_are_sent"

    async def drop_unsent(self, days: float) -> int:
        return await super().drop_unsent(0.0)


class ForgetsKeys(Faulty):
    found_by = "a_key_outlives_its_run_for_a_day"

    async def clean(self, days: float, *, dry_run: bool = False) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_upkeep, "KEY_KEPT_S", 0.0)
            return await super().clean(days, dry_run=dry_run)


class CountsTwice(Faulty):
    found_by = "a_store_says_what_it_holds"

    async def stats(self) -> StoreStats:
        found = await super().stats()
        return attrs.evolve(found, rows={name: 2 * number for name, number in found.rows.items()})


class AllExportsAtOnce(Faulty):
    found_by = "an_export_is_open_until_it_is_done"

    async def span_exports(
        self, which: Literal["open", "refused"] = "open", *, run_id: str = "", limit: int = 1000
    ) -> Sequence[SpanExport]:
        return await super().span_exports(which, run_id=run_id)


class ShortensRefusals(Faulty):
    found_by = "refused_spans_are_kept_until_they_are_sent_again"

    async def span_exports(
        self, which: Literal["open", "refused"] = "open", *, run_id: str = "", limit: int = 1000
    ) -> Sequence[SpanExport]:
        found = await super().span_exports(which, run_id=run_id, limit=limit)
        return [attrs.evolve(export, letters=export.letters[:1]) for export in found]


class OwnersAreForEver(Faulty):
    found_by = "an_export_tells_who_drives_the_run"

    async def span_exports(
        self, which: Literal["open", "refused"] = "open", *, run_id: str = "", limit: int = 1000
    ) -> Sequence[SpanExport]:
        found = await super().span_exports(which, run_id=run_id, limit=limit)
        return [attrs.evolve(export, owner=export.owner or ("" if run_id else "somebody")) for export in found]


class OneLeadsAll(Faulty):
    found_by = "one_of_many_leads"

    async def lead(self, what: str, owner: str, lease_s: float, is_gone: Gone) -> bool:
        return await super().lead("everything", owner, lease_s, is_gone)


class BeatsOnWhenClosed(Faulty):
    found_by = "a_closed_store_says_so"

    def beat(self, claim: Claim, steps: Sequence[BeatRow] = ()) -> None:
        if not self._is_closed:
            super().beat(claim, steps)


FAULTY = Faulty.__subclasses__()
TESTS = [name.removeprefix("test_") for name in vars(StoreContract) if name.startswith("test_")]


def fails(kind: type[SqliteStore], test: str) -> bool:
    """Whether a store of this kind does not pass a test of the contract."""

    class Held(StoreContract):
        def make_store(self, folder: Path) -> Store:
            return kind(path=folder / "runs.db", durability="normal")

    with tempfile.TemporaryDirectory() as name:
        try:
            getattr(Held(), f"test_{test}")("asyncio", Path(name))
        except Exception:  # whatever a test shows a fault by
            return True
    return False


def test_every_clause_has_its_fault() -> None:
    """For each test of the contract there is a store that it is to find."""
    assert {kind.found_by for kind in FAULTY} == set(TESTS)


@pytest.mark.parametrize("kind", FAULTY)
def test_a_fault_is_found_by_its_clause(kind: type[Faulty]) -> None:
    """The test fails for the store with the fault; and with ``TREADLE_MUTANTS`` no other: without it the store would pass."""
    found = [each for each in (TESTS if ALL else [kind.found_by]) if fails(kind, each)]

    assert found == [kind.found_by]
