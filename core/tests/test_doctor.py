"""The doctor says of every plugin in one exact line what is wrong, and nothing that a plugin does reaches it."""

from __future__ import annotations

import json
import sys
import textwrap
import warnings

import attrs
import pytest
from sites import ECHO, Site
from treadle import _doctor, _scopes, client, executor, hookimpl
from treadle._config import Config, load_config
from treadle._doctor import Coverage, Diagnosis, coverage, coverage_line, diagnose, doctor_lines, is_healthy
from treadle._plugins import Registry, _hooks
from treadle.hookspecs import ExecutorHooks, HookArgumentWarning, RunHooks, hookspec


def examine(site: Site, config: str = "", *, connect: bool = False, timeout_s: float = 60.0) -> dict[str, Diagnosis]:
    """The diagnoses of what lies in the site, by name; the rest of the environment is left out."""
    (site.folder / "treadle.toml").write_text(textwrap.dedent(config))
    found = Registry.discover(load_config(site.folder, {}))
    own = Registry(found.config, [claim for claim in found.claims() if claim.distribution.startswith("acme")], found.faults)
    return {each.name: each for each in diagnose(own, connect=connect, timeout_s=timeout_s)}


def lines(site: Site, config: str = "", **options: bool | float) -> list[str]:
    """The same as lines, sorted."""
    return sorted(each.line.replace(f"{site.folder}/", "") for each in examine(site, config, **options).values())  # type: ignore[arg-type] # by keyword


def test_a_good_plugin_is_ok_and_nothing_is_imported_here(site: Site) -> None:
    """The child imports, this process does not; how long it took is in the detail."""
    site.executor("acme-echo", "acme_echo")

    [found] = examine(site).values()

    assert attrs.astuple(found)[:6] == (
        "acme.echo",
        "treadle.executors",
        "acme-echo",
        "1.0",
        "ok",
        "ok: executor acme.echo (acme-echo 1.0)",
    )
    assert found.detail.startswith("imported in ")
    assert "acme_echo" not in sys.modules


def test_it_says_which_executors_have_a_family_and_a_contract(site: Site) -> None:
    """Declared type, keys of the family, or a check of its own; an executor that declares nothing is named."""
    source = """
        from treadle import Executor, executor
        class Kept(Executor):
            family = "kept"
            required_output_keys = ("a", ("b", "c"))
        @executor("acme.typed")
        async def typed() -> list[int]: ...
        @executor("acme.bare")
        async def bare(): ...
        @executor("acme.kept", family="kept")
        async def kept(): ...
        @executor("acme.checked")
        class Checked(Executor):
            async def execute(self): ...
            def validate_output(self, output): ...
        """
    names = ("typed", "bare", "kept", "Checked")
    entry_points = "[treadle.executors]\n" + "".join(f"acme.{name.lower()} = acme_four:{name}\n" for name in names)
    site.lay(
        "acme-four", {"acme_four.py": textwrap.dedent(source)}, f"{entry_points}[treadle.families]\nkept = acme_four:Kept\n"
    )

    found = examine(site)
    covered = coverage(found.values())

    assert {name: [each.family, *each.contract] for name in found for each in found[name].executors} == {
        "acme.bare": ["general"],
        "acme.checked": ["general", "validate_output"],
        "acme.kept": ["kept", "keys a, b or c"],
        "acme.typed": ["general", "type list[int]"],
    }
    assert covered == Coverage(executors=4, with_family=4, with_contract=3, without=("acme.bare",))
    assert coverage_line(covered) == (
        "contracts: of 4 executors 4 have a family, 3 a contract; "
        "without: acme.bare (declare what they return, or give them a family)"
    )
    assert coverage_line(coverage([])) == "contracts: of 0 executors 0 have a family, 0 a contract"


