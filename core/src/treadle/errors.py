"""Every error that treadle raises: the first line says what is wrong and where, the second the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import attrs

from treadle._money import format_money

__all__ = [
    "BindError",
    "BudgetExceededError",
    "CallCancelledError",
    "CallPutOffError",
    "ConfigError",
    "ConfigInvalidError",
    "ExecutorDiedError",
    "ExecutorExitedError",
    "ExecutorNotFoundError",
    "ExpressionError",
    "Fault",
    "GroupTimeoutError",
    "InputsInvalidError",
    "LeaseLostError",
    "NotSupportedError",
    "NothingToRetryError",
    "OutputInvalidError",
    "OwnedElsewhereError",
    "PayloadInvalidError",
    "PermanentError",
    "PluginBlockedError",
    "PluginBrokenError",
    "PluginConflictError",
    "PluginError",
    "PluginNotFoundError",
    "PolicyFailedError",
    "RejectedError",
    "ReplayMismatchError",
    "ResumeChangedError",
    "RunEndedError",
    "RunFailedError",
    "RunGoesOnError",
    "RunKeyConflictError",
    "RunNotFoundError",
    "RunSuspendedError",
    "SecretNotFoundError",
    "SignalNotDeclaredError",
    "StepInterruptedError",
    "StepNotFoundError",
    "StepTimeoutError",
    "StoreGoneError",
    "StoreUnavailableError",
    "TransientError",
    "TreadleError",
    "UnknownPriceError",
    "WaitTimeoutError",
    "WorkflowInvalidError",
]


class TreadleError(Exception):
    """Base of all errors of treadle.

    Args:
        problem: What is wrong and where; the first line of the message.
        remedy: What to do about it; the second line, left out when empty.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}\n{remedy}" if remedy else problem)

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle by attributes: a child's ``__init__`` need not take the message."""
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(kind: type[TreadleError], args: tuple[object, ...], state: dict[str, object]) -> TreadleError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


@attrs.frozen
class Fault:
    """One thing that is wrong with an input, with its place.

    Attributes:
        message: What is wrong, in a sentence without the place.
        path: Where in the data, like ``steps.page.with.url``; empty for the whole.
        remedy: What to do, like ``did you mean 'needs'?``; empty when the message says it.
        file: Name of the file, or empty when the value came from Python.
        line: Line in the file, from 1; 0 when unknown.
        column: Column in the line, from 1; 0 when unknown.
    """

    message: str
    path: str = ""
    remedy: str = ""
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """One line: ``file:line:column: path: message (remedy)``, each part only when known."""
        place = f"{self.file or '<workflow>'}:{self.line}:{self.column}: " if self.line else ""
        if self.file and not self.line:
            place = f"{self.file}: "
        path = f"{self.path}: " if self.path else ""
        return f"{place}{path}{self.message}" + (f" ({self.remedy})" if self.remedy else "")


class _FaultsError(TreadleError):
    """A group of faults, all reported at once."""

    def __init__(self, problem: str, faults: Sequence[Fault], remedy: str = "") -> None:
        self.faults = tuple(faults)
        lines = "".join(f"\n  {fault}" for fault in self.faults)
        super().__init__(f"{problem}{lines}", remedy)


class WorkflowInvalidError(_FaultsError):
    """A workflow that cannot run: every structural fault, or every fault of planning, at once.

    Attributes:
        name: Of the workflow.
        partial: What could be read in spite of structural faults, for whoever looks for more; None for faults of planning.
    """

    def __init__(self, faults: Sequence[Fault], *, name: str = "", partial: object = None) -> None:
        self.name, self.partial = name, partial
        many = f"{len(faults)} faults" if len(faults) != 1 else "1 fault"
        super().__init__(f"The workflow {name or 'file'} has {many}:", faults, "Nothing was started. Correct the file.")


