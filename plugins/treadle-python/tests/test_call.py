"""``python.call`` calls what the operator allows, and nothing else by any spelling."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from treadle.errors import ConfigError, PermanentError
from treadle_python import AllowedModules, NotAllowedError, Python, call

ALLOWED = AllowedModules(("json", "math", "random", "acme_calls"))


@pytest.fixture(autouse=True)
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the operator's own, with a few traps."""
    package = tmp_path / "acme_calls"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import os, functools\nfrom os import system\nfrom builtins import eval as evaluate\n"
        "run = functools.partial(os.system)\nasync def later(): ...\ndef many():\n    yield 1\n"
        "def add(a, b=1, *, c=0): return {'sum': a + b + c}\ndef _private(): ...\nnumber = 3\n"
        "@functools.lru_cache\ndef cached(): return 'cached'\n"
    )
    (package / "inner/__init__.py").write_text("")
    (package / "inner/deep.py").write_text("def hello(name): return 'hello ' + name")
    (package / "broken.py").write_text("import no_such_module_here")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme_calls"]:
        monkeypatch.delitem(sys.modules, name)


def test_an_allowed_function_is_called_with_its_arguments() -> None:
    """Positional and keyword arguments go through; a package includes its modules; functions in C are functions."""
    assert call(ALLOWED, "acme_calls:add", args=[1, 2], kwargs={"c": 3}) == {"sum": 6}
    assert call(ALLOWED, "acme_calls.inner.deep:hello", kwargs={"name": "you"}) == "hello you"
    assert call(ALLOWED, "acme_calls:cached") == "cached"
    assert call(ALLOWED, "math:sqrt", args=[9]) == 3.0
    assert call(ALLOWED, "json:dumps", args=[[1]]) == "[1]"
    assert 0 <= float(str(call(ALLOWED, "random:random"))) < 1


@pytest.mark.parametrize(
    "function",
    [
        "os:system",
        "builtins:eval",
        "builtins:__import__",
        "importlib:import_module",
        "subprocess:run",
        "posix:system",
        "sys:exit",
        "acme_calls:os.system",
        "acme_calls:system",
        "acme_calls:evaluate",
        "acme_calls:run",
        "acme_calls:_private",
        "acme_calls:__builtins__",
        "acme_calls:add.__globals__",
        "acme_calls",
        "acme_calls.add",
        "acme_calls:",
        ":add",
        "acme_calls_other:add",
        "acme:add",
        "acme_calls..inner:x",
        ".acme_calls:add",
        "acme_calls:add ",
        "acme_calls:add\n",
        "collections:OrderedDict",
        "json:loads:x",
        "",
    ],
)
def test_everything_else_is_refused(function: str) -> None:
    """Other modules, functions that an allowed module merely imported, walks through attributes and odd spellings."""
    with pytest.raises(NotAllowedError) as refused:
        call(ALLOWED, function, args=["exit 1"])

    assert refused.value.retryable is False


def test_a_refused_module_is_not_even_imported() -> None:
    """Importing runs code, so the list is asked first."""
    with pytest.raises(NotAllowedError, match="is not allowed"):
        call(AllowedModules(()), "acme_calls:add")

    assert "acme_calls" not in sys.modules


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("acme_calls:absent", "no function 'absent'"),
        ("acme_calls:number", "no function 'number'"),
        ("acme_calls.absent:x", "no module 'acme_calls.absent'"),
        ("acme_calls.broken:x", "no module 'no_such_module_here'"),
        ("acme_calls:later", "async or a generator"),
        ("acme_calls:many", "async or a generator"),
    ],
)
def test_what_cannot_be_called_is_named(function: str, said: str) -> None:
    """A misspelt name, a missing module and functions that give no value are permanent errors."""
    with pytest.raises(PermanentError, match=said):
        call(ALLOWED, function)


def test_errors_of_the_function_are_its_own() -> None:
    """What the function raises reaches the retry rules unchanged."""
    with pytest.raises(ZeroDivisionError):
        call(AllowedModules(("operator", "acme_calls", "math", "fractions")), "fractions:Fraction", args=[1, 0])


@pytest.mark.parametrize("name", ["os", "builtins", "importlib.util", "subprocess", "a b", "*", ""])
def test_some_modules_are_never_allowed(name: str) -> None:
    """Naming a module that reaches everything is an error of the configuration, not a hole."""
    with pytest.raises(ConfigError, match="never allowed"):
        Python(allow=(name,))


def test_the_client_gives_the_list() -> None:
    """Nothing is allowed by default."""
    with Python().open() as nothing, Python(allow=("math",)).open() as some:
        assert (nothing.allow, some.allow) == ((), ("math",))
