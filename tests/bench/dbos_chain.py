"""Microseconds per step of a chain on DBOS with SQLite, in the environment that has it: ``dbos_chain.py DIR COUNT``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from dbos import DBOS, DBOSConfig

config: DBOSConfig = {
    "name": "bench",
    "system_database_url": f"sqlite:///{sys.argv[1]}/dbos.sqlite",
    "log_level": "ERROR",
    "run_admin_server": False,
}
DBOS(config=config)


@DBOS.step()
async def noop(n: int) -> dict[str, int]:
    """Nothing."""
    return {"i": n}


@DBOS.workflow()
async def chain(count: int) -> int:
    """One step after the other."""
    done = 0
    for n in range(count):
        done += (await noop(n))["i"] == n
    return done


async def main(count: int) -> float:
    """Microseconds per step, the median of some runs after a warm-up."""
    times = []
    for _ in range(6):
        began = time.perf_counter()
        assert await chain(count) == count
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[2] / count * 1e6


if __name__ == "__main__":
    DBOS.launch()
    print(json.dumps({"step_us": asyncio.run(main(int(sys.argv[2])))}), flush=True)
    os._exit(0)  # its threads would be waited for
