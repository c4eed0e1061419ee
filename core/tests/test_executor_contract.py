"""The kit for authors of executors: each rule finds what it is for, and nothing else."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from mutants.contracts import MUTANTS
from sites import Site
from treadle.testing._rules import RULES, Rule, Verdict, judge, tried_backends
from treadle.testing._subject import Subject, owner_of

HERE = Path(__file__).parent
IDS = [rule.id for rule in RULES]


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The mutants as an installed distribution, so that their entry points can be judged."""
    folder = tmp_path_factory.mktemp("installed")
    lines = ["[treadle.executors]"]
    for rule, contract in MUTANTS.items():
        name = "slug" if rule == "name" else f"mutant.{rule}"
        function = "old_slug" if rule == "entry_point" else contract.executor.__name__
        lines.append(f"{name} = mutants.{rule}:{function}")
    head = "Metadata-Version: 2.1\nName: treadle-mutants\nVersion: 1.0\nRequires-Dist: treadle>=0.1\n"
    Site(folder).lay("treadle-mutants", {}, "\n".join(lines), metadata=head)
    record = folder / "treadle_mutants-1.0.dist-info" / "RECORD"
    record.write_text(record.read_text() + "".join(f"mutants/{rule}.py,,\n" for rule in MUTANTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        owner_of.cache_clear()
        yield
    owner_of.cache_clear()


@functools.cache
def subject_of(mutant: str) -> Subject:
    return MUTANTS[mutant]().subject()


@functools.cache
def verdict(mutant: str, rule: Rule, backend: str) -> Verdict:
    """What a rule says of a mutant; found out once."""
    return judge(subject_of(mutant), rule, backend)


def is_caught(mutant: str, rules: tuple[Rule, ...]) -> bool:
    """Whether a test of the mutant's class fails; that of its own rule is asked first."""
    subject = subject_of(mutant)
    asked = [(rule, backend) for rule in rules for backend in tried_backends(subject, rule)]
    asked.sort(key=lambda each: each[0].id != mutant)
    return any(not verdict(mutant, rule, backend).is_kept for rule, backend in asked)


def test_there_is_one_mutant_for_each_rule() -> None:
    """Nobody adds a rule without an executor that it finds."""
    assert list(MUTANTS) == IDS


@pytest.mark.parametrize("mutant", IDS)
def test_a_mutant_breaks_its_rule_and_no_other(mutant: str) -> None:
    """Each rule finds exactly its mutant, and says what is wrong with a remedy."""
    subject = subject_of(mutant)
    verdicts = [verdict(mutant, rule, backend) for rule in RULES for backend in tried_backends(subject, rule)]
    failed = [each for each in verdicts if not each.is_kept]

    assert {each.rule.id for each in failed} == {mutant}, "\n\n".join(each.text for each in failed)
    assert all("Remedy: " in each.text for each in failed)


def nothing_wrong(subject: Subject, backend: str) -> tuple[str, ...]:
    """What a check answers that is switched off."""
    return ()


@pytest.mark.parametrize("disabled", IDS)
def test_without_a_check_exactly_its_mutant_survives(disabled: str) -> None:
    """No rule's work is done by another, so that none can be lost unnoticed."""
    rules = tuple(attrs.evolve(rule, check=nothing_wrong) if rule.id == disabled else rule for rule in RULES)

    assert [mutant for mutant in IDS if not is_caught(mutant, rules)] == [disabled]
