"""Plugins are known by their metadata, loaded on demand, and never take anything else down."""

from __future__ import annotations

import logging
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import attrs
import pytest
from sites import ECHO, Site
from treadle import Executor, Secret, client, executor, hookimpl
from treadle._bind import BoundExecutor
from treadle._config import Config, PluginsConfig, load_config
from treadle._plugins import Registry, _importing
from treadle.errors import (
    BindError,
    ConfigError,
    ConfigInvalidError,
    ExecutorNotFoundError,
    PluginBlockedError,
    PluginBrokenError,
    PluginConflictError,
    PluginError,
    PluginNotFoundError,
)
from treadle.hookspecs import ExecutorHooks

_Kind = TypeVar("_Kind")


def statuses(registry: Registry) -> dict[tuple[str, str], str]:
    """Name and distribution -> status, of the acme names."""
    return {
        (entry.name, entry.distribution): entry.status for entry in registry.entries() if entry.distribution.startswith("acme")
    }


def why(call: Callable[[], object]) -> str:
    """Why a plugin is broken."""
    with pytest.raises(PluginBrokenError) as caught:
        call()
    return caught.value.why


# -- names and loading ---------------------------------------------------------------------------------------------------


def test_an_entry_point_adds_an_executor(site: Site) -> None:
    """An installed distribution with a line in [treadle.executors] makes a name usable behind the same interface (S3-15)."""
    site.executor("acme-echo", "acme_echo")
    registry = site.discover()

    bound = registry.executor("acme.echo")

    assert isinstance(bound, BoundExecutor)
    assert (bound.name, bound.distribution, bound.version) == ("acme.echo", "acme-echo", "1.0")
    assert bound.doc == "Say it again."
    assert [entry.group for entry in registry.entries() if entry.name == "acme.echo"] == ["treadle.executors"]
    assert registry.executor("acme.echo") is bound


def test_listing_imports_nothing(site: Site) -> None:
    """Names, distributions, versions and targets come from metadata."""
    site.executor("acme-echo", "acme_echo", text="raise RuntimeError('imported')")

    entries = [attrs.astuple(entry) for entry in site.discover().entries("treadle.executors") if entry.name == "acme.echo"]

    assert entries == [("treadle.executors", "acme.echo", "acme-echo", "1.0", "acme_echo:echo", "ok")]
    assert "acme_echo" not in sys.modules


def test_an_unknown_executor_is_a_clear_error(site: Site) -> None:
    """A look-up of a name that is not there says so, what there is, and what was probably meant (S0-42)."""
    registry = site.executor("acme-echo", "acme_echo").discover()

    with pytest.raises(ExecutorNotFoundError) as caught:
        registry.executor("acme.ehco")

    assert caught.value.problem == "No installed plugin provides executor 'acme.ehco'."
    assert caught.value.remedy.startswith("Did you mean 'acme.echo'? Installed: ")
    assert "acme.echo" in caught.value.installed


@pytest.mark.parametrize(
    ("group", "load"),
    [
        ("stores", Registry.store),
        ("engines", Registry.engine),
        ("tracing", Registry.tracing),
        ("triggers", Registry.trigger),
        ("commands", Registry.command),
    ],
)
def test_other_groups_give_the_object_itself(site: Site, group: str, load: Callable[[Registry, str], object]) -> None:
    """Stores, engines, tracing, triggers and commands are loaded as they are; an unknown one names the known ones."""
    registry = site.lay("acme", {"acme_any.py": "thing = ['it']"}, f"[treadle.{group}]\nacme = acme_any:thing").discover()

    assert load(registry, "acme") == ["it"]
    with pytest.raises(PluginNotFoundError, match=r"provides \w+ 'acm'\.\nDid you mean 'acme'\? Known: .*acme"):
        load(registry, "acm")