def test_an_import_that_takes_too_long_says_where_it_hangs(site: Site) -> None:
    """Names of the same module share the verdict, others of the distribution are still looked at."""
    slow = "import time\ndef wait():\n    time.sleep(60)\nwait()\n"
    entry_points = "[treadle.executors]\nacme.a = acme_slow:x\nacme.b = acme_slow:y\nacme.echo = acme_echo:echo\n"
    site.lay("acme-slow", {"acme_slow.py": slow, "acme_echo.py": ECHO}, entry_points)

    found = examine(site, timeout_s=8)

    assert [found[name].line for name in ("acme.a", "acme.b", "acme.echo")] == [
        "broken: executor acme.a (acme-slow 1.0): took longer than 8 s to import",
        "broken: executor acme.b (acme-slow 1.0): took longer than 8 s to import",
        "ok: executor acme.echo (acme-slow 1.0)",
    ]
    assert "in wait" in found["acme.a"].detail


def test_an_import_that_blocks_the_interpreter_is_given_up_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code that never lets go keeps the child from ending itself; the parent ends it."""
    monkeypatch.setattr(_doctor, "_START_S", 1.0)
    site.executor("acme-stuck", "acme_stuck", "import ctypes\nctypes.PyDLL(None).sleep(60)\n")

    found = examine(site, timeout_s=0.5)

    assert found["acme.echo"].line == "broken: executor acme.echo (acme-stuck 1.0): took longer than 0.5 s to import"


def test_the_rest_of_a_distribution_is_looked_at_after_its_child_died(site: Site) -> None:
    """A process that ends below Python costs one name; what it said is in the detail."""
    entry_points = "[treadle.executors]\nacme.dies = acme_dies:x\nacme.echo = acme_echo:echo\n"
    dies = "import os\nos.write(2, b'last words')\nos._exit(7)"
    site.lay("acme-dies", {"acme_dies.py": dies, "acme_echo.py": ECHO}, entry_points)

    found = examine(site)

    assert (
        found["acme.dies"].line == "broken: executor acme.dies (acme-dies 1.0): its import ended the process with exit code 7"
    )
    assert found["acme.dies"].detail == "last words"
    assert found["acme.echo"].status == "ok"


def test_a_failing_import_has_its_traceback_in_the_detail(site: Site) -> None:
    """For those who mend the plugin."""
    site.executor("acme-bad", "acme_bad", "def f():\n    raise ValueError('x')\nf()")

    found = examine(site)["acme.echo"]

    assert found.line == "broken: executor acme.echo (acme-bad 1.0): its import raises ValueError: x (acme_bad.py:2)"
    assert "Traceback" in found.detail
    assert 'acme_bad.py", line 2, in f' in found.detail


REQUIRES = [
    ("treadle<1", None),
    ("Treadle>=0.0.1", None),
    ("acme-absent", "requires acme-absent, which is not installed"),
    ("acme-absent<3,>=2", "requires acme-absent<3,>=2, which is not installed"),
    ("acme-absent; extra == 'more'", None),
    ("acme-absent; python_version < '3'", None),
    ("acme-old>=2", "requires acme-old>=2, but 1.5 is installed"),
    ("acme-old", None),
    ("acme-pre>=1.9", None),
    ("not a requirement!", "its requirement 'not a requirement!' cannot be read"),
]


def test_unmet_requirements_are_warnings_as_long_as_it_works(site: Site) -> None:
    """Markers and extras count as an installer counts them; names in any spelling; pre-releases are versions too."""
    site.lay("Acme_Old", {}, version="1.5").lay("acme-pre", {}, version="2.0rc1")
    head = "Metadata-Version: 2.1\nName: acme-needy\nVersion: 1.0\n" + "".join(
        f"Requires-Dist: {each}\n" for each, _ in REQUIRES
    )
    site.lay("acme-needy", {"acme_needy.py": ECHO}, "[treadle.executors]\nacme.needy = acme_needy:echo", metadata=head)

    told = "; ".join(line for _, line in REQUIRES if line)

    assert lines(site) == [f"warning: executor acme.needy (acme-needy 1.0): {told}"]


BOUNDS = [
    ([], "no floor and no cap"),
    (["treadle"], "no floor and no cap"),
    (["treadle>=0.1"], "no cap"),
    (["treadle>0.0.1,!=0.5"], "no cap"),
    (["treadle<1"], "no floor"),
    (["treadle<=0.9"], "no floor"),
    (["treadle>=0.1,<1"], ""),
    (["treadle>=0.1", "treadle<1; python_version > '3'"], ""),
    (["Treadle[toml]~=0.1"], ""),
    (["treadle==0.1.*"], ""),
    (["treadle>=0.1,<1; extra == 'workflows'"], ""),
]


@pytest.mark.parametrize(("required", "missing"), BOUNDS)
def test_a_plugin_says_with_which_versions_it_works(site: Site, required: list[str], missing: str) -> None:
    """A floor and a cap on treadle; without them it is a warning that gives the text to write."""
    head = "Metadata-Version: 2.1\nName: acme-loose\nVersion: 1.0\n" + "".join(f"Requires-Dist: {one}\n" for one in required)
    site.lay("acme-loose", {"acme_loose.py": ECHO}, "[treadle.executors]\nacme.loose = acme_loose:echo", metadata=head)

    words = f": names {missing} of the treadle that it works with, like treadle>=0.1,<1" if missing else ""
    assert lines(site) == [f"{'warning' if missing else 'ok'}: executor acme.loose (acme-loose 1.0){words}"]


def test_requirements_that_cannot_be_read_are_told(site: Site) -> None:
    """An old kind of metadata, with a damaged list."""
    info = site.folder / "acme_egg.egg-info"
    info.mkdir()
    (info / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: acme-egg\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[treadle.executors]\nacme.egg = acme_egg:echo\n")
    (info / "requires.txt").write_bytes(b"\xff\xfe")
    (site.folder / "acme_egg.py").write_text(ECHO)

    assert lines(site) == ["warning: executor acme.egg (acme-egg 1.0): its requirements cannot be read (UnicodeDecodeError)"]


def test_every_kind_of_plugin_is_looked_at(site: Site) -> None:
    """Sources by each of their names, families by their base, clients and policies by their settings, the rest by loading."""
    module = """
        from treadle import Executor, hookimpl
        class Tools:
            def __init__(self, config): ...
            def names(self): return ["mytool.a", "mytool.b"]
            def get(self, name):
                if name == "mytool.b":
                    raise OSError("b.py is gone")
                def a() -> int: ...
                return a
        class Family(Executor):
            family = "report"
        class Client:
            def __init__(self, size: int = 1): ...
            def open(self): ...
        class Policy:
            def __init__(self, *, limit: int): ...
            @hookimpl
            def execute(self, call): ...
        class Takes:
            def __init__(self, untyped): ...
    """
    entry_points = """
        [treadle.executors]
        mytool.* = acme_all:Tools
        [treadle.families]
        report = acme_all:Family
        reprot = acme_all:Takes
        [treadle.clients]
        acme = acme_all:Client
        wrong = acme_all:Takes
        [treadle.policies]
        acme-policy = acme_all:Policy
        [treadle.stores]
        acme-store = acme_all:Takes
        [treadle.commands]
        acme-command = acme_all:absent
    """
    site.lay("acme-all", {"acme_all.py": module}, entry_points)
    config = """\
        [clients.acme]
        size = "big"
        [clients.second]
        use = "acme"
        [clients.lost]
        use = "nowhere"
        [plugins]
        policies = ["acme-policy", "absent"]
    """

    assert lines(site, config) == [
        "broken: [clients.lost]: no installed plugin provides client 'nowhere'",
        "broken: [plugins] policies: no installed plugin provides policy 'absent'",
        "broken: client acme (acme-all 1.0): treadle.toml:2:1: [clients.acme] size: expected int, got str",
        "broken: client wrong (acme-all 1.0): it is not a client: it has no open()",
        "broken: command acme-command (acme-all 1.0): module 'acme_all' has no 'absent'",
        "broken: executor mytool.* (acme-all 1.0): getting 'mytool.b' raises OSError: b.py is gone (acme_all.py:8)",
        "broken: family reprot (acme-all 1.0): it is not a class derived from treadle.Executor",
        "broken: policy acme-policy (acme-all 1.0): treadle.toml: [policies.acme-policy] limit: this setting is required",
        "ok: family report (acme-all 1.0)",
        "ok: store acme-store (acme-all 1.0)",
    ]


def test_a_policy_that_is_not_active_needs_no_settings(site: Site) -> None:
    """Only its hooks are held against the specifications."""
    module = """
        from treadle import hookimpl
        class P:
            def __init__(self, limit): ...
            @hookimpl
            def execute(self): ...
    """
    site.lay("acme-policy", {"acme_policy.py": module}, "[treadle.policies]\nacme-policy = acme_policy:P\n")

    assert lines(site) == ["ok: policy acme-policy (acme-policy 1.0)"]


def test_an_executor_that_cannot_be_bound_is_broken(site: Site) -> None:
    """What a run would refuse, the doctor says before."""
    site.executor("acme-odd", "acme_odd", ECHO.replace("text: str", "text: int, /"))

    [line] = lines(site)

    assert line.startswith("broken: executor acme.echo (acme-odd 1.0): Executor 'acme.echo': ")


def test_names_that_are_not_used_are_told_and_not_imported(site: Site) -> None:
    """Blocked, overruled, in conflict, and a distribution that cannot be read."""
    for name in ("a", "b", "c", "d"):
        site.executor(f"acme-{name}", f"acme_{name}", ECHO if name == "b" else "raise RuntimeError")
    site.executor("acme-e", "acme_e", "raise RuntimeError", name="acme.other")
    site.executor("acme-f", "acme_f", "raise RuntimeError", name="acme.other")
    site.lay("acme-torn", {}, "[treadle.executors]\nacme.torn")
    config = '[plugins]\nblock = ["acme-c", "acme-d"]\nprefer = {"acme.echo" = "acme-b"}'

    assert sorted(line.line for line in diagnose_all(site, config)) == [
        "blocked: executor acme.echo (acme-c 1.0): [plugins] block names its distribution",
        "blocked: executor acme.echo (acme-d 1.0): [plugins] block names its distribution",
        "broken: acme-torn: entry_points.txt line 2 is not an entry point: 'acme.torn'",
        "conflict: executor acme.other (acme-e 1.0, acme-f 1.0): choose one in treadle.toml: "
        '[plugins] prefer = {"acme.other" = "acme-e"}',
        "ok: executor acme.echo (acme-a 1.0): not used, [plugins] prefer chooses another distribution",
        "ok: executor acme.echo (acme-b 1.0)",
    ]


def diagnose_all(site: Site, config: str) -> list[Diagnosis]:
    """All diagnoses of the site, also several of one name."""
    (site.folder / "treadle.toml").write_text(config)
    found = Registry.discover(load_config(site.folder, {}))
    return diagnose(Registry(found.config, [each for each in found.claims() if each.distribution[:4] == "acme"], found.faults))


CLIENT = """
import os
import time
from contextlib import asynccontextmanager
import anyio
class Acme:
    def __init__(self, mood: str = "well"):
        self.mood = mood
    @asynccontextmanager
    async def open(self):
        print("noise")
        if self.mood == "refuses":
            raise ConnectionRefusedError("nobody listens\\nat all")
        if self.mood == "exits":
            os._exit(9)
        yield
    async def check(self):
        if self.mood == "ill":
            raise RuntimeError
        if self.mood == "hangs":
            await anyio.sleep_forever()
        if self.mood == "blocks":
            time.sleep(30)