class InputsInvalidError(_FaultsError):
    """Inputs that do not fit what the workflow or the executor declares."""

    def __init__(self, owner: str, faults: Sequence[Fault]) -> None:
        self.owner = owner
        # A single fault stands in the first line, where the summary of a failed step looks.
        only = f" {faults[0]}" if len(faults) == 1 else ""
        listed = [] if only else faults
        super().__init__(f"Inputs of {owner} are not valid:{only}", listed, "Pass values of the declared types.")
        self.faults = tuple(faults)


class ExpressionError(TreadleError):
    """An expression that cannot be parsed or evaluated.

    Args:
        source: The expression, without its ``${{ }}``.
        problem: What is wrong.
        remedy: What to do.
        offset: Where in ``source``, from 0; None when the whole is meant.
    """

    def __init__(self, source: str, problem: str, remedy: str = "", offset: int | None = None) -> None:
        self.source, self.offset = source, offset
        shown = source if len(source) <= 80 else source[:77] + "..."
        super().__init__(f"Expression {shown!r}: {problem}", remedy)


class ConfigError(TreadleError):
    """Configuration (file or environment) that cannot be used."""


class ConfigInvalidError(_FaultsError, ConfigError):
    """Configuration with faults: all of them at once, each with its file and line, or its environment variable."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        many = f"{len(faults)} faults" if len(faults) != 1 else "1 fault"
        super().__init__(f"The configuration has {many}:", faults, "Correct treadle.toml, pyproject.toml or the environment.")


class SecretNotFoundError(TreadleError):
    """A secret that the workflow names has no value here."""

    def __init__(self, name: str, looked_in: str) -> None:
        self.name = name
        super().__init__(
            f"Secret {name!r} has no value (looked in {looked_in}).",
            f"Set the environment variable {name}, or add [secrets] {name} = {{env = ...}} or {{file = ...}} to treadle.toml.",
        )


class NotSupportedError(TreadleError):
    """A feature that the workflow asks for and this version or engine does not have."""


class PluginError(TreadleError):
    """Something is wrong with an installed plugin; the name of its distribution is in the message."""


class ExecutorNotFoundError(PluginError):
    """A step names an executor that no installed plugin provides.

    Args:
        executor: The name.
        installed: The names that there are.
        suggestion: The one that was probably meant.
        note: Why a plugin may not have been found, as a sentence.
    """

    def __init__(self, executor: str, installed: Sequence[str], *, suggestion: str = "", note: str = "") -> None:
        self.executor, self.installed = executor, tuple(installed)
        hint = f"Did you mean {suggestion!r}? " if suggestion else ""
        what = f"{note} " if note else ""
        super().__init__(
            f"No installed plugin provides executor {executor!r}.",
            f"{hint}{what}Installed: {', '.join(installed) or 'none'}. Install a plugin that provides it, or correct 'uses'.",
        )


class PluginNotFoundError(PluginError):
    """A client, policy, store or other plugin that the configuration or a workflow names and nothing provides."""

    def __init__(self, kind: str, name: str, known: Sequence[str], *, suggestion: str = "", note: str = "") -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        hint = f"Did you mean {suggestion!r}? " if suggestion else ""
        what = f"{note} " if note else ""
        super().__init__(
            f"No installed plugin provides {kind} {name!r}.",
            f"{hint}{what}Known: {', '.join(known) or 'none'}. Install a plugin that provides it, or correct the name.",
        )


class PluginBlockedError(PluginError):
    """A plugin that the configuration blocks was asked for."""

    def __init__(self, name: str, distribution: str) -> None:
        self.name, self.distribution = name, distribution
        super().__init__(
            f"{name!r} of {distribution} is blocked by the configuration.",
            f"Remove {distribution!r} from [plugins] block in treadle.toml, or use another plugin.",
        )


class PluginBrokenError(PluginError):
    """A plugin that cannot be imported or does not hold what its entry point says."""

    def __init__(self, name: str, distribution: str, why: str, remedy: str = "") -> None:
        self.name, self.distribution, self.why = name, distribution, why
        super().__init__(
            f"{name!r} of {distribution} is broken: {why}",
            remedy or f"Run 'treadle plugins doctor', then update or uninstall {distribution}.",
        )


class PluginConflictError(PluginError):
    """Two distributions claim one name."""

    def __init__(self, group: str, name: str, distributions: Sequence[str]) -> None:
        self.group, self.name, self.distributions = group, name, tuple(distributions)
        super().__init__(
            f"{name!r} is claimed by {' and '.join(distributions)}.",
            f'Choose one in treadle.toml: [plugins] prefer = {{"{name}" = "{distributions[0]}"}}',
        )


class BindError(PluginError):
    """An executor, client or policy whose definition cannot work."""


class PolicyFailedError(PluginError):
    """A policy cannot do its work for a run, so the run does not start."""

    def __init__(self, policy: str, hook: str, error: Exception) -> None:
        self.policy, self.hook = policy, hook
        super().__init__(
            f"The policy {policy} failed in {hook!r}: {type(error).__name__}: {error}",
            "Correct what it says, or take the policy out of [plugins] policies.",
        )


class TransientError(TreadleError):
    """For executors to raise: trying again may help.

    Args:
        problem: What happened.
        remedy: What a person can do.
        retry_after_s: Seconds to wait before the next attempt, when the service said so.
    """

    retryable = True

    def __init__(self, problem: str = "temporary failure", remedy: str = "", *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(problem, remedy)


class CallPutOffError(TransientError):
    """For policies to raise in the place of the work: the call was not made, and is to be made later.

    Its step gives back its place in ``max_parallel`` until then. What was put off counts neither against ``max_attempts`` nor
    against the run's ``max_retries``; the wait is recorded, so that a resumed run goes on with it.

    Args:
        problem: What is waited for.
        remedy: What a person can do.
        retry_after_s: Seconds until then.
        reason: The same as ``problem`` in a few words, for who looks at the run.
    """

    def __init__(self, problem: str, remedy: str = "", *, retry_after_s: float, reason: str) -> None:
        self.reason = reason
        super().__init__(problem, remedy, retry_after_s=retry_after_s)


class PermanentError(TreadleError):
    """For executors to raise: trying again cannot help."""

    retryable = False


class BudgetExceededError(PermanentError):
    """An attempt asked for more than its budget holds, or has spent more; trying again cannot help.

    Args:
        resource: ``cost``, ``tokens``, ``requests`` or ``wall_time``.
        scope: Whose budget: ``run``, ``step report``.
        most: What the attempt may spend: microcents, a number, or seconds.
        spent: What it had spent before.
        asked: What it asked for.
        is_over: Whether it was spent already, so that nothing could be refused.
        step: Whose attempt it is, with its item: ``each[3]``.
    """

    def __init__(
        self,
        resource: str,
        scope: str,
        *,
        most: int = 0,
        spent: int = 0,
        asked: int = 0,
        is_over: bool = False,
        step: str = "",
    ) -> None:
        self.resource, self.scope, self.most = resource, scope, most
        self.spent, self.asked, self.is_over, self.step = spent, asked, is_over, step
        if resource == "wall_time":
            remedy = "Raise 'wall_time' in its budget, or make the work shorter."
            super().__init__(f"The wall_time budget of the {scope} is used up.", remedy)
            return
        is_own = scope == f"step {step.partition('[')[0] if step.endswith(']') else step}"
        wanted, left = _amount(resource, asked), _amount(resource, max(0, most - spent))
        whose = f"its own {resource} budget" if is_own else f"its even share of the {resource} budget of the {scope}"
        who = f"Step {step!r}" if step else "It"
        did, were = ("used", "were") if is_over else ("asks for", "are")
        super().__init__(
            f"{who} {did} {wanted}, and {left} {were} left of {whose}.",
            _budget_remedy(resource, scope, asked + spent, is_own=is_own),
        )


def _budget_remedy(resource: str, scope: str, needed: int, *, is_own: bool) -> str:
    if is_own:
        return "Raise the step's 'budget', or make its work cheaper."
    enough = f"'{format_money(needed)}'" if resource == "cost" else str(needed)
    own = f"Give the step a budget of its own, which takes what it says: budget: {{{resource}: {enough}}}"
    return f"{own}. When that is not left, raise the budget of the {scope}."


def _amount(resource: str, number: int) -> str:
    if resource == "cost":
        return f"{format_money(number)} USD"
    return f"{number} {resource if number != 1 else resource.removesuffix('s')}"


class UnknownPriceError(PermanentError):
    """Something whose price is not known was to be paid under a budget of money."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        super().__init__(
            f"What it spends has no known price, and the {scope} has a cost budget.",
            "Add the price to the CostCalculator, or limit tokens and requests instead of cost.",
        )


