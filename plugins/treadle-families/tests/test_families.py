"""The contracts of the four families, in class form and in function form, and of families of one's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from itertools import product
from typing import Any

import pytest
from treadle import Executor, Registry, Workflow, executor, run
from treadle_families import GenerativeExecutor, InfraExecutor, LayeredExecutor, PublishingExecutor, ResearchExecutor

FAMILIES = {
    "research": ResearchExecutor,
    "publishing": PublishingExecutor,
    "generative": GenerativeExecutor,
    "infra": InfraExecutor,
}
KEYS: dict[str, list[list[str]]] = {
    "research": [["post_count", "query"]],
    "publishing": [["platform"], ["post_url", "publish_count"]],
    "generative": [["video_path", "video_url"]],
    "infra": [["status"]],
}


def missing(name: str, keys: list[str]) -> str:
    return f"{name}: output missing required keys (expected one of: {keys})"


def named(family: type[LayeredExecutor], name: str = "acme.x") -> LayeredExecutor:
    made = family()
    made.executor_name = name
    return made


def groups_of(family: type[Executor]) -> list[list[str]]:
    return [[group] if isinstance(group, str) else sorted(group) for group in family.required_output_keys]


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_asks_for_exactly_its_keys(name: str) -> None:
    """One key of every group is enough and each group is needed (S0-13, S0-14, S0-16, S0-17, C35)."""
    family, groups = FAMILIES[name], KEYS[name]

    assert groups_of(family) == groups
    for chosen in product(*groups):
        assert named(family).validate_output(dict.fromkeys(chosen)) == []
    for left_out in range(len(groups)):
        output = {key: 1 for group in groups[:left_out] + groups[left_out + 1 :] for key in group}
        assert missing("acme.x", groups[left_out]) in named(family).validate_output(output)


def test_every_family_of_the_wheel_declares_its_keys_and_holds_them() -> None:
    """``required_output_keys`` of all that is registered: declared, and an output without any of them is refused (S0-44)."""
    registered = [entry for entry in entry_points(group="treadle.families") if entry.value.startswith("treadle_families:")]

    assert sorted(entry.name for entry in registered) == sorted(FAMILIES)
    for entry in registered:
        family = entry.load()
        assert family.family == entry.name
        assert family.required_output_keys
        assert len(named(family).validate_output({})) >= len(family.required_output_keys)


def test_the_base_message_names_the_executor_and_the_keys() -> None:
    """The exact text (S0-20)."""
    assert named(ResearchExecutor, "acme.posts").validate_output({"n": 1}) == [
        "acme.posts: output missing required keys (expected one of: ['post_count', 'query'])"
    ]


def test_publishing_says_in_plain_words_that_the_platform_is_missing() -> None:
    """The base message is kept and the family's own is added (S0-15)."""
    issues = named(PublishingExecutor, "acme.post").validate_output({"post_url": "https://example.org/1"})

    assert issues == [missing("acme.post", ["platform"]), "acme.post: missing 'platform' in output"]


@pytest.mark.parametrize("output", [None, 3, "text", ["status"]])
def test_an_output_that_is_no_object_is_one_issue(output: object) -> None:
    """It has no keys to look for."""
    kind = "null" if output is None else type(output).__name__

    assert named(InfraExecutor).validate_output(output) == [f"acme.x: output must be an object with keys, not {kind}"]


@executor("acme.upload")
class Upload(PublishingExecutor):
    """A class of a family, that asks for more."""

    async def execute(self, output: dict[str, Any]) -> dict[str, Any]:
        return output

    def validate_output(self, output: object) -> list[Any]:
        issues = super().validate_output(output)
        if isinstance(output, Mapping) and output.get("publish_count") == 0:
            issues.append("published nothing")
        return issues


def test_a_subclass_adds_to_what_its_family_says() -> None:
    """A list of texts, empty when all is well; a class extends it through super() (S0-19)."""
    assert Upload().validate_output({"platform": "x", "publish_count": 2}) == []
    assert Upload().validate_output({"publish_count": 0}) == [
        missing("acme.upload", ["platform"]),
        "acme.upload: missing 'platform' in output",
        "published nothing",
    ]


def one_step(executor: object, output: Mapping[str, object], *, name: str) -> tuple[str, list[str]]:
    """Status and issues of a run of one step, without retries."""
    workflow = Workflow("w", on_error="continue")
    workflow.step("s", name, output=dict(output), retry={"max_attempts": 1})
    step = run(workflow, registry=Registry.discover().knowing(executor)).steps["s"]
    return step.status, [issue.message for issue in step.error.issues] if step.error else []


def test_a_class_keeps_its_contract_in_a_run() -> None:
    """The run asks the class, which knows its name."""
    assert one_step(Upload, {"platform": "x", "post_url": "u"}, name="acme.upload") == ("completed", [])
    assert one_step(Upload, {"platform": "x"}, name="acme.upload") == (
        "failed",
        [missing("acme.upload", ["post_url", "publish_count"])],
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_function_keeps_its_familys_contract(name: str) -> None:
    """A function names its family, and treadle asks it."""

    @executor(f"acme.{name}", family=name)
    async def function(output: dict[str, Any]) -> dict[str, Any]:
        return output

    good: dict[str, object] = {group[0]: 1 for group in KEYS[name]}
    status, issues = one_step(function, {}, name=f"acme.{name}")

    assert one_step(function, good, name=f"acme.{name}") == ("completed", [])
    assert status == "failed"
    assert issues[: len(KEYS[name])] == [missing(f"acme.{name}", group) for group in KEYS[name]]


def test_an_executor_of_a_family_is_retried_in_layers() -> None:
    """Three attempts, 2 s and 4 s between them, also for an invalid output, unless the workflow says otherwise."""
    bound = Registry.of(Upload).executor("acme.upload")

    assert bound.retry is not None
    assert (bound.retry.max_attempts, bound.retry.base_s, bound.retry.factor, bound.retry.on_invalid) == (3, 2.0, 2.0, True)
    assert (bound.family, Upload().domain, Upload().task_type) == ("publishing", "publishing", "acme.upload")


def test_a_family_of_ones_own_declares_keys_and_no_more() -> None:
    """The check, the messages and the retries are there."""

    class Rendering(LayeredExecutor):
        family = "rendering"
        required_output_keys: tuple[str | Collection[str], ...] = ("frames", {"png", "gif"})

    assert named(Rendering).validate_output({"frames": 2}) == [missing("acme.x", ["gif", "png"])]
    assert Registry.of(executor("acme.render")(type("Render", (Rendering,), {"execute": Upload.execute}))).executor(
        "acme.render"
    ).contract == ("type dict[str, Any]", "keys frames, gif or png", "validate_output")


def test_every_executor_of_a_family_has_a_domain() -> None:
    """No executor stands in a flat list: each of the families has a domain, which is not empty (S0-01)."""
    assert [family().domain for family in FAMILIES.values()] == list(FAMILIES)
    assert all(Registry.of(Upload).executor("acme.upload").family for _ in range(1))
