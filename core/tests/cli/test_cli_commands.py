"""Every command but ``run``: what looks at files, plugins and treadle itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import jsonschema
import pytest
from click.testing import CliRunner
from treadle._cli import root
from treadle._cli._root import COMMANDS

Fits = Callable[[str, str], dict[str, object]]

FLOW = """
name: flow
steps:
  first: {uses: demo.echo, with: {text: one}, timeout: 90s}
  each: {uses: demo.odd, foreach: "${{ [1, 3] }}", as: number, with: {number: "${{ number }}"}, max_parallel: 2}
  last:
    uses: demo.upper
    when: steps.first.output == "one" & steps.first.output != "<two>"
    with: {text: "${{ steps.first.output }}"}
    needs: [each]
    retry: {max_attempts: 5, base: 1s}
finally:
  clean: {uses: demo.echo}
  tell: {uses: demo.echo, needs: [clean]}
"""


class Treadle(Protocol):
    """The fixture: the command in a folder."""

    folder: Path
    environ: Mapping[str, str]

    def __call__(self, *words: str, stdin: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]: ...

    def write(self, name: str, text: str) -> str: ...


@pytest.fixture
def flow(treadle: Treadle) -> str:
    """A workflow with a map, a condition and two last steps."""
    return treadle.write("flow.yaml", FLOW.replace(" & ", " and "))


# -- the group itself -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_lists_every_command(words: list[str]) -> None:
    """Both spellings show all commands with what they do, and the exit codes."""
    shown = CliRunner().invoke(root, words)

    assert shown.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in shown.output
    assert "75 store unavailable" in " ".join(shown.output.split())


def test_the_table_of_commands_says_what_the_commands_say() -> None:
    """The short help that is shown without importing a command is the command's own."""
    for name, (_, help_text) in COMMANDS.items():
        command = root.get_command(root.make_context("treadle", [], resilient_parsing=True), name)
        assert command is not None
        assert command.get_short_help_str(200) == help_text


def test_help_imports_neither_engine_nor_rich() -> None:
    """``treadle --help`` stays quick: it imports click and nothing heavy."""
    script = (
        "import sys\n"
        "from treadle._cli import root\n"
        "root.main(['--help'], standalone_mode=False)\n"
        "print(sorted({'anyio', 'rich', 'jinja2', 'ruamel', 'cattrs', 'treadle._app'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("word", "said"),
    [("plna", "Did you mean 'plan'?"), ("nothing", "No such command 'nothing'."), ("--vresion", "--vresion")],
)
def test_a_misspelt_command_is_exit_code_2_with_a_suggestion(treadle: Treadle, word: str, said: str) -> None:
    """What was probably meant is named."""
    done = treadle(word)

    assert done.returncode == 2
    assert said in done.stderr


def test_a_file_in_the_place_of_a_command_is_understood(treadle: Treadle, flow: str) -> None:
    """``treadle flow.yaml`` says how to run it."""
    assert "treadle run flow.yaml" in treadle(flow).stderr


def test_the_completion_script_completes_commands_without_importing_them(treadle: Treadle) -> None:
    """The script of each shell is printed; completing 'pl' answers plan and plugins."""
    for shell in ("bash", "zsh", "fish"):
        assert "_TREADLE_COMPLETE" in treadle("completion", shell).stdout
    asked = {"_TREADLE_COMPLETE": "bash_complete", "COMP_WORDS": "treadle pl", "COMP_CWORD": "1"}

    assert treadle(**asked).stdout.split() == ["plain,plan", "plain,plugins"]


# -- commands of plugins --------------------------------------------------------------------------------------------------


def install(folder: Path, name: str, entry_points: str, modules: Mapping[str, str]) -> None:
    """Put a distribution into a folder, as an installer would."""
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", "utf-8")
    (info / "entry_points.txt").write_text(entry_points, "utf-8")
    (info / "RECORD").write_text("".join(f"{module}.py,,\n" for module in modules), "utf-8")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text, "utf-8")


GREET = """
import click

@click.command()
@click.argument("who")
def greet(who):
    click.echo(f"hello {who}")

not_a_command = 5
"""


