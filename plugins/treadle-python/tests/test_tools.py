"""A folder of functions becomes executors: by name, read when used, and each broken in its own way at most."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
from treadle.errors import PluginError
from treadle_python import ToolError, ToolFolder, ToolNotFoundError, load_tool


@attrs.frozen
class Settings:
    """The part of a configuration that a tool folder reads."""

    root: Path
    tools: Mapping[str, object] = attrs.field(factory=dict)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    return tmp_path / "tools"


def tools(folder: Path) -> ToolFolder:
    return ToolFolder(Settings(folder.parent))


def test_each_file_is_a_tool_and_listing_imports_nothing(folder: Path) -> None:
    """Names come from the files alone; what begins with an underscore or is no name is not a tool."""
    for name in ("count.py", "b.py", "_shared.py", "no-name.py", "notes.txt", "__init__.py"):
        (folder / name).write_text("raise RuntimeError('imported')")
    (folder / "dir.py").mkdir()

    assert tools(folder).names() == ["tool.b", "tool.count"]
    assert ToolFolder(Settings(folder.parent / "nowhere")).names() == []


def test_the_function_named_as_its_file_wins_over_run(folder: Path) -> None:
    """S2-21, S2-37, S3-16: the tool is the function of the file's name, else ``run``; it takes keyword arguments."""
    (folder / "a.py").write_text("def a(): return 'by name'\ndef run(): return 'run'")
    (folder / "b.py").write_text("b = 3\ndef run(x: int = 1) -> int: return x")

    source = tools(folder)

    assert (source.get("tool.a")(), source.get("a")(), source.get("tool.b")(x=5)) == ("by name", "by name", 5)


def test_a_missing_tool_is_named(folder: Path) -> None:
    """S2-20: the first line is the sources' word; the second says where it was looked for and what there is."""
    (folder / "count.py").write_text("def run(): ...")

    for name in ("tool.absent", "tool._shared", "tool.../count", "tool.a.b"):
        with pytest.raises(ToolNotFoundError) as missing:
            tools(folder).get(name)
        stem = name.removeprefix("tool.")
        assert str(missing.value).splitlines()[0] == f"Tool not found: {stem}"
        assert "Known: tool.count" in missing.value.remedy
    assert missing.value.retryable is False
    assert isinstance(missing.value, LookupError)


def test_a_tool_without_a_function_is_named(folder: Path) -> None:
    """S2-21: a file that defines neither function says what to define."""
    (folder / "empty.py").write_text("empty = 1\nrun = 'no function'\ndef other(): ...")

    with pytest.raises(ToolError) as broken:
        tools(folder).get("tool.empty")

    assert str(broken.value).splitlines()[0] == "Tool empty has no callable function"
    assert "def empty(...)" in broken.value.remedy


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\nraise ValueError('no key')", "ValueError: no key (line 2)"),
        ("import sys\nsys.exit(3)", "SystemExit: 3 (line 2)"),
        ("def f(:", "SyntaxError"),
        ("import no_such_module", "No module named 'no_such_module' (line 1)"),
        ("class E(Exception):\n    def __str__(self): raise KeyError\nraise E", "cannot be shown) (line 3)"),
    ],
)
def test_a_tool_that_cannot_be_loaded_says_why_and_spares_the_others(folder: Path, source: str, said: str) -> None:
    """Whatever importing a file does becomes one error with its line; the next attempt reads the file again."""
    (folder / "bad.py").write_text(source)
    (folder / "good.py").write_text("def good(): return 1")
    source_of_tools = tools(folder)

    with pytest.raises(ToolError) as broken:
        source_of_tools.get("tool.bad")
    assert str(broken.value).startswith("Tool bad cannot be loaded: ")
    assert said in str(broken.value)
    assert isinstance(broken.value, PluginError)
    assert source_of_tools.get("tool.good")() == 1

    (folder / "bad.py").write_text("def run(): return 'mended'")
    assert source_of_tools.get("tool.bad")() == "mended"


