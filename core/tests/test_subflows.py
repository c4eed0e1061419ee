"""Workflows within workflows: which one a step means, what it sees, and what a run keeps of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from treadle import Registry, Workflow, executor, load_workflow, make_plan
from treadle._config import load_config
from treadle._memory import MemoryStore
from treadle._models import RunCreated, RunStatus
from treadle._plan import MAX_STEPS, compile_plan
from treadle._results import RunResult
from treadle._subflows import MAX_DEPTH, fits_range
from treadle._workflow._reader import MAX_FALLBACKS, MAX_GROUPS
from treadle.errors import ResumeChangedError, RunSuspendedError, WorkflowInvalidError
from treadle.testing import virtual_run


@executor("echo")
async def echo(value: object) -> object:
    """Give back what is given."""
    return value


GREET = """
name: greet
version: "{version}"
inputs: {{who: {{type: string}}, times: {{type: integer, default: 1}}}}
steps:
  say: {{uses: echo, with: {{value: "{version} ${{{{ inputs.who }}}} ${{{{ inputs.times }}}}"}}}}
outputs: {{text: "${{{{ steps.say.output }}}}"}}
"""
CALL = """
name: caller
steps:
  greet: {{workflow: {which}, with: {{who: you}}}}
outputs: {{text: "${{{{ steps.greet.output.text }}}}"}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three versions of one workflow in its folder."""
    (tmp_path / "treadle.toml").write_text('[workflows]\nfolder = "flows"\n')
    (tmp_path / "flows").mkdir()
    for version in ("1.4.0", "2.0.0", "2.5.1"):
        (tmp_path / "flows" / f"greet-{version}.yaml").write_text(GREET.format(version=version))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def run(file: Path, **options: Any) -> RunResult:
    registry = Registry.discover(load_config(file.parent)).knowing(echo)
    return virtual_run(load_workflow(file), registry=registry, **options)


def faults_of(file: Path | Workflow) -> list[str]:
    workflow = file if isinstance(file, Workflow) else load_workflow(file)
    registry = Registry.discover(load_config(Path())).knowing(echo)
    with pytest.raises(WorkflowInvalidError) as caught:
        make_plan(workflow, registry)
    return [f"{fault.path}: {fault.message} ({fault.remedy})" for fault in caught.value.faults]


# -- which one -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("./flows/greet-1.4.0.yaml", "1.4.0"),
        ("flows/greet-2.0.0.yaml", "2.0.0"),
        ("greet", "2.5.1"),
        ("greet@^1", "1.4.0"),
        ("greet@^2", "2.5.1"),
        ('"greet@~2.0"', "2.0.0"),
        ('"greet@>=1,<2.5"', "2.0.0"),
        ("greet@2.0.0", "2.0.0"),
    ],
)
def test_a_step_names_a_file_or_a_workflow_with_versions(folder: Path, which: str, said: str, anyio_backend: str) -> None:
    """A path is relative to the file; of several versions in the folder the newest that fits is taken."""
    file = write(folder, "caller.yaml", CALL.format(which=which))

    result = run(file, backend=anyio_backend)

    assert result.outputs == {"text": f"{said} you 1"}
    assert list(result.steps) == ["greet/say", "greet"]


@pytest.mark.parametrize(
    ("version", "versions", "fits"),
    [
        ("2.0", "^2", True),
        ("2.9.9", "^2", True),
        ("3.0", "^2", False),
        ("1.9", "^1.4", True),
        ("1.3", "^1.4", False),
        ("0.3.9", "^0.3.1", True),
        ("0.4.0", "^0.3.1", False),
        ("1.4.9", "~1.4.2", True),
        ("1.5", "~1.4", False),
        ("1.9", "~1", True),
        ("1.4", "1.4.0", True),
        ("1.5", "!=1.5", False),
        ("", "^1", False),
        ("not a version", "^1", False),
    ],
)
def test_ranges_of_versions(version: str, versions: str, fits: bool) -> None:
    """A caret keeps the first number that is not 0, a tilde the first two; the rest is as for packages."""
    assert fits_range(version, versions) is fits


def test_a_subflow_that_is_not_there_is_refused_with_what_there_is(folder: Path) -> None:
    """All of them at once, each at its place."""
    steps = "\n".join(
        f"  s{n}: {{workflow: '{which}'}}" for n, which in enumerate(["./no.yaml", "greeet", "greet@^7", "greet@x y"])
    )
    file = write(folder, "caller.yaml", f"name: caller\nsteps:\n{steps}\n")

    assert faults_of(file) == [
        "steps.s0.workflow: there is no file './no.yaml' (looked for caller.yaml)".replace(
            "caller.yaml", str(folder / "no.yaml")
        ),
        "steps.s1.workflow: no workflow in flows is called 'greeet' (did you mean 'greet'?)",
        "steps.s2.workflow: no version of 'greet' is in '^7' (versions: 1.4.0, 2.0.0, 2.5.1)",
        "steps.s3.workflow: 'x y' is no range of versions (write it like ^2, ~1.4, >=1,<3 or 1.4.0)",
    ]


def test_without_a_folder_a_name_says_what_to_do() -> None:
    """The configuration names the folder."""
    workflow = Workflow.from_dict({"name": "w", "steps": {"a": {"workflow": "greet"}}})

    (fault,) = faults_of(workflow)

    assert fault.startswith("steps.a.workflow: no subflow is called 'greet' (write its path")


def test_workflows_that_call_each_other_are_refused_with_the_cycle(folder: Path) -> None:
    """A workflow cannot be part of itself, however far away."""
    write(folder, "a.yaml", "name: a\nsteps:\n  s: {workflow: ./b.yaml}\n")
    write(folder, "b.yaml", "name: b\nsteps:\n  s: {workflow: ./a.yaml}\n")

    (fault,) = faults_of(folder / "a.yaml")

    assert "subflows call each other: a.yaml -> b.yaml -> a.yaml" in fault


def test_the_faults_of_a_subflow_have_its_places(folder: Path) -> None:
    """Its own file, line and column."""
    write(folder, "inner.yaml", "name: inner\nsteps:\n  s:\n    uses: echo\n    with: {valu: 1}\n")
    file = write(folder, "caller.yaml", "name: caller\nsteps:\n  s: {workflow: ./inner.yaml}\n")

    with pytest.raises(WorkflowInvalidError, match=r"inner\.yaml:5:12: steps\.s\.with\.valu"):
        make_plan(load_workflow(file), Registry.of(echo))


# -- limits --------------------------------------------------------------------------------------------------------------------


def test_subflows_within_each_other_are_limited(folder: Path) -> None:
    """Ten levels of files, ten of workflows in one file."""
    for level in range(MAX_DEPTH + 2):
        write(folder, f"l{level}.yaml", f"name: l{level}\nsteps:\n  s: {{workflow: ./l{level + 1}.yaml}}\n")

    (fault,) = faults_of(folder / "l0.yaml")

    assert f"subflows are nested deeper than {MAX_DEPTH} levels" in fault
    document: dict[str, Any] = {"name": "w", "steps": {"s": {"uses": "echo"}}}
    for _ in range(MAX_DEPTH + 1):
        document = {"name": "w", "steps": {"s": {"workflow": "w"}}, "workflows": {"w": document}}
    with pytest.raises(WorkflowInvalidError, match="nested deeper than 10 levels"):
        Workflow.from_dict(document)


def test_a_bomb_of_subflows_is_refused_before_it_goes_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps that each run ten that each run ten ...: a plan has at most 100,000 steps, here a thousand."""
    assert MAX_STEPS == 100_000
    monkeypatch.setattr("treadle._plan.MAX_STEPS", 1_000)
    document: dict[str, Any] = {"name": "leaf", "steps": {f"s{n}": {"uses": "echo", "with": {"value": n}} for n in range(10)}}
    for _ in range(6):
        document = {"name": "w", "steps": {f"s{n}": {"workflow": "w"} for n in range(10)}, "workflows": {"w": document}}

    with pytest.raises(WorkflowInvalidError, match="more than 1,000 steps"):
        compile_plan(Workflow.from_dict(document))


def test_groups_within_each_other_are_limited() -> None:
    """Ten levels are fine, eleven are not."""

    def nested(levels: int) -> dict[str, Any]:
        step: dict[str, Any] = {"uses": "echo", "with": {"value": 1}}
        for level in range(levels):
            step = {"parallel": {"steps": {f"g{level}": step}}}
        return {"name": "w", "steps": {"top": step}}

    Workflow.from_dict(nested(MAX_GROUPS))
    with pytest.raises(WorkflowInvalidError, match=f"groups are nested deeper than {MAX_GROUPS} levels"):
        Workflow.from_dict(nested(MAX_GROUPS + 1))


def test_fallbacks_of_a_step_are_limited() -> None:
    """Ten are enough."""
    body = {"uses": "echo", "with": {"value": 1}}

    with pytest.raises(WorkflowInvalidError, match=f"expected 1 to {MAX_FALLBACKS} fallbacks, not 11"):
        Workflow.from_dict({"name": "w", "steps": {"a": {**body, "fallback": [body] * 11}}})


# -- what it is given and sees -------------------------------------------------------------------------------------------------

INNER: dict[str, Any] = {
    "name": "inner",
    "inputs": {"n": {"type": "integer"}, "text": {"type": "string", "default": "t"}},
    "steps": {"a": {"uses": "echo", "with": {"value": "${{ [inputs.n, inputs.text, run.workflow] }}"}}},
    "outputs": {"all": "${{ steps.a.output }}"},
}


def around(step: dict[str, Any], **rest: Any) -> Workflow:
    return Workflow.from_dict(
        {"name": "w", "workflows": {"inner": INNER}, "steps": {"sub": {"workflow": "inner", **step}}, **rest}
    )


def test_inputs_are_checked_when_the_workflow_is_planned() -> None:
    """As far as they are known: missing, unknown, of the wrong type."""
    assert faults_of(around({"with": {"n": "one", "txt": 1}})) == [
        "steps.sub.with.txt: the workflow has no such input (did you mean 'text'?)",
        "steps.sub.with.n: must be integer, not str ()",
    ]
    assert faults_of(around({}))[0].startswith("steps.sub.with.n: is required")


def test_inputs_that_are_known_later_are_checked_then() -> None:
    """The step fails and says what does not fit; nothing of the subflow starts."""
    workflow = around({"with": {"n": "${{ inputs.x }}"}}, inputs={"x": {}})

    result = virtual_run(workflow, {"x": "one"}, executors=[echo])

    assert list(result.steps) == ["sub"]
    error = result.steps["sub"].error
    assert error is not None
    assert "the inputs of workflow 'inner' do not fit: n: must be integer, not str" in error.message


def test_a_subflow_sees_its_own_inputs_and_steps_alone() -> None:
    """Nothing of what is around it, and around it nothing of what is in it but its outputs."""
    inner = {**INNER, "steps": {"a": {"uses": "echo", "with": {"value": "${{ steps.before.output }}"}}}}
    outer: dict[str, Any] = {
        "before": {"uses": "echo", "with": {"value": 1}},
        "sub": {"workflow": "inner", "with": {"n": 1}},
        "after": {"uses": "echo", "with": {"value": "${{ steps.a.output }}"}},
    }

    faults = faults_of(Workflow.from_dict({"name": "w", "workflows": {"inner": inner}, "steps": outer}))

    assert sorted(fault.partition(":")[2].strip() for fault in faults) == [
        "there is no step 'a' (known: after, before, sub)",
        "there is no step 'before' (known: a)",
    ]


def test_a_secret_is_not_handed_to_a_subflow() -> None:
    """Secrets are no data; a subflow takes its own."""
    workflow = around({"with": {"n": 1, "text": "${{ secrets.TOKEN }}"}}, secrets=["TOKEN"])

    assert faults_of(workflow) == [
        "steps.sub.with: a secret cannot be handed to a subflow (declare it in the subflow: secrets: [...], and take it there)"
    ]


def test_rules_of_a_subflow_are_its_own() -> None:
    """Its on_error holds for its steps; its failure means outside what the step says."""
    inner = {
        "name": "inner",
        "on_error": "continue",
        "steps": {
            "bad": {"uses": "echo", "with": {"value": "${{ inputs.x.y }}"}},
            "good": {"uses": "echo", "with": {"value": 1}},
        },
        "inputs": {"x": {"default": 1}},
        "finally": {"last": {"uses": "echo", "with": {"value": "${{ run.status }}"}}},
        "outputs": {"good": "${{ steps.good.output }}", "last": "${{ steps.last.output }}"},
    }
    workflow = Workflow.from_dict({"name": "w", "workflows": {"inner": inner}, "steps": {"sub": {"workflow": "inner"}}})

    result = virtual_run(workflow, executors=[echo])

    assert result.status is RunStatus.PARTIAL_FAILURE
    assert result.steps["sub"].output == {"good": 1, "last": "partial_failure"}
    assert "sub/finally/last" in result.steps


# -- what a run keeps ----------------------------------------------------------------------------------------------------------


def test_a_run_holds_its_subflows(folder: Path) -> None:
    """The recorded workflow needs no file, and has the hash of what was run."""
    file = write(folder, "caller.yaml", CALL.format(which="greet@^2"))

    result = run(file)

    created = result.entries[0]
    assert isinstance(created, RunCreated)
    recorded = Workflow.from_dict(created.workflow)
    assert recorded.workflows["greet@^2"].version == "2.5.1"
    assert recorded.hash == created.workflow_hash
    assert list(compile_plan(recorded).steps) == ["greet", "greet/say"]


def test_a_changed_subflow_is_noticed_when_the_run_is_resumed(folder: Path) -> None:
    """It belongs to the workflow that the run began with."""
    from treadle import resume

    @executor("stop")
    async def stop() -> None:
        """Let go of the run."""
        handles[0].suspend("for now", drain_s=0)

    handles: list[Any] = []
    text = CALL.format(which="./flows/greet-2.0.0.yaml").replace("outputs:", "  stop: {uses: stop}\noutputs:")
    file = write(folder, "caller.yaml", text)
    store = MemoryStore()
    registry = Registry.of(echo, stop)
    with pytest.raises(RunSuspendedError) as caught:
        virtual_run(load_workflow(file), registry=registry, store=store, on_start=handles.append)
    write(folder, "flows/greet-2.0.0.yaml", GREET.format(version="2.0.1"))

    with pytest.raises(ResumeChangedError, match=r"2\.0\.1"):
        resume(caught.value.run_id, store=store, registry=registry)
