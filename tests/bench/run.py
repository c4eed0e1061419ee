"""The figures treadle holds, as JSON lines, each beside a raw limit measured in the same run.

    python tests/bench/run.py                      all of them
    python tests/bench/run.py chain growth         some
    python tests/bench/run.py --graphs DIR         run the WfFormat graphs of a folder
    python tests/bench/run.py --check              exit 1 when a bar is missed

Times are the best of several repetitions; a shared machine's noise only adds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

HERE = Path(__file__).parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))  # its parts are scripts too: some measure in a process of their own


@attrs.frozen
class Figure:
    """One measured figure.

    Attributes:
        bench: Which.
        value: The figure.
        unit: Its unit.
        bar: The most it may be.
        aim: What it should become.
        raw: The raw limit of the same run, in ``raw_unit``; None where there is none.
        raw_unit: What the raw limit is.
        note: What else to know.
    """

    bench: str
    value: float
    unit: str
    bar: float | None = None
    aim: float | None = None
    raw: float | None = None
    raw_unit: str = ""
    note: str = ""

    @property
    def is_held(self) -> bool:
        """Whether the bar is held."""
        return self.bar is None or self.value <= self.bar

    def line(self) -> str:
        """As one line of JSON."""
        told = attrs.asdict(self, filter=lambda _, value: value not in (None, ""))
        if self.raw:
            told["ratio"] = round(self.value / self.raw, 3)
        return json.dumps({**told, "held": self.is_held})


Bench = Callable[[], Iterator[Figure]]


def apart(script: str, *arguments: str, environ: dict[str, str] | None = None) -> dict[str, float]:
    """Run a part in a process of its own and read the JSON object of its last line."""
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environ or {})}, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def steps() -> Iterator[Figure]:
    """In-memory steps without a provider: chain, fan-out, random graph, and how the cost grows."""
    yield from _step_figures("plain", bar=25, aim=15)


def traced() -> Iterator[Figure]:
    """The same with SDK spans, the batch processor and an exporter that throws away."""
    yield from _step_figures("traced", bar=75, aim=50)


def _step_figures(mode: str, *, bar: float, aim: float) -> Iterator[Figure]:
    measured = apart("steps.py", mode)
    for shape in ("chain_1000", "parallel_1000", "random_2000_4000"):
        raw = measured["raw_task_us"]
        name = shape if mode == "plain" else f"{shape}_traced"
        yield Figure(name, round(measured[shape], 2), "us/step", bar, aim, round(raw, 2), "us per bare asyncio task")
    if mode == "plain":
        growth = measured["random_8000"] / measured["random_200"]
        note = f"{measured['random_200']:.1f} us/step at 200 steps, {measured['random_8000']:.1f} at 8,000"
        yield Figure("growth_200_to_8000", round(growth, 3), "ratio", 1.5, 1.2, note=note)


def sleepers() -> Iterator[Figure]:
    """100 steps of 50 ms at once."""
    measured = apart("steps.py", "sleepers")
    yield Figure(
        "sleep_100x50ms", round(measured["ratio"], 3), "wall/50ms", 1.10, 1.05, round(measured["raw"], 3), "bare tasks"
    )


def start_up() -> Iterator[Figure]:
    """Import and --help with 30 plugins installed; a run with 30 inactive plugins against none."""
    measured = apart("start_up.py")
    raw = round(measured["python_ms"], 1)
    yield Figure("import_treadle", round(measured["import_ms"], 1), "ms", 100, 60, raw, "ms, bare python")
    yield Figure("help_30_plugins", round(measured["help_ms"], 1), "ms", 250, 150, raw, "ms, bare python")
    yield Figure("list_30_plugins", round(measured["list_ms"], 1), "ms", 1000, None, raw, "ms, bare python")
    ratio = measured["with_plugins_us"] / measured["without_plugins_us"]
    note = f"{measured['without_plugins_us']:.2f} us/step with none, {measured['with_plugins_us']:.2f} with 30"
    yield Figure("inactive_plugins", round(ratio, 4), "ratio", 1.02, note=note)


def large() -> Iterator[Figure]:
    """A 10,000-step file: load and plan, and the peak memory of its run."""
    measured = apart("large.py")
    note = f"load {measured['load_s']:.2f} s, plan {measured['plan_s']:.2f} s"
    yield Figure("load_and_plan_10000", round(measured["load_s"] + measured["plan_s"], 3), "s", 2.0, note=note)
    yield Figure(
        "peak_memory_10000", round(measured["peak_mb"], 1), "MB", 150, None, round(measured["import_mb"], 1), "MB, imported"
    )


def structures() -> Iterator[Figure]:
    """A 10,000-step file of groups, choices and references; an expression; a foreach over 100,000 items. Processor time."""
    measured = apart("structures.py")
    yield Figure("structured_plan_10000", round(measured["structured_plan_s"], 3), "s", 2.0, 1.0)
    yield Figure("expression", round(measured["expression_us"], 2), "us, median", 25, 5)
    yield Figure("foreach_100000", round(measured["item_us"], 1), "us/item", 40, 25)
    yield Figure("foreach_100000_peak", round(measured["items_peak_mb"], 1), "MB", 250, 150)


def isolation() -> Iterator[Figure]:
    """Calls in a process of their own: the first of a run, and those that follow."""
    measured = apart("isolation.py")
    raw = round(measured["python_ms"], 1)
    note = f"{measured['another_ms']:.1f} ms for each further child, median {measured['cold_median_ms']:.0f} ms"
    yield Figure("isolated_cold", round(measured["cold_ms"], 1), "ms", 150, None, raw, "ms, bare python", note)
    note = f"99 of 100 in {measured['warm_p99_ms']:.2f} ms"
    yield Figure("isolated_warm", round(measured["warm_ms"], 3), "ms", 5, note=note)


def http() -> Iterator[Figure]:
    """What http.request adds to the bare client library, per request."""
    measured = apart("http_requests.py")
    bare, asked, step = (f"{measured[name]:.0f} us" for name in ("bare_us", "request_us", "step_us"))
    ratio = round(measured["request_us"] / measured["bare_us"], 3)
    yield Figure(
        "http_request", ratio, "ratio", 1.15, 1.05, note=f"{bare} by httpx2, {asked} by http.request, {step} as a step"
    )


def budgets() -> Iterator[Figure]:
    """What a budget costs where something is used up."""
    measured = apart("budgets.py")
    plain, limited, spending = (f"{measured[name]:.0f}" for name in ("plain_us", "limited_us", "spending_us"))
    note = f"a step takes {plain} us, {limited} us in a run with a budget, {spending} us when it spends"
    yield Figure("budget_check", round(measured["check_us"], 2), "us", 5, note=note)


def listing() -> Iterator[Figure]:
    """Pages of 100,000 kept runs, whatever is asked for, and the whole command."""
    measured = apart("listing.py")
    command = measured.pop("command")
    slowest = max(measured, key=lambda name: measured[name])
    note = f"the slowest of {len(measured)} kinds of lists ({slowest}); the whole command {command:.0f} ms"
    yield Figure("list_100000_runs", round(measured[slowest], 2), "ms", 200, 20, note=note)


def durable() -> Iterator[Figure]:
    """Runs that are kept in SQLite, beside raw commits on the same disk (``TREADLE_BENCH_DISK`` names a folder on another)."""
    chain = apart("durable.py", "chain")
    raw = round(chain["raw_us"], 1)
    note = f"{chain['step_us']:.0f} us/step, in turns with {raw:.0f} us for each raw commit"
    yield Figure("durable_chain", round(chain["ratio"], 3), "raw commits/step", 2.5, 1.5, note=note)
    if peer := os.environ.get("TREADLE_BENCH_DBOS"):
        dbos = apart("durable.py", "dbos", environ={"TREADLE_BENCH_DBOS": peer})
        note = f"{dbos['step_us']:.0f} us/step, {dbos['dbos_us']:.0f} by DBOS"
        yield Figure("durable_chain_over_dbos", round(dbos["ratio"], 3), "ratio", 0.4, note=note)
    wide = apart("durable.py", "parallel")
    raw = round(wide["raw_us"], 1)
    yield Figure("durable_parallel_1000", round(wide["step_us"], 1), "us/step", max(150, raw / 2), 50, raw, "us per raw commit")
    resume = apart("durable.py", "resume")
    yield Figure("resume_10000", round(resume["resume_s"], 3), "s", 2.0, note="to the start of the last step, the 10,000th")
    memory = apart("durable.py", "memory")
    imported = round(memory["import_mb"], 1)
    yield Figure("durable_memory_10000", round(memory["peak_mb"], 1), "MB", 200, None, imported, "MB, imported")
    store = apart("durable.py", "store")
    raw = round(store["raw_us"] / 1000, 3)
    yield Figure("checkpoint_save_p95", round(store["save_ms"], 3), "ms", max(10, 5 * raw), None, raw, "ms per raw commit")
    yield Figure("checkpoint_load_p95", round(store["load_ms"], 3), "ms", 5)
    yield Figure("heartbeat_p95", round(store["beat_ms"], 3), "ms", 1, note="of the processor")
    yield Figure("check_10000_timers", round(store["timers_ms"], 1), "ms", 100)
    writers = apart("durable.py", "writers")
    note = f"the slowest did {writers['fairness']:.2f} of what the fastest did"
    yield Figure("worst_wait_of_8_writers", round(writers["worst_s"], 3), "s", 1.0, note=note)


def policies() -> Iterator[Figure]:
    """What an active policy adds to a step: being asked, and its own work."""
    measured = apart("policies.py")
    for name in ("wrapper", "limits", "breaker", "redact", "chaos", "cache"):
        own = measured.get(f"own_{name}", 0.0)
        yield Figure(
            f"active_{name}", round(measured[name], 2), "us/step", round(2 + own, 2), None, round(own, 2), "us of its own work"
        )


def graphs(folder: Path) -> Iterator[Figure]:
    """Real workflow graphs: right order, and makespan against the critical path."""
    for file in sorted(folder.glob("*.json")):
        measured = apart("graphs.py", str(file))
        name = f"graph_{file.stem}"
        critical = round(measured["critical_path_s"], 4)
        note = f"{measured['tasks']:.0f} tasks in {measured['makespan_s']:.3f} s, order checked"
        yield Figure(
            name, round(measured["makespan_s"] / critical, 3), "makespan/critical path", 1.10, None, critical, "s", note
        )


def timers() -> Iterator[Figure]:
    """Finding what is due of 10,000 pending timers, firing a hundred at once, and how late waits of a second are."""
    measured = apart("timers.py", "sqlite")
    yield Figure("timers_check", measured["check_ms"], "ms", 100, 5, note="10,000 pending, 100 due, median")
    yield Figure("timers_fire", measured["fire_ms"], "ms", 200, 50, note="100 due at once, to the next attempt, median")
    yield Figure("timers_late", measured["late_ms"], "ms", 10_000, 50, note="the latest of 20")


BENCHES: dict[str, Bench] = {
    "steps": steps,
    "traced": traced,
    "sleepers": sleepers,
    "start_up": start_up,
    "large": large,
    "structures": structures,
    "http": http,
    "policies": policies,
    "budgets": budgets,
    "isolation": isolation,
    "listing": listing,
    "durable": durable,
    "timers": timers,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)}; all when none is named")
    parser.add_argument("--graphs", type=Path, metavar="DIR", help="run the WfFormat graphs (*.json) of a folder instead")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.names if name not in BENCHES]
    if unknown:
        parser.error(f"no bench is called {', '.join(unknown)}; there are: {', '.join(BENCHES)}")
    if chosen.graphs and not any(chosen.graphs.glob("*.json")):
        parser.error(f"{chosen.graphs} holds no *.json")
    is_held = True
    names = chosen.names or ([] if chosen.graphs else list(BENCHES))
    runs: list[Bench] = [BENCHES[name] for name in names]
    if chosen.graphs:
        runs.append(lambda: graphs(chosen.graphs))
    for bench in runs:
        for figure in bench():
            print(figure.line(), flush=True)
            is_held &= figure.is_held
    return 0 if is_held or not chosen.check else 1


if __name__ == "__main__":
    sys.exit(main())
