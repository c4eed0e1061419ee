"""A workflow as a value: reading plain data with all faults at once, writing it back, building it in Python."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from treadle._loader import loads_workflow
from treadle._models import RetryPolicy
from treadle._retries import PRESETS
from treadle._schema import STEP, WORKFLOW
from treadle._workflow import Defaults, Expression, InputSpec, Step, Workflow, fits
from treadle.errors import NotSupportedError, WorkflowInvalidError

FULL: dict[str, Any] = {
    "name": "digest",
    "version": "1.4",
    "description": "Reads sites.",
    "labels": {"team": "growth"},
    "inputs": {
        "sites": {"type": "array", "default": ["example.org"]},
        "topic": {"type": "string", "description": "What about."},
        "limit": {"type": "integer", "required": False},
        "any": {"default": {"a": [1, None]}},
    },
    "secrets": ["TOKEN"],
    "defaults": {"timeout": "5m", "retry": {"max_attempts": 4, "base": "1s"}},
    "engine": "local",
    "store": "memory",
    "max_parallel": 4,
    "on_error": "continue",
    "max_failures": "25%",
    "steps": {
        "page": {
            "uses": "http.request",
            "with": {"url": "https://${{ site }}/", "headers": {"authorization": "Bearer ${{ secrets.TOKEN }}"}},
            "foreach": "${{ inputs.sites }}",
            "as": "site",
            "max_parallel": 2,
            "clients": {"http": "billing"},
        },
        "fixed": {"uses": "tool.x", "foreach": []},
        "report": {
            "uses": "file.write",
            "needs": ["page", "fixed"],
            "when": "steps.page.output | length > 1",
            "retry": {"max_attempts": 2, "retry_on": ["auth"]},
            "timeout": "1m30s",
            "on_error": "stop",
        },
    },
    "finally": {"bye": {"uses": "shell.run", "with": {"argv": ["echo"]}}},
    "outputs": {"total": "${{ steps.report.output }}", "fixed": [1, None]},
}


def faults_of(data: object) -> dict[str, str]:
    """Path -> message and remedy of every fault."""
    with pytest.raises(WorkflowInvalidError) as caught:
        Workflow.from_dict(data)
    return {fault.path: f"{fault.message} ({fault.remedy})" for fault in caught.value.faults}


def with_step(**step: object) -> dict[str, object]:
    return {"name": "w", "steps": {"a": {"uses": "x", **step}}}


def test_every_key_arrives_at_its_attribute() -> None:
    """What the file says is what the plan reads."""
    workflow = Workflow.from_dict(FULL)
    page, report = workflow.steps["page"], workflow.steps["report"]

    assert (workflow.name, workflow.version, workflow.description, workflow.labels) == (
        "digest",
        "1.4",
        "Reads sites.",
        {"team": "growth"},
    )
    assert workflow.inputs["sites"] == InputSpec("array", required=False, default=["example.org"])
    assert workflow.inputs["topic"] == InputSpec("string", required=True, description="What about.")
    assert workflow.inputs["limit"] == InputSpec("integer", required=False)
    assert (workflow.secrets, workflow.engine, workflow.store, workflow.max_parallel) == (("TOKEN",), "local", "memory", 4)
    assert workflow.defaults == Defaults(300.0, RetryPolicy(max_attempts=4, base_s=1.0, explicit=True))
    assert (workflow.on_error, workflow.max_failures, workflow.syntax, workflow.file) == ("continue", "25%", "", "")
    assert (page.id, page.uses, page.as_, page.max_parallel, page.clients) == (
        "page",
        "http.request",
        "site",
        2,
        {"http": "billing"},
    )
    assert (page.foreach, page.needs, page.when, page.retry, page.timeout_s) == ("${{ inputs.sites }}", (), None, None, None)
    assert workflow.steps["fixed"] == Step("fixed", "tool.x", foreach=[])
    assert (report.needs, report.timeout_s, report.on_error) == (("page", "fixed"), 90.0, "stop")
    assert report.retry == RetryPolicy(max_attempts=2, retry_on=("auth",), explicit=True)
    assert report.when == "steps.page.output | length > 1"
    assert list(workflow.finally_steps) == ["bye"]
    assert workflow.outputs == FULL["outputs"]


def test_the_canonical_form_reads_back_the_same() -> None:
    """Writing and reading change nothing: not the value, not its hash, not its spelling the second time."""
    workflow = Workflow.from_dict(FULL)
    again = Workflow.from_dict(workflow.to_dict())

    assert again == workflow
    assert again.hash == workflow.hash
    assert workflow.to_dict() == FULL


def test_defaults_that_are_spelled_out_change_neither_form_nor_hash() -> None:
    """A workflow has one hash, however much of the defaults is said, and in whichever order."""
    short = Workflow.from_dict({"name": "w", "steps": {"a": {"uses": "x"}, "b": {"uses": "y"}}})
    long = Workflow.from_dict(
        {
            "steps": {"b": {"needs": [], "uses": "y", "with": {}}, "a": {"uses": "x", "clients": {}}},
            "on_error": "stop",
            "labels": {},
            "version": "",
            "name": "w",
            "finally": {},
            "defaults": {},
        }
    )

    assert long == short
    assert long.hash == short.hash
    assert Workflow.from_dict({"name": "w", "steps": {"a": {"uses": "x"}}}).hash != short.hash


def test_nobody_changes_a_workflow_through_its_data() -> None:
    """What went in and what came out are copies."""
    data: dict[str, Any] = {"name": "w", "steps": {"a": {"uses": "x", "with": {"l": [1]}, "foreach": [[1]]}}}
    workflow = Workflow.from_dict(data)
    before = workflow.hash
    data["steps"]["a"]["with"]["l"].append(2)
    written: Any = workflow.to_dict()
    written["steps"]["a"]["with"]["l"].append(3)
    written["steps"]["a"]["foreach"][0].append(3)

    assert workflow.hash == before


@pytest.mark.parametrize(
    ("key", "data", "message"),
    [
        ("", 5, "a workflow is a mapping, not 5"),
        ("", None, "a workflow is a mapping, not nothing"),
        ("", {"steps": {"a": {"uses": "x"}}}, "needs a 'name'"),
        ("", {"name": "w"}, "needs a 'steps'"),
        ("steps", {"name": "w", "steps": {}}, "at least one step"),
        ("steps", {"name": "w", "steps": []}, "expected a mapping, not a list"),
        ("steps.a", {"name": "w", "steps": {"a": None}}, "a step is a mapping, not nothing"),
        ("name", {"name": "", "steps": {"a": {"uses": "x"}}}, "1 to 200 printable"),
        ("name", {"name": "a\nb", "steps": {"a": {"uses": "x"}}}, "1 to 200 printable"),
        ("step", {"name": "w", "steps": {"a": {"uses": "x"}}, "step": 1}, "did you mean 'steps'?"),
        ("jobs", {"name": "w", "steps": {"a": {"uses": "x"}}, "jobs": 1}, "did you mean 'steps'?"),
        ("version", {**with_step(), "version": 1.4}, "expected a text, not 1.4 (put it in quotes)"),
        ("labels.a", {**with_step(), "labels": {"a": 5}}, "expected a text, not 5 (put it in quotes)"),
        ("labels", {**with_step(), "labels": ["a"]}, "expected a mapping, not a list"),
        ("inputs.x", {**with_step(), "inputs": {"x": "string"}}, "an input is a mapping, not 'string'"),
        ("inputs.a-b", {**with_step(), "inputs": {"a-b": {}}}, "is not a name"),
        ("inputs.x.type", {**with_step(), "inputs": {"x": {"type": "str"}}}, "did you mean 'string'?"),
        ("inputs.x.type", {**with_step(), "inputs": {"x": {"type": "nonsense"}}}, "types: string"),
        (
            "inputs.x.default",
            {**with_step(), "inputs": {"x": {"type": "integer", "default": True}}},
            "not of type integer: true",
        ),
        ("inputs.x.default", {**with_step(), "inputs": {"x": {"type": "array", "default": "a"}}}, "not of type array"),
        ("inputs.x.required", {**with_step(), "inputs": {"x": {"required": True, "default": 1}}}, "never takes its default"),
        ("inputs.x.required", {**with_step(), "inputs": {"x": {"required": 1}}}, "expected true or false, not 1"),
        ("inputs.x.default", {**with_step(), "inputs": {"x": {"default": "${{ secrets.A }}"}}}, "cannot be used here"),
        ("secrets", {**with_step(), "secrets": {"A": 1}}, "expected a list, not a mapping"),
        ("secrets[0]", {**with_step(), "secrets": ["A-B"]}, "is not a name"),
        ("defaults", {**with_step(), "defaults": 5}, "defaults is a mapping, not 5"),
        ("defaults.timeout", {**with_step(), "defaults": {"timeout": "soon"}}, "'soon' is no duration (write it like '90s'"),
        ("defaults.retry.max_attempts", {**with_step(), "defaults": {"retry": {"max_attempts": 0}}}, "whole number from 1"),
        ("engine", {**with_step(), "engine": 1}, "expected a text"),
        ("max_parallel", {**with_step(), "max_parallel": 0}, "whole number from 1, not 0"),
        ("max_parallel", {**with_step(), "max_parallel": True}, "whole number from 1, not true"),
        ("on_error", {**with_step(), "on_error": "stopp"}, "did you mean 'stop'?"),
        ("max_failures", {**with_step(), "max_failures": "120%"}, "a percent up to 100"),
        ("max_failures", {**with_step(), "max_failures": -1}, "whole number from 0"),
        ("syntax", {**with_step(), "syntax": "jinja"}, "expected 'braces'"),
        ("outputs.a b", {**with_step(), "outputs": {"a b": 1}}, "is not a name"),
        ("outputs.o", {**with_step(), "outputs": {"o": "${{ 1 + }}"}}, "it ends too early"),
        ("steps.1a", {"name": "w", "steps": {"1a": {"uses": "x"}}}, "is not the id of a step"),
        ("steps.a/b", {"name": "w", "steps": {"a/b": {"uses": "x"}}}, "is not the id of a step"),
        ("steps.a", {"name": "w", "steps": {"a": {"with": {}}}}, "a step needs a 'uses'"),
        ("steps.a.uses", with_step(uses="${{ inputs.x }}"), "names are fixed"),
        ("steps.a.uses", with_step(uses=5), "expected a text"),
        ("steps.a.wait", with_step(wait="5s"), "exactly one of 'uses' and 'wait'"),
        ("steps.a.use", with_step(use="x"), "did you mean 'uses'?"),
        ("steps.a.if", with_step(**{"if": "true"}), "did you mean 'when'?"),
        ("steps.a.with", with_step(**{"with": [1]}), "expected a mapping, not a list"),
        ("steps.a.with.k", with_step(**{"with": {"k": {1}}}), "no plain data"),
        ("steps.a.with.k", with_step(**{"with": {"k": float("nan")}}), "no JSON number"),
        ("steps.a.with.k", with_step(**{"with": {"k": 2**300}}), "256 bits"),
        ("steps.a.with.k", with_step(**{"with": {"k": "\ud800"}}), "lone surrogate"),
        ("steps.a.with.k", with_step(**{"with": {"k": {5: 1}}}), "is no text"),
        ("steps.a.with.k", with_step(**{"with": {"k": {"${{ a }}": 1}}}), "only values may hold"),
        ("steps.a.with.k[1].l", with_step(**{"with": {"k": [0, {"l": "${{ a b }}"}]}}), "'b' is not expected here"),
        ("steps.a.with.k", with_step(**{"with": {"k": "${{ a"}}), "never closed"),
        ("steps.a.with.k", with_step(**{"with": {"k": "${{ secrets.A }}"}}), "not declared (add it: secrets: [A])"),
        ("steps.a.needs", with_step(needs=["b"]), "there is no step 'b'"),
        ("steps.a.needs", with_step(needs=5), "expected a list, not 5"),
        ("steps.a.needs[0]", with_step(needs=[5]), "expected a text"),
        ("steps.a.when", with_step(when="a ++"), "it ends too early"),
        ("steps.a.when", with_step(when=5), "expected a text"),
        ("steps.a.when", with_step(when=""), "it is empty"),
        ("steps.a.when", with_step(when="${{ a }} > 1"), "without: steps.a.output.n > 1"),
        ("steps.a.when", with_step(when="${{ a"), "never closed"),
        ("steps.a.when", with_step(when="secrets.A"), "secrets cannot be used here"),
        ("steps.a.foreach", with_step(foreach="inputs.sites"), "write ${{ inputs.sites }}"),
        ("steps.a.foreach", with_step(foreach="x${{ a }}"), "one ${{ }} alone"),
        ("steps.a.foreach", with_step(foreach={"a": 1}), "expected a list or an expression"),
        ("steps.a.foreach", with_step(foreach="${{ secrets.A }}"), "cannot be used here"),
        ("steps.a.foreach[0]", with_step(foreach=["${{ a b }}"]), "not expected here"),
        ("steps.a.with", with_step(**{"with": "inputs.all"}), "write ${{ inputs.all }}"),
        ("steps.a.with", with_step(**{"with": "x${{ a }}"}), "one ${{ }} alone"),
        ("steps.a.with", with_step(**{"with": "${{ secrets.A }}"}), "cannot be used here"),
        ("steps.a.as", with_step(foreach=[1], **{"as": "steps"}), "a meaning of its own"),
        ("steps.a.as", with_step(foreach=[1], **{"as": "a-b"}), "is not a name"),
        ("steps.a.as", with_step(**{"as": "i"}), "belongs to a foreach"),
        ("steps.a.max_parallel", with_step(max_parallel=2), "belongs to a foreach"),
        ("steps.a.clients.db", with_step(clients={"db": 1}), "expected a text"),
        ("steps.a.timeout", with_step(timeout=0), "more than no time"),
        ("steps.a.timeout", with_step(timeout=[1]), "expected a duration"),
        ("steps.a.retry", with_step(retry=3), "retry must be a mapping"),
        ("steps.a.retry.base", with_step(retry={"base": "soon"}), "no duration"),
        ("steps.a.on_error", with_step(on_error="fail"), "'stop' or 'continue'"),
        ("finally.a", {**with_step(), "finally": {"a": {"uses": "x"}}}, "is taken by a step"),
        ("finally.b.needs", {**with_step(), "finally": {"b": {"uses": "x", "needs": "a"}}}, "other side of 'finally'"),
        ("steps.a.needs", {**with_step(needs=["b"]), "finally": {"b": {"uses": "x"}}}, "other side of 'finally'"),
    ],
)
def test_each_structural_fault_is_found_with_its_path_and_remedy(key: str, data: object, message: str) -> None:
    """Refused before anything starts; the message says what was meant."""
    assert message in faults_of(data)[key]


@pytest.mark.parametrize("key", [name for name, key in WORKFLOW.keys.items() if not key.kind])
def test_keys_of_the_workflow_that_are_not_built_yet_are_refused(key: str) -> None:
    """A key that the format knows but this version does not is never ignored."""
    assert faults_of({**with_step(), key: 1}) == {key: f"'{key}' is not supported yet ()"}


@pytest.mark.parametrize("key", [name for name, key in STEP.keys.items() if not key.kind])
def test_keys_of_a_step_that_are_not_built_yet_are_refused(key: str) -> None:
    """A key that the format knows but this version does not is never ignored."""
    assert faults_of(with_step(**{key: 1})) == {f"steps.a.{key}": f"'{key}' is not supported yet ()"}


@pytest.mark.parametrize("said", ["process", "inline", {"memory": "512 MiB", "cpu": "30s", "processes": "unlimited"}])
def test_isolation_stands_in_steps_and_defaults(said: object) -> None:
    """A word, or the limits of a process; it is written back as it was read."""
    data = {**with_step(isolation=said), "defaults": {"isolation": said}}

    workflow = Workflow.from_dict(data)

    assert workflow.steps["a"].isolation == workflow.defaults.isolation == said
    assert Workflow.from_dict(workflow.to_dict()).to_dict() == workflow.to_dict()
    assert workflow.to_dict()["steps"]["a"]["isolation"] == said


def test_isolation_that_cannot_be_meant_is_refused() -> None:
    """Every fault of the limits at once, each with its key."""
    assert faults_of(with_step(isolation="proces")) == {
        "steps.a.isolation": "expected 'inline', 'process' or limits of a process, not 'proces' (did you mean 'process'?)"
    }
    keys = "(known: memory, cpu, open_files, file_size, processes, output)"
    assert faults_of(with_step(isolation={"memory": "much", "cpu": "soon", "fork": 1, "pass_env": ["X"]})) == {
        "steps.a.isolation.memory": "expected a size like '512 MiB', or 'unlimited', not 'much' ()",
        "steps.a.isolation.cpu": "expected a duration like '30s', or 'unlimited', not 'soon' ()",
        "steps.a.isolation.fork": f"limits have no key 'fork' {keys}",
        "steps.a.isolation.pass_env": f"limits have no key 'pass_env' {keys}",
    }


def test_all_faults_come_at_once() -> None:
    """One reading shows everything that is wrong."""
    data = {
        "nam": "w",
        "inputs": {"x": {"type": "int"}},
        "steps": {"a": {"use": "x", "timeout": "soon"}, "b": {"uses": "y", "needs": ["aa"], "with": {"k": "${{ 1 + }}"}}},
        "outputs": {"o": "${{ secrets.A }}"},
    }

    assert set(faults_of(data)) == {
        "",
        "nam",
        "inputs.x.type",
        "steps.a",
        "steps.a.use",
        "steps.a.timeout",
        "steps.b.needs",
        "steps.b.with.k",
        "outputs.o",
    }


def test_collecting_faults_ends_somewhere() -> None:
    """A file of garbage answers quickly, and says that there is more."""
    with pytest.raises(WorkflowInvalidError) as caught:
        Workflow.from_dict({f"key{number}": 1 for number in range(5_000)})

    assert len(caught.value.faults) == 201
    assert "more faults" in caught.value.faults[-1].message


def test_deep_and_cyclic_values_end_in_a_fault() -> None:
    """Values from Python may be anything."""
    cycle: list[object] = []
    cycle.append(cycle)

    assert "nested deeper than 50" in str(faults_of(with_step(**{"with": {"k": cycle}})))


@pytest.mark.parametrize(
    ("written", "when"),
    [
        ("a > 1", "a > 1"),
        (" a ", "a"),
        ("${{ a > 1 }}", "a > 1"),
        ("{{ a }}", "a"),
        (True, "true"),
        (False, "false"),
        ("{'k': {'l': 1}} == a", "{'k': {'l': 1}} == a"),
    ],
)
def test_when_is_bare_or_wrapped_or_a_boolean(written: object, when: str) -> None:
    """``when`` takes a bare expression; wrapped alone in ``${{ }}`` it means the same."""
    assert Workflow.from_dict(with_step(when=written)).steps["a"].when == when


def test_braces_syntax_takes_double_braces_in_values() -> None:
    """With ``syntax: braces`` a fault within ``{{ }}`` is found; without it that is text."""
    data: Any = with_step(**{"with": {"k": "{{ 1 + }}"}})

    assert Workflow.from_dict(data).steps["a"].with_ == {"k": "{{ 1 + }}"}
    assert "it ends too early" in faults_of({**data, "syntax": "braces"})["steps.a.with.k"]
    assert Workflow.from_dict({**with_step(foreach="{{ a }}"), "syntax": "braces"}).steps["a"].foreach == "{{ a }}"


@pytest.mark.parametrize("name", PRESETS)
def test_retry_presets_read_back_from_their_numbers(name: str) -> None:
    """The canonical form spells a preset's numbers out, and they mean the same."""
    workflow = Workflow.from_dict(with_step(retry={"preset": name}))

    assert Workflow.from_dict(workflow.to_dict()).steps["a"].retry == workflow.steps["a"].retry