class OutputInvalidError(TreadleError, RuntimeError):
    """An output that breaks its contract or is not JSON; ``issues`` says where."""

    def __init__(self, executor: str, issues: Sequence[object], remedy: str = "") -> None:
        self.executor, self.issues = executor, tuple(issues)
        listed = "; ".join(str(issue) for issue in self.issues)
        super().__init__(
            f"Output of {executor!r} is not valid: {listed}",
            remedy or "Correct the executor's return value or its declared type.",
        )


class StepTimeoutError(TreadleError, TimeoutError):
    """An attempt that was still running at its deadline."""

    retryable = True

    def __init__(self, step: str, timeout_s: float, note: str = "") -> None:
        self.step, self.timeout_s = step, timeout_s
        super().__init__(
            f"Step {step!r} exceeded its timeout of {timeout_s:g}s{note}.",
            "Raise the step's 'timeout', or make the work shorter.",
        )


class StepStalledError(StepTimeoutError):
    """An attempt that used to say that it lives and has fallen silent."""

    def __init__(self, step: str, timeout_s: float) -> None:
        super().__init__(step, timeout_s)
        self.problem = f"Step {step!r} has stalled: it said nothing of itself for {timeout_s:g}s."
        self.remedy = "Call ctx.heartbeat() more often, raise 'stall' in [run], or see what it waits for."
        self.args = (f"{self.problem}\n{self.remedy}",)


