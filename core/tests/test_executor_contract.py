"""The kit for authors of executors: each rule finds what it is for, and nothing else."""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import attrs
import pytest
import treadle.testing._executor_contract as contract_module
from mutants.contracts import MUTANTS
from sites import ECHO, Site
from treadle import Context, PermanentError, Secret, SyncContext, TransientError, executor
from treadle.testing import Asked, FakeClient
from treadle.testing._rules import RULES, Rule, Verdict, judge, tried_backends
from treadle.testing._subject import Subject, make_subject, owner_of

RULE = {rule.id: rule for rule in RULES}
IDS = list(RULE)


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


# -- each rule in more shapes than its mutant ----------------------------------------------------------------------------


class Told(FakeClient):
    """A client whose output gives its own secret away."""

    def session(self) -> object:
        return self


def problems(rule: str, executor: object, backend: str = "asyncio", **said: object) -> tuple[str, ...]:
    """What one rule says of an executor that a test has made."""
    subject = make_subject(executor, tested_in=__name__, **{"examples": [{"text": "A b"}], **said})  # type: ignore[arg-type] # by name
    return judge(subject, RULE[rule], backend).problems


released = threading.Event()
"""Set when a test has seen what goes on without end."""


@pytest.fixture
def endless() -> Iterator[None]:
    """What waits for ``released`` goes on until the end of the test."""
    released.clear()
    yield
    released.set()


@executor("left.thread")
async def leaves_a_thread(text: str) -> None:
    threading.Thread(target=released.wait, args=(30,), name="poller").start()


@executor("left.file")
async def leaves_a_descriptor(text: str) -> None:
    os.open(".", os.O_RDONLY)


@executor("left.temporary")
async def leaves_a_temporary_file(text: str) -> None:
    tempfile.mkdtemp()
    descriptor, _ = tempfile.mkstemp(prefix="half-done")
    os.close(descriptor)


@executor("left.orphan")
async def leaves_an_orphan(text: str) -> None:
    subprocess.run("sleep 60 > /dev/null 2>&1 &", shell=True, check=True)  # noqa: ASYNC221 - it returns at once


@executor("left.task", backends=("asyncio",))
async def leaves_a_task(text: str) -> None:
    asyncio.get_running_loop().create_task(asyncio.sleep(60), name="poller")


@executor("left.half")
async def leaves_half_a_file(text: str) -> None:
    Path("result.part").write_text("half")  # noqa: ASYNC240 - the file is the point
    await anyio.sleep(0.02)
    Path("result.part").rename("result")  # noqa: ASYNC240 - the same


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize(
    ("leaver", "what"),
    [
        (leaves_a_thread, "When it has completed it leaves a thread 'poller'."),
        (leaves_a_descriptor, "When it has completed it leaves a open file"),
        (leaves_a_temporary_file, "When it has completed it leaves the temporary file tmp/half-done"),
        (leaves_an_orphan, "(sleep)"),
        (leaves_a_task, "When it has completed it leaves a task sleep."),
        (leaves_half_a_file, "When it is cancelled it leaves the file here/result.part."),
    ],
)
def test_whatever_is_left_is_found(leaver: object, what: str) -> None:
    """A thread, a descriptor, a temporary file, a process that left the family, a task, half a file: each is named."""
    assert what in " ".join(problems("cancellation", leaver, grace_s=0.05))


@executor("deaf.client")
async def shields_its_call(chat: FakeClient, /, text: str) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(0.6):
        await chat.send(text)


@executor("deaf.thread")
def works_on(ctx: SyncContext, /, text: str) -> None:
    if ctx.call.timeout_s is None:
        time.sleep(0.1)  # as long as it usually takes
    else:
        released.wait(30)


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("deaf", [shields_its_call, works_on])
def test_a_deadline_is_tried_while_the_service_hangs(deaf: object, anyio_backend: str) -> None:
    """An executor that ends in time only when its service answers, or whose thread goes on, is found."""
    found = problems("deadline", deaf, anyio_backend, clients={"chat": FakeClient()}, grace_s=0.1)

    assert len(found) == 1
    assert "still runs" in found[0]


@executor("eager.client")
async def asks_first(chat: FakeClient, /, text: str) -> None:
    await chat.send(text)
    raise PermanentError("too late")


@executor("eager.again")
async def would_try_again(text: str) -> None:
    raise TransientError("no text")


@executor("eager.lax")
async def takes_all(text: str) -> None:
    return None


@pytest.mark.parametrize(
    ("lax", "what"),
    [
        (asks_first, "is refused only after the client 'chat' was asked."),
        (would_try_again, "is refused with TransientError, which would be tried again."),
        (takes_all, "is accepted."),
    ],
)
def test_a_bad_example_is_refused_at_once_and_for_good(lax: object, what: str) -> None:
    """Neither after a client was asked, nor with an error that is retried, nor not at all."""
    (found,) = problems("bad_input", lax, clients={"chat": FakeClient()}, bad_example={"text": ""})

    assert found.endswith(what)