def test_one_of_two_copies_on_the_path_counts(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that lies twice on ``sys.path`` is the first one, as for Python, and no conflict."""
    site.executor("acme-echo", "acme_echo")
    behind = Site(tmp_path / "behind").executor("Acme_Echo", "acme_echo")
    monkeypatch.setattr(sys, "path", [*sys.path, str(behind.folder)])

    assert statuses(site.discover()) == {("acme.echo", "acme-echo"): "ok"}


def test_a_new_distribution_is_seen_by_the_next_registry(site: Site) -> None:
    """The scan is kept for the process, but a change of a folder on the path makes a new one."""
    assert statuses(site.discover()) == {}

    site.executor("acme-echo", "acme_echo")

    assert statuses(site.discover()) == {("acme.echo", "acme-echo"): "ok"}


# -- metadata in any state -----------------------------------------------------------------------------------------------


def test_malformed_metadata_is_reported_and_the_rest_works(site: Site) -> None:
    """A bad line costs that line, unreadable metadata that distribution; both are told."""
    site.lay(
        "acme-torn",
        {"acme_torn.py": ECHO},
        """\
        [treadle.executors]
        acme.torn = acme_torn:echo
        acme.broken
        acme.spaced = not a module!
        acme.torn = acme_torn:other
        ; a comment
        [console_scripts]
        whatever
        """,
    )
    site.lay("acme-nameless", {}, "[treadle.executors]\nx.y = a:b", metadata="Metadata-Version: 2.1\n")
    site.lay("acme-binary", {}, "[treadle.executors]\nx.z = a:b")
    (site.folder / "acme_binary-1.0.dist-info" / "METADATA").write_bytes(b"Name: \xff\xfe")
    (site.folder / "empty-1.0.dist-info").mkdir()
    site.executor("acme-echo", "acme_echo")

    registry = site.discover()

    assert statuses(registry) == {("acme.echo", "acme-echo"): "ok", ("acme.torn", "acme-torn"): "ok"}
    assert registry.executor("acme.torn").distribution == "acme-torn"
    assert sorted(f"{fault.distribution}: {fault.why}" for fault in registry.faults) == [
        "acme-torn: entry_points.txt line 3 is not an entry point: 'acme.broken'",
        "acme-torn: entry_points.txt line 4 is not an entry point: 'acme.spaced = not a module!'",
        "acme-torn: entry_points.txt line 5 claims 'acme.torn' a second time",
        "acme_binary-1.0.dist-info: its metadata cannot be read (UnicodeDecodeError: "
        "'utf-8' codec can't decode byte 0xff in position 6: invalid start byte)",
        "acme_nameless-1.0.dist-info: its metadata cannot be read (ValueError: no Name in its METADATA)",
        "empty-1.0.dist-info: its metadata cannot be read (ValueError: no Name in its METADATA)",
    ]


def test_a_name_that_is_missing_mentions_what_could_not_be_read(site: Site) -> None:
    """The executor may well be in the distribution whose metadata is torn."""
    site.lay("acme-torn", {}, "[treadle.executors]\nacme.torn")

    with pytest.raises(ExecutorNotFoundError, match=r"Not readable: acme-torn: entry_points\.txt line 2 is not an entry point"):
        site.discover().executor("acme.torn")


# -- imports that fail ---------------------------------------------------------------------------------------------------

FAILURES = [
    (
        "def f():\n    raise RuntimeError('no licence\\nsecond line')\nf()",
        "its import raises RuntimeError: no licence (acme_bad.py:2)",
    ),
    ("import sys\nprint('bye')\nsys.exit(3)", "its import ends the process with SystemExit: 3 (acme_bad.py:3)"),
    ("raise SystemExit", "its import ends the process with SystemExit: 0 (acme_bad.py:1)"),
    ("raise KeyboardInterrupt", "its import raises KeyboardInterrupt (acme_bad.py:1)"),
    ("raise GeneratorExit('x')", "its import raises GeneratorExit: x (acme_bad.py:1)"),
    (
        "import json\njson.loads('{')",
        "its import raises JSONDecodeError: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1) (acme_bad.py:2)",
    ),
    ("import acme_absent", "its import raises ModuleNotFoundError: No module named 'acme_absent' (acme_bad.py:1)"),
    ("x = 1\nf(\n", "its import raises SyntaxError: '(' was never closed (acme_bad.py:2)"),
    (
        "class E(Exception):\n    def __str__(self):\n        raise ValueError\nraise E",
        "its import raises E: (its message cannot be shown) (acme_bad.py:4)",
    ),
    ("raise StopIteration('x')", "its import raises StopIteration: x (acme_bad.py:1)"),
    ("ecko = 1", "module 'acme_bad' has no 'echo'; did its author mean 'ecko'?"),
    ("", "module 'acme_bad' has no 'echo'"),
]


@pytest.mark.parametrize(("text", "expected"), FAILURES)
def test_whatever_an_import_does_is_one_kind_of_error(site: Site, text: str, expected: str) -> None:
    """It names what was raised and the plugin's last line, and the distribution; other plugins go on."""
    site.executor("acme-bad", "acme_bad", text, name="acme.bad").executor("acme-echo", "acme_echo")
    registry = site.discover()

    with pytest.raises(PluginBrokenError) as caught:
        registry.executor("acme.bad")

    assert caught.value.why == expected
    assert caught.value.problem == f"'acme.bad' of acme-bad is broken: {expected}"
    assert registry.executor("acme.echo").distribution == "acme-echo"


def test_a_module_that_is_not_there_is_told(site: Site) -> None:
    """The entry point outlived its module."""
    site.lay("acme-gone", {}, "[treadle.executors]\nacme.gone = acme_gone:echo")

    told = why(lambda: site.discover().executor("acme.gone"))

    assert told == "its import raises ModuleNotFoundError: No module named 'acme_gone'"


def test_a_person_may_interrupt_an_import(site: Site) -> None:
    """Ctrl-C while a plugin is being imported ends the program, not the plugin."""
    site.executor("acme-slow", "acme_slow", "import signal\nsignal.raise_signal(signal.SIGINT)\n")

    with pytest.raises(KeyboardInterrupt):
        site.discover().executor("acme.echo")


def test_a_broken_plugin_is_imported_once(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    """Asking again gives the same error without importing again."""
    registry = site.executor("acme-bad", "acme_bad", "print('imported')\nraise ValueError('x')").discover()

    told = [why(lambda: registry.executor("acme.echo")) for _ in range(3)]

    assert told == ["its import raises ValueError: x (acme_bad.py:2)"] * 3
    assert capfd.readouterr() == ("", "imported\n")


def test_prints_of_an_import_go_to_stderr(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """What treadle prints itself stays clean, also in other threads and after the import."""
    noisy = """
import sys, threading
print("noise")
kept = sys.stdout
other = threading.Thread(target=print, args=("other",))
other.start()
other.join()
"""
    site.executor("acme-echo", "acme_echo", ECHO + noisy)
    before = sys.stdout

    site.discover().executor("acme.echo")
    sys.modules["acme_echo"].kept.write("later\n")

    assert sys.stdout is before
    assert capsys.readouterr() == ("other\nlater\n", "noise\n")


def test_a_long_import_is_announced_while_it_runs(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits learns for what."""
    monkeypatch.setattr(_importing, "SLOW_S", 0.01)
    told = threading.Event()
    monkeypatch.setattr(sys, "acme_told", told, raising=False)
    text = "import sys\nwas_told = sys.acme_told.wait(30)\n" + ECHO
    site.executor("acme-echo", "acme_echo", text)
    site.executor("acme-other", "acme_other", text, name="acme.other")
    heard: list[tuple[str, str]] = []
    registry = site.discover()

    def hear(name: str, distribution: str) -> None:
        heard.append((name, distribution))
        told.set()

    class Hearing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    log, hearing = logging.getLogger("treadle.plugins"), Hearing()
    log.addHandler(hearing)
    registry.executor("acme.other")
    log.removeHandler(hearing)
    told.clear()
    registry.on_import = hear
    registry.executor("acme.echo")

    assert [sys.modules[name].was_told for name in ("acme_other", "acme_echo")] == [True, True]
    assert heard == [("acme.echo", "acme-echo")]
    assert caplog.record_tuples == [("treadle.plugins", logging.WARNING, "importing acme.other (acme-other)")]


def test_an_entry_point_into_another_distribution_is_refused(site: Site) -> None:
    """Nobody can pass somebody else's code off as their own; nothing is imported to find out."""
    site.executor("acme-echo", "acme_echo").lay("acme-thief", {}, "[treadle.executors]\nacme.mine = acme_echo:echo")
    registry = site.discover()

    assert why(lambda: registry.executor("acme.mine")) == "its entry point points into acme-echo (acme_echo:echo)"
    assert "acme_echo" not in sys.modules
    assert registry.executor("acme.echo").distribution == "acme-echo"


def test_an_editable_distribution_owns_the_modules_of_its_project(site: Site, tmp_path: Path) -> None:
    """Its list of files names no module, so the project's folder decides."""
    project = tmp_path / "project dir" / "src"
    project.mkdir(parents=True)
    (project / "acme_echo.py").write_text(ECHO)
    sys.path.insert(0, str(project))
    site.lay("acme-echo", {}, "[treadle.executors]\nacme.echo = acme_echo:echo")
    site.lay("acme-thief", {}, "[treadle.executors]\nacme.mine = acme_echo:echo")
    (site.folder / "acme_echo-1.0.dist-info" / "direct_url.json").write_text(
        f'{{"url": "{project.parent.as_uri()}", "dir_info": {{"editable": true}}}}'
    )
    registry = site.discover()

    assert registry.executor("acme.echo").distribution == "acme-echo"
    assert why(lambda: registry.executor("acme.mine")) == "its entry point points into acme-echo (acme_echo:echo)"


# -- conflicts and blocks ------------------------------------------------------------------------------------------------


def test_two_distributions_with_one_name_are_an_error_until_one_is_preferred(site: Site) -> None:
    """The error names both and prints the line to paste; with it the name works, and the other is overruled (S0-18)."""
    site.executor("acme-a", "acme_a").executor("acme-b", "acme_b")
    registry = site.discover()

    with pytest.raises(PluginConflictError) as caught:
        registry.executor("acme.echo")

    assert str(caught.value) == (
        "'acme.echo' is claimed by acme-a and acme-b.\n"
        'Choose one in treadle.toml: [plugins] prefer = {"acme.echo" = "acme-a"}'
    )
    assert statuses(registry) == {("acme.echo", "acme-a"): "conflict", ("acme.echo", "acme-b"): "conflict"}
    chosen = site.discover(prefer={"acme.echo": "Acme.B"})
    assert chosen.executor("acme.echo").distribution == "acme-b"
    assert statuses(chosen) == {("acme.echo", "acme-a"): "overruled", ("acme.echo", "acme-b"): "ok"}
    assert set(statuses(site.discover(prefer={"acme.echo": "acme-c"})).values()) == {"conflict"}


def test_a_registry_may_know_more_than_what_is_installed(site: Site) -> None:
    """What is handed over wins over what is installed by that name, the rest stays; the first registry stays as it was."""
    registry = site.executor("acme-a", "acme_a").discover()

    @executor("acme.echo")
    async def other(n: int) -> int:
        return n

    @executor("acme.more")
    async def more() -> int:
        return 1

    knowing = registry.knowing(other, more)

    assert knowing.executor("acme.echo").input_schema()["properties"].keys() == {"n"}
    assert knowing.executor("acme.more").name == "acme.more"
    assert registry.executor("acme.echo").distribution == "acme-a"
    assert "acme.more" not in registry.names("treadle.executors")


def test_the_printed_line_solves_the_conflict(site: Site) -> None:
    """Pasted into treadle.toml as it is."""
    site.executor("acme-a", "acme_a").executor("acme-b", "acme_b")
    with pytest.raises(PluginConflictError) as caught:
        site.discover().executor("acme.echo")
    line = caught.value.remedy.partition("treadle.toml: ")[2].replace("[plugins] ", "[plugins]\n")

    (site.folder / "treadle.toml").write_text(line)

    assert Registry.discover(load_config(site.folder, {})).executor("acme.echo").distribution == "acme-a"


def test_a_blocked_distribution_is_never_imported(site: Site) -> None:
    """Blocked by any spelling of its name; using it says so, and a rival is free to serve the name."""
    site.executor("acme-bad", "acme_bad", "raise RuntimeError", name="acme.bad")
    site.executor("acme-a", "acme_a").executor("acme-b", "acme_b")
    registry = site.discover(block=("ACME_bad", "acme.a"))

    with pytest.raises(
        PluginBlockedError, match=r"^'acme\.bad' of acme-bad is blocked by the configuration\.\nRemove 'acme-bad'"
    ):
        registry.executor("acme.bad")

    assert "acme_bad" not in sys.modules
    assert registry.executor("acme.echo").distribution == "acme-b"
    assert statuses(registry) == {
        ("acme.bad", "acme-bad"): "blocked",
        ("acme.echo", "acme-a"): "blocked",
        ("acme.echo", "acme-b"): "ok",
    }


def test_without_plugins_nothing_installed_is_looked_at(site: Site) -> None:
    """TREADLE_PLUGINS=none: no entry, and a name that is missed says why."""
    site.executor("acme-echo", "acme_echo")
    registry = Registry.discover(load_config(site.folder, {"TREADLE_PLUGINS": "none"}))

    with pytest.raises(ExecutorNotFoundError, match=r"Plugins are switched off by TREADLE_PLUGINS=none\."):
        registry.executor("acme.echo")
    with pytest.raises(PluginNotFoundError, match="switched off"):
        registry.client("acme")

    assert registry.entries() == []


# -- sources -------------------------------------------------------------------------------------------------------------

TOOLS = '''
asked = []

class Tools:
    def __init__(self, config):
        asked.append(config.tools["folder"])

    def names(self):
        return ["mytool.upper", "mytool.deep.lower"]

    def get(self, name):
        asked.append(name)
        if name not in self.names():
            raise KeyError(name)

        def work(text: str) -> str:
            """Work."""
            return getattr(text, name.rpartition(".")[2])()

        return work
'''


def test_a_source_provides_every_name_of_its_prefix(site: Site) -> None:
    """``mytool.*`` is made once, with the configuration, and asked only for ``mytool.`` names (S3-16).

    It is asked each time: what it has may have changed meanwhile.
    """
    site.lay("acme-tools", {"acme_tools.py": TOOLS}, "[treadle.executors]\nmytool.* = acme_tools:Tools\n")
    registry = Registry.discover(Config(tools={"folder": "mine"}, root=site.folder))

    with pytest.raises(ExecutorNotFoundError):
        registry.executor("other.upper")
    assert "acme_tools" not in sys.modules
    bound = registry.executor("mytool.upper")
    again = registry.executor("mytool.upper")
    deep = registry.executor("mytool.deep.lower")

    assert (bound.name, bound.distribution, deep.name) == ("mytool.upper", "acme-tools", "mytool.deep.lower")
    assert again.input_schema() == bound.input_schema()
    assert sys.modules["acme_tools"].asked == ["mine", "mytool.upper", "mytool.upper", "mytool.deep.lower"]


def test_a_missing_name_of_a_source_suggests_its_names(site: Site) -> None:
    """The names of the source are known once it was asked."""
    site.lay("acme-tools", {"acme_tools.py": TOOLS}, "[treadle.executors]\nmytool.* = acme_tools:Tools\n")
    registry = Registry.discover(Config(tools={"folder": "mine"}, root=site.folder))

    with pytest.raises(ExecutorNotFoundError, match=r"Did you mean 'mytool\.upper'\?"):
        registry.executor("mytool.uper")
    with pytest.raises(ExecutorNotFoundError):
        registry.executor("mytool.*")


def test_a_source_may_say_in_its_own_words_that_a_name_is_missing(site: Site) -> None:
    """An error of treadle passes as it is."""
    text = """
        from treadle.errors import PluginError
        class Missing(PluginError, LookupError): ...
        class S:
            def names(self): return []
            def get(self, name): raise Missing(f"Tool not found: {name}", "Write it.")
        source = S()
    """
    site.lay("acme-tools", {"acme_tools.py": text}, "[treadle.executors]\nmytool.* = acme_tools:source\n")

    with pytest.raises(PluginError, match=r"^Tool not found: mytool\.x\nWrite it\.$"):
        site.discover().executor("mytool.x")


def test_the_longest_prefix_is_asked_and_an_exact_name_wins(site: Site) -> None:
    """The more special claim decides."""
    site.lay("acme-tools", {"acme_tools.py": TOOLS}, "[treadle.executors]\nmytool.* = acme_tools:Tools\n")
    site.lay("acme-deep", {"acme_deep.py": TOOLS}, "[treadle.executors]\nmytool.deep.* = acme_deep:Tools\n")
    site.executor("acme-echo", "acme_echo", name="mytool.upper")
    registry = Registry.discover(Config(tools={"folder": "mine"}, root=site.folder))

    assert registry.executor("mytool.deep.lower").distribution == "acme-deep"
    assert registry.executor("mytool.upper").distribution == "acme-echo"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source = 3", "it is no source: it has no names() and get(name)"),
        ("def source(config): return 3", "it makes no source: no names() and get(name)"),
        ("def source(config): raise OSError('no folder')", "making its source raises OSError: no folder (acme_tools.py:1)"),
        (
            "class S:\n    def names(self): raise SystemExit(1)\n    def get(self, name): return {}[name]\nsource = S()",
            "getting 'mytool.x' ends the process with SystemExit: 1 (acme_tools.py:2)",
        ),
        (
            "class S:\n    def names(self): return ['mytool.x']\n    def get(self, name): return {}[name]\nsource = S()",
            "getting 'mytool.x' raises KeyError: 'mytool.x' (acme_tools.py:3)",
        ),
    ],
)
def test_a_source_that_fails_is_a_broken_plugin(site: Site, text: str, expected: str) -> None:
    """Each of its three moments: what it is, making it, asking it."""
    site.lay("acme-tools", {"acme_tools.py": text}, "[treadle.executors]\nmytool.* = acme_tools:source\n")

    assert why(lambda: site.discover().executor("mytool.x")) == expected


# -- clients -------------------------------------------------------------------------------------------------------------

CLIENT = '''
from __future__ import annotations
from contextlib import asynccontextmanager
import attrs
from treadle import Secret, client

@client("acme")
@attrs.define
class Acme:
    """A client."""
    base_url: str = ""
    token: Secret | None = None
    headers: dict[str, str] = attrs.field(factory=dict)
    keys: dict[str, Secret] = attrs.field(factory=dict)
    timeout_s: float = 10.0
    _retries: int = 1

    @asynccontextmanager
    async def open(self):
        yield self

@client("strict")
class Strict:
    def __init__(self, dsn: str, *, size: int = 1) -> None:
        if size > 9:
            raise ValueError("size is at most 9")
        self.dsn, self.size = dsn, size
    open = None
    def open(self):
        return asynccontextmanager(lambda: None)
'''


@pytest.fixture
def acme(site: Site) -> Callable[[str], Registry]:
    """A registry with the client plugin and the given treadle.toml."""
    site.lay(
        "acme-client", {"acme_client.py": CLIENT}, "[treadle.clients]\nacme = acme_client:Acme\nstrict = acme_client:Strict\n"
    )

    def configured(text: str) -> Registry:
        (site.folder / "treadle.toml").write_text(textwrap.dedent(text))
        return Registry.discover(load_config(site.folder, {}))

    return configured


def test_a_client_is_made_with_its_settings(acme: Callable[[str], Registry], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in its declared type; a secret only when it is revealed."""
    registry = acme("""
        [clients.acme]
        base_url = "https://acme.example"
        timeout_s = 5
        retries = 3
        headers = {accept = "text/html"}
        token = {env = "ACME_TOKEN"}
        keys = {a = {env = "ACME_A"}}
    """)

    made = registry.client("acme")
    monkeypatch.setenv("ACME_TOKEN", "t")
    monkeypatch.setenv("ACME_A", "a")

    assert made.base_url == "https://acme.example"  # type: ignore[attr-defined] # the class of the plugin
    assert (made.timeout_s, type(made.timeout_s)) == (5.0, float)  # type: ignore[attr-defined] # as above
    assert (made._retries, made.headers) == (3, {"accept": "text/html"})  # type: ignore[attr-defined] # as above
    assert (made.token.reveal(), made.keys["a"].reveal()) == ("t", "a")  # type: ignore[attr-defined] # as above
    assert registry.client("acme") is not made


def test_use_gives_a_second_instance(acme: Callable[[str], Registry]) -> None:
    """``[clients.billing] use = "acme"`` is another client of the same kind."""
    registry = acme('[clients.acme]\nbase_url = "a"\n[clients.billing]\nuse = "acme"\nbase_url = "b"')

    assert [registry.client(name).base_url for name in ("acme", "billing")] == ["a", "b"]  # type: ignore[attr-defined] # the plugin's class


def test_an_unconfigured_client_has_its_defaults(acme: Callable[[str], Registry]) -> None:
    """No table is needed."""
    assert acme("").client("acme").timeout_s == 10.0  # type: ignore[attr-defined] # the plugin's class


def test_all_faults_of_settings_are_told_with_their_places(acme: Callable[[str], Registry]) -> None:
    """Unknown, mistyped, a secret in plain text, a required one missing: file, line, table and key."""
    registry = acme("""\
        [clients.acme]
        timeout = 3
        timeout_s = "3"
        token = "hunter2"
        keys = {a = "hunter2"}
        headers = {accept = 5}
        [clients.db]
        use = "strict"
    """)

    with pytest.raises(ConfigInvalidError) as caught:
        registry.client("acme")
    with pytest.raises(ConfigInvalidError) as missing:
        registry.client("db")

    told = [str(fault).partition("treadle.toml:")[2] for fault in caught.value.faults]
    plain = 'a secret cannot be written into the configuration (Say where it comes from: {env = "NAME"} or {file = "PATH"})'
    assert told == [
        "2:1: [clients.acme] timeout: unknown setting (did you mean 'timeout_s'?)",
        "3:1: [clients.acme] timeout_s: expected float, got str",
        f"4:1: [clients.acme] token: {plain}",
        f"5:1: [clients.acme] keys.a: {plain}",
        "6:1: [clients.acme] headers.accept: expected str, got int",
    ]
    assert "hunter2" not in str(caught.value)
    assert [str(fault).partition("treadle.toml:")[2] for fault in missing.value.faults] == [
        "7:1: [clients.db] dsn: this setting is required"
    ]


def test_data_classes_have_settings_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their fields count as those of attrs classes do; a secret may not hide in a list."""
    module = """
        from __future__ import annotations
        import dataclasses
        from treadle import Secret
        @dataclasses.dataclass
        class Acme:
            size: int
            token: Secret | None = None
            keys: list[Secret] = dataclasses.field(default_factory=list)
            def open(self): ...
    """
    site.lay("acme-client", {"acme_client.py": module}, "[treadle.clients]\nacme = acme_client:Acme\n")
    monkeypatch.setenv("ACME_TOKEN", "t")
    good: dict[str, object] = {"size": 3, "token": {"env": "ACME_TOKEN"}}

    made = Registry.discover(Config(clients={"acme": good})).client("acme")
    with pytest.raises(ConfigInvalidError) as caught:
        Registry.discover(Config(clients={"acme": {"keys": ["hunter2"]}})).client("acme")

    assert (made.size, made.token.reveal()) == (3, "t")  # type: ignore[attr-defined] # the class of the plugin
    assert [str(fault) for fault in caught.value.faults] == [
        "[clients.acme] size: this setting is required",
        "[clients.acme] keys: secrets may stand alone or in a table of secrets (declare it as Secret or dict[str, Secret])",
    ]


def test_a_class_may_refuse_its_settings(acme: Callable[[str], Registry]) -> None:
    """A validator's own words, under the table's name."""
    registry = acme('[clients.strict]\ndsn = "x"\nsize = 10')

    with pytest.raises(
        ConfigInvalidError, match=r"\[clients\.strict\]: Strict does not take these settings: size is at most 9"
    ):
        registry.client("strict")


def test_a_missing_variable_is_named_when_the_secret_is_used(
    acme: Callable[[str], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planning and listing need no secrets."""
    monkeypatch.delenv("ACME_TOKEN", raising=False)
    made = acme('[clients.acme]\ntoken = {env = "ACME_TOKEN"}').client("acme")

    with pytest.raises(ConfigError, match=r"\[clients\.acme\] token: the secret has no value .*ACME_TOKEN"):
        made.token.reveal()  # type: ignore[attr-defined] # the class of the plugin


def test_an_unknown_client_names_the_known_ones(acme: Callable[[str], Registry]) -> None:
    """As for executors."""
    with pytest.raises(PluginNotFoundError, match=r"provides client 'acne'\.\nDid you mean 'acme'\?"):
        acme("").client("acne")


def test_what_has_no_open_is_no_client(site: Site) -> None:
    """Told as a fault of the plugin."""
    site.lay("acme-client", {"acme_client.py": "thing = 3"}, "[treadle.clients]\nacme = acme_client:thing\n")

    assert why(lambda: site.discover().client("acme")) == "it is not a client: it has no open()"


# -- policies ------------------------------------------------------------------------------------------------------------

POLICY = """
import attrs
from treadle import hookimpl

@attrs.define
class Limits:
    per_host: int = 1

    @hookimpl(wrapper=True, tryfirst=True)
    def execute(self, call):
        return (yield)

    @hookimpl
    def record_event(self, record):
        pass

class Misspelt:
    @hookimpl
    def validate_outputs(self, output):
        pass

class Removed:
    @hookimpl
    def execute(self, call, loop):
        pass

class Newer:
    @hookimpl
    def execute(self, call, budget=None):
        pass

    @hookimpl(optionalhook=True)
    def a_hook_of_tomorrow(self, x):
        pass

class Renamed:
    @hookimpl(specname="retry_polic")
    def mine(self):
        pass

class Empty:
    @property
    def trap(self):
        raise RuntimeError("looked at")

ready = Limits(5)
"""


@pytest.fixture
def policies(site: Site) -> Callable[..., Registry]:
    """A registry with the policy plugin and the given active policies."""
    names = ["Limits", "Misspelt", "Removed", "Newer", "Renamed", "Empty", "ready"]
    lines = "\n".join(f"{name.lower().replace('limits', 'acme-limits')} = acme_policy:{name}" for name in names)
    site.lay("acme-policy", {"acme_policy.py": POLICY}, f"[treadle.policies]\n{lines}\n")

    def configured(*active: str, **settings: dict[str, object]) -> Registry:
        return Registry.discover(Config(plugins=PluginsConfig(policies=active), policies=settings, root=site.folder))

    return configured


def test_a_policy_is_active_only_when_configuration_names_it(policies: Callable[..., Registry]) -> None:
    """Installed is not enough: a policy sees every call."""
    assert policies().policies() == []
    assert "acme_policy" not in sys.modules
    registry = policies("newer", "acme-limits", **{"acme-limits": {"per_host": 4}})

    active = registry.policies()

    assert [type(policy).__name__ for policy in active] == ["Newer", "Limits"]
    assert active[1].per_host == 4  # type: ignore[attr-defined] # the class of the plugin
    assert registry.policies()[1] is active[1]


def test_an_instance_is_a_policy_without_settings(policies: Callable[..., Registry]) -> None:
    """It is taken as it is; settings for it are an error."""
    assert policies("ready").policies()[0].per_host == 5  # type: ignore[attr-defined] # the class of the plugin
    with pytest.raises(ConfigInvalidError, match=r"policies\.ready: 'ready' of acme-policy takes no settings"):
        policies("ready", ready={"per_host": 4}).policies()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("misspelt", "unknown hook 'validate_outputs'; did its author mean 'validate_output'?"),
        ("removed", "hook 'execute' asks for 'loop', which is not given (it gives call, ctx)"),
        ("renamed", "unknown hook 'retry_polic'; did its author mean 'retry_policy'?"),
        ("empty", "it implements no hook; its methods need the mark @hookimpl"),
    ],
)
def test_a_hook_that_cannot_be_called_is_a_fault_of_the_plugin(
    policies: Callable[..., Registry], name: str, expected: str
) -> None:
    """A misspelt hook would silently never run; an argument that is gone could not be given."""
    assert why(lambda: policies(name).policies()) == expected


def test_an_unknown_policy_names_the_known_ones(policies: Callable[..., Registry]) -> None:
    """As for executors."""
    with pytest.raises(PluginNotFoundError, match=r"provides policy 'limit'\.\nDid you mean 'limits'\?"):
        policies("limit").policies()


# -- families ------------------------------------------------------------------------------------------------------------


def test_a_family_comes_from_its_plugin(site: Site) -> None:
    """A function that names a family keeps that family's contract."""
    family = "from treadle import Executor\nclass Report(Executor):\n    family = 'report'\n"
    site.lay(
        "acme-family",
        {"acme_family.py": family},
        "[treadle.families]\nreport = acme_family:Report\nwrong = acme_family:Executor.__init__\n",
    )
    site.executor("acme-echo", "acme_echo", ECHO.replace('"acme.echo"', '"acme.echo", family="report"'))
    site.executor("acme-lost", "acme_lost", ECHO.replace('"acme.echo"', '"acme.echo", family="lost"'), name="acme.lost")
    registry = site.discover()

    assert registry.executor("acme.echo").family == "report"
    assert registry.family("general") is None
    with pytest.raises(PluginNotFoundError, match="provides family 'lost'"):
        registry.executor("acme.lost")
    assert why(lambda: registry.family("wrong")) == "it is not a class derived from treadle.Executor"


def test_what_cannot_be_bound_says_why(site: Site) -> None:
    """The entry point holds no executor."""
    site.executor("acme-echo", "acme_echo", "echo = 3")

    with pytest.raises(BindError, match=r"Executor 'acme\.echo': 3 is no function or class"):
        site.discover().executor("acme.echo")


# -- a folder of executors -----------------------------------------------------------------------------------------------

LOCAL = '''
import dataclasses
import treadle
from treadle import executor, client
print("imported")

@dataclasses.dataclass
class Point:
    x: int

@executor("mine.one")
def one(point: Point) -> int:
    """One."""
    return point.x

@treadle.executor(name="mine.two")
class Two(treadle.Executor):
    async def execute(self) -> int:
        return 2

@client("mine")
class Mine:
    def open(self): ...

def unmarked(): ...
'''


def test_a_folder_of_files_needs_no_installation(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Its names are read without importing; the file is imported by its path, once, when one of them is used."""
    folder = site.folder / "executors"
    folder.mkdir()
    (folder / "mine.py").write_text(LOCAL)
    (folder / "_left_out.py").write_text("raise RuntimeError")
    registry = site.discover(folder="executors")

    listed = [(entry.group, entry.name, entry.version) for entry in registry.entries() if entry.distribution == "local"]
    assert listed == [
        ("treadle.executors", "mine.one", ""),
        ("treadle.executors", "mine.two", ""),
        ("treadle.clients", "mine", ""),
    ]
    assert capsys.readouterr() == ("", "")
    assert [registry.executor(name).distribution for name in ("mine.one", "mine.two")] == ["local", "local"]
    assert callable(registry.client("mine").open)  # type: ignore[attr-defined] # the class of the file
    assert capsys.readouterr() == ("", "imported\n")


def test_files_of_a_folder_that_cannot_be_read_are_reported(site: Site) -> None:
    """A file with a syntax error, a name that is computed; the other files work."""
    folder = site.folder / "executors"
    folder.mkdir()
    (folder / "good.py").write_text(ECHO)
    (folder / "bad.py").write_text("x = 1\nf(\n")
    (folder / "computed.py").write_text("import treadle\nN = 'x.y'\n@treadle.executor(N)\ndef f(): ...\n")
    (folder / "binary.py").write_bytes(b"# \xff")

    registry = site.discover(folder="executors")

    assert registry.executor("acme.echo").distribution == "local"
    assert [f"{fault.distribution}: {fault.why}" for fault in registry.faults] == [
        "local: executors/bad.py:2 cannot be read ('(' was never closed)",
        "local: executors/binary.py is not UTF-8",
        "local: executors/computed.py:4 the name in @executor(...) must be a plain text",
    ]


def test_a_local_file_that_fails_is_named_with_its_line(site: Site) -> None:
    """And is tried again by the next registry, when the file was mended."""
    folder = site.folder / "executors"
    folder.mkdir()
    (folder / "echo.py").write_text(ECHO + "1 / 0\n")

    assert why(lambda: site.discover(folder="executors").executor("acme.echo")) == (
        "its import raises ZeroDivisionError: division by zero (executors/echo.py:8)"
    )
    (folder / "echo.py").write_text(ECHO + "mended = True\n")
    assert site.discover(folder="executors").executor("acme.echo").distribution == "local"


def test_a_missing_folder_is_reported(site: Site) -> None:
    """A typing error in the configuration is not silence."""
    [fault] = site.discover(folder="executers").faults

    assert fault.why == f"[plugins] folder {str(site.folder / 'executers')!r} does not exist"


def test_a_local_name_conflicts_like_any_other(site: Site) -> None:
    """``local`` stands for the distribution, also in prefer."""
    site.executor("acme-echo", "acme_echo")
    (site.folder / "executors").mkdir()
    (site.folder / "executors" / "echo.py").write_text(ECHO)

    with pytest.raises(PluginConflictError, match="claimed by acme-echo and local"):
        site.discover(folder="executors").executor("acme.echo")
    chosen = site.discover(folder="executors", prefer={"acme.echo": "local"})
    assert chosen.executor("acme.echo").distribution == "local"


# -- objects from Python -------------------------------------------------------------------------------------------------


@executor("here.echo")
async def here(text: str) -> str:
    """Say it again."""
    return text


@client("here")
@attrs.define
class Here:
    """A client of this file."""

    url: str = ""
    token: Secret | None = None

    def open(self) -> object:
        """Unused."""
        return None


class Quiet:
    """A policy of this file."""

    @hookimpl
    def execute(self) -> None:
        """No opinion."""


def test_a_registry_of_objects() -> None:
    """For programs and tests: exactly what is handed over, and nothing that is installed."""
    quiet, ready = Quiet(), Here("ready")
    config = Config(clients={"here": {"url": "configured"}, "second": {"use": "here", "url": "two"}})

    registry = Registry.of(here, clients=[Here], policies=[quiet], config=config)
    instance = Registry.of(clients=[ready])

    assert registry.executor("here.echo").name == "here.echo"
    assert registry.client("here") == Here("configured")
    assert registry.client("second") == Here("two")
    assert registry.policies() == [quiet]
    assert instance.client("here") is ready
    assert [(entry.name, entry.distribution, entry.status) for entry in registry.entries()] == [
        ("here.echo", "python", "ok"),
        ("here", "python", "ok"),
        ("policy 1", "python", "ok"),
    ]
    with pytest.raises(ExecutorNotFoundError):
        registry.executor("acme.echo")


def test_a_policy_from_python_is_checked_too() -> None:
    """A misspelt hook is refused wherever the policy comes from."""

    class Wrong:
        @hookimpl
        def exekute(self) -> None: ...

    assert why(lambda: Registry.of(policies=[Wrong()]).policies()) == "unknown hook 'exekute'; did its author mean 'execute'?"


def test_the_hooks_of_core_are_what_policies_are_held_against() -> None:
    """The list in this file would go stale silently."""
    hooks = {"execute", "wrap_work", "validate_output", "retry_policy", "end_attempt"}
    assert {name for name in vars(ExecutorHooks) if name[0] != "_"} == hooks


# -- threads -------------------------------------------------------------------------------------------------------------


def together(count: int, call: Callable[[int], _Kind]) -> list[_Kind]:
    """The answers of so many threads that all start in one moment."""
    barrier, answers = threading.Barrier(count), list[_Kind]()

    def one(number: int) -> None:
        barrier.wait()
        answers.append(call(number))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def test_sixteen_threads_get_one_object_of_one_import(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """A registry may be used from many threads: each thing is imported, bound and made once (S3-81)."""
    slow = "import time\nprint('imported')\ntime.sleep(0.05)\n"
    site.executor("acme-echo", "acme_echo", slow + ECHO)
    site.lay("acme-policy", {"acme_policy.py": POLICY}, "[treadle.policies]\nacme-limits = acme_policy:Limits\n")
    (site.folder / "executors").mkdir()
    (site.folder / "executors" / "mine.py").write_text(slow + LOCAL.replace('print("imported")', ""))

    for _ in range(5):
        registry = site.discover(folder="executors", policies=("acme-limits",))
        executors = together(16, lambda _, registry=registry: registry.executor("acme.echo"))  # type: ignore[misc] # a lambda's default
        mixed = together(16, lambda n, registry=registry: registry.executor(("mine.one", "mine.two")[n % 2]))  # type: ignore[misc] # as above
        policies = together(16, lambda _, registry=registry: registry.policies()[0])  # type: ignore[misc] # as above

        assert (len(executors), len(mixed), len(policies)) == (16, 16, 16)
        assert len({id(each) for each in executors}) == 1
        assert len({id(each) for each in mixed}) == 2
        assert len({id(each) for each in policies}) == 1

    assert capsys.readouterr() == ("", "imported\nimported\n")


def test_threads_share_an_error_too(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken plugin is imported once for all who ask, and stdout is whole afterwards."""
    site.executor("acme-bad", "acme_bad", "print('imported')\nraise ValueError('x')")
    registry, before = site.discover(), sys.stdout

    told = together(16, lambda _: why(lambda: registry.executor("acme.echo")))

    assert told == ["its import raises ValueError: x (acme_bad.py:2)"] * 16
    assert sys.stdout is before
    assert capsys.readouterr() == ("", "imported\n")


def test_a_family_is_a_class() -> None:
    """What plugins of families derive from is public."""
    assert Executor.family == "general"