class Sync(Acme):
    def check(self):
        if self.mood == "ill":
            raise RuntimeError("ill")
"""


def test_connect_opens_and_checks_every_configured_client(site: Site) -> None:
    """Each in its own child: connected, or the first line of what went wrong."""
    site.lay("acme-client", {"acme_client.py": CLIENT}, "[treadle.clients]\nacme = acme_client:Acme\nsync = acme_client:Sync\n")
    config = "".join(f'[clients.{mood}]\nuse = "acme"\nmood = "{mood}"\n' for mood in ("well", "refuses", "exits", "ill"))
    config += '[clients.sync]\n[clients.syncill]\nuse = "sync"\nmood = "ill"\n'

    told = [line for line in lines(site, config, connect=True) if "[" in line]

    assert told == [
        "broken: [clients.exits] (acme-client 1.0): opening it ended the process with exit code 9",
        "broken: [clients.ill] (acme-client 1.0): RuntimeError",
        "broken: [clients.refuses] (acme-client 1.0): ConnectionRefusedError: nobody listens",
        "broken: [clients.syncill] (acme-client 1.0): RuntimeError: ill",
        "ok: [clients.sync] (acme-client 1.0): connected",
        "ok: [clients.well] (acme-client 1.0): connected",
    ]


def test_a_client_has_limited_time_to_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds, then the check is given up; one that blocks the event loop is ended a second later."""
    assert _doctor.CONNECT_S == 10
    monkeypatch.setattr(_doctor, "CONNECT_S", 0.3)
    site.lay("acme-client", {"acme_client.py": CLIENT}, "[treadle.clients]\nacme = acme_client:Acme\n")

    told = lines(site, '[clients.acme]\nmood = "hangs"\n[clients.b]\nuse = "acme"\nmood = "blocks"\n', connect=True)

    assert told == [
        "broken: [clients.acme] (acme-client 1.0): did not answer within 0.3 s",
        "broken: [clients.b] (acme-client 1.0): did not answer within 0.3 s",
        "ok: client acme (acme-client 1.0)",
    ]


