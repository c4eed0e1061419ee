"""The rules of the executor kit, as data: the test class, ``treadle plugins test`` and the reference read this one table."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Literal

import attrs

from treadle.testing import _runnable_rules as runnable
from treadle.testing import _static_rules as static
from treadle.testing._subject import Subject, floor_of

__all__ = ["RULES", "Rule", "Verdict", "judge", "tried_backends"]

Check = Callable[[Subject, str], Iterable[str]]


@attrs.frozen
class Rule:
    """One thing that every executor does right.

    Attributes:
        id: Its name; the test is called ``test_`` and it.
        kind: ``static`` looks at the executor, ``runnable`` runs it, on every backend.
        title: What holds, as a sentence.
        remedy: What to do when it does not.
        check: What is wrong, given an executor and a backend (empty for a static rule).
        since: The core that first had it. It is only advice to a distribution that declares an older floor.
        gap: Why it cannot be judged; an empty text when it can.
    """

    id: str
    kind: Literal["static", "runnable"]
    title: str
    remedy: str
    check: Check
    since: str = "0.1"
    gap: Callable[[Subject, str], str] = lambda subject, backend: ""


RULES: tuple[Rule, ...] = (
    Rule(
        "name",
        "static",
        "Its name is of the form `namespace.verb`, and its mark says the same as its entry point.",
        'Call it @executor("yours.verb"), and its entry point the same.',
        static.name_problems,
    ),
    Rule(
        "doc",
        "static",
        "Its docstring begins with a sentence.",
        "Say in a sentence what a step gets that uses it.",
        static.doc_problems,
    ),
    Rule(
        "types",
        "static",
        "Every input and the output have a type.",
        "Annotate it; 'object' says that any JSON will do.",
        static.type_problems,
    ),
    Rule(
        "schema",
        "static",
        "Schemas are JSON, defaults and examples fit their types, and what is given comes back from the types as it was.",
        "Correct the type, its converters, the default or the example.",
        static.schema_problems,
    ),
    Rule(
        "entry_point",
        "static",
        "The installed entry point of its name leads to this very object; nothing is asked of what is not installed.",
        'Correct [project.entry-points."treadle.executors"] in pyproject.toml and install it again.',
        static.entry_point_problems,
    ),
    Rule(
        "imports",
        "static",
        f"Importing its module takes at most {static.IMPORT_LIMIT_S * 1000:.0f} ms of the processor, or "
        f"{static.IMPORT_SHARE:g} times what importing treadle takes, and starts no thread.",
        "Import heavy libraries where they are used: in the function, or in the client's open().",
        static.import_problems,
    ),
    Rule(
        "backends",
        "runnable",
        "Every example completes on each event loop that it declares.",
        'Use anyio, or declare @executor(..., backends=("asyncio",)); correct the example or the fake.',
        runnable.backend_problems,
    ),
    Rule(
        "json",
        "runnable",
        "What it returns is plain JSON, or an instance of the declared type.",
        "Return texts, numbers, booleans, None, lists, dicts with text keys, or an attrs class or dataclass of these.",
        runnable.json_problems,
    ),
    Rule(
        "output",
        "runnable",
        "What it returns satisfies its declared type, its family's contract and the expected output.",
        "Correct what it returns, or the declared type.",
        runnable.output_problems,
    ),
    Rule(
        "bad_input",
        "runnable",
        "An input of a wrong type never reaches its code; "
        "the bad example has no effect, asks no client and is not tried again.",
        "Give inputs narrow types, check the rest before anything else, and raise PermanentError.",
        runnable.bad_input_problems,
    ),
    Rule(
        "cancellation",
        "runnable",
        "Neither its end nor a cancellation at any moment leaves a task, thread, process, open descriptor or file.",
        "Hold what it opens in 'with' blocks and task groups, and end children in 'finally'.",
        runnable.cancellation_problems,
    ),
    Rule(
        "deadline",
        "runnable",
        "It is over soon after its deadline, also when a service does not answer.",
        "Let cancellation through, shield only what is short, make a long 'def' an 'async def' or isolation='process'.",
        runnable.deadline_problems,
    ),
    Rule(
        "clients",
        "runnable",
        "The calls of a run share each client: opened once, closed once, and not by the executor.",
        "Use what stands left of '/' and leave it open; the run closes it.",
        runnable.client_problems,
    ),
    Rule(
        "effects",
        "runnable",
        "Declared `none`, running it changes nothing that can be seen; "
        "declared `idempotent`, a second attempt changes nothing more.",
        'Send ctx.idempotency_key with every effect, or declare effects="unsafe".',
        runnable.effect_problems,
        gap=runnable.effect_gap,
    ),
    Rule(
        "spans",
        "runnable",
        "Its attempt has the mandatory attributes; spans of its own have few names, and say which service they call.",
        "Give ctx.span() a constant name, and attributes={\"server.address\": ...} or a '*.system.name'.",
        runnable.span_problems,
    ),
    Rule(
        "secrets",
        "runnable",
        "No secret of an input or a client gets into a span, log line, record, print or repr, plain or encoded.",
        "Do not log or encode inputs; keep secrets of clients in Secret, out of fields that have a repr.",
        runnable.secret_problems,
    ),
)


@attrs.frozen
class Verdict:
    """What a rule has to say of an executor.

    Attributes:
        rule: The rule.
        backend: The event loop; empty for a static rule.
        problems: What is wrong, a sentence each.
        gap: Why the rule could not be judged; empty when it was.
        floor: The older core that the distribution declares, for which the rule is only advice; else empty.
    """

    rule: Rule
    backend: str
    problems: tuple[str, ...] = ()
    gap: str = ""
    floor: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the rule was judged, and nothing is wrong."""
        return not self.problems and not self.gap

    @property
    def is_failure(self) -> bool:
        """Whether something is wrong, and the rule is more than advice."""
        return bool(self.problems) and not self.floor

    @property
    def text(self) -> str:
        """What is wrong or missing, and the remedy, over several lines."""
        where = f" on {self.backend}" if self.backend else ""
        said = "\n".join(f"  {problem}" for problem in (*self.problems, *([self.gap] if self.gap else [])))
        return f"Rule {self.rule.id!r}{where}: {self.rule.title}\n{said}" + (
            f"\nRemedy: {self.rule.remedy}" if self.problems else ""
        )


def judge(subject: Subject, rule: Rule, backend: str = "") -> Verdict:
    """Hold an executor against one rule.

    Args:
        subject: The executor.
        rule: The rule.
        backend: The event loop, for a runnable rule.
    """
    if rule.kind == "runnable" and (gap := subject.gap or _not_there(backend)):
        return Verdict(rule, backend, gap=gap)
    floor = floor_of(subject)
    advised = floor if floor and _is_older(floor, rule.since) else ""
    problems = tuple(rule.check(subject, backend))
    return Verdict(rule, backend, problems, "" if problems else rule.gap(subject, backend), advised if problems else "")


def tried_backends(subject: Subject, rule: Rule) -> tuple[str, ...]:
    """The backends on which a rule is judged: those that are declared; one empty name for a static rule."""
    return subject.bound.backends if rule.kind == "runnable" else ("",)


def _not_there(backend: str) -> str:
    if importlib.util.find_spec(backend) is None:
        return f"{backend} is not installed: install it for the tests, or leave it out of the executor's 'backends'."
    return ""


def _is_older(floor: str, since: str) -> bool:
    # Imported here: only the kit and the doctor need it, and it is not free.
    from packaging.version import Version

    return Version(floor) < Version(since)
