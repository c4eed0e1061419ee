"""Why the scheduler decides as it does: every kind of reason there is. Pure."""

from __future__ import annotations

import enum

__all__ = ["DecisionKind"]


class DecisionKind(enum.StrEnum):
    """What a decision rests on; every decision of the scheduler is of one of these kinds."""

    description: str

    def __new__(cls, value: str, description: str) -> DecisionKind:
        """A kind with what it means, for people."""
        self = str.__new__(cls, value)
        self._value_ = value
        self.description = description
        return self

    # what is asked for
    RELEASED = "released", "what it needs was done, and there was room"
    RELEASED_AGAIN = "released_again", "the process that performed it went away"
    RETRIED = "retried", "it failed, and another attempt is allowed and may help"
    FELL_BACK = "fell_back", "what it uses had finally failed, and there was a fallback"
    INTERRUPT_ASKED = "interrupt_asked", "its process went away, and somebody is to say what to do"
    MAP_STARTED = "map_started", "its items are known"
    GROUP_STARTED = "group_started", "what it needs was done"
    WAIT_STARTED = "wait_started", "what it needs was done"
    WAIT_ELAPSED = "wait_elapsed", "its time had come"
    WAIT_SIGNALLED = "wait_signalled", "the signal had come"
    WAIT_RAN_OUT = "wait_ran_out", "no signal had come in time"
    # good ends
    COMPLETED = "completed", "its work was done"
    TAKEN_FROM_CACHE = "taken_from_cache", "the output was kept from an earlier call"
    NO_ITEMS = "no_items", "its list was empty"
    ITEMS_COMPLETED = "items_completed", "all of its items completed"
    STEPS_COMPLETED = "steps_completed", "all of its steps came to a good end"
    WAIT_DEFAULTED = "wait_defaulted", "no signal had come in time, and there is a default"
    # left out
    CONDITION_FALSE = "condition_false", "its condition was false"
    BRANCH_NOT_TAKEN = "branch_not_taken", "another branch was taken"
    NO_BRANCH = "no_branch", "no branch's condition was true"
    WAIT_SKIPPED = "wait_skipped", "no signal had come in time, and it may be left out"
    # bad ends
    NOT_EVALUATED = "not_evaluated", "an expression of it could not be evaluated"
    NOT_RETRIABLE = "not_retriable", "it failed, and trying again was not proposed"
    ATTEMPTS_USED_UP = "attempts_used_up", "it failed, and there are no more attempts"
    RETRIES_USED_UP = "retries_used_up", "it failed, and the run has no more retries"
    BUDGET_REFUSED = "budget_refused", "it asked for more than its budget holds, or its time is up"
    NOT_RETRIED_ANY_MORE = "not_retried_any_more", "it failed while nothing new was started any more"
    CANCELLED_BY_ITSELF = "cancelled_by_itself", "it was cancelled, though nobody asked for it"
    INTERRUPTED = "interrupted", "its process went away, and it must not run twice"
    POISONED = "poisoned", "its process went away again and again"
    REJECTED = "rejected", "the answer was no"
    SIGNAL_MISSED = "signal_missed", "no signal had come in time"
    ITEMS_FAILED = "items_failed", "too many of its items failed"
    ITEMS_FAILED_IN_PART = "items_failed_in_part", "some of its items failed, but no more than may"
    STEPS_FAILED = "steps_failed", "a step of it failed"
    STEPS_FAILED_IN_PART = "steps_failed_in_part", "steps of it failed that may"
    GROUP_TIMED_OUT = "group_timed_out", "it was not over at its deadline"
    NEED_FAILED = "need_failed", "a step that it needs did not complete"
    STOPPED = "stopped", "nothing new was started any more, or it was told to stop"
    # stopping and undoing
    STOPPING_ON_FAILURE = "stopping_on_failure", "a step failed that may not"
    STOPPING_ON_CANCEL = "stopping_on_cancel", "somebody asked for it"
    STOPPING_ON_TIMEOUT = "stopping_on_timeout", "its time was over"
    STOPPING_ON_BUDGET = "stopping_on_budget", "its budget is used up"
    UNDONE = "undone", "its compensation completed"
    NOT_UNDONE = "not_undone", "its compensation failed"
    UNDOING_STOPPED = "undoing_stopped", "a forced cancel leaves no time to undo"
    # the end
    RUN_COMPLETED = "run_completed", "everything came to a good end"
    RUN_FAILED_IN_PART = "run_failed_in_part", "steps failed that may"
    RUN_FAILED = "run_failed", "a step failed that may not, or an output could not be evaluated"
    RUN_CANCELLED = "run_cancelled", "somebody asked for it"
    RUN_TIMED_OUT = "run_timed_out", "its time was over"
