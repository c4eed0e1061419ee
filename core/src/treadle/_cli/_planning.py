"""``treadle plan``: what a run would do, how long it will probably take, and what would be in its way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import anyio
import attrs
import click

from treadle._budgets import Budget, budget_data
from treadle._cli._drawing import notes
from treadle._cli._forecast import Estimate, Forecast, forecast, recorded_durations
from treadle._cli._kept import command_store
from treadle._cli._loading import FILE, discover, json_option
from treadle._cli._output import count, say, spell, table, write, write_json
from treadle._cli._reading import planned
from treadle._models import Json
from treadle._plan import Plan, PlannedStep
from treadle._plugins import Registry
from treadle._workflow import Workflow
from treadle.errors import Fault, StoreUnavailableError, TreadleError, WorkflowInvalidError

_LOCAL = frozenset({"cancels_running", "streams"})
"""What the engine of this process can do."""


@click.command(short_help="Show what a run would do: order, executors, timeouts, retries.")
@click.argument("file", type=FILE)
@click.option("--engine", metavar="NAME", help="Check against this engine instead of the one that is configured.")
@click.option("--strict", is_flag=True, help="Fail when something that the workflow asks for cannot be had.")
@click.option("--no-history", is_flag=True, help="Do not look at what earlier runs took.")
@json_option
def plan(file: str, engine: str | None, strict: bool, no_history: bool, as_json: bool) -> None:
    """Show the order in which the steps of FILE can run, what runs them, and how long they will probably take.

    Steps of one level wait only for steps of earlier levels; each starts the moment its own needs are done. Durations are the
    median of the latest completed runs of the workflow that are kept, else the timeout, else unknown; the critical path is
    the chain of steps that decides how long the run takes.
    """
    workflow, made = planned(file)
    _, registry = discover()
    name = engine or workflow.engine or str(registry.config.engine.get("use") or "local")
    able = _capabilities(registry, name)
    warnings = [*made.warnings, *_lacking(made, registry, name, able)]
    if strict and warnings:
        raise WorkflowInvalidError(warnings, name=workflow.name)
    expected = forecast(made, {} if no_history else _history(registry, workflow))
    if as_json:
        write_json(_plan_object(made, file, name, able, warnings, expected))
        return
    for warning in warnings:
        say(f"warning: {warning}")
    write(f"{workflow.name or file}: {count(len(made.steps), 'step')} in {count(len(made.levels), 'level')}\n")
    rows = [
        [str(level), *_row(made, path), _expected(expected.steps[path])]
        for level, paths in enumerate(made.levels, 1)
        for path in paths
    ]
    write(
        table(["level", "step", "uses", "from", "needs", "condition", "timeout", "attempts", "takes"], rows, keep_empty=False)
    )
    for line in _critical(expected):
        write(line)
    bounds = [*_bounds(made)]
    if bounds:
        write("\n".join(["\nbudgets:", *(f"  {line}" for line in bounds)]))


def _history(registry: Registry, workflow: Workflow) -> Mapping[str, list[float]]:
    """What the steps of a workflow took before; nothing when no runs are kept, or none can be read."""
    try:
        store = command_store(registry, workflow.store)
    except TreadleError:
        return {}
    try:
        return anyio.run(recorded_durations, store, workflow.name) if store.is_durable and workflow.name else {}
    except StoreUnavailableError as error:
        say(f"warning: what earlier runs took is not known: {error.problem}")
        return {}
    finally:
        store.close()


def _capabilities(registry: Registry, name: str) -> frozenset[str] | None:
    """What an engine can do; None when it does not say.

    Raises:
        PluginNotFoundError: There is no such engine.
    """
    if name == "local":
        return _LOCAL
    told = getattr(registry.engine(name), "capabilities", None)
    return told if isinstance(told, frozenset) else None


def _lacking(made: Plan, registry: Registry, engine: str, able: frozenset[str] | None) -> Iterator[Fault]:
    """What the workflow asks for and would not get."""
    steps = made.steps.values()
    timed = [step.path for step in steps if step.timeout_s is not None]
    if able is not None and "cancels_running" not in able and timed:
        message = f"engine {engine} cannot stop what runs: the timeouts of {', '.join(timed)} are only noticed"
        yield Fault(message, "engine", "use another engine, or leave the timeouts out")
    waits = [step.path for step in steps if step.wait is not None]
    if waits and "durable" not in (able or ()) and _is_memory(registry, made.workflow):
        message = f"the waits of {', '.join(waits)} end with the process: runs are kept in memory"
        yield Fault(message, "store", "pip install treadle-sqlite, or name a store in [store]")


def _is_memory(registry: Registry, workflow: Workflow) -> bool:
    asked = workflow.store or str(registry.config.store.get("use") or "")
    return asked == "memory" or (not asked and "sqlite" not in registry.names("treadle.stores"))


def _plan_object(
    made: Plan, file: str, engine: str, able: frozenset[str] | None, warnings: list[Fault], expected: Forecast
) -> dict[str, object]:
    workflow = made.workflow
    steps = {path: {**_step_object(made, path), **_estimate_object(expected.steps[path])} for path in made.order}
    return {
        **{"workflow": workflow.name, "hash": workflow.hash, "file": file, "max_parallel": workflow.max_parallel},
        "budget": _budget_object(workflow.budget),
        **{"engine": engine, "capabilities": None if able is None else sorted(able)},
        "warnings": [attrs.asdict(warning) for warning in warnings],
        **{"order": made.order, "levels": made.levels, "steps": steps},
        "critical_path": {
            "steps": list(expected.critical),
            "duration_s": round(expected.seconds, 6),
            "unknown": expected.unknown,
        },
    }


def _budget_object(budget: Budget | None) -> Json:
    return None if budget is None else budget_data(budget)


def _bounds(made: Plan) -> Iterator[str]:
    """What the run, and steps of it, may use up at most."""
    known = {"run": made.workflow.budget, **{path: step.node.budget for path, step in made.steps.items()}}
    for path, budget in known.items():
        if budget is not None:
            limits = {name: value for name, value in budget_data(budget).items() if name in _LIMITS}
            shown = ", ".join(f"{_LIMITS[name].format(value)}" for name, value in limits.items())
            yield f"{path}: at most {shown}" + (" (warns only)" if budget.mode == "warn" else "")


_LIMITS = {"cost": "{} USD", "tokens": "{} tokens", "requests": "{} requests", "wall_time": "{}"}


def _estimate_object(estimate: Estimate) -> dict[str, object]:
    seconds = None if estimate.seconds is None else round(estimate.seconds, 6)
    return {"expected_s": seconds, "expected_from": estimate.source, "expected_runs": estimate.runs}


def _expected(estimate: Estimate) -> str:
    if estimate.seconds is None:
        return "?"
    return f"{'at most ' if estimate.source == 'timeout' else ''}{spell(estimate.seconds)}"


def _critical(expected: Forecast) -> Iterator[str]:
    if len(expected.unknown) == len(expected.steps):
        return
    runs = max(estimate.runs for estimate in expected.steps.values())
    source = f"from {count(runs, 'run')}" if runs else "by timeouts"
    unknown = f"; {count(len(expected.unknown), 'step')} unknown" if expected.unknown else ""
    yield f"\ncritical path: {' -> '.join(expected.critical)}  ({spell(expected.seconds)}, {source}{unknown})"


def _step_object(made: Plan, path: str) -> dict[str, object]:
    step, executor = made.step(path), made.executors.get(made.step(path).executor)
    return {
        "uses": step.executor,
        "distribution": executor.distribution if executor else "",
        "version": executor.version if executor else "",
        "family": executor.family if executor else "",
        "effects": executor.effects if executor else "none",
        "needs": list(made.needs(path)),
        "when": step.when.source if step.when else None,
        "foreach": step.foreach is not None,
        "max_parallel": step.node.max_parallel,
        "timeout_s": step.timeout_s,
        "isolation": "inline" if step.limits is None else "process",
        "retry": {
            "max_attempts": step.retry.max_attempts,
            "base_s": step.retry.base_s,
            "factor": step.retry.factor,
            "max_delay_s": step.retry.max_delay_s,
            "jitter": step.retry.jitter,
            "delays_s": list(step.retry.delays_s) if step.retry.delays_s is not None else None,
            "only_transient": not step.retry.explicit,
        },
        "clients": dict(step.clients),
        "budget": _budget_object(step.node.budget),
    }


def _row(made: Plan, path: str) -> list[str]:
    step, executor = made.step(path), made.executors.get(made.step(path).executor)
    source = f"{executor.distribution} {executor.version}".strip() if executor else ""
    needs = ", ".join(made.needs(path)) or "-"
    timeout = spell(step.timeout_s) if step.timeout_s is not None else "-"
    attempts = _attempts(step) if executor else "-"
    return [path, next(notes(made, step)), source or "-", needs, _condition(step), timeout, attempts]


def _condition(step: PlannedStep) -> str:
    parts = [f"for each {step.item_name}"] if step.foreach is not None else []
    parts += [f"when {step.when.source}"] if step.when is not None else []
    return ", ".join(parts) or "-"


def _attempts(step: PlannedStep) -> str:
    return str(step.retry.max_attempts) if step.retry.explicit else f"{step.retry.max_attempts} if transient"
