"""Workflow files: YAML, JSON and TOML, with the place of every fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from treadle._loader import load_workflow, loads_workflow
from treadle._workflow._documents import read_document
from treadle.errors import Fault, NotSupportedError, WorkflowInvalidError

YAML = """\
name: digest
inputs: {sites: {type: array, default: [example.org, example.com]}}
steps:
  page:
    foreach: ${{ inputs.sites }}
    as: site
    uses: http.request
    with: {url: "https://${{ site }}/", since: 2024-01-01, "n": no}
  my-report:
    needs: page
    when: steps.page.output | length > 1
    uses: file.write
    with:
      text: |
        # Title ${{ run.id }}
        {% not a block %}
outputs: {total: "${{ steps.page.output }}"}
"""
JSON = """{
  "name": "digest",
  "inputs": {"sites": {"type": "array", "default": ["example.org", "example.com"]}},
  "steps": {
    "page": {
      "foreach": "${{ inputs.sites }}", "as": "site", "uses": "http.request",
      "with": {"url": "https://${{ site }}/", "since": "2024-01-01", "n": "no"}
    },
    "my-report": {"needs": ["page"], "when": "steps.page.output | length > 1", "uses": "file.write",
      "with": {"text": "# Title ${{ run.id }}\\n{% not a block %}\\n"}}
  },
  "outputs": {"total": "${{ steps.page.output }}"}
}
"""
TOML = """\
name = "digest"
inputs.sites = {type = "array", default = ["example.org", "example.com"]}
outputs = {total = "${{ steps.page.output }}"}

[steps.page]
foreach = "${{ inputs.sites }}"
as = "site"
uses = "http.request"
with = {url = "https://${{ site }}/", since = "2024-01-01", n = "no"}

[steps.my-report]
needs = ["page"]
when = "steps.page.output | length > 1"
uses = "file.write"
[steps.my-report.with]
text = '''
# Title ${{ run.id }}
{% not a block %}
'''
"""


def faults_of(text: str, format: str = "yaml") -> tuple[Fault, ...]:
    with pytest.raises(WorkflowInvalidError) as caught:
        loads_workflow(text, format, file="w")
    return caught.value.faults


def lines_of(text: str, format: str = "yaml") -> list[str]:
    return [str(fault) for fault in faults_of(text, format)]


def test_three_spellings_are_one_workflow() -> None:
    """YAML, JSON and TOML of the same workflow are equal and have one hash."""
    workflows = [loads_workflow(YAML, "yaml"), loads_workflow(JSON, "json"), loads_workflow(TOML, "toml")]

    assert workflows[0] == workflows[1] == workflows[2]
    assert len({workflow.hash for workflow in workflows}) == 1
    assert workflows[0].steps["page"].with_ == {"url": "https://${{ site }}/", "since": "2024-01-01", "n": "no"}


@pytest.mark.parametrize(
    ("suffix", "text"), [(".yaml", YAML), (".yml", YAML), (".json", JSON), (".toml", TOML), (".YAML", YAML)]
)
def test_files_are_read_by_their_ending(tmp_path: Path, suffix: str, text: str) -> None:
    """A path as text or Path; a byte order mark does no harm."""
    file = tmp_path / f"digest{suffix}"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())

    assert load_workflow(file) == load_workflow(str(file))
    assert load_workflow(file).file == str(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.txt", b"", "the ending '.txt' is not known"),
        ("missing.yaml", None, "cannot be read: No such file"),
        ("w.yaml", b"name: \xff", "the file is not UTF-8"),
        ("w.yaml", b"#" * ((4 << 20) + 1), "larger than 4 MiB"),
        ("w.yaml", b"", "a workflow is a mapping, not nothing"),
        ("w.yaml", b"- a", "a workflow is a mapping, not a list"),
        ("w.json", b"", "not JSON"),
    ],
)
def test_files_that_are_no_workflows_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    """Whatever is wrong with a file, its name is in the error."""
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(WorkflowInvalidError, match=message) as caught:
        load_workflow(file)

    assert name in str(caught.value)


def test_a_device_without_an_end_is_not_read_for_ever(tmp_path: Path) -> None:
    """At most the limit is read, also from what only looks like a file."""
    link = tmp_path / "zero.yaml"
    link.symlink_to("/dev/zero")

    with pytest.raises(WorkflowInvalidError, match="larger than 4 MiB"):
        load_workflow(link)


@pytest.mark.parametrize(
    ("format", "text", "path", "place"),
    [
        ("yaml", YAML, "steps.page.with.url", (8, 12)),
        ("yaml", YAML, "inputs.sites.default[1]", (2, 54)),
        ("yaml", YAML, "steps.my-report.with.text", (14, 7)),
        ("yaml", YAML, "steps.nope", (0, 0)),
        ("yaml", "a.b: {c: [{d: 1}]}", "a.b.c[0].d", (1, 12)),
        ("yaml", "a: {b: 1}\na.b: 2", "a.b", (1, 5)),
        ("yaml", "a: [", "a", (1, 1)),
        ("json", JSON, "steps.page.with.url", (7, 16)),
        ("json", JSON, "inputs.sites.default[1]", (3, 68)),
        ("json", JSON, "steps.my-report.with", (10, 7)),
        ("json", JSON, "nope", (0, 0)),
        ("json", '{"a": [[1, {"b": 2}], 3], "c": 4}', "a[0][1].b", (1, 13)),
        ("json", '{"a": [[1, {"b": 2}], 3], "c": 4}', "a[1]", (1, 23)),
        ("json", '{"a": [[1, {"b": 2}], 3], "c": 4}', "c", (1, 27)),
        ("toml", TOML, "steps.page.uses", (8, 1)),
        ("toml", TOML, "steps.my-report", (11, 2)),
        ("toml", TOML, "steps.my-report.with.text", (16, 1)),
        ("toml", TOML, "inputs.sites", (2, 1)),
        ("toml", '["a.b"]\n"c d" = 1\n\'e\'.f = 2', "a.b.c d", (2, 1)),
        ("toml", '["a.b"]\n"c d" = 1\n\'e\'.f = 2', "a.b.e.f", (3, 1)),
    ],
)
def test_every_path_has_its_place(format: str, text: str, path: str, place: tuple[int, int]) -> None:
    """Line and column of any path, for faults that the plan finds later."""
    assert read_document(text, format).positions.find(path) == place


def test_a_workflow_knows_the_places_of_its_parts() -> None:
    """``position`` answers for a file, and ``(0, 0)`` for what is not there."""
    workflow = loads_workflow(YAML, "yaml")

    assert workflow.position("steps.my-report.uses") == (12, 5)
    assert workflow.position("steps.my-report.retry") == (0, 0)


def test_all_faults_of_a_file_come_at_once_with_their_places() -> None:
    """Faults of the text and of the structure together, in the order of the file, each with a remedy."""
    text = """\