@executor("effect.none", effects="none")
async def writes_all_the_same(text: str) -> None:
    Path("out").write_text(text)  # noqa: ASYNC240 - the file is the point


@executor("effect.same", effects="idempotent")
async def writes_the_same(text: str) -> None:
    Path("out").write_text(text)  # noqa: ASYNC240 - the file is the point


@executor("effect.unseen", effects="idempotent")
async def does_something_far_away(text: str) -> None:
    return None


def test_declared_effects_are_seen_in_its_folder() -> None:
    """``none`` that writes is found; ``idempotent`` that writes the same twice is not; what cannot be seen has to be shown."""
    unseen = judge(make_subject(does_something_far_away, examples=[{"text": "a"}]), RULE["effects"], "asyncio")

    assert problems("effects", writes_all_the_same) == ("It declares effects='none', but running it changes something.",)
    assert problems("effects", writes_the_same) == ()
    assert "define effects_seen()" in unseen.gap
    assert not unseen.is_kept
    assert not unseen.is_failure


@executor("told.output")
async def tells_its_token(chat: Told, /, text: str) -> str:
    assert chat.secret is not None
    return f"Bearer {chat.secret.reveal()}"


@executor("told.progress")
async def tells_in_its_progress(ctx: Context, /, text: str) -> None:
    ctx.progress(1, 2, f"half of {text.upper()}")


@executor("told.print")
async def prints_it(text: str) -> None:
    print(urllib.parse.quote(text))


@executor("told.span")
async def calls_by_name(ctx: Context, /, text: str) -> None:
    with ctx.span(f"ask {text.encode().hex()}", attributes={"server.address": "example.org"}):
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("teller", "what"),
    [
        (tells_its_token, "A secret of its client shows plainly in the record AttemptEnded."),
        (tells_in_its_progress, "A secret in the input 'text' shows in capitals in its progress."),
        (prints_it, "A secret in the input 'text' shows quoted for a URL in what it prints."),
    ],
)
def test_secrets_are_found_however_they_are_spelled(teller: object, what: str) -> None:
    """A client's secret in an output, an input's in progress and in prints; plain, in capitals, quoted."""
    assert what in " ".join(problems("secrets", teller, clients={"chat": Told(secret=Secret("x"))}))


def test_a_secret_in_the_name_of_a_span_is_hidden_before_anybody_sees_it() -> None:
    """The runner takes it out, in hex too, so there is nothing left for the kit to find."""
    assert problems("secrets", calls_by_name, clients={"chat": Told(secret=Secret("x"))}) == ()


@executor("named.span")
async def names_its_span_after_an_input(ctx: Context, /, text: str) -> None:
    with ctx.span(f"ask {text}", attributes={"server.address": "example.org"}):
        await anyio.lowlevel.checkpoint()


def test_names_of_spans_are_few() -> None:
    """A span that is named after an input would have another name in every call."""
    (found,) = problems("spans", names_its_span_after_an_input)

    assert "has the input 'text' in its name" in found


def test_an_executor_without_entry_point_is_told_the_line(site: Site) -> None:
    """Whoever forgot the entry point gets the line to paste."""
    site.lay("acme", {"acme_slug.py": ECHO}, "")
    owner_of.cache_clear()
    subject = make_subject(importlib.import_module("acme_slug").echo, examples=[{"text": "a"}])

    (found,) = judge(subject, RULE["entry_point"]).problems
    assert found.endswith('it needs "acme.echo" = "acme_slug:echo".')


# -- the class -----------------------------------------------------------------------------------------------------------


def test_a_rule_newer_than_the_floor_is_advice() -> None:
    """A new core never reddens an old plugin: the rule shows as xfailed with the floor, and the command calls it advice."""
    newer = attrs.evolve(RULE["doc"], since="9.9")
    advised = judge(subject_of("doc"), newer)

    assert advised.problems == ("Its docstring begins with 'slug', which is no sentence.",)
    assert advised.floor == "0.1"
    assert not advised.is_failure
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(contract_module._BY_ID, "doc", newer)
        with pytest.raises(pytest.xfail.Exception, match="only advice"):
            MUTANTS["doc"]().test_doc()


