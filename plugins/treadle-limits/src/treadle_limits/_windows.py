"""When calls were let through: a storage of the limits library that keeps the event loop's time."""

from __future__ import annotations

from collections import defaultdict, deque

from limits import RateLimitItem
from limits.storage import MovingWindowSupport, Storage


class NamedRate(RateLimitItem):
    """A rate for whom it is, whose key is put together once: the library does so with each hit, which is half of its work.

    Args:
        rate: How much.
        name: Who shares it.
    """

    __slots__ = ("expiry", "key", "rate")

    def __init__(self, rate: RateLimitItem, name: str) -> None:
        super().__init__(rate.amount, rate.multiples, rate.namespace)
        self.rate, self.key, self.expiry = rate, rate.key_for(name), rate.get_expiry()

    def key_for(self, *identifiers: object) -> str:
        """What its hits are kept under."""
        return self.key

    def get_expiry(self) -> int:
        """How long a hit counts, in seconds."""
        return self.expiry

    def __str__(self) -> str:
        return str(self.rate)


class LoopStorage(Storage, MovingWindowSupport):
    """Moving windows in memory, at the time that it is told.

    The library's own memory storage reads the wall clock, which jumps and which tests cannot skip, and starts a thread to
    tidy up with nearly every hit.

    Attributes:
        at: The time, in seconds; to be set before each use.
    """

    STORAGE_SCHEME = None

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0
        self._hits: defaultdict[str, deque[float]] = defaultdict(deque)

    @property
    def base_exceptions(self) -> type[Exception]:
        """Nothing of it fails."""
        return ValueError

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Note ``amount`` hits, when the window has room for them."""
        hits = self._within(key, expiry)
        if len(hits) + amount > limit:
            return False
        hits.extend([self.at] * amount)
        return True

    def take(self, rate: NamedRate, at: float) -> bool:
        """What the library's limiter does for a hit at a time, without the layers that it puts around a storage."""
        hits = self._hits[rate.key]
        expired_at = at - rate.expiry
        while hits and hits[0] <= expired_at:
            hits.popleft()
        if len(hits) >= rate.amount:
            return False
        hits.append(at)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """The oldest hit within the window (now, when there is none) and how many there are."""
        hits = self._within(key, expiry)
        return (hits[0] if hits else self.at), len(hits)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Note ``amount`` hits and count those within the window."""
        hits = self._within(key, expiry)
        hits.extend([self.at] * amount)
        return len(hits)

    def get(self, key: str) -> int:
        """How many hits are kept."""
        return len(self._hits[key])

    def get_expiry(self, key: str) -> float:
        """When the last hit was."""
        hits = self._hits[key]
        return hits[-1] if hits else self.at

    def check(self) -> bool:
        """Memory is always there."""
        return True

    def reset(self) -> int:
        """Forget everything."""
        count = len(self._hits)
        self._hits.clear()
        return count

    def clear(self, key: str) -> None:
        """Forget one key."""
        self._hits.pop(key, None)

    def wait_s(self, item: RateLimitItem, ahead: int) -> float:
        """Seconds until there is room for one more call, behind ``ahead`` others; 0 when there is room at once."""
        expiry = item.get_expiry()
        hits = self._within(item.key_for(), expiry)
        free = item.amount - len(hits)
        if ahead < free:
            return 0.0
        # Each hit makes room when it leaves the window; those that are let through meanwhile do so a window later.
        rounds, place = divmod(ahead - free, item.amount)
        left = hits[place] if place < len(hits) else self.at
        return left + expiry * (rounds + 1) - self.at

    def _within(self, key: str, expiry: int) -> deque[float]:
        hits = self._hits[key]
        while hits and hits[0] + expiry <= self.at:
            hits.popleft()
        return hits