name: 5
on: push
steps:
  a:
    use: shell.run
    timeout: soon
    with: {x: "${{ 1 + }}", y: {{ z }}}
  b: {uses: x, needs: [aa], cache: {tll: 1h}}
  b: {uses: y}
  c: &x {uses: x, with: {<<: *x, n: 012, f: .inf, t: !!str 5}}
"""

    assert lines_of(text) == [
        "w:1:1: name: expected a text, not 5 (put it in quotes)",
        "w:2:1: on: 'on' is not a key of a workflow (keys: name, version, description, labels, syntax, inputs, secrets,"
        " defaults, engine, store, max_parallel, on_error, max_failures, budget, steps, finally, timeout, max_retries, outputs,"
        " workflows, concurrency, priority)",
        "w:4:3: steps.a: a step needs a 'uses' (name the executor: uses: shell.run)",
        "w:5:5: steps.a.use: 'use' is not a key of a step (did you mean 'uses'?)",
        "w:6:5: steps.a.timeout: 'soon' is no duration (write it like '90s', '5m', '1h30m', '2d', '250ms' or 'PT5M')",
        "w:7:12: steps.a.with.x: Expression ' 1 + ': it ends too early, at character 4",
        'w:7:33: steps.a.with.y: {{ }} without quotes reads as a mapping (write "${{ ... }}", in quotes)',
        "w:8:16: steps.b.needs: there is no step 'aa' (did you mean 'a'?)",
        "w:8:37: steps.b.cache.tll: 'tll' is not a key of a cache (keys: ttl, key, allow_effects)",
        "w:9:3: steps.b: the key 'b' is there twice (keep one of the two)",
        "w:10:6: steps.c: anchors (&name) have no meaning here (write the value out; a text with this sign is put in quotes)",
        "w:10:26: steps.c.with: merge keys have no meaning here (write the keys out)",
        "w:10:30: steps.c.with.?: aliases (*name) have no meaning here (write the value out;"
        " a text with this sign is put in quotes)",
        "w:10:37: steps.c.with.n: 012 is not clear (put it in quotes for a text, or leave out the zeros)",
        "w:10:45: steps.c.with.f: .inf is no JSON number (put it in quotes for a text)",
        "w:10:54: steps.c.with.t: tags have no meaning here (leave it out; a text is put in quotes)",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01T12:00:00Z", "2024-01-01T12:00:00Z"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("1.2.3", "1.2.3"),
        ("+", "+"),
        ("0", 0),
        ("-12", -12),
        ("+7", 7),
        ("0o17", 15),
        ("0x1F", 31),
        ("0.5", 0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("-1.5E-2", -0.015),
        ("true", True),
        ("False", False),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'012'", "012"),
        ('"true"', "true"),
        ("${{ a }}", "${{ a }}"),
        ("|\n  a\n  b\n", "a\nb\n"),
        (">-\n  a\n  b\n", "a b"),
        ('"\\u00e9\\n"', "é\n"),
        ("[a, {b: c}, 'd': e]", ["a", {"b": "c"}, {"d": "e"}]),
    ],
)
def test_yaml_scalars_follow_version_1_2(text: str, value: object) -> None:
    """``no``, dates and sexagesimals stay text; numbers and booleans are those of the core schema."""
    document = read_document(f"k: {text}", "yaml")

    assert not document.faults
    assert document.data == {"k": value}
    assert isinstance(document.data, dict)
    assert type(document.data["k"]) is type(value)


def test_keys_are_always_text() -> None:
    """Plain data has text keys, so ``200:`` and ``true:`` are texts as they are written."""
    assert read_document("{200: a, true: b, no: c, 1.5: d}", "yaml").data == {"200": "a", "true": "b", "no": "c", "1.5": "d"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 012", "w:1:4: a: 012 is not clear"),
        ("a: -007", "w:1:4: a: -007 is not clear"),
        ("a: .nan", "w:1:4: a: .nan is no JSON number"),
        ("a: -.INF", "w:1:4: a: -.INF is no JSON number"),
        ("a: 1e999", "w:1:4: a: 1e999 is too large"),
        ("a: " + "9" * 5000, "w:1:4: a: a number of 5,000 digits"),
        ("a: !x 1", "w:1:4: a: tags have no meaning"),
        ("a: !!map {}", "w:1:4: a: tags have no meaning"),
        ("!!str a: 1", "w:1:1: tags have no meaning"),
        ("&k a: 1", "w:1:1: anchors (&name) have no meaning"),
        ("a: &k [1]\nb: *k", "w:2:4: b: aliases (*name) have no meaning"),
        ("a: &k x\n*k : 1", "w:2:1: a: aliases (*name) have no meaning"),
        ("? [a]\n: 1", "w:1:3: a key is a text, not a mapping or a list"),
        ("a: {{ b }}", "w:1:5: a: {{ }} without quotes reads as a mapping"),
        ("a: {b: ${{ c }}}", "w:1:9: not YAML: "),
        ("a: [", "w:2:1: not YAML: "),
        ("a: 'b", "w:1:6: not YAML: "),
        ("a:\n\t- b", "w:2:1: not YAML: "),
        ("a: 1\n---\nb: 2", "w:2:1: a second document in one file"),
        ("a: \0", "w:1:4: a character that YAML does not allow"),
        ('a: "\u2028"', "w:1:5: U+2028, which old YAML takes for a line break"),
        ("a: \ud800", "w:1:4: half a character"),
        ("a: 1\na: 2", "w:2:1: a: the key 'a' is there twice"),
    ],
)
def test_yaml_that_is_not_plain_data_is_refused_with_its_place(text: str, fault: str) -> None:
    """Tags, anchors, merge keys, doubled keys and what is no JSON value: each is named where it stands."""
    document = read_document(text, "yaml", file="w")

    assert any(str(found).startswith(fault) for found in document.faults), [str(found) for found in document.faults]


def test_braces_without_quotes_get_a_hint() -> None:
    """The likeliest slip in flow style is answered with what to write."""
    assert faults_of("name: w\nsteps: {a: {uses: x, with: {b: ${{ c }}}}}")[0].remedy == "put values with ${{ }} in quotes"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a": 1,}', "w:1:9: not JSON: "),
        ('{"a": 1', "w:1:8: not JSON: "),
        ('{"a": NaN}', "w: not JSON: NaN is no JSON value"),
        ('{"a": -Infinity}', "w: not JSON: -Infinity is no JSON value"),
        ('{"a": 1e999}', "w: not JSON: 1e999 is too large"),
        ('{"a": ' + "9" * 5000 + "}", "w: not JSON: "),
        ('{"a": 1,\n "b": {"c": [], "c": 2}}', "w:2:17: c: the key 'c' is there twice"),
        ("[" * 100_000, "w: nested too deeply"),
    ],
)
def test_json_is_read_strictly(text: str, fault: str) -> None:
    """Doubled keys and what is no JSON value are refused, with their place where there is one."""
    document = read_document(text, "json", file="w")

    assert any(str(found).startswith(fault) for found in document.faults), [str(found) for found in document.faults]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = ", "w:1:5: not TOML: "),
        ("a = 1\na = 2", "w:2:6: not TOML: Cannot overwrite a value"),
        ('a = "b', "w:1:7: not TOML: "),
        ("[a", "w:1:3: not TOML: "),
        ("a = " + "[" * 100_000, "w: nested too deeply"),
        ("a = " + "9" * 5000, "w: not TOML: "),
        ("[x]\n" + "a." * 60 + "b = 1", "w:2:1: a key of more than 50 parts"),
        ("x = 1" + "\n#" * (1 << 20), "w: the file is larger than 2 MiB"),
    ],
)
def test_toml_is_read_strictly(text: str, fault: str) -> None:
    """Faults of the text have their place; keys of absurd length do not cost time."""
    document = read_document(text, "toml", file="w")

    assert any(str(found).startswith(fault) for found in document.faults), [str(found) for found in document.faults]


def test_long_dotted_texts_in_toml_are_no_keys() -> None:
    """Only keys are held to their limit, not texts and comments."""
    dots = "a." * 100
    text = f'# {dots}\na = "{dots}"\nb = \'{dots}\'\nc = \'\'\'\n{dots}\'\'\'\nd = """{dots}\\""""\n'

    assert not read_document(text, "toml").faults


def test_toml_dates_are_refused_as_values() -> None:
    """A date is no plain data; in quotes it is a text."""
    text = 'name = "w"\n[steps.a]\nuses = "x"\nwith = {since = 2024-01-01}\n'

    assert lines_of(text, "toml") == ["w:4:1: steps.a.with.since: a value of type date is no plain data (put it in quotes)"]


def test_an_unknown_format_is_a_slip_of_the_caller() -> None:
    """Formats are named by the program, so this is no fault of a file."""
    with pytest.raises(ValueError, match="yaml, json, toml"):
        loads_workflow("", "ini")


def test_yaml_is_read_the_same_without_the_c_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML was built without libyaml, its own parser gives the same workflow and the same faults' places."""
    from treadle._workflow import _yaml

    fast = loads_workflow(YAML, "yaml")
    monkeypatch.setattr(_yaml, "_PARSER", yaml.SafeLoader)

    assert loads_workflow(YAML, "yaml") == fast
    assert [(fault.line, fault.column) for fault in faults_of("a: &b 1\nb: *b\nb: 2")][:3] == [(1, 4), (2, 4), (3, 1)]
    assert read_document("a: \0", "yaml").faults[0].column == 4
    assert read_document("a: [" * 60, "yaml").faults[0].message == "nested deeper than 50 levels"


