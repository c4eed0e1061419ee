"""The way into the running event loop from other threads and from signal handlers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextvars import ContextVar

import sniffio

Post = Callable[[Callable[[], object]], object]
"""Calls a function on an event loop soon; may be used from any thread, and raises RuntimeError when the loop has ended."""


waits_quietly: ContextVar[Callable[[], bool] | None] = ContextVar("treadle_loop_waits_quietly", default=None)
"""Where time is virtual, what tells whether the event loop waits for news at this moment, before it lets time pass."""


def sign_poster() -> Post:
    """What asks the event loop that runs here for a sign of life, as ``loop_poster`` calls functions on it.

    In virtual time a loop that waits for news gives the sign without being woken, in the caller's thread: that somebody asks
    whether it lives is no news, and would keep time from passing for ever.
    """
    post, is_waiting = loop_poster(), waits_quietly.get()
    if is_waiting is None:
        return post
    return lambda function: function() if is_waiting() else post(function)


def loop_poster() -> Post:
    """What calls a function on the event loop that runs here, soon, from any thread or signal handler."""
    if sniffio.current_async_library() == "trio":
        lowlevel = importlib.import_module("trio").lowlevel  # optional: imported already when it runs
        post: Post = lowlevel.current_trio_token().run_sync_soon
        return post
    import asyncio  # imported already when it runs; who only needs this module's neighbours does without

    return asyncio.get_running_loop().call_soon_threadsafe
