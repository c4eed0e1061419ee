"""For tests of workflows, executors and plugins: time that jumps, a sink that keeps what it is told, and the kits."""

from treadle.testing._executor_contract import ExecutorContract
from treadle.testing._fake_context import FakeContext, FakeSyncContext
from treadle.testing._fakes import Asked, FakeClient
from treadle.testing._recorder import Recorder
from treadle.testing._simulation import SimulatedCall, SimulatedFault, Simulation, simulate
from treadle.testing._store_contract import StoreContract
from treadle.testing._virtual_time import After, SignalMissingError, VirtualClock, virtual_run

__all__ = [
    "After",
    "Asked",
    "ExecutorContract",
    "FakeClient",
    "FakeContext",
    "FakeSyncContext",
    "Recorder",
    "SignalMissingError",
    "SimulatedCall",
    "SimulatedFault",
    "Simulation",
    "StoreContract",
    "VirtualClock",
    "simulate",
    "virtual_run",
]
