"""The examples of docs/examples: each does what its page says, and together they use every key of the workflow file."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

import pytest
from treadle import load_workflow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
FILES = sorted([*EXAMPLES.glob("*/*.yaml"), *EXAMPLES.glob("*/workflows/*.yaml"), *EXAMPLES.glob("*/workflow.json")])

Data = Mapping[str, object]


class Example:
    """A copy of one example's folder beside the others, and the command in it."""

    def __init__(self, place: Path, name: str) -> None:
        if name == "nightly":
            shutil.copytree(ROOT / "docs" / "how-to", place / "docs" / "how-to")
        shutil.copytree(EXAMPLES, place / "docs" / "examples", ignore=shutil.ignore_patterns("report", "__pycache__"))
        self.folder = place / "docs" / "examples" / name
        dropped = ("TREADLE_", "OTEL_", "TRACEPARENT")
        self.environ = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        self.environ |= {"XDG_STATE_HOME": str(place / "state"), "PYTHONIOENCODING": "utf-8"}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "treadle._cli", *words]

    def __call__(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        where, variables = self.folder, self.environ | environ
        return subprocess.run(
            self.command(*words), cwd=where, env=variables, capture_output=True, text=True, timeout=120, check=False
        )

    def run(self, *words: str, file: str = "workflow.yaml", code: int = 0, **environ: str) -> dict[str, object]:
        """The result of a run, which must exit with ``code``."""
        done = self("run", file, "--json", *words, **environ)
        assert done.returncode == code, done.stderr
        return cast("dict[str, object]", json.loads(done.stdout))

    @contextmanager
    def started(self, until: str, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A run that is going on and has come so far that it wrote ``until``."""
        pipe = subprocess.PIPE
        command = self.command("run", "workflow.yaml", "--json", *words)
        with subprocess.Popen(command, cwd=self.folder, env=self.environ, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stderr is not None
            told = []
            for line in process.stderr:
                told.append(line)
                if until in line:
                    break
            else:
                raise AssertionError("".join(told))
            yield process


@pytest.fixture
def example(tmp_path: Path, request: pytest.FixtureRequest) -> Example:
    return Example(tmp_path, str(request.param))


def of(name: str) -> pytest.MarkDecorator:
    """The test gets a copy of this example."""
    return pytest.mark.parametrize("example", [name], indirect=True, ids=[name])


def statuses(result: Data) -> dict[str, str]:
    steps = cast("Mapping[str, Mapping[str, str]]", result["steps"])
    return {path: step["status"] for path, step in steps.items()}


@of("check-links")
def test_links_that_lead_nowhere_are_found(example: Example) -> None:
    """A broken link among sound ones is the only one that is reported, and code is not taken for links."""
    pages = example.folder.parents[1]
    (pages / "one.md").write_text("[two](sub/two.md#there) [gone](gone.md) `[no](link.md)` [web](https://example.org)\n")
    (pages / "sub").mkdir()
    (pages / "sub" / "two.md").write_text("[up](../one.md)\n```text\n[not](a-link.md)\n```\n")

    result = example.run("-i", "pattern=**/*.md")

    outputs = cast("dict[str, object]", result["outputs"])
    assert outputs["broken"] == [{"page": "one.md", "target": "gone.md"}]
    assert json.loads((pages / "broken-links.json").read_text("utf-8")) == outputs["broken"]


@of("trip")
@pytest.mark.parametrize(
    ("down", "status", "walks", "rides_by", "booked"),
    [
        ("", "completed", "skipped", "car", ["car", "flight", "room"]),
        ("car", "completed", "skipped", "tram", ["flight", "room", "tram"]),
        ("tram", "partial_failure", "completed", "foot", ["flight", "room"]),
        ("pay", "failed", "skipped", None, []),
        ("flight", "failed", "cancelled", None, []),
    ],
)
def test_a_trip_is_booked_or_given_back(
    example: Example, down: str, status: str, walks: str, rides_by: str | None, booked: list[str]
) -> None:
    """A fallback stands in, a failure that is borne is told, and one that is not undoes what was booked."""
    result = example.run("-i", f"fail={down}", code=0 if status == "completed" else 1)

    assert result["status"] == status
    ledger = example.folder / "report" / "trip.json"
    bookings = json.loads(ledger.read_text("utf-8")) if ledger.exists() else {}
    assert sorted(booking["what"] for booking in bookings.values()) == booked
    assert cast("dict[str, object]", result["outputs"]).get("rides_by") == rides_by
    assert statuses(result)["walk"] == walks


class _Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list[tuple[str, str]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization", "")))
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        return


@of("fetch-or-fall-back")
def test_rates_come_from_the_service_the_cache_or_yesterday(example: Example) -> None:
    """Without the service yesterday's file is taken, with it its answer, and then what was kept; the token stays hidden."""
    without = example.run()
    served = example.folder / "yesterday" / "rates"
    served.mkdir()
    for file in served.parent.glob("*.json"):
        served.joinpath(file.name).write_text(file.read_text("utf-8").replace("2026-11-27", "2026-11-28"))
    _Quiet.asked.clear()
    handler = functools.partial(_Quiet, directory=str(served.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            fresh = example.run(TREADLE_CLIENTS__RATES__BASE_URL=url)
            again = example.run(TREADLE_CLIENTS__RATES__BASE_URL=url)
        finally:
            server.shutdown()
            thread.join()

    days = [
        {rate["day"] for rate in cast("dict[str, list[dict[str, str]]]", result["outputs"])["rates"]}
        for result in (without, fresh, again)
    ]
    assert days == [{"2026-11-27"}, {"2026-11-28"}, {"2026-11-28"}]
    token = (example.folder / "token.txt").read_text("utf-8").strip()
    assert sorted(_Quiet.asked) == [(f"/rates/{currency}.json", f"Bearer {token}") for currency in ("GBP", "JPY", "USD")]
    assert token not in json.dumps([without, fresh, again])


@of("publish")
def test_a_text_is_told_on_every_channel(example: Example) -> None:
    """The branch follows from the length, each channel has a subflow of the newest fitting version."""
    long = example.run()
    short = example.run("-i", "text=Short and sweet.", "-i", 'channels=["feed"]')

    outputs = [cast("dict[str, object]", result["outputs"]) for result in (long, short)]
    assert [(told["told"], told["count"]) for told in outputs] == [("long", 2), ("short", 1)]
    assert (example.folder / "report" / "feed.md").read_text("utf-8") == "Short and sweet.\n\n#short #sweet\n"
    assert (example.folder / "report" / "blog.md").read_text("utf-8").startswith("# A treadle is the pedal")
    assert statuses(long)["telling/short"] == "skipped"
    assert statuses(long)["post[1]/send"] == "completed"


@of("release")
@pytest.mark.parametrize("answer", ["approve", "reject"])
def test_a_release_waits_for_an_answer(example: Example, answer: str) -> None:
    """A yes publishes, a no does not; either way the run ends well and tidies up."""
    with example.started("ok: waits for the signal") as process:
        asked = example("show", "last").stdout
        sent = example(answer, "last", "--comment", "on a Friday?")
        out, err = process.communicate(timeout=60)

    assert "treadle approve" in asked
    assert sent.returncode == 0, sent.stderr
    assert process.returncode == 0, err
    result = json.loads(out)
    published = result["outputs"]["published"]
    assert statuses(result)["publish"] == ("completed" if answer == "approve" else "skipped")
    assert (published is not None) == (answer == "approve")
    assert published is None or (example.folder / published).exists()
    assert not (example.folder / "report" / "pycache").exists()


@of("import-readings")
def test_an_import_that_is_killed_loads_every_row_once(example: Example) -> None:
    """Killed in the middle and resumed: no batch is loaded twice, and the bad one is borne (G1, G2)."""
    tool = example.folder / "tools" / "load.py"
    code = tool.read_text("utf-8")
    assert "time.sleep(pause)" in code
    held = 'while pause and not Path("go").exists():\n        time.sleep(0.02)'
    tool.write_text(code.replace("time.sleep(pause)", held), "utf-8")
    with example.started("rows: completed", "-i", "pause=1") as process:
        process.send_signal(signal.SIGSTOP)  # the command below sees a run that is driven
        listed = json.loads(example("runs", "--json").stdout)["runs"]
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)

    (example.folder / "go").touch()
    done = example("resume", "last", "--json")
    result = json.loads(done.stdout)
    with closing(sqlite3.connect(example.folder / "report" / "readings.db")) as connection:
        (rows,) = connection.execute("SELECT count(*) FROM readings").fetchone()
        (batches,) = connection.execute("SELECT count(*) FROM batches").fetchone()

    assert [row["status"] for row in listed] == ["running"]
    assert result["status"] == "partial_failure"
    assert (rows, batches) == (238, 5)
    assert result["outputs"] == {"loaded": 238, "refused": 1, "coldest": 6.6, "warmest": 21.4}


@of("old-format")
def test_older_formats_load(example: Example) -> None:
    """A group of tasks runs as it is, and expressions in double braces are read where the file says so (S0-35)."""
    group = example.run(file="workflow.json")
    greeted = example.run("-i", "name=Ada", file="braces.yaml")

    assert statuses(group) == {
        "gather": "completed",
        "gather/shell_run": "completed",
        "gather/shell_run-2": "completed",
    }
    assert greeted["outputs"] == {"text": "hello Ada"}


@of("nightly")
def test_a_nightly_run_counts_what_it_uses_and_runs_once_a_day(example: Example) -> None:
    """The same key answers the same run; what executors spend is added up, and a budget that is too small is kept to."""
    first = example.run("--key", "2026-11-28", "-i", "day=today")
    again = example.run("--key", "2026-11-28", "-i", "day=today")
    file = example.folder / "workflow.yaml"
    file.write_text(file.read_text("utf-8").replace("0.25 USD", "0.001 USD"), "utf-8")
    stopped = example.run("-i", "day=today", code=1)

    assert first["run_id"] == again["run_id"]
    usage = cast("dict[str, dict[str, int]]", {"of": first["usage"], "stopped": stopped["usage"]})
    pages = cast("dict[str, int]", first["outputs"])["pages"]
    assert usage["of"]["requests"] == pages > 5
    assert 0 < usage["stopped"]["cost_microcents"] <= 100_000 < usage["of"]["cost_microcents"]
    assert (statuses(stopped)["summary"], stopped["status"]) == ("failed", "partial_failure")


# -- all together


def test_there_are_enough_examples_and_each_is_explained() -> None:
    """At least eight, each with a page that says how to run it."""
    folders = sorted(folder for folder in EXAMPLES.iterdir() if folder.is_dir())

    assert len(folders) >= 8
    assert [folder.name for folder in folders if "treadle run" not in (folder / "README.md").read_text("utf-8")] == []
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert [folder.name for folder in folders if f"examples/{folder.name}" not in index] == []


def used(workflow: Data) -> Iterator[tuple[str, str]]:
    """Every key that a workflow uses, with the part of the file that it is a key of."""
    yield from (("workflow", key) for key in workflow)
    yield from (("defaults", key) for key in cast("Data", workflow.get("defaults", {})))
    for spec in cast("Mapping[str, Data]", workflow.get("inputs", {})).values():
        yield from (("input", key) for key in spec)
    for phase in ("steps", "finally"):
        for step in cast("Mapping[str, Data]", workflow.get(phase, {})).values():
            yield from used_by_step(step, "step")
    for inner in cast("Mapping[str, Data]", workflow.get("workflows", {})).values():
        yield from used(inner)


def used_by_step(step: Data, part: str) -> Iterator[tuple[str, str]]:
    yield from ((part, key) for key in step)
    group = cast("Data", step.get("parallel", {}))
    yield from (("parallel", key) for key in group)
    for inner in cast("Mapping[str, Data]", group.get("steps", {})).values():
        yield from used_by_step(inner, "step")
    for branch in cast("Mapping[str, Data]", step.get("choose", {})).values():
        yield from used_by_step(branch, "branch")


def test_the_examples_use_every_key_of_the_workflow_file() -> None:
    """What the schema of the file has, some example shows."""
    schema = json.loads((ROOT / "docs" / "reference" / "workflow.schema.json").read_text("utf-8"))
    tables = {"workflow": schema, **{name: schema["$defs"][name] for name in ("step", "parallel", "defaults", "input")}}
    known = {(part, key) for part, table in tables.items() for key in table["properties"]}

    shown = {pair for file in FILES for pair in used(load_workflow(file).to_dict())}
    # Read from the text, since the loader writes them in other words or leaves them to the configuration.
    shown |= {("workflow", key) for key in ("syntax",) if any(f"\n{key}: " in file.read_text("utf-8") for file in FILES)}

    assert sorted(known - shown) == []