@executor("here.echo")
async def here(text: str) -> str:
    """Say it again."""
    return text


@client("here")
class Here:
    """A client of this file."""

    def open(self) -> object:
        """No context manager."""
        return 3


def test_the_configuration_reaches_the_child_whole(site: Site) -> None:
    """What the parent packs is what the child unpacks, places and paths included."""
    (site.folder / "treadle.toml").write_text(
        '[plugins]\nblock = ["a"]\npolicies = ["b"]\nfolder = "c"\nprefer = {d = "e"}\n'
        '[clients.f]\nuse = "g"\n[limits]\nh = 1\n'
    )
    config = load_config(site.folder, {"TREADLE_STORE__USE": "i"})

    again = _doctor._unpack(json.loads(json.dumps(_doctor._pack(config))))

    assert again == config
    assert again.places == config.places


class Watching:
    """A policy of this file."""

    @hookimpl
    def execute(self) -> None:
        """No opinion."""


class Misspelt:
    """Another one."""

    @hookimpl
    def exekute(self) -> None:
        """Never called."""


def test_policies_and_clients_from_python_are_looked_at_in_place() -> None:
    """With the settings that the configuration has for them."""
    registry = Registry.of(clients=[Configured], policies=[Watching(), Misspelt()], config=Config(clients={"conf": {"x": 1}}))

    assert [each.line for each in diagnose(registry)] == [
        "broken: client conf (python): [clients.conf] x: unknown setting (known: size)",
        "ok: policy policy 1 (python)",
        "broken: policy policy 2 (python): unknown hook 'exekute'; did its author mean 'execute'?",
    ]


