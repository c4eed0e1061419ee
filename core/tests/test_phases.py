"""Phases: records that turn into groups with an even budget split, and events of every change of a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import jsonschema
import pytest
import spenders
from hypothesis import given
from hypothesis import strategies as st
from treadle import (
    Executor,
    PhaseContext,
    PhasePlan,
    Registry,
    TaskEvent,
    TaskEvents,
    TaskSpec,
    TransientError,
    Workflow,
    executor,
    phase_workflow,
    run,
)
from treadle._money import parse_money
from treadle._phases import phase_schemas
from treadle.errors import WorkflowInvalidError
from treadle.testing import virtual_run


@executor("agents.find")
async def find(topic: str, most: int = 3) -> list[str]:
    """Find things."""
    return [f"{topic} {number}" for number in range(most)]


@executor("agents.judge")
class Judge(Executor):
    """Say what it is worth; the second time."""

    async def execute(self, topic: str) -> str:
        raise TransientError(f"{topic} is busy")


@executor("agents.broken")
async def broken(topic: str) -> None:
    """Fail."""
    raise ValueError(topic)


REGISTRY = Registry.of(find, Judge, broken, *spenders.ALL)
PLAN = PhasePlan(
    "gather",
    ["agents.find", "agents.find", "agents.judge"],
    inputs={"agents.find": {"most": 1}},
    budget={"cost": "0.0000001", "tokens": 100, "on_exceeded": "fail"},
    timebox="30m",
    max_parallel=2,
    on_error="continue",
)


def test_there_is_a_task_for_each_agent() -> None:
    """One per agent of the plan, with what all are told, what it is told itself, and its share (S1-33, S1-71)."""
    tasks = PLAN.tasks(PhaseContext({"topic": "cats", "most": 9}))

    assert tasks == (
        TaskSpec("agents-find", "gather", "agents.find", {"topic": "cats", "most": 1}, {"cost": "0.00000004", "tokens": 34}),
        TaskSpec("agents-find-2", "gather", "agents.find", {"topic": "cats", "most": 1}, {"cost": "0.00000003", "tokens": 33}),
        TaskSpec("agents-judge", "gather", "agents.judge", {"topic": "cats", "most": 9}, {"cost": "0.00000003", "tokens": 33}),
    )


@given(st.integers(0, 10**12), st.integers(0, 10**6), st.integers(1, 40))
def test_shares_add_up_to_the_budget(cost: int, tokens: int, agents: int) -> None:
    """To the microcent; the first ones get the remainder, one more each (S1-34)."""
    from treadle._money import format_money

    plan = PhasePlan("p", ["agents.find"] * agents, budget={"cost": format_money(cost), "tokens": tokens})

    shares = [(parse_money(str(task.budget["cost"])), int(str(task.budget["tokens"]))) for task in plan.tasks()]

    for total, parts in ((cost, [share[0] for share in shares]), (tokens, [share[1] for share in shares])):
        assert sum(parts) == total
        assert parts == sorted(parts, reverse=True)
        assert max(parts) - min(parts) <= 1


def test_phases_turn_into_groups_one_after_the_other() -> None:
    """A workflow like any other; what is text stays text."""
    later = PhasePlan("sum-up", ["agents.find"], inputs={"agents.find": {"topic": "${{ inputs.x }}"}})

    workflow = phase_workflow("research", [PLAN, later], PhaseContext({"topic": "cats"}), budget={"tokens": 500})

    data: Any = workflow.to_dict()
    assert Workflow.from_dict(data) == workflow
    assert data["budget"] == {"tokens": 500}
    assert data["steps"]["gather"] == {
        "parallel": {
            "steps": {
                "agents-find": {"uses": "agents.find", "with": {"topic": "cats", "most": 1}},
                "agents-find-2": {"uses": "agents.find", "with": {"topic": "cats", "most": 1}},
                "agents-judge": {"uses": "agents.judge", "with": {"topic": "cats"}},
            },
            "on_error": "continue",
            "max_parallel": 2,
            "timeout": "30m",
        },
        "budget": {"cost": "0.0000001", "tokens": 100, "on_exceeded": "fail"},
    }
    assert data["steps"]["sum-up"]["needs"] == ["gather"]
    only = run(phase_workflow("w", [later]), registry=REGISTRY).check()
    assert only.outputs == {"sum_up": {"agents-find": ["${{ inputs.x }} 0", "${{ inputs.x }} 1", "${{ inputs.x }} 2"]}}


def test_the_agents_of_a_phase_keep_to_its_budget() -> None:
    """Even shares; what one leaves, those after it may use; together never more than the budget."""
    plan = PhasePlan(
        "spend",
        ["spend.async"] * 4,
        inputs={"spend.async": {"tokens": 4}},
        budget={"tokens": 10, "on_exceeded": "fail"},
        on_error="continue",
        max_parallel=1,
    )

    result = run(phase_workflow("w", [plan]), registry=REGISTRY)

    ended = [step.status.value for path, step in result.steps.items() if "/" in path]
    assert ended == ["failed", "completed", "failed", "completed"]  # of 10 a quarter, of 10 a third, of 6 the half, then 6
    assert result.usage.total_tokens == 8


class Kept:
    """A publisher that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []

    def publish(self, event: TaskEvent) -> None:
        self.events.append(event)


