"""Makes ``docs/reference/hooks.md`` from the hook specifications: what plugins implement, and who answers when."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from treadle import hookspecs

HEAD = """\
# Hooks

Hooks build, the runner awaits: pluggy calls them synchronously, and `execute` answers a function without arguments that the
runner then awaits. So an ordinary pluggy wrapper can time, cache, retry, replace or refuse a call.

Authors of executors need none of this: core binds their function or class to the hooks. A policy or a sink is an object with
methods of these names, each marked with `treadle.hookimpl`; it may take fewer arguments than the hook has. A policy is active
only when `[plugins] policies` in the [configuration](configuration.md) names it. What hooks receive is listed in
[public names](api.md).
"""


def page() -> str:
    """The page."""
    return HEAD + "".join(_scope(scope) for scope in (hookspecs.ExecutorHooks, hookspecs.RunHooks))


def _scope(scope: type) -> str:
    hooks = "".join(_hook(name, hook) for name, hook in _hooks(scope))
    return f"\n## {scope.__name__}\n\n{inspect.getdoc(scope)}\n{hooks}"


def _hooks(scope: type) -> Iterator[tuple[str, object]]:
    for name, value in vars(scope).items():
        if hasattr(value, f"{hookspecs.PROJECT}_spec"):
            yield name, value


def _hook(name: str, hook: object) -> str:
    options = getattr(hook, f"{hookspecs.PROJECT}_spec")
    kind = "The first answer that is not None wins." if options.get("firstresult") else "Every implementation is called."
    signature = str(inspect.signature(hook)).replace("(self, ", "(").replace("'", "")  # type: ignore[arg-type]  # a function
    text = (inspect.getdoc(hook) or "").replace("``", "`")
    return f"\n### {name}\n\n```python\ndef {name}{signature}\n```\n\n{text}\n\n{kind}\n"


if __name__ == "__main__":
    print(page())