@pytest.mark.parametrize(
    ("type_", "value", "fit"),
    [
        ("", object(), True),
        ("string", "a", True),
        ("string", 1, False),
        ("integer", 1, True),
        ("integer", 1.0, False),
        ("integer", True, False),
        ("number", 1, True),
        ("number", 1.5, True),
        ("number", True, False),
        ("boolean", True, True),
        ("boolean", 1, False),
        ("array", [], True),
        ("object", {}, True),
        ("object", [], False),
    ],
)
def test_values_fit_json_types_strictly(type_: str, value: object, fit: bool) -> None:
    """No coercion: a boolean is no number, 1.0 no integer."""
    assert fits(type_, value) is fit


# -- laws ----------------------------------------------------------------------------------------------------------------

IDS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,6}", fullmatch=True)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True)
TEXTS = st.text("aZ09 _-.:#'\"\\\n\t{}[]&*!|>%@`,?é☃😀no~", max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
SECONDS = st.integers(1, 10**9).map(lambda milliseconds: milliseconds / 1000) | st.floats(0.001, 1e6)


@st.composite
def workflows(draw: st.DrawFn) -> dict[str, Any]:
    """Plain data of a valid workflow."""
    ids = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    steps: dict[str, Any] = {}
    for index, step_id in enumerate(ids):
        step: dict[str, Any] = {
            "uses": draw(st.sampled_from(["shell.run", "tool.x"])),
            "with": draw(st.dictionaries(TEXTS, VALUES, max_size=3)),
        }
        step["needs"] = draw(st.lists(st.sampled_from(ids[:index]), max_size=2)) if index else []
        if draw(st.booleans()):
            step["timeout"] = draw(SECONDS)
        if draw(st.booleans()):
            step["foreach"] = draw(st.lists(VALUES, max_size=2) | st.just("${{ inputs.x }}"))
            step["as"] = draw(st.sampled_from(["item", "site"]))
        if draw(st.booleans()):
            step["retry"] = {
                "max_attempts": draw(st.integers(1, 9)),
                "base": draw(st.floats(0.1, 60)),
                "on_invalid": draw(st.booleans()),
            }
        steps[step_id] = step
    data: dict[str, Any] = {"name": "w", "steps": steps, "labels": draw(st.dictionaries(TEXTS, TEXTS, max_size=2))}
    data["outputs"] = draw(st.dictionaries(NAMES, VALUES, max_size=2))
    data["inputs"] = {name: {"default": draw(VALUES)} for name in draw(st.lists(NAMES, max_size=2, unique=True))}
    data["on_error"] = draw(st.sampled_from(["stop", "continue"]))
    data["max_failures"] = draw(st.sampled_from([0, 3, "25%", "12.5%"]))
    return data


@given(workflows())
@settings(max_examples=150, deadline=None)
def test_every_spelling_reads_back_with_the_same_hash(data: dict[str, Any]) -> None:
    """YAML, JSON, TOML and plain data of one workflow are one workflow with one hash."""
    workflow = Workflow.from_dict(data)
    assert Workflow.from_dict(workflow.to_dict()) == workflow

    for format, text in (("yaml", workflow.to_yaml()), ("json", workflow.to_json())):
        read = loads_workflow(text, format)
        assert read == workflow
        assert read.hash == workflow.hash
    try:
        toml = workflow.to_toml()
    except NotSupportedError:  # it holds a null somewhere
        return
    assert loads_workflow(toml, "toml").hash == workflow.hash


def test_toml_refuses_null_and_says_what_to_do() -> None:
    """TOML has no null; better a clear refusal than a lost key."""
    workflow = Workflow.from_dict(with_step(**{"with": {"k": None}}))

    with pytest.raises(NotSupportedError, match="Write YAML or JSON"):
        workflow.to_toml()


# -- the builder ---------------------------------------------------------------------------------------------------------


def test_the_builder_makes_the_same_workflow_as_a_file() -> None:
    """Python and YAML are two spellings of one thing."""
    wf = Workflow("digest", labels={"team": "x"}, timeout="5m", retry={"max_attempts": 2})
    sites = wf.input("sites", type="array", default=["example.org"], description="Where.")
    token = wf.secret("TOKEN")
    page = wf.step(
        "page",
        "http.request",
        foreach=sites,
        as_="site",
        max_parallel=4,
        clients={"http": "billing"},
        timeout=90,
        on_error="continue",
        url="https://${{ site }}/",
        headers={"authorization": f"Bearer {token}"},
    )
    words = wf.step("words", "tool.count", pages=page.output, with_={"needs": (1, page.status)})
    wf.step(
        "report",
        "file.write",
        needs=[page, "words"],
        when=(words.output.total > 100) & ~(page.status == "skipped"),
        text=f"{words.output['a b'][0]} words",
    )
    wf.finally_step("bye", "shell.run", needs=[], argv=["echo", words.output.n], when=True, retry={"max_attempts": 1})
    wf.output("total", words.output["total"])

    assert wf == loads_workflow(
        """
name: digest
labels: {team: x}
defaults: {timeout: 5m, retry: {max_attempts: 2}}
inputs: {sites: {type: array, default: [example.org], description: Where.}}
secrets: [TOKEN]
steps:
  page:
    uses: http.request
    foreach: "${{ inputs.sites }}"
    as: site
    max_parallel: 4
    clients: {http: billing}
    timeout: 90s
    on_error: continue
    with: {url: "https://${{ site }}/", headers: {authorization: "Bearer ${{ secrets.TOKEN }}"}}
  words:
    uses: tool.count
    with: {needs: [1, "${{ steps.page.status }}"], pages: "${{ steps.page.output }}"}
  report:
    uses: file.write
    needs: [page, words]
    when: (steps.words.output.total > 100) and (not (steps.page.status == "skipped"))
    with: {text: '${{ steps.words.output["a b"][0] }} words'}
finally:
  bye: {uses: shell.run, when: true, retry: {max_attempts: 1}, with: {argv: [echo, "${{ steps.words.output.n }}"]}}
outputs: {total: "${{ steps.words.output.total }}"}
""",
        "yaml",
    )


def test_expression_objects_are_written_as_expressions() -> None:
    """Attributes, items, comparisons and ``& | ~`` make sources; nothing is computed while building."""
    x = Expression("inputs.x")
    y = Expression("steps")["my-step"].output

    assert str(x.a.b[0]["c d"]["e"]) == '${{ inputs.x.a.b[0]["c d"].e }}'
    assert str(y[x]) == '${{ steps["my-step"].output[inputs.x] }}'
    assert f"{y}!" == '${{ steps["my-step"].output }}!'
    assert repr(x) == "<expression inputs.x>"
    assert str((x < 1) | (x >= "a")) == '${{ (inputs.x < 1) or (inputs.x >= "a") }}'
    assert str((x != None) & (x <= y)) == '${{ (inputs.x != null) and (inputs.x <= steps["my-step"].output) }}'  # noqa: E711 - it makes an expression
    assert str(~(x == True)) == "${{ not (inputs.x == true) }}"  # noqa: E712 - it makes an expression
    assert str((x > 1)["k"]) == "${{ (inputs.x > 1).k }}"


@pytest.mark.parametrize(
    "misuse", [bool, iter, list, hash, "{:>10}".format, lambda x: x._private, lambda x: x == object(), lambda x: 1 in x]
)
def test_expression_objects_refuse_to_pose_as_values(misuse: Any) -> None:
    """Their value is not known while building, so ``if``, loops and the like must not silently go wrong."""
    with pytest.raises((TypeError, ValueError, AttributeError)):
        misuse(Expression("inputs.x"))


def test_a_handle_is_no_value_but_says_what_it_offers() -> None:
    """A step in the place of its output is the likeliest slip."""
    wf = Workflow("w")
    day = wf.step("day", "shell.run")

    with pytest.raises(TypeError, match=r"Use its \.output"):
        wf.step("say", "shell.run", argv=[day])
    assert [str(part) for part in (day.error, day.errors, day.attempts)] == [
        f"${{{{ steps.day.{name} }}}}" for name in ("error", "errors", "attempts")
    ]
    assert repr(day) == "<step day>"


def test_the_builder_refuses_at_once_what_a_file_would_refuse() -> None:
    """A fault is raised by the call that made it."""
    wf = Workflow("w")
    wf.step("a", "x")
    wf.output("o", 1)
    wf.input("i")

    for build in (
        lambda: wf.step("a", "x"),
        lambda: wf.finally_step("a", "x"),
        lambda: wf.step("b", "x", timeout="soon"),
        lambda: wf.step("b", "x", text="${{ secrets.NOPE }}"),
        lambda: wf.step("b", "x", when="a ++"),
        lambda: wf.output("o", 2),
        lambda: wf.input("i"),
        lambda: wf.input("j", type="integer", default="a"),
        lambda: wf.secret("a-b"),
        lambda: Workflow("w", on_error="never", max_parallel=0),
        lambda: Workflow(""),
    ):
        with pytest.raises(WorkflowInvalidError):
            build()
    assert list(wf.steps) == ["a"]


def test_workflows_compare_by_what_they_say() -> None:
    """Equal data, equal workflow; never equal to anything else; not hashable while it may grow."""
    wf = Workflow("w", inputs={"x": {"type": "string"}}, secrets=["A"])
    wf.step("a", "x", needs="b")

    assert wf == wf
    assert wf != "w"
    assert wf.position("steps.a") == (0, 0)
    assert repr(wf) == "<Workflow 'w', 1 steps>"
    with pytest.raises(TypeError):
        hash(wf)


def test_one_expression_may_give_all_inputs() -> None:
    """In a file and in the builder, where it cannot stand beside single inputs; it reads back the same."""
    workflow = Workflow("w")
    inputs = workflow.input("all", type="object")
    workflow.step("a", "x", with_=inputs)
    workflow.step("b", "x", with_="${{ steps.a.output | merge({'n': 1}) }}")

    assert workflow.to_dict()["steps"] == {
        "a": {"uses": "x", "with": "${{ inputs.all }}"},
        "b": {"uses": "x", "with": "${{ steps.a.output | merge({'n': 1}) }}"},
    }
    assert Workflow.from_dict(workflow.to_dict()) == workflow
    with pytest.raises(TypeError, match="so n cannot be given"):
        workflow.step("c", "x", with_=inputs, n=1)


def test_the_keys_of_a_table_are_listed_once() -> None:
    """What is unknown at several places is told the keys at the first; a close name gets its suggestion everywhere."""
    steps = {name: {"uses": "x", "zzzz": 1, "need": []} for name in "ab"}

    with pytest.raises(WorkflowInvalidError) as raised:
        Workflow.from_dict({"name": "w", "steps": steps})

    remedies = {fault.path: fault.remedy for fault in raised.value.faults}
    assert remedies["steps.a.zzzz"].startswith("keys: parallel, choose, ")
    assert remedies["steps.b.zzzz"] == "its keys: see steps.a.zzzz"
    assert remedies["steps.a.need"] == remedies["steps.b.need"] == "did you mean 'needs'?"


def test_a_key_of_the_group_itself_is_sent_beside_the_steps() -> None:
    """What stands within ``parallel`` but is for the group as a whole says where it belongs."""
    group = {"budget": {"tokens": 1}, "needs": [], "steps": {"x": {"uses": "a.b"}}}

    with pytest.raises(WorkflowInvalidError) as raised:
        Workflow.from_dict({"name": "w", "steps": {"g": {"parallel": group}}})

    remedies = {fault.path: fault.remedy for fault in raised.value.faults}
    assert remedies == {
        f"steps.g.parallel.{key}": "it is for the group as a whole: write it beside 'parallel'" for key in ("budget", "needs")
    }