class ComingHooks(ExecutorHooks):
    """Hooks as a version might specify them that is about to take arguments away."""

    @hookspec(
        firstresult=True,
        warn_on_impl_args={
            "loop": HookArgumentWarning("loop", removed_in="2.0", remedy="take 'ctx'"),
            "retries": HookArgumentWarning("retries", removed_in="3.0"),
        },
    )
    def execute(self, call: object, ctx: object, loop: object, retries: object) -> None:
        """With two arguments that go."""


class OfYesterday:
    """A policy that asks for both: for one of them by a default, as for one that may not be given."""

    @hookimpl
    def execute(self, call: object, loop: object, retries: object = None) -> None:
        """Never called."""


class OfTomorrow:
    """A policy that does without."""

    @hookimpl
    def execute(self, ctx: object) -> None:
        """Never called."""


def test_an_argument_that_goes_is_named_before_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor says which hook asks for it, which version will not give it, and what to do; it still works until then."""
    monkeypatch.setattr(_hooks, "SPECIFICATIONS", (ComingHooks, RunHooks))
    registry = Registry.of(policies=[OfYesterday(), OfTomorrow()])

    found = diagnose(registry)

    assert [each.line for each in found] == [
        "warning: policy policy 1 (python): hook 'execute' asks for 'loop', which treadle 2.0 will no longer give; take 'ctx'; "
        "hook 'execute' asks for 'retries', which treadle 3.0 will no longer give; leave it out",
        "ok: policy policy 2 (python)",
    ]
    assert is_healthy(found)


def test_an_argument_that_goes_is_told_for_classes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed policies are classes that nobody has made an instance of."""
    monkeypatch.setattr(_hooks, "SPECIFICATIONS", (ComingHooks, RunHooks))

    assert [each.partition(",")[0] for each in _hooks.hook_deprecations(OfYesterday)] == [
        "hook 'execute' asks for 'loop'",
        "hook 'execute' asks for 'retries'",
    ]
    assert _hooks.hook_deprecations(OfTomorrow) == []


