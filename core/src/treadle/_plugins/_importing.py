"""Entering a plugin's code for the first time: whatever its import does becomes one kind of error."""

from __future__ import annotations

import difflib
import dis
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TextIO

from treadle._plugins._entry_points import Claim, foreign_owner
from treadle.errors import PluginBrokenError, TreadleError

SLOW_S = 1.0
"""An import that takes longer is announced while it still runs."""

OnImport = Callable[[str, str], None]


def load(claim: Claim, *, on_import: OnImport) -> object:
    """The object that a claim points to, imported if need be.

    Args:
        claim: What to load.
        on_import: Called with name and distribution, from another thread, when the import takes over a second.

    Raises:
        PluginBrokenError: The module belongs to somebody else, cannot be imported, or does not hold the object.
    """
    if owner := foreign_owner(claim):
        raise PluginBrokenError(claim.name, claim.distribution, f"its entry point points into {owner} ({claim.value})")
    with entered(claim, on_import=on_import):
        module = _import_file(claim, claim.file) if claim.file else importlib.import_module(claim.module)
    return _attribute(claim, module)


@contextmanager
def entered(claim: Claim, *, on_import: OnImport, doing: str = "its import") -> Iterator[None]:
    """Run a plugin's own code in the block: prints go to stderr, and nothing that it raises gets past but errors of treadle.

    Args:
        claim: Whose code it is.
        on_import: As for ``load``.
        doing: What raises, for the message.

    Raises:
        PluginBrokenError: Says what was raised, and the last line of the plugin that led to it.
    """
    timer = threading.Timer(SLOW_S, on_import, (claim.name, claim.distribution))
    timer.daemon = True
    timer.start()
    try:
        with _stdout_as_stderr():
            yield
    except TreadleError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not _raised_by_plugin(error, claim):
            raise  # a person pressed Ctrl-C while the plugin was being imported
        raise PluginBrokenError(claim.name, claim.distribution, describe(error, claim, doing=doing)) from error
    finally:
        timer.cancel()


def describe(error: BaseException, claim: Claim, *, doing: str) -> str:
    """What was raised and where, in one line: ``its import raises ValueError: no key (acme/__init__.py:3)``."""
    place = _place(error, claim)
    where = f" ({place})" if place else ""
    if isinstance(error, SystemExit):
        return f"{doing} ends the process with SystemExit: {_text(error) or 0}{where}"
    text = _text(error)
    return f"{doing} raises {type(error).__name__}{': ' if text else ''}{text}{where}"


def _text(error: BaseException) -> str:
    """The first line of an exception; exceptions of strangers may fail even at this."""
    try:
        # A SyntaxError's own text repeats the place.
        text = error.msg if isinstance(error, SyntaxError) and error.msg else str(error)
    except Exception:  # __str__ is foreign code
        return "(its message cannot be shown)"
    return text.strip().partition("\n")[0]


def _place(error: BaseException, claim: Claim) -> str:
    """``file:line`` of the plugin's last line in the traceback; empty when it has none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename, claim)}:{error.lineno or 0}"
    own = [trace for trace in _traces(error.__traceback__) if _is_own(trace, claim)]
    return f"{_shown(own[-1].tb_frame.f_code.co_filename, claim)}:{own[-1].tb_lineno}" if own else ""


def _traces(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _is_own(trace: TracebackType, claim: Claim) -> bool:
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    if claim.file is not None:
        return trace.tb_frame.f_code.co_filename == str(claim.file)
    return module.partition(".")[0] == claim.module.partition(".")[0]


def _shown(filename: str, claim: Claim) -> str:
    """A file as people know it: from the folder on ``sys.path`` (or that of the local folder) that holds it."""
    path = Path(filename)
    bases = [Path(base) for base in sys.path if base] + ([claim.file.parent.parent] if claim.file else [])
    holding = [base for base in bases if path.is_relative_to(base)]
    return path.relative_to(max(holding, key=lambda base: len(base.parts))).as_posix() if holding else path.name


def _raised_by_plugin(error: KeyboardInterrupt, claim: Claim) -> bool:
    """Whether a ``raise`` statement of the plugin is where the exception began; a signal arrives anywhere else."""
    traces = list(_traces(error.__traceback__))
    if not traces or not _is_own(traces[-1], claim):
        return False
    instruction = traces[-1].tb_frame.f_code.co_code[traces[-1].tb_lasti]
    return dis.opname[instruction] == "RAISE_VARARGS"


def _attribute(claim: Claim, module: ModuleType) -> object:
    found: object = module
    for name in claim.attribute.split(".") if claim.attribute else ():
        try:
            found = getattr(found, name)
        except AttributeError as error:
            near = difflib.get_close_matches(name, dir(found), n=1)
            hint = f"; did its author mean {near[0]!r}?" if near else ""
            why = f"module {claim.module!r} has no {claim.attribute!r}{hint}"
            raise PluginBrokenError(claim.name, claim.distribution, why) from error
    return found


_file_lock = threading.RLock()


def _import_file(claim: Claim, file: Path) -> ModuleType:
    """Import a file of the local folder under the claim's module name, once however many executors it holds."""
    with _file_lock:
        loaded = sys.modules.get(claim.module)
        return loaded if loaded is not None and loaded.__file__ == str(file) else _execute_file(claim.module, file)


def _execute_file(name: str, file: Path) -> ModuleType:
    spec = util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# -- prints ------------------------------------------------------------------------------------------------------------


class _Router:
    """Stands for ``sys.stdout`` while plugins are imported: what the importing threads write goes to stderr.

    A plain exchange of ``sys.stdout`` would catch the output of every other thread, and two imports at a time could leave it
    exchanged for good. A module may keep this object; after its import it writes to the real stdout.
    """

    def __init__(self, real: TextIO) -> None:
        self.real = real
        self.importing: set[int] = set()

    def __getattr__(self, name: str) -> object:
        return getattr((sys.stderr if threading.get_ident() in self.importing else None) or self.real, name)


_router_lock = threading.Lock()


@contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    if sys.stdout is None:  # a process without a terminal
        yield
        return
    me = threading.get_ident()
    with _router_lock:
        router = sys.stdout if isinstance(sys.stdout, _Router) else _Router(sys.stdout)
        nested = me in router.importing
        router.importing.add(me)
        sys.stdout = router
    try:
        yield
    finally:
        with _router_lock:
            if not nested:
                router.importing.discard(me)
            if not router.importing and sys.stdout is router:
                sys.stdout = router.real
