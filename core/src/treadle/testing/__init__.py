"""For tests of workflows, executors and plugins: time that jumps, and a sink that keeps what it is told."""

from treadle.testing._recorder import Recorder
from treadle.testing._virtual_time import VirtualClock, virtual_run

__all__ = ["Recorder", "VirtualClock", "virtual_run"]