@pytest.mark.parametrize(
    "value",
    [
        "y",
        "no",
        "1e3",
        "0o17",
        "012",
        " a",
        "a ",
        "a: b",
        "a #b",
        "- a",
        "5m",
        "",
        "a\nb\n",
        "a\n b",
        "\ta",
        "é",
        "\u2028",
        "😀",
    ],
)
def test_written_yaml_quotes_what_could_be_misread(value: str) -> None:
    """Any YAML reader, of 1.1 or 1.2, reads the text that was meant."""
    workflow = loads_workflow(
        json.dumps({"name": "w", "steps": {"a": {"uses": "x", "with": {"k": value, value or "e": 1}}}}), "json"
    )
    text = workflow.to_yaml()

    assert loads_workflow(text, "yaml") == workflow
    assert yaml.safe_load(text)["steps"]["a"]["with"]["k"] == value


def test_writing_toml_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """tomli-w is optional."""
    monkeypatch.setitem(sys.modules, "tomli_w", None)

    with pytest.raises(NotSupportedError, match=r"treadle\[toml\]"):
        loads_workflow(YAML, "yaml").to_toml()


def test_start_up_pays_for_no_parser() -> None:
    """Building a workflow in Python imports neither YAML nor Jinja, as long as its expressions are look-ups."""
    code = (
        "import sys; from treadle._workflow import Workflow; wf = Workflow('w'); d = wf.step('d', 'x'); "
        "wf.step('e', 'x', a=d.output.b); print([m for m in ('yaml', 'jinja2', 'tomli_w') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)

    assert answer.stdout.strip() == "[]"


LOAD = """
import time
from treadle._loader import loads_workflow

lines = ["name: big", "inputs: {x: {default: 1}}", "steps:"]
for number in range(10_000):
    lines += [f"  s{number}:", "    uses: test.noop", *([f"    needs: [s{number - 1}]"] if number else [])]
    lines += ["    with:", f"      i: {number}", '      text: "${{ inputs.x }} hi"']
text = "\\n".join(lines)
times = []
for _ in range(3):
    started = time.process_time()
    workflow = loads_workflow(text, "yaml")
    times.append(time.process_time() - started)
print(len(workflow.steps), min(times))
"""


def test_ten_thousand_steps_load_in_time() -> None:
    """A file of 10,000 steps with needs and expressions loads in under 1.2 s, in a process that nobody measures."""
    answer = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True, timeout=60)
    steps, seconds = answer.stdout.split()

    assert steps == "10000"
    assert float(seconds) < 1.2
