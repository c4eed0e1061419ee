"""Ids of traces and spans: valid for W3C, the same on every replay, different for different things."""

from __future__ import annotations

import hashlib
import random
import re
from base64 import b32encode

from hypothesis import given
from hypothesis import strategies as st
from treadle._models import idempotency_key
from treadle._span_ids import attempt_span_id, new_span_id, new_trace_ids, step_span_id

TRACE, ROOT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

attempts = st.tuples(
    st.text(min_size=1, max_size=8),
    st.none() | st.integers(0, 20),
    st.sampled_from(["primary", "fallback 1", "compensation"]),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 3),
)


def attempt_id(key: tuple[str, int | None, str, int, int, int], trace: str = TRACE, root: str = ROOT) -> str:
    path, index, variant, generation, attempt, stint = key
    return attempt_span_id(trace, root, path, index=index, variant=variant, generation=generation, attempt=attempt, stint=stint)


class ZerosFirst:
    """A source of bits that begins with zeros, as a broken one may."""

    def __init__(self) -> None:
        self.zeros = 3

    def getrandbits(self, k: int, /) -> int:
        self.zeros -= 1
        return 0 if self.zeros >= 0 else (1 << k) - 1


def test_new_ids_have_the_form_of_w3c() -> None:
    """A trace id has 32 lower-case hex digits, a span id 16, leading zeros kept."""
    draw = random.Random(7)
    for _ in range(1000):
        trace_id, span_id = new_trace_ids(draw)
        assert re.fullmatch("[0-9a-f]{32}", trace_id)
        assert re.fullmatch("[0-9a-f]{16}", span_id)


def test_ids_of_zeros_are_never_given() -> None:
    """W3C forbids ids of zeros: the source is asked again."""
    assert new_trace_ids(ZerosFirst()) == ("f" * 32, "f" * 16)
    assert new_span_id(ZerosFirst()) == "f" * 16


def test_a_seeded_source_gives_the_same_ids() -> None:
    """Tests and simulations can fix the ids of a run."""
    assert new_trace_ids(random.Random(1)) == new_trace_ids(random.Random(1))


@given(attempts, attempts)
def test_attempt_ids_tell_attempts_apart(
    one: tuple[str, int | None, str, int, int, int], other: tuple[str, int | None, str, int, int, int]
) -> None:
    """Two attempts share an id exactly when they are the same attempt of the same stint."""
    assert (attempt_id(one) == attempt_id(other)) == (one == other)


@given(st.lists(st.text(min_size=1, max_size=6), unique=True, min_size=2, max_size=20))
def test_step_ids_tell_steps_apart(paths: list[str]) -> None:
    """No two steps of a run share a span, nor do a step and its first attempt."""
    ids = [step_span_id(TRACE, ROOT, path) for path in paths] + [attempt_span_id(TRACE, ROOT, path) for path in paths]
    assert len(set(ids)) == 2 * len(paths)
    assert all(re.fullmatch("[0-9a-f]{16}", span_id) for span_id in ids)


def test_runs_of_one_trace_do_not_share_span_ids() -> None:
    """Two runs under one caller have one trace id; their steps and attempts are told apart by the root span (S0-04)."""
    other_root = "00f067aa0ba902b7"
    assert step_span_id(TRACE, ROOT, "page") != step_span_id(TRACE, other_root, "page")
    assert attempt_span_id(TRACE, ROOT, "page") != attempt_span_id(TRACE, other_root, "page")


def test_ids_never_change_between_versions() -> None:
    """Recorded calls carry these ids: a change here would tear the trace of every run that is resumed after an update."""
    assert step_span_id(TRACE, ROOT, "page") == "177e01b2bd436f2b"
    assert attempt_id(("page", 3, "primary", 1, 2, 1)) == "5cb7314494b070d8"


@given(attempts)
def test_idempotency_keys_are_for_ever(key: tuple[str, int | None, str, int, int, int]) -> None:
    """Base32 of a hash, the same in every version: services remember them (G5)."""
    path, index, variant, generation, _, _ = key
    parts = ("run", path, "" if index is None else str(index), variant, str(generation))
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()[:20]

    assert idempotency_key("run", path, index, variant, generation) == f"trd1-{b32encode(digest).decode().lower()}"