class CheckpointInvalidError(TreadleError):
    """What a step wanted to save cannot be kept."""

    retryable = False

    def __init__(
        self,
        step: str,
        token: str,
        why: str,
        remedy: str = "Save plain JSON of a moderate size; write what is large to a file and save its path.",
    ) -> None:
        self.step, self.token = step, token
        super().__init__(f"Step {step!r} cannot save checkpoint {token!r}: {why}.", remedy)


class GroupTimeoutError(TreadleError, TimeoutError):
    """A group of steps, or a whole run, that was not over at its deadline.

    Args:
        group: The group with its item, like ``each[3]``; empty for the run.
        timeout_s: How long it may take.
    """

    retryable = False

    def __init__(self, group: str, timeout_s: float) -> None:
        self.group, self.timeout_s = group, timeout_s
        what = f"Group {group!r}" if group else "The run"
        super().__init__(f"{what} exceeded its timeout of {timeout_s:g}s.", "Raise the 'timeout', or do less within it.")


class CallCancelledError(TreadleError):
    """An attempt that ended because its run was cancelled, or that cancelled itself."""

    retryable = False


class ExecutorExitedError(TreadleError):
    """An executor that tried to end the process (SystemExit, KeyboardInterrupt, GeneratorExit)."""

    retryable = False

    def __init__(self, executor: str, how: str) -> None:
        self.executor, self.how = executor, how
        super().__init__(
            f"Executor {executor!r} tried to end the process ({how}).",
            "Return a value or raise an ordinary exception instead; the process goes on.",
        )


class ExecutorDiedError(TreadleError):
    """An isolated executor whose process ended, or had to be ended, without an answer.

    Args:
        executor: The executor.
        how: ``ended its process with exit code 3``, ``was killed by SIGSEGV (a segmentation fault)``.
        last_lines: What it wrote to standard error at last.
    """

    retryable = False

    def __init__(self, executor: str, how: str, last_lines: Sequence[str] = ()) -> None:
        self.executor, self.how, self.last_lines = executor, how, tuple(last_lines)
        said = "".join(f"\n  {line}" for line in self.last_lines)
        super().__init__(
            f"Executor {executor!r} {how}." + (f" Its last lines on standard error:{said}" if said else ""),
            "Mend the executor. Only its step failed; limits stand in [limits.process] or under the step's 'isolation'.",
        )