def test_a_changed_file_is_read_again(folder: Path) -> None:
    """An edited tool is in force at its next use, even when size and second are the same; an unchanged one is kept."""
    (folder / "t.py").write_text("def t(): return 1")
    source = tools(folder)
    first = source.get("tool.t")
    kept = source.get("tool.t")
    (folder / "t.py").write_text("def t(): return 2")

    assert (first(), kept is first, source.get("tool.t")()) == (1, True, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["t.py"]


@pytest.mark.parametrize("name", ["_shared.py", "t.py"])
def test_a_change_in_the_same_moment_is_seen(folder: Path, name: str) -> None:
    """Many systems count time in steps of milliseconds, some in seconds: two files of one step have one time."""
    texts = {"_shared.py": "value = 1", "t.py": "from ._shared import value\ndef t(): return value + 0"}
    for each, text in texts.items():
        (folder / each).write_text(text)
    source = tools(folder)
    first, kept = source.get("tool.t"), source.get("tool.t")
    written_ns = (folder / name).stat().st_mtime_ns
    (folder / name).write_text(texts[name].replace("1", "2").replace("+ 0", "+ 1"))
    os.utime(folder / name, ns=(written_ns, written_ns))

    assert (first(), kept is first, source.get("tool.t")()) == (1, True, 2)


def test_a_file_that_has_settled_is_not_read_again(folder: Path) -> None:
    """Its time is enough then, and it is still the same tool."""
    file = folder / "t.py"
    file.write_text("def t(): return 1")
    source = tools(folder)
    first = source.get("tool.t")
    assert source._versions[str(file)].digest is not None
    os.utime(file, (1.0, 1.0))
    again = source.get("tool.t")
    assert source._versions[str(file)].digest is None
    file.write_text("def t(): return 2")
    os.utime(file, (1.0, 1.0))

    assert again is source.get("tool.t")
    assert (first(), again()) == (1, 1)


def test_tools_may_share_code_and_types(folder: Path) -> None:
    """A tool imports its neighbours relatively, and its own classes resolve in annotations."""
    (folder / "_shared.py").write_text("def double(x): return 2 * x")
    (folder / "user.py").write_text(
        "from __future__ import annotations\nimport dataclasses, typing\nfrom ._shared import double\n"
        "@dataclasses.dataclass\nclass Out:\n    x: int\ndef user(x: int) -> Out: return Out(double(x))\n"
    )

    function = tools(folder).get("tool.user")

    assert function(x=2).x == 4  # type: ignore[attr-defined] # the class is in the file above
    assert function.__module__ in sys.modules


def test_a_changed_neighbour_is_read_again_too(folder: Path) -> None:
    """S2-43: a tool that imports a file of the folder sees its changes, however deep, within the same second."""
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").write_text("from .deep import value")
    (folder / "parts" / "deep.py").write_text("value = 1")
    (folder / "user.py").write_text("from .parts import value\ndef user(): return value")
    source = tools(folder)
    first = source.get("tool.user")
    (folder / "parts" / "deep.py").write_text("value = 2")

    assert (first(), source.get("tool.user")()) == (1, 2)
    assert not list(folder.rglob("__pycache__"))


def test_a_neighbour_of_a_tool_that_could_not_be_loaded_is_read_again(folder: Path) -> None:
    """What a failed import has loaded is not kept."""
    (folder / "_shared.py").write_text("value = 1")
    (folder / "user.py").write_text("from ._shared import value, other\ndef user(): return value")
    source = tools(folder)
    with pytest.raises(ToolError, match="cannot import name 'other'"):
        source.get("tool.user")

    (folder / "_shared.py").write_text("value, other = 2, 3")

    assert source.get("tool.user")() == 2


def test_a_dropped_file_is_found_and_a_removed_one_is_gone(folder: Path) -> None:
    """S2-43: while the process lives, at the next use."""
    source = tools(folder)
    with pytest.raises(ToolNotFoundError):
        source.get("tool.late")
    (folder / "late.py").write_text("def late(): return 1")

    assert source.names() == ["tool.late"]
    assert source.get("tool.late")() == 1

    (folder / "late.py").unlink()
    with pytest.raises(ToolNotFoundError, match="Tool not found: late"):
        source.get("tool.late")


def test_a_second_look_at_a_folder_sees_it_as_it_is(folder: Path) -> None:
    """Another object for the same folder does not use what the first one has loaded."""
    (folder / "_shared.py").write_text("value = 1")
    (folder / "user.py").write_text("from ._shared import value\ndef user(): return value")
    old = tools(folder).get("tool.user")
    (folder / "_shared.py").write_text("value = 2")

    assert (old(), tools(folder).get("tool.user")()) == (1, 2)


def test_another_process_gets_the_same_tool(folder: Path) -> None:
    """S2-64: a tool says how it is made: from the source as it was when it was asked for."""
    (folder / "t.py").write_text("def t(): return 'é old'", "utf-8")
    tool = tools(folder).get("tool.t")
    (folder / "t.py").write_text("def t(): return 'new'")

    maker, arguments = tool.__treadle_origin__  # type: ignore[attr-defined] # what isolation reads

    assert maker == "treadle_python:load_tool"
    assert load_tool(**arguments)() == "é old"


def test_two_folders_do_not_meet(tmp_path: Path) -> None:
    """Tools of the same name in two projects are two functions."""
    for number in (1, 2):
        (tmp_path / str(number) / "tools").mkdir(parents=True)
        (tmp_path / str(number) / "tools/t.py").write_text(f"def t(): return {number}")
    one, two = (tools(tmp_path / str(number) / "tools").get("tool.t") for number in (1, 2))

    assert (one(), two()) == (1, 2)


def test_the_folder_is_configured(tmp_path: Path) -> None:
    """``[tools] folder`` is relative to the configuration; anything else in the table is an error."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/t.py").write_text("def t(): ...")

    assert ToolFolder(Settings(tmp_path, {"folder": "mine"})).names() == ["tool.t"]
    assert ToolFolder(Settings(tmp_path / "elsewhere", {"folder": str(tmp_path / "mine")})).names() == ["tool.t"]
    for wrong in ({"foldr": "x"}, {"folder": 3}, {"isolation": "thread"}):
        with pytest.raises(ToolError, match=r"\[tools\]"):
            ToolFolder(Settings(tmp_path, wrong))


def test_a_tool_is_imported_once_however_many_ask(folder: Path) -> None:
    """Threads that ask together get one function."""
    (folder / "slow.py").write_text("import time; time.sleep(0.05)\ndef slow(): ...")
    source = tools(folder)
    got: list[object] = []
    threads = [threading.Thread(target=lambda: got.append(source.get("tool.slow"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(map(id, got))) == 1
    assert len(got) == 8