@pytest.fixture
def extended(treadle: Treadle) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command with plugins that add commands: one that works, one whose import fails, one that is no command."""
    site = treadle.folder / "site"
    lines = "[treadle.commands]\ngreet = acme_greet:greet\nodd = acme_greet:not_a_command\nrun = acme_greet:greet\n"
    install(site, "acme-greet", lines, {"acme_greet": GREET})
    install(
        site,
        "acme-broken",
        "[treadle.commands]\nbroken = acme_broken:command\n",
        {"acme_broken": "print('imported')\nraise RuntimeError('out of order')\n"},
    )

    def call(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return treadle(*words, PYTHONPATH=str(site), **environ)

    return call


def test_commands_of_plugins_are_listed_without_an_import(
    extended: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """--help names them with their distribution, also the broken one; core's names cannot be taken."""
    done = extended("--help")

    listed = done.stdout.partition("Commands of plugins:")[2].splitlines()
    assert done.returncode == 0
    assert [line.split() for line in listed if "acme" in line] == [
        ["broken", "from", "acme-broken"],
        ["greet", "from", "acme-greet"],
        ["odd", "from", "acme-greet"],
    ]
    assert "imported" not in done.stdout + done.stderr


def test_a_command_of_a_plugin_runs(extended: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """It is loaded when it is used, with its own arguments."""
    assert extended("greet", "you").stdout == "hello you\n"


@pytest.mark.parametrize(("name", "said"), [("broken", "out of order"), ("odd", "not a click command")])
def test_a_broken_command_of_a_plugin_is_said_and_nothing_more(
    extended: Callable[..., subprocess.CompletedProcess[str]], name: str, said: str
) -> None:
    """The error names command, distribution and reason; no traceback; the other commands still work."""
    done = extended(name)

    assert done.returncode == 2
    assert done.stderr.splitlines()[-2].startswith(f"Error: {name!r} of acme-") or done.stderr.startswith(f"Error: {name!r}")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert extended("version").returncode == 0


def test_a_blocked_plugin_adds_no_command(extended: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """--help does not list it; using it says that it is blocked."""
    block = {"TREADLE_PLUGINS__BLOCK": '["acme-greet"]'}
    done, used = extended("--help", **block), extended("greet", "you", **block)

    assert "greet" not in done.stdout
    assert used.returncode == 2
    assert "is blocked by the configuration" in used.stderr


# -- check, plan, graph, schema, version ------------------------------------------------------------------------------------


def test_check_says_ok_with_counts(treadle: Treadle, flow: str, fits: Fits) -> None:
    """Exit code 0; as an object with --json."""
    done, as_json = treadle("check", flow), treadle("check", flow, "--json")

    assert done.stdout == "✓ ok: flow (5 steps, 3 executors, 4 levels)\n"
    told = {"ok": True, "file": flow, "workflow": "flow", "steps": 5, "faults": [], "warnings": []}
    assert fits(as_json.stdout, "check") == told
    assert done.returncode == as_json.returncode == 0


def test_check_lists_every_fault(treadle: Treadle, fits: Fits) -> None:
    """Exit code 2, a line each with its place; as an object with --json."""
    file = treadle.write(
        "bad.yaml",
        "name: bad\nsteps:\n  a: {uses: demo.nope}\n  b: {uses: demo.odd, with: {number: text}}\n"
        "  c: {uses: demo.echo, needs: [d]}\n",
    )
    done, as_json = treadle("check", file), treadle("check", file, "--json")

    verdict = fits(as_json.stdout, "check")
    faults = verdict["faults"]
    assert isinstance(faults, list)
    assert done.returncode == as_json.returncode == 2
    assert (verdict["ok"], done.stdout) == (False, "")
    assert len(faults) >= 1
    for fault in faults:
        assert f"bad.yaml:{fault['line']}:{fault['column']}: {fault['path']}: {fault['message']}" in done.stderr


@pytest.mark.parametrize("command", ["check", "plan", "run"])
def test_faults_of_the_file_and_of_what_is_installed_come_together(treadle: Treadle, command: str) -> None:
    """One round: a misspelt key in one step does not hide an unknown executor in another, nor are consequences told."""
    file = treadle.write(
        "mixed.yaml",
        "name: mixed\nsteps:\n  a: {uses: demo.odd, wiht: {number: 1}}\n  b: {uses: demo.nope}\n"
        "  c: {uses: demo.echo, timeout: 5x}\n  d: {uses: demo.echo, needs: [e]}\n",
    )

    done = treadle(command, file)

    assert done.returncode == 2
    places = re.findall(r"mixed\.yaml:(\d+):\d+: (\S+):", done.stderr)
    assert places == [("3", "steps.a.wiht"), ("4", "steps.b.uses"), ("5", "steps.c.timeout"), ("6", "steps.d.needs")]


def test_plan_shows_order_and_executors(treadle: Treadle, flow: str, fits: Fits) -> None:
    """Levels, needs, who provides what, timeouts and retries; the same as an object."""
    done, as_json = treadle("plan", flow), treadle("plan", flow, "--json")

    made = fits(as_json.stdout, "plan")
    assert made["levels"] == [["first", "each"], ["last"], ["finally/clean"], ["finally/tell"]]
    assert made["order"] == ["first", "each", "last", "finally/clean", "finally/tell"]
    steps = made["steps"]
    assert isinstance(steps, dict)
    assert steps["last"]["needs"] == ["first", "each"] or steps["last"]["needs"] == ["each", "first"]
    assert (steps["first"]["timeout_s"], steps["each"]["foreach"], steps["each"]["max_parallel"]) == (90, True, 2)
    assert (steps["last"]["retry"]["max_attempts"], steps["last"]["retry"]["only_transient"]) == (5, False)
    row = next(line for line in done.stdout.splitlines() if " each " in line and "for each number" in line)
    assert row.split()[:3] == ["1", "each", "demo.odd"]
    assert "1m30s" in done.stdout
    assert "3 if transient" in done.stdout


def test_graph_draws_steps_arrows_and_finally(treadle: Treadle, flow: str) -> None:
    """Mermaid text: boxes with executor, condition and loop, every need an arrow, ``finally`` apart, nothing unescaped."""
    done = treadle("graph", flow)

    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == "flowchart TD"
    assert 's0["<b>first</b><br/>demo.echo"]' in lines
    assert 's1[["<b>each</b><br/>demo.odd<br/>for each number"]]' in lines
    last = next(line for line in lines if line.startswith("s2"))
    assert last.startswith('s2{{"<b>last</b><br/>demo.upper<br/>when steps.first.output == #34;one#34; and')
    assert last.count('"') == 2
    assert {"s0 --> s2", "s1 --> s2", "s3 --> s4", "s2 -.-> finally", "subgraph finally", "end"} <= set(lines)
    assert lines.index("subgraph finally") < lines.index("s3 --> s4") < lines.index("end")


EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"

GRAPH = """
name: release
inputs: {ok: {type: boolean, default: true}}
steps:
  fetch: {uses: demo.echo}
  lint: {uses: demo.echo, needs: [fetch]}
  test: {uses: demo.echo, needs: [fetch], foreach: [1, 2], as: version}
  docs: {uses: demo.echo, needs: [fetch]}
  approve: {wait: {signal: go}, needs: [lint, test]}
  publish: {uses: demo.echo, needs: [approve, docs], when: inputs.ok}
  "alone": {uses: demo.echo}
finally:
  tidy: {uses: demo.echo}
  report: {uses: demo.echo, needs: [tidy]}
"""

DRAWN = """\
release
● fetch  demo.echo
├─● lint  demo.echo
├─┼─◉ test  demo.echo  for each version
│ ╰─┴─◷ approve  waits for go
│     │
●     │ docs  demo.echo
╰─────┴─◆ publish  demo.echo  when inputs.ok
●       │ alone  demo.echo
╰───────┴─▣ finally
             ● tidy  demo.echo
             │
             ● report  demo.echo
"""


def test_graph_draws_in_the_terminal(treadle: Treadle) -> None:
    """A line per step after all that it needs, a lane for each step that is waited for; in ASCII where nothing else shows."""
    file = treadle.write("w.yaml", GRAPH)
    drawn = treadle("graph", file, "--format", "terminal")
    plain = treadle("graph", file, "--format", "terminal", PYTHONIOENCODING="ascii")

    assert drawn.stdout == DRAWN
    assert plain.stdout == DRAWN.translate(dict(zip(map(ord, "●◉◷◆▣│├╰─┼┴"), "o@~?#|+`-++", strict=True)))


def test_graph_draws_for_graphviz(treadle: Treadle) -> None:
    """A node per step, a cluster for ``finally``, whose edge ends at its border."""
    drawn = treadle("graph", treadle.write("w.yaml", GRAPH), "--format", "dot").stdout

    lines = [line.strip() for line in drawn.splitlines()]
    assert lines[0] == 'digraph "release" {'
    assert '"publish" [label="publish\\ndemo.echo\\nwhen inputs.ok", shape=hexagon];' in lines
    assert '"approve" -> "publish";' in lines
    assert '"publish" -> "finally/tidy" [lhead="cluster finally", style=dashed];' in lines
    assert lines.index('subgraph "cluster finally" {') < lines.index(
        '"finally/tidy" [label="tidy\\ndemo.echo", shape=box, style="rounded"];'
    )
    assert drawn.count("{") == drawn.count("}") == 2


NESTED = """
name: nested
inputs: {ok: {type: boolean, default: true}, docs: {type: array, default: [a, b]}}
steps:
  fetch: {uses: demo.echo, fallback: {uses: demo.upper, with: {text: x}}, compensate: {uses: demo.fail}}
  check:
    needs: [fetch]
    parallel: {steps: {lint: {uses: demo.echo}, test: {uses: demo.echo, needs: [lint]}}}
  pages:
    needs: [fetch]
    foreach: "${{ inputs.docs }}"
    as: doc
    parallel: {steps: {load: {uses: demo.echo}}}
  pick:
    needs: [check]
    choose: {fast: {when: inputs.ok, uses: demo.echo}, slow: {else: true, uses: demo.echo}}
  ask: {wait: {signal: go, schema: approval, timeout: 1h}, needs: [pick, pages]}
  nap: {wait: 5m, needs: [ask]}
  sub: {workflow: ./child.yaml, needs: [pick]}
"""

NESTED_DRAWN = """\
nested
● fetch  demo.echo  else demo.upper  undone by demo.fail
├─▣ check  group
│ │  ● lint  demo.echo
│ │  │
│ │  ● test  demo.echo
│ │
│ ▣ pick  choose
│ │  ◆ fast  demo.echo  when inputs.ok
│ │  ● slow  demo.echo  else
│ ├─▣ sub  workflow child
│ │    ● one  demo.echo
│ │    │
│ │    ▣ finally
│ │       ● two  demo.echo
│ │
▣ │ pages  group  for each doc
│ │  ● load  demo.echo
╰─┴─◷ ask  asks for approval: go
    │
    ◷ nap  waits 5m00s
"""


def test_graph_draws_every_structure(treadle: Treadle) -> None:
    """Groups, branches, subflows, fallbacks, compensations and waits, in three languages; a subflow can be folded."""
    treadle.write("child.yaml", "name: child\nsteps: {one: {uses: demo.echo}}\nfinally: {two: {uses: demo.echo}}\n")
    file = treadle.write("w.yaml", NESTED)
    drawn, folded = treadle("graph", file, "--format", "terminal"), treadle("graph", file, "--format", "terminal", "--fold")
    mermaid = [line.strip() for line in treadle("graph", file).stdout.splitlines()]
    dot = [line.strip() for line in treadle("graph", file, "--format", "dot").stdout.splitlines()]

    assert drawn.stdout == NESTED_DRAWN
    assert "● one" not in folded.stdout
    assert "│ ├─● sub  workflow child\n" in folded.stdout.replace("▣ sub", "● sub")
    for line in (
        'subgraph g0["<b>check</b><br/>group"]',
        "s1 --> s2",
        "g0 --> g2",
        's4{{"<b>fast</b><br/>demo.echo<br/>when inputs.ok"}}',
    ):
        assert line in mermaid
    assert mermaid.index('subgraph g0["<b>check</b><br/>group"]') < mermaid.index("s1 --> s2") < mermaid.index("g0 --> g2")
    assert sum(line.startswith("subgraph") for line in mermaid) == mermaid.count("end") == 5
    assert '"check/lint" -> "pick/fast" [ltail="cluster check", lhead="cluster pick"];' in dot
    assert 'subgraph "cluster sub/finally" {' in dot


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*/*.yaml")), ids=lambda file: file.parent.name)
def test_graph_draws_the_gallery(treadle: Treadle, file: Path) -> None:
    """Every example of the docs, with each of its steps, in each language."""
    treadle.folder = file.parent  # where its configuration is
    steps = re.findall(
        r"^  ([\w-]+):", file.read_text("utf-8").partition("\nsteps:")[2].partition("\noutputs:")[0], re.MULTILINE
    )
    for format_ in ("mermaid", "dot", "terminal"):
        drawn = treadle("graph", file.name, "--format", format_)
        assert drawn.returncode == 0, drawn.stderr
        assert steps
        assert all(step in drawn.stdout for step in steps)


def test_graph_needs_no_plugin(treadle: Treadle) -> None:
    """A file can be drawn where its executors are not installed."""
    done = treadle("graph", treadle.write("w.yaml", "name: w\nsteps: {a: {uses: not.here}}"))

    assert done.returncode == 0
    assert "not.here" in done.stdout


def test_schema_is_a_schema_that_accepts_workflows(treadle: Treadle) -> None:
    """On stdout or in a file: the same, valid, and it takes a real workflow and refuses a misspelt key."""
    printed = treadle("schema").stdout
    written = treadle("schema", "--out", "w.schema.json")

    schema = json.loads(printed)
    assert json.loads((treadle.folder / "w.schema.json").read_text("utf-8")) == schema
    assert "Wrote w.schema.json" in written.stderr
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"name": "w", "steps": {"a": {"uses": "demo.echo"}}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "w", "steps": {"a": {"use": "demo.echo"}}}, schema)


def test_a_schema_that_cannot_be_written_is_an_error(treadle: Treadle) -> None:
    """A folder that is not there: exit code 2, a line, no traceback."""
    done = treadle("schema", "--out", "missing/w.json")

    assert done.returncode == 2
    assert "missing/w.json: No such file or directory" in done.stderr


def test_version_shows_what_is_installed(treadle: Treadle, fits: Fits) -> None:
    """treadle, Python, platform, plugins; also with a broken configuration."""
    shown = fits(treadle("version", "--json").stdout, "version")
    treadle.write("treadle.toml", "nonsense = [")
    broken = treadle("version")

    assert shown["python"] == ".".join(map(str, sys.version_info[:3]))
    assert broken.returncode == 0
    assert broken.stdout.startswith(f"treadle {shown['treadle']}\nCPython")
    assert "treadle.toml" in broken.stderr
    assert treadle("--version").stdout == f"treadle {shown['treadle']}\n"


# -- plugins ----------------------------------------------------------------------------------------------------------------


def test_plugins_list_shows_names_and_imports_nothing(treadle: Treadle, fits: Fits) -> None:
    """A table, or an object; a module that ends the process on import harms neither."""
    (treadle.folder / "executors" / "bad.py").write_text(
        "from treadle import executor\nraise SystemExit('imported')\n@executor('bad.one')\ndef one() -> None:\n    pass\n",
        "utf-8",
    )
    done, as_json = treadle("plugins", "list"), treadle("plugins", "list", "--json")
    clients = treadle("plugins", "list", "--group", "stores")

    listed = fits(as_json.stdout, "plugins-list")["plugins"]
    assert isinstance(listed, list)
    names = {entry["name"] for entry in listed}
    assert {"demo.echo", "bad.one"} <= names
    assert done.stdout.split()[:5] == ["kind", "name", "from", "version", "status"]
    assert "demo.echo" in done.stdout
    assert "imported" not in done.stderr + as_json.stderr
    assert "demo.echo" not in clients.stdout


def test_plugins_info_explains_an_executor(treadle: Treadle, fits: Fits) -> None:
    """What it does, takes and gives; an unknown name is exit code 2 with a suggestion."""
    done, as_json = treadle("plugins", "info", "demo.sleep"), treadle("plugins", "info", "demo.sleep", "--json")
    unknown = treadle("plugins", "info", "demo.slep")

    shown = fits(as_json.stdout, "plugins-info")["provides"]
    assert isinstance(shown, list)
    assert "Sleep; say so with a file." in done.stdout
    assert "input seconds: number (required)" in done.stdout
    assert 'input started: string = ""' in done.stdout
    assert "output: string" in done.stdout
    assert (shown[0]["async"], shown[0]["group"]) == (True, "treadle.executors")
    assert unknown.returncode == 2
    assert "Did you mean 'demo.sleep'?" in unknown.stderr


def test_plugins_info_explains_the_settings_of_a_client(treadle: Treadle, fits: Fits) -> None:
    """A client's docstring and what can be configured."""
    site = treadle.folder / "site"
    text = (
        "from treadle import client\n"
        "@client('acme')\n"
        "class Acme:\n"
        "    '''Talks to acme.'''\n"
        "    def __init__(self, url: str, timeout_s: float = 1.0) -> None:\n"
        "        self.url = url\n"
        "    def open(self):\n"
        "        raise NotImplementedError\n"
    )
    install(site, "acme-client", "[treadle.clients]\nacme = acme_client:Acme\n", {"acme_client": text})
    done = treadle("plugins", "info", "acme", PYTHONPATH=str(site))
    as_json = treadle("plugins", "info", "acme", "--json", PYTHONPATH=str(site))

    assert "Talks to acme." in done.stdout
    assert "setting url: str (required)" in done.stdout
    assert "setting timeout_s: float" in done.stdout
    fits(as_json.stdout, "plugins-info")


def test_plugins_info_of_a_broken_plugin_is_an_error_object(treadle: Treadle, fits: Fits) -> None:
    """--json: the reason as an object, exit code 2."""
    (treadle.folder / "executors" / "bad.py").write_text(
        "from treadle import executor\nraise OSError('no disk')\n@executor('bad.one')\ndef one() -> None:\n    pass\n", "utf-8"
    )
    done = treadle("plugins", "info", "bad.one", "--json")

    error = fits(done.stdout, "error")["error"]
    assert isinstance(error, dict)
    assert error["type"] == "PluginBrokenError"
    assert "no disk" in error["message"]
    assert done.returncode == 2


def test_plugins_doctor_is_exit_code_1_when_something_is_broken(treadle: Treadle, fits: Fits) -> None:
    """Healthy: 0; a plugin whose import fails: 1, with its line; the same as an object."""
    only = {"TREADLE_PLUGINS": "none"}
    healthy = treadle("plugins", "doctor", **only)
    (treadle.folder / "executors" / "bad.py").write_text(
        "from treadle import executor\nraise OSError('no disk')\n@executor('bad.one')\ndef one() -> None:\n    pass\n", "utf-8"
    )
    broken, as_json = treadle("plugins", "doctor", **only), treadle("plugins", "doctor", "--json", **only)

    assert healthy.returncode == 0, healthy.stdout
    assert (broken.returncode, as_json.returncode) == (1, 1)
    assert any("broken" in line and "bad.one" in line and "no disk" in line for line in broken.stdout.splitlines())
    assert fits(as_json.stdout, "plugins-doctor")["healthy"] is False


def test_plugins_info_explains_a_source_of_executors(treadle: Treadle, fits: Fits) -> None:
    """A name such as ``acme.*`` lists the executors behind it, and each of those can be explained too."""
    text = (
        "from treadle import executor\n"
        "from typing import Literal\n"
        "@executor('acme.one')\n"
        "def one(kind: Literal['a', 'b'], parts: list[int] | None = None, rest=None) -> None:\n"
        "    '''The one.'''\n"
        "class Source:\n"
        "    def __init__(self, config):\n"
        "        pass\n"
        "    def names(self):\n"
        "        return ['acme.one']\n"
        "    def get(self, name):\n"
        "        return one\n"
    )
    site = treadle.folder / "site"
    install(site, "acme-source", "[treadle.executors]\nacme.* = acme_source:Source\n", {"acme_source": text})
    environ = {"PYTHONPATH": str(site)}
    source, one = treadle("plugins", "info", "acme.*", **environ), treadle("plugins", "info", "acme.one", **environ)
    as_json = [treadle("plugins", "info", name, "--json", **environ).stdout for name in ("acme.*", "acme.one")]

    assert "names: acme.one" in source.stdout, source.stderr
    assert 'input kind: "a" or "b" (required)' in one.stdout, one.stderr
    assert "input parts: array of integer or null" in one.stdout
    assert "input rest: anything" in one.stdout
    for text in as_json:
        fits(text, "plugins-info")


def test_plugins_list_without_any_plugin_says_what_to_install(treadle: Treadle) -> None:
    """An empty list is not just silence."""
    treadle.write("treadle.toml", "")
    done = treadle("plugins", "list", TREADLE_PLUGINS="none")

    assert (done.returncode, done.stdout) == (0, "")
    assert "pip install 'treadle[standard]'" in done.stderr