def test_using_an_argument_that_goes_is_a_deprecation_where_it_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Authors who turn warnings into errors see it in their tests; others see nothing, and their runs go on."""
    monkeypatch.setattr(_scopes, "ExecutorHooks", ComingHooks)

    with pytest.warns(HookArgumentWarning) as told:
        _scopes.check_policy(OfYesterday())
    assert [str(each.message) for each in told] == [
        "'loop', which treadle 2.0 will no longer give; take 'ctx'",
        "'retries', which treadle 3.0 will no longer give; leave it out",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _scopes.check_policy(OfTomorrow())


# Hook -> the arguments that some released version gave. A new one is added here together with the specification; one leaves
# this list only in the version that its HookArgumentWarning named.
RELEASED = {
    "execute": ("call", "ctx"),
    "validate_output": ("call", "output"),
    "retry_policy": ("call", "error"),
    "end_attempt": ("call", "outcome"),
    "wrap_work": ("call", "ctx", "work"),
    "open_run": ("run",),
    "close_run": ("run",),
    "make_redactor": ("run",),
    "emit_span": ("span",),
    "record_event": ("record",),
}


def test_hook_arguments_are_added_freely_and_never_taken_away_unannounced() -> None:
    """Whatever a plugin may ask for since a release is still given, and the list is complete."""
    assert _hooks._specified() == RELEASED


@client("conf")
class Configured(Here):
    """A client with a setting."""

    def __init__(self, size: int = 1) -> None:
        self.size = size


def test_objects_from_python_are_looked_at_in_place() -> None:
    """They are imported already, and no child could find them."""
    registry = Registry.of(here, clients=[Here], config=Config(clients={"here": {}}))

    assert [each.line for each in diagnose(registry, connect=True)] == [
        "ok: executor here.echo (python)",
        "ok: client here (python)",
        "broken: [clients.here] (python): open() answers int, not a context manager",
    ]


def test_the_summary_comes_last_after_what_asks_for_action() -> None:
    """Lines for people: what is well first, so that the rest stands next to the prompt."""
    found = [
        Diagnosis(name, "treadle.executors", "acme", "1.0", status, f"{status}: executor {name} (acme 1.0)")  # type: ignore[arg-type] # literals
        for name, status in [("a", "broken"), ("b", "ok"), ("c", "warning"), ("d", "ok"), ("e", "conflict"), ("f", "blocked")]
    ]

    assert doctor_lines(found) == [
        "ok: executor b (acme 1.0)",
        "ok: executor d (acme 1.0)",
        "broken: executor a (acme 1.0)",
        "warning: executor c (acme 1.0)",
        "conflict: executor e (acme 1.0)",
        "blocked: executor f (acme 1.0)",
        "6 looked at: 2 ok, 1 warning, 1 blocked, 1 conflict, 1 broken",
    ]
    assert doctor_lines([]) == ["0 looked at: no plugin is installed"]
    assert not is_healthy(found)
    assert not is_healthy(found[-2:])
    assert is_healthy(found[1:4])
    assert json.dumps([attrs.asdict(each) for each in found])