def test_every_change_of_a_task_is_published() -> None:
    """TaskSpec, PhaseContext, PhasePlan, an EventPublisher and agents meet in one run: pending, running, retrying and how it
    ended, of each task and of the phase, in the order of the log (S1-104).
    """
    publisher = Kept()
    agents = ["agents.find", "agents.judge"]
    workflow = phase_workflow("w", [PhasePlan("p", agents, on_error="continue")], PhaseContext({"topic": "cats"}))

    result = virtual_run(workflow, registry=REGISTRY, sinks=[TaskEvents(publisher)])

    of_task: dict[str, list[tuple[str, int]]] = {}
    for event in publisher.events:
        of_task.setdefault(event.task, []).append((event.status, event.attempt))
    assert of_task == {
        "": [("pending", 0), ("running", 0), ("partial_failure", 0)],
        "agents-find": [("pending", 0), ("running", 1), ("completed", 1)],
        "agents-judge": [
            ("pending", 0),
            ("running", 1),
            ("retrying", 1),
            ("running", 2),
            ("retrying", 2),
            ("running", 3),
            ("failed", 3),
        ],
    }
    assert {event.phase for event in publisher.events} == {"p"}
    assert {event.run_id for event in publisher.events} == {result.run_id}
    assert [event.seq for event in publisher.events] == sorted(event.seq for event in publisher.events)
    assert issubclass(Judge, Executor)


def test_a_publisher_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once."""

    class Broken:
        def publish(self, event: TaskEvent) -> None:
            raise OSError("the channel is gone")

    workflow = phase_workflow("w", [PhasePlan("p", ["agents.find"])], PhaseContext({"topic": "cats"}))

    assert run(workflow, registry=REGISTRY, sinks=[TaskEvents(Broken())]).status == "completed"
    assert [record.levelname for record in caplog.records if "the channel is gone" in record.getMessage()] == ["WARNING"]


def test_the_records_have_published_schemas() -> None:
    """The file of the reference holds what the records give, and refuses what they refuse (S1-104)."""
    file = Path(__file__).parents[2] / "docs" / "reference" / "phases.schema.json"
    published = json.loads(file.read_text("utf-8"))
    event = TaskEvent("r", 1, 2.5, "p", "t", "running", 1)

    assert published == phase_schemas()
    for name, data in [
        ("PhasePlan", PLAN.to_dict()),
        ("PhaseContext", {"inputs": {"a": 1}}),
        ("TaskSpec", attrs.asdict(PLAN.tasks()[0])),
        ("TaskEvent", attrs.asdict(event)),
    ]:
        schema = {"$ref": f"#/$defs/{name}", "$defs": published["$defs"]}
        jsonschema.Draft202012Validator(schema).validate(data)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema).validate({**data, "unheard_of": 1})  # type: ignore[dict-item]  # a mapping


def test_a_plan_reads_back_the_same() -> None:
    """From plain data, with every fault at once."""
    assert PhasePlan.from_dict(json.loads(json.dumps(PLAN.to_dict()))) == PLAN
    with pytest.raises(WorkflowInvalidError) as raised:
        PhasePlan.from_dict({"phase": 3, "agents": "x", "agent": []})
    assert len(raised.value.faults) == 3


@pytest.mark.parametrize(
    ("plan", "path", "message"),
    [
        (PhasePlan("p", []), "agents", "at least one agent"),
        (PhasePlan("p", ["a"], inputs={"b": {}}), "inputs.b", "has no agent 'b'"),
        (PhasePlan("p", ["a"], budget={"cost": 1}), "budget.cost", "put it in quotes"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(plan: PhasePlan, path: str, message: str) -> None:
    with pytest.raises(WorkflowInvalidError, match=message) as raised:
        plan.tasks()

    assert raised.value.faults[0].path == path


def test_phases_have_ids_of_their_own() -> None:
    """Two of one id would be one step."""
    with pytest.raises(WorkflowInvalidError, match="two phases have the same id"):
        phase_workflow("w", [PLAN, PLAN])