GOOD = '''
import pytest
from treadle import executor
from treadle.testing import ExecutorContract


@executor("acme.slug", examples=({"text": "A b"},))
async def slug(text: str, sep: str = "-") -> str:
    """Turn a title into a URL slug."""
    return sep.join(text.lower().split())


class TestSlug(ExecutorContract):
    executor = slug
    expected = "a-b"


class TestReasoned(ExecutorContract):
    executor = slug

    @pytest.mark.xfail(reason="the library cannot stop", strict=False)
    def test_deadline(self, backend: str) -> None:
        super().test_deadline(backend)


class TestSilent(ExecutorContract):
    executor = slug

    def test_deadline(self, backend: str) -> None:
        pass

    test_doc = None


@executor("acme.nothing", backends=("asyncio",))
async def nothing(text: str) -> None:
    """Say which example to give."""


class TestWithoutExample(ExecutorContract):
    executor = nothing
'''


def test_three_lines_are_a_whole_contract(tmp_path: Path) -> None:
    """Every rule is a test on every event loop; an override needs an xfail with a reason; what cannot be tried fails."""
    (tmp_path / "test_slug.py").write_text(GOOD)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "test_slug.py"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False).stdout
    ends = [line.partition(" - ")[0].split() for line in shown.splitlines() if "test_slug.py::" in line[:30]]
    outcomes = {test: outcome for outcome, test in ends}
    runnable = [rule.id for rule in RULES if rule.kind == "runnable"]
    static = [rule.id for rule in RULES if rule.kind == "static"]
    of: dict[str, dict[str, str]] = {}
    for test, outcome in outcomes.items():
        _, kind, name = test.split("::")
        of.setdefault(kind, {})[name.removeprefix("test_")] = outcome

    whole = [*static, *(f"{rule}[{backend}]" for rule in runnable for backend in ("asyncio", "trio")), "nothing_overridden"]
    assert of["TestSlug"] == dict.fromkeys(whole, "PASSED"), shown
    assert of["TestReasoned"]["nothing_overridden"] == "PASSED"
    assert of["TestReasoned"]["deadline[trio]"] in ("XFAIL", "XPASS")
    assert of["TestSilent"]["nothing_overridden"] == "FAILED"
    assert "TestSilent overrides the rules doc, deadline without saying why." in shown
    assert of["TestWithoutExample"] == {
        **dict.fromkeys([*static, "nothing_overridden"], "PASSED"),
        **dict.fromkeys([f"{rule}[asyncio]" for rule in runnable], "FAILED"),
    }
    assert "There is no example of its inputs: set 'example'" in shown


def test_workflows_are_tested_without_pytest() -> None:
    """Importing treadle.testing brings neither pytest nor trio."""
    code = "import sys, treadle.testing; print(*{'pytest', 'trio'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split() == []


# -- the fake ------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_fake_answers_as_it_was_told() -> None:
    """A value, a function, an exception or the next of several; it remembers what it was asked."""
    several = iter([1, TransientError("busy")])
    fake = FakeClient({"one": 1, "double": lambda number: 2 * number, "fail": PermanentError("no"), "next": several})

    async with fake.open() as chat:
        assert await chat.one() == 1
        assert await chat.double(21) == 42
        assert await chat.unheard_of(key="x") is None
        with pytest.raises(PermanentError, match="no"):
            await chat.fail()
        assert await chat.next() == 1
        with pytest.raises(TransientError, match="busy"):
            await chat.next()
        await chat.aclose()
        with pytest.raises(RuntimeError, match="after the client was closed"):
            await chat.one()

    assert [asked.method for asked in fake.asked] == ["one", "double", "unheard_of", "fail", "next", "next"]
    assert (fake.opens, fake.closes, fake.closed_by) == (1, 1, ["aclose"])
    assert fake.asked[2] == Asked("unheard_of", (), {"key": "x"})


def test_a_fake_for_threads_is_asked_without_await() -> None:
    """What a ``def`` executor receives answers at once, and is closed at once."""
    fake = FakeClient({"one": 1}, is_sync=True)

    with fake.open() as chat:
        assert chat.one() == 1
        assert chat.close() is None

    assert (fake.opens, fake.closes, fake.closed_by) == (1, 1, ["close"])


# -- the page ------------------------------------------------------------------------------------------------------------

ACME = '''
from treadle import executor


@executor("acme.slug")
async def slug(text: str) -> str:
    """Turn a title into a URL slug."""
    return "-".join(text.lower().split())


@executor("acme.post")
async def post(chat: object, /, channel: str, text: str) -> dict[str, int]:
    """Post a text to a channel."""
    return await chat.send(channel, text)


@executor("acme.render")
async def render(text: str) -> str:
    """Lay a text out."""
    return text
'''


def test_the_how_to_is_what_works(tmp_path: Path) -> None:
    """Every class of the page is a test file as it stands, and passes."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "test-an-executor.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "treadle_acme.py").write_text(ACME)
    (tmp_path / "test_page.py").write_text("\n".join(blocks).replace("import post", "import post, render"))
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")

    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert len(blocks) == 3
    assert ended.returncode == 0, ended.stdout
    assert "failed" not in ended.stdout
