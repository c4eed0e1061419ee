"""Its import takes 30 seconds, or what the environment says."""

import os
import time

from treadle import executor

time.sleep(float(os.environ.get("ZOO_SLEEP_S", "30")))


@executor("zoo.sleeps")
async def run(text: str) -> str:
    """Answer at last."""
    return text
