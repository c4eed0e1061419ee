"""Laws of slots: never more than the limit, none is lost, each goes to the first in line, whoever asks, lets go or dies."""

from __future__ import annotations

import anyio
import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from treadle._log_rows import LogRows
from treadle._memory import MemoryStore
from treadle._models import RunCreated
from treadle._store_records import Claim, Commit, NewRun, SlotRequest

RUNS = 3
HOLDERS = 2

moves = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, RUNS - 1), st.integers(0, HOLDERS - 1)),
        st.tuples(st.just("free"), st.integers(0, RUNS - 1), st.integers(0, HOLDERS - 1)),
        st.tuples(st.just("die"), st.integers(0, RUNS - 1), st.just(0)),
    ),
    max_size=40,
)


@attrs.define
class Model:
    """What a group of slots should be: who holds, and who stands in line since when."""

    limit: int
    held: set[tuple[int, int]] = attrs.field(factory=set)
    line: list[tuple[int, int]] = attrs.field(factory=list)

    def take(self, who: tuple[int, int], priorities: list[int]) -> bool:
        if who in self.held:
            return True
        if who not in self.line:
            self.line.append(who)
        ahead = sorted(self.line, key=lambda one: -priorities[one[0]])
        if who in ahead[: max(0, self.limit - len(self.held))]:
            self.line.remove(who)
            self.held.add(who)
        return who in self.held

    def drop(self, who: set[tuple[int, int]]) -> None:
        self.held -= who
        self.line = [one for one in self.line if one not in who]


async def owned(store: MemoryStore, run_id: str) -> Claim:
    rows = LogRows()
    created = RunCreated(0.0, run_id, {"name": "w", "steps": {}}, "hash", {})
    rows.apply(created)
    first = rows.take()
    assert first.run is not None
    made = await store.create(NewRun(Commit(run_id, 1, 1, [created], None), first.run, "", f"host:{run_id}", 60.0))
    assert made.claim is not None
    return made.claim


@settings(max_examples=200, deadline=None)
@given(moves, st.integers(1, 3), st.lists(st.sampled_from([0, 0, 1, -1]), min_size=RUNS, max_size=RUNS))
def test_slots_go_to_the_first_in_line_and_none_is_lost(
    played: list[tuple[str, int, int]], limit: int, priorities: list[int]
) -> None:
    """Random histories of three runs, compared with a model after every move."""

    async def main() -> None:
        store, model = MemoryStore(), Model(limit)
        claims = [await owned(store, f"r{number}") for number in range(RUNS)]
        for what, run, number in played:
            claim, holder = claims[run], f"h{number}"
            if what == "take":
                request = SlotRequest("g", holder, limit, priorities[run])
                taken = await store.take_slots(claim, [request], lambda owner: False)
                assert (holder in taken) == model.take((run, number), priorities)
            elif what == "free":
                await store.free_slots(claim, [holder])
                model.drop({(run, number)})
            else:
                await store.release(claim)
                claims[run] = await store.claim(claim.run_id, claim.owner, 60.0, lambda owner: False)
                model.drop({(run, number) for number in range(HOLDERS)})
            rows = await store.slots("g")
            assert {(int(row.run_id[1:]), int(row.holder[1:])) for row in rows if row.is_held} == model.held
            assert len(model.held) <= limit
            in_line = [(int(row.run_id[1:]), int(row.holder[1:])) for row in rows if not row.is_held]
            assert in_line == sorted(model.line, key=lambda one: -priorities[one[0]])
        for number, claim in enumerate(claims):
            await store.free_slots(claim, [f"h{one}" for one in range(HOLDERS)])
            model.drop({(number, one) for one in range(HOLDERS)})
        assert list(await store.slots()) == []

    anyio.run(main)