class ReplayMismatchError(TreadleError):
    """A replayed log does not give the decisions that it recorded."""

    def __init__(self, run_id: str, recorded: object, decided: object) -> None:
        self.run_id, self.recorded, self.decided = run_id, recorded, decided
        super().__init__(
            f"Replay of run {run_id} differs from its log:\n- recorded: {recorded}\n+ decided:  {decided}",
            "The workflow or treadle changed since the run began; use the version that started it.",
        )


class RunFailedError(TreadleError):
    """A run that did not complete; raised by ``RunResult.check()``."""


class StoreUnavailableError(TreadleError):
    """The store cannot be read or written now; nothing acknowledged is lost."""


class StoreGoneError(StoreUnavailableError):
    """The store was deleted or replaced under this process: waiting does not help, and what it writes would be lost."""


class RunNotFoundError(TreadleError):
    """No run of that id is kept in the store."""

    def __init__(self, run_id: str, remedy: str = "") -> None:
        self.run_id = run_id
        super().__init__(f"There is no run {run_id!r} in this store.", remedy or "'treadle runs' lists the runs that are kept.")


class RunGoesOnError(TreadleError):
    """A run was to go on again, but it has not ended."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"Run {run_id} has not ended.", f"It goes on where it stopped: treadle resume {run_id}")


class NothingToRetryError(TreadleError):
    """Everything in a run completed."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"Everything in run {run_id} completed.", "Say from which step on it is to run again.")


class StepNotFoundError(TreadleError):
    """A run has no step of that path."""

    def __init__(self, whose: str, path: str, known: Sequence[str]) -> None:
        self.path, self.known = path, tuple(known)
        close = difflib.get_close_matches(path, known, 1)
        listed = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        super().__init__(
            f"{whose} has no step {path!r}.", (f"Did you mean {close[0]!r}? " if close else "") + f"It has: {listed}."
        )


class RunKeyConflictError(TreadleError):
    """A run was to be started under a key that stands for a run with other inputs, or of another workflow."""

    def __init__(self, key: str, run_id: str) -> None:
        self.key, self.run_id = key, run_id
        super().__init__(
            f"Key {key!r} stands for run {run_id}, which has other inputs or is of another workflow.",
            "Use another key, or pass the inputs that the run was started with.",
        )


class OwnedElsewhereError(TreadleError):
    """Another process drives the run; only one may.

    Args:
        run_id: The run.
        owner: ``host:pid`` of the process that drives it.
        since: When it took the run over, as text for people; may be empty.
    """

    def __init__(self, run_id: str, owner: str, since: str = "") -> None:
        self.run_id, self.owner, self.since = run_id, owner, since
        super().__init__(
            f"Run {run_id} is owned by {owner}" + (f" since {since}." if since else "."),
            "Wait for it to end, stop that process, or cancel the run: treadle cancel " + run_id,
        )


class LeaseLostError(OwnedElsewhereError):
    """This process drove the run, but another one took it over; nothing that this one does is recorded any more."""

    def __init__(self, run_id: str, owner: str = "", since: str = "") -> None:
        super().__init__(run_id, owner or "nobody: the lease ran out", since)
        self.problem = f"Run {run_id} was taken away from this process; it is owned by {self.owner}."
        self.remedy = "Nothing that was acknowledged is lost. Was this process stopped, or starved, for longer than the lease?"
        self.args = (f"{self.problem}\n{self.remedy}",)


class ResumeChangedError(TreadleError):
    """A run cannot simply go on: what it was started with has changed since.

    Args:
        run_id: The run.
        changes: Lines of a diff: ``- `` what the run began with, ``+ `` what is there now.
    """

    def __init__(self, run_id: str, changes: Sequence[str]) -> None:
        self.run_id, self.changes = run_id, tuple(changes)
        super().__init__(
            f"Run {run_id} was started with something else than what is here now:\n" + "\n".join(self.changes),
            "Bring back what it was started with, or go on all the same: treadle resume --accept-changes " + run_id,
        )


