"""``treadle run``: start a workflow, show it, say how it ended."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TextIO, TypeVar

import attrs
import click

from treadle._app import RunHandle, check_engine
from treadle._app import resume as resume_run
from treadle._app import run as run_workflow
from treadle._cli._ending import CANCELLED, leave_at_once
from treadle._cli._failures import FAILED, error_object
from treadle._cli._inputs import gather
from treadle._cli._kept import command_store
from treadle._cli._loading import FILE, discover, json_option
from treadle._cli._logging import LogFormat, logging_to
from treadle._cli._output import clean, is_terminal, say, stdout_kept, write, write_json
from treadle._cli._progress import Display, JsonDisplay, PlainDisplay, Progress
from treadle._cli._reading import loaded
from treadle._cli._signals import Interrupts
from treadle._cli._summary import summarize
from treadle._cli._tracing_setup import make_outbox, set_up_tracing, shut_down
from treadle._config import Config
from treadle._models import InterruptAnswer
from treadle._outbox import Outbox
from treadle._plan import Plan, make_plan
from treadle._plugins import Registry
from treadle._results import RunResult
from treadle._secrets import resolve
from treadle._sending import awaited
from treadle.errors import CallCancelledError, ConfigError, TreadleError
from treadle.ports import Store, TracingProvider

EXIT_CODES = {"completed": 0, "cancelled": CANCELLED}
_T = TypeVar("_T")


@attrs.frozen
class Options:
    """What was asked for on the command line."""

    file: str
    pairs: tuple[str, ...]
    input_files: tuple[str, ...]
    as_json: bool
    max_parallel: int | None
    strict: bool
    log_format: LogFormat
    quiet: bool
    no_progress: bool
    key: str = ""
    accept_changes: bool = False
    rerun: tuple[str, ...] = ()
    fail: tuple[str, ...] = ()

    @property
    def answers(self) -> dict[str, InterruptAnswer]:
        """What to do with steps that ask whether they may be run again."""
        return {**dict.fromkeys(self.rerun, "rerun"), **dict.fromkeys(self.fail, "fail")}

    @property
    def again(self) -> str:
        """The command that starts the same run once more."""
        words = ["treadle", "run", self.file]
        words += [word for pair in self.pairs for word in ("-i", pair)]
        words += [word for file in self.input_files for word in ("--inputs", file)]
        words += ["--max-parallel", str(self.max_parallel)] if self.max_parallel else []
        return shlex.join([*words, *(["--strict"] if self.strict else [])])


@click.command(short_help="Run a workflow file.")
@click.argument("file", type=FILE)
@click.option("-i", "--input", "pairs", multiple=True, metavar="KEY=VALUE", help="An input; KEY=@FILE takes it from a file.")
@click.option(
    "--inputs",
    "input_files",
    multiple=True,
    metavar="FILE",
    help="Inputs from a JSON, YAML or TOML file; - is JSON on stdin.",
)
@json_option
@click.option("--max-parallel", type=click.IntRange(min=1), help="Calls at once, instead of what the workflow says.")
@click.option("--strict", is_flag=True, help="Refuse to start when something that was asked for cannot be done.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How stderr is written."
)
@click.option("-q", "--quiet", is_flag=True, help="Show only the result, and warnings.")
@click.option("--no-progress", is_flag=True, help="Plain lines instead of a live display, also on a terminal.")
@click.option("--key", default="", metavar="KEY", help="Start once: when there is a run of this key, answer or resume that.")
@click.pass_context
def run(ctx: click.Context, /, **asked: object) -> None:
    """Run the workflow in FILE.

    Progress goes to stderr, the result to stdout; what steps print goes to stderr too. Ctrl-C once cancels the run
    gracefully, twice at once; a run that only waits is suspended instead, so that it can be resumed. SIGTERM lets what runs
    end and suspends the run.

    An input is read as the type that the workflow declares: text stays text, everything else is JSON.

    Exit codes: 0 completed, 1 failed, timed out or partial failure, 2 wrong usage or a bad file, 3 cancelled or suspended,
    4 owned by another process, 75 store unavailable.
    """
    options = Options(**asked)  # type: ignore[arg-type]  # click has converted each to the type of its option
    with stdout_kept() as out:
        ctx.exit(Session.prepare(options, out).run())


@attrs.define
class Session:
    """One run from the command line, and everything that shows it."""

    options: Options
    out: TextIO
    plan: Plan
    inputs: dict[str, object]
    registry: Registry
    backend: str
    store: Store
    run_id: str = ""  # of the run that is resumed
    act: Callable[..., RunResult] | None = None  # what to do instead of running or resuming
    provider: TracingProvider | None = None
    outbox: Outbox | None = None
    progress: Progress | None = None

    @classmethod
    def prepare(cls, options: Options, out: TextIO) -> Session:
        """Check everything that can be checked before anything starts; what is wrong is said together."""
        config, registry = discover()
        workflow = loaded(options.file, registry)
        errors: list[TreadleError] = []
        plan = _attempt(lambda: make_plan(workflow, registry), errors)
        inputs = _attempt(lambda: gather(workflow, options.pairs, options.input_files), errors)
        backend = _attempt(chosen_backend, errors)
        store = _attempt(lambda: command_store(registry, workflow.store), errors)
        _attempt(lambda: check_engine(workflow, config), errors)
        if plan is not None:
            errors.extend(_missing_secrets(plan, config))
        if errors or plan is None or inputs is None or backend is None or store is None:
            raise errors[0] if len(errors) == 1 else ExceptionGroup("The run cannot start", errors)
        if not (store.is_durable or workflow.store or config.store.get("use") or options.quiet):
            say("This run is kept in memory, so it cannot be resumed. To keep runs: pip install treadle-sqlite")
        if not store.is_durable and awaited(plan):
            say("It waits for signals, and nobody can send one to a run that is kept in memory.")
        return cls(options, out, plan, inputs, registry, backend, store)

    def run(self) -> int:
        """Run, show how it ended, answer the exit code."""
        try:
            self.provider = set_up_tracing(self.registry, is_strict=self.options.strict)
            self.outbox = make_outbox(self.provider, self.store, self.registry)
            if self.outbox is not None:
                self.outbox.start()
            with self._watched() as line, Interrupts(line, self._give_up) as interrupts:
                result = self._perform(interrupts)
        finally:
            self._end_tracing()
            self.store.close()
        return self._show(result)

    @contextmanager
    def _watched(self) -> Iterator[Callable[[str], None]]:
        """Show progress and log records during the block; yields what shows a line between them."""
        log_format = self.options.log_format
        if self.options.quiet:
            with logging_to(None, log_format=log_format):
                yield say
            return
        with (
            Progress(
                display_for(plain=self.options.no_progress, log_format=log_format), is_kept=self.store.is_durable
            ) as self.progress,
            logging_to(self.progress.line, log_format=log_format),
        ):
            yield self.progress.line

    def _perform(self, interrupts: Interrupts) -> RunResult:
        def started(handle: RunHandle) -> None:
            interrupts.attach(handle, _poster(self.backend))

        common = partial(
            self.act or (resume_run if self.run_id else run_workflow),
            backend=self.backend,
            registry=self.registry,
            config=self.registry.config,
            store=self.store,
            sinks=[sink for sink in (self.progress, self.outbox) if sink is not None],
            on_start=started,
            on_stuck=self._leave_behind,
        )
        if self.act is not None:
            return common()
        if self.run_id:
            return common(self.run_id, accept_changes=self.options.accept_changes, answers=self.options.answers)
        options = self.options
        return common(self.plan, self.inputs, max_parallel=options.max_parallel, trigger="cli", key=options.key)

    def _leave_behind(self, result: RunResult) -> None:
        """The run is over, but calls that were told to stop still run: say how it ended and end the process."""
        if self.progress is not None:
            self.progress.close()
        self._end_tracing()
        leave_at_once(self._show(result))

    def _give_up(self) -> None:
        """Say that the process ends although the run did not."""
        if self.progress is not None:
            self.progress.close(0.5)
        error = CallCancelledError("The run was stopped at once; steps that did not stop in time were left behind.")
        say(f"Error: {error}")
        if self.options.as_json:
            write_json(error_object([error]), self.out)

    def _end_tracing(self) -> None:
        provider, self.provider = self.provider, None
        shut_down(provider, self.outbox)

    def _show(self, result: RunResult) -> int:
        """Print how the run ended; answer the exit code."""
        options, workflow = self.options, self.plan.workflow
        executors = {path: step.executor for path, step in self.plan.steps.items()}
        target = sys.stderr if options.as_json else self.out
        if not (options.as_json and options.quiet):
            name = workflow.name or options.file
            write(summarize(result, name, options.again, executors, target, is_kept=self.store.is_durable), target)
        if options.as_json:
            write_json(result.to_dict(), self.out)
        if os.environ.get("TREADLE_DEBUG"):
            _show_tracebacks(result)
        return EXIT_CODES.get(str(result.status), FAILED)


def _attempt(make: Callable[[], _T], errors: list[TreadleError]) -> _T | None:
    """What ``make`` answers; None when it raises, its error being noted."""
    try:
        return make()
    except TreadleError as error:
        errors.append(error)
        return None


def _missing_secrets(plan: Plan, config: Config) -> Iterator[TreadleError]:
    """Every secret that steps use and that has no value: a run would say only the first."""
    for name in sorted(plan.secret_names):
        try:
            resolve(name, config, os.environ)
        except TreadleError as error:
            yield error


def chosen_backend() -> str:
    """The event loop that TREADLE_BACKEND names, else asyncio."""
    name = os.environ.get("TREADLE_BACKEND") or "asyncio"
    if name not in ("asyncio", "trio"):
        raise ConfigError(f"TREADLE_BACKEND is {name!r}.", "Set it to asyncio or trio, or unset it.")
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"TREADLE_BACKEND is {name!r}, which is not installed.", f"pip install {name}, or unset it.")
    return name


def _poster(backend: str) -> Callable[[Callable[[], None]], object]:
    """What calls a function on the running event loop soon, from a signal handler."""
    if backend == "trio":
        lowlevel = importlib.import_module("trio").lowlevel  # optional: only when it is the backend
        post: Callable[[Callable[[], None]], object] = lowlevel.current_trio_token().run_sync_soon
        return post
    return asyncio.get_running_loop().call_soon_threadsafe


def display_for(*, plain: bool = False, log_format: LogFormat = "text") -> Display:
    """How progress is shown on stderr."""
    if log_format == "json":
        return JsonDisplay(sys.stderr)
    if plain or not is_terminal(sys.stderr) or os.environ.get("TERM") == "dumb":
        return PlainDisplay(sys.stderr)
    # rich takes longer to import than a short run lasts.
    live = importlib.import_module("treadle._cli._live")
    display: Display = live.LiveDisplay(sys.stderr)
    return display


def _show_tracebacks(result: RunResult) -> None:
    for path, step in result.steps.items():
        if step.error and step.error.traceback:
            say(f"-- {path}\n{clean(step.error.traceback.rstrip())}")
