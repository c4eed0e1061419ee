"""The way into the running event loop from other threads and from signal handlers."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import sniffio

Post = Callable[[Callable[[], object]], object]
"""Calls a function on an event loop soon; may be used from any thread, and raises RuntimeError when the loop has ended."""


def loop_poster() -> Post:
    """What calls a function on the event loop that runs here, soon, from any thread or signal handler."""
    if sniffio.current_async_library() == "trio":
        lowlevel = importlib.import_module("trio").lowlevel  # optional: imported already when it runs
        post: Post = lowlevel.current_trio_token().run_sync_soon
        return post
    import asyncio  # imported already when it runs; who only needs this module's neighbours does without

    return asyncio.get_running_loop().call_soon_threadsafe