class RunSuspendedError(TreadleError):
    """A run that was let go of before its end, so that it can be resumed."""

    def __init__(self, run_id: str, reason: str = "") -> None:
        self.run_id, self.reason = run_id, reason
        super().__init__(
            f"Run {run_id} is suspended" + (f": {reason}." if reason else "."),
            f"It goes on where it stopped: treadle resume {run_id}",
        )


class SignalNotDeclaredError(TreadleError):
    """A signal that no step of the run waits for."""

    def __init__(self, run_id: str, signal: str, known: Sequence[str]) -> None:
        self.run_id, self.signal, self.known = run_id, signal, tuple(known)
        remedy = f"It waits for: {', '.join(known)}." if known else "None of its steps waits for a signal, or will."
        super().__init__(f"Run {run_id} has no step that waits for the signal {signal!r}.", remedy)


class PayloadInvalidError(TreadleError):
    """The payload of a signal does not fit what the step that waits for it asks."""

    def __init__(self, signal: str, issues: Sequence[object]) -> None:
        self.signal, self.issues = signal, tuple(issues)
        only = f" {issues[0]}" if len(issues) == 1 else "".join(f"\n  {issue}" for issue in issues)
        super().__init__(
            f"The payload of the signal {signal!r} does not fit:{only}",
            "Nothing was sent. Send one that fits the step's schema.",
        )


class RunEndedError(TreadleError):
    """A run that has ended takes nothing any more."""

    def __init__(self, run_id: str, status: str) -> None:
        self.run_id, self.status = run_id, status
        super().__init__(f"Run {run_id} has ended: {status}.", f"See what became of it: treadle show {run_id}")


class WaitTimeoutError(TreadleError, TimeoutError):
    """The signal that a step waited for did not come in time."""

    retryable = False

    def __init__(self, step: str, signal: str) -> None:
        self.step, self.signal = step, signal
        super().__init__(
            f"Step {step!r} waited for the signal {signal!r}, which did not come in time.",
            "Send it sooner, give the step a longer 'timeout', or say what is to happen then with 'on_timeout'.",
        )


class RejectedError(TreadleError):
    """Somebody said no to what a step asked approval for."""

    retryable = False

    def __init__(self, step: str, comment: str = "") -> None:
        self.step, self.comment = step, comment
        super().__init__(
            f"Step {step!r} was rejected" + (f": {comment}" if comment else "."),
            "To go on after a rejection, write on_reject: continue and look at its output.approved.",
        )


class AnswerNeededError(RunSuspendedError):
    """A run that cannot go on before somebody says what to do with a step that may have been done."""

    def __init__(self, run_id: str, steps: Sequence[str]) -> None:
        super().__init__(run_id)
        self.steps = tuple(steps)
        named = ", ".join(map(repr, self.steps))
        self.reason = f"nobody knows whether {named} was done when the process of the run went away"
        self.problem = f"Run {run_id} is suspended: {self.reason}."
        self.remedy = f"Look, then say so: treadle resume {run_id} --rerun '{self.steps[0]}' (or --fail '{self.steps[0]}')"
        self.args = (f"{self.problem}\n{self.remedy}",)


class StepPoisonedError(TreadleError):
    """A step that was running each time that the process of its run went away."""

    retryable = False

    def __init__(self, step: str, crashes: int) -> None:
        self.step, self.crashes = step, crashes
        super().__init__(
            f"Step {step!r} is poisoned: it was running {crashes} times when the process of the run went away.",
            "See what it does to its process, or give it 'isolation: process'. 'max_crashes' in [run] is how often it may be.",
        )


class StepInterruptedError(TreadleError):
    """A step whose process went away while it ran, and which must not run a second time by itself."""

    retryable = False

    def __init__(self, step: str) -> None:
        self.step = step
        super().__init__(
            f"Step {step!r} was interrupted: the process that performed it went away, and its executor must not run twice.",
            "Look whether it took effect; then start a new run.",
        )
