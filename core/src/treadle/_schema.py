"""The keys of a workflow file: one table that the loader reads by and the JSON Schema for editors is made from."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from treadle._expressions import KEYWORDS
from treadle._slots import MAX_GROUP
from treadle._waits import MAX_NAME, SIGNAL_NAME

JsonSchema = dict[str, object]

STEP_ID = r"[A-Za-z_][A-Za-z0-9_-]*"
"""How the id of a step is spelled."""

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
"""How an input, a secret, an output or the item of a ``foreach`` is spelled: expressions can look it up with a dot."""

INPUT_TYPES = ("string", "integer", "number", "boolean", "array", "object")
"""JSON types of inputs; without one any value will do."""

RESERVED_NAMES = frozenset(("inputs", "steps", "run", "index", "secrets")) | KEYWORDS
"""What the item of a ``foreach`` cannot be called."""


@attrs.frozen
class Key:
    """One key of the file.

    Attributes:
        name: As it is written.
        kind: Which values it takes, a name in ``KINDS``; empty when this version does not have the key yet.
        description: What it means, shown by editors.
    """

    name: str
    kind: str
    description: str


@attrs.frozen
class Table:
    """The keys of one kind of mapping in the file.

    Attributes:
        what: How messages call the mapping: ``a step``.
        keys: By name, in the order in which they are written.
        required: Keys that must be there.
        aliases: What people write who know another tool -> the key that they mean.
    """

    what: str
    keys: Mapping[str, Key]
    required: tuple[str, ...] = ()
    aliases: Mapping[str, str] = attrs.field(factory=dict)


def _table(
    what: str, *keys: Key, later: str = "", required: tuple[str, ...] = (), aliases: Mapping[str, str] | None = None
) -> Table:
    unsupported = [Key(name, "", "Not supported yet.") for name in later.split()]
    return Table(what, {key.name: key for key in (*keys, *unsupported)}, required, aliases or {})


WORKFLOW = _table(
    "a workflow",
    Key("name", "name", "Name of the workflow, shown in runs and traces."),
    Key("version", "text", "Version of the workflow, as text."),
    Key("description", "text", "What the workflow is for."),
    Key("labels", "texts", "Free labels: name to text."),
    Key("syntax", "syntax", "'braces' also accepts {{ }} for expressions; otherwise only ${{ }}."),
    Key("inputs", "inputs", "What a run is given: name to type, required, default, description. Checked before the start."),
    Key("secrets", "secrets", "Names of the secrets that steps may take with ${{ secrets.NAME }}."),
    Key("defaults", "defaults", "What holds for every step that says nothing else."),
    Key("engine", "name", "Engine that performs the calls; the default is local."),
    Key("store", "name", "Store that keeps the records of runs."),
    Key("max_parallel", "count", "Most calls at once; the default is 10."),
    Key("on_error", "on_error", "After a failed step: stop (default; nothing new starts) or continue (other branches go on)."),
    Key(
        "max_failures",
        "max_failures",
        "With on_error: continue, stop after this many failed steps, or this percent like '25%'.",
    ),
    Key("budget", "budget", "What the run may use up: {cost, tokens, requests, wall_time, mode, on_exceeded, after_crash}."),
    Key("steps", "steps", "The steps by id; their order does not matter."),
    Key("finally", "steps", "Steps that always run, after all others."),
    Key("timeout", "duration", "How long the whole run may take, its finally steps aside."),
    Key("max_retries", "number_from_0", "Retries of all steps together; without it only each step's own retry counts."),
    Key("outputs", "outputs", "What the run answers: name to value."),
    Key("workflows", "workflows", "Subflows that stand in this file: name to workflow."),
    Key("concurrency", "concurrency", "A slot that the run needs: the name of a group that runs share, or {group, limit}."),
    Key("priority", "priority", "Of the run among those that wait for a slot, and of its steps' calls: higher ones first."),
    later="triggers",
    required=("name", "steps"),
    aliases={"jobs": "steps", "tasks": "steps", "params": "inputs", "id": "name"},
)

_CALL_KEYS = (
    Key("uses", "uses", "Name of the executor, like http.request."),
    Key(
        "with",
        "with",
        "Inputs of the executor or subflow; texts may hold ${{ }}. Or one ${{ }} that gives all of them.",
    ),
    Key("clients", "texts", "Which configured client serves a need of the executor: need to client."),
    Key("retry", "retry", "How failed attempts are repeated."),
    Key("timeout", "duration", "Deadline of one attempt; of a subflow or a choice, how long all of it may take."),
    Key(
        "isolation",
        "isolation",
        "process: in a process of its own, which dies at the deadline; limits for it, like {memory: 512 MiB}; or inline.",
    ),
)

STEP = _table(
    "a step",
    Key("parallel", "parallel", "Steps that form one: they run side by side."),
    Key("choose", "choose", "Branches by id; the first whose when is true is taken."),
    Key("wait", "wait", "Instead of uses: a duration, or {until: MOMENT}, or {signal: NAME} with schema, timeout, on_timeout."),
    Key("workflow", "subflow", "A subflow: a path like ./publish.yaml, a name, or a name with versions like publish@^2."),
    *_CALL_KEYS,
    Key("cache", "cache", "Keep the output for later calls: {ttl, key, allow_effects}. The policy cache serves it."),
    Key("rate_limit", "rate_limit", "How often its calls may be made: {limit, per, key}. The policy limits serves it."),
    Key("needs", "needs", "Steps that come first, for order only: references in expressions imply their own."),
    Key("needs_rule", "needs_rule", "Which needs must have succeeded: all_succeeded (default), all_done or any_succeeded."),
    Key("when", "condition", "Bare expression; the step is skipped when it is false."),
    Key("foreach", "foreach", "A list, or an expression for one: the step runs once for each item."),
    Key("as", "item_name", "Name of the item within a foreach; the default is item."),
    Key("batch", "count", "Items of the foreach that are handed over together, as a list."),
    Key("max_parallel", "count", "Most items of the foreach at once."),
    Key("max_failures", "max_failures", "Failed items of the foreach that are borne: a number, or a percent like '25%'."),
    Key(
        "on_error",
        "on_error",
        "stop or continue; the default is the group's or the workflow's. With continue a failed step's output is null.",
    ),
    Key("on_interrupt", "on_interrupt", "A call whose process went away: rerun (make it again), fail or ask."),
    Key("fallback", "fallback", "What is tried when the executor has finally failed: one body, or a list of them."),
    Key("compensate", "body", "What undoes the step, when it completed and the run fails or is cancelled later."),
    Key("budget", "budget", "What the step, or the group, may use up, of what its run has."),
    Key(
        "concurrency",
        "concurrency",
        "A slot that each call needs: the name of a group that runs share, or {group, limit}.",
    ),
    Key("priority", "priority", "Of the calls among those that are ready, and that wait for a slot: higher ones first."),
    aliases={
        "args": "with",
        "depends_on": "needs",
        "dependsOn": "needs",
        "executor": "uses",
        "if": "when",
        "inputs": "with",
        "loop": "foreach",
        "on_failure": "fallback",
        "params": "with",
        "retries": "retry",
        "run": "uses",
        "steps": "parallel",
        "subflow": "workflow",
        "switch": "choose",
        "undo": "compensate",
        "runIf": "when",
        "task": "uses",
        "type": "uses",
        "withItems": "foreach",
    },
)

PARALLEL = _table(
    "a parallel group",
    Key("steps", "steps", "The steps of the group by id."),
    Key("on_error", "on_error", "After a failed step of the group: stop its other steps, or continue with them."),
    Key("max_failures", "max_failures", "Failed steps, or a percent of the steps, that the group bears."),
    Key("max_parallel", "count", "Most calls of the group at once."),
    Key("timeout", "duration", "How long the group may take."),
    required=("steps",),
    aliases={"fail_strategy": "on_error", "tasks": "steps"},
)

BRANCH = Table(
    "a branch",
    {
        **{name: key for name, key in STEP.keys.items() if name not in ("needs", "needs_rule", "priority")},
        "priority": Key("priority", "number", "The branch with the highest is asked first; the default is 0."),
        "else": Key("else", "flag", "Taken when no branch's when is true."),
    },
    aliases={**{word: key for word, key in STEP.aliases.items() if key != "needs"}, "default": "else"},
)

BODY = _table(
    "a body",
    *_CALL_KEYS,
    required=("uses",),
    aliases={word: key for word, key in STEP.aliases.items() if key in ("uses", "with", "retry")},
)

DEFAULTS = _table(
    "defaults",
    Key("timeout", "duration", "Deadline of one attempt of each step."),
    Key("retry", "retry", "How failed attempts of each step are repeated."),
    Key("isolation", "isolation", "process, limits for one, or inline, for each step."),
    aliases={"retries": "retry"},
)

INPUT = _table(
    "an input",
    Key("type", "input_type", "JSON type of the value; without one any value will do."),
    Key("required", "flag", "Whether a run must be given it; by default exactly when there is no default."),
    Key("default", "value", "Taken when a run is not given it."),
    Key("description", "text", "What it is for."),
)

TABLES = {
    "workflow": WORKFLOW,
    "step": STEP,
    "parallel": PARALLEL,
    "branch": BRANCH,
    "body": BODY,
    "defaults": DEFAULTS,
    "input": INPUT,
}

STEP_KINDS = ("uses", "parallel", "choose", "wait", "workflow")
"""A step has exactly one of these keys."""

NOT_OF_WAITS = (
    "with",
    "clients",
    "retry",
    "timeout",
    "isolation",
    "on_interrupt",
    "fallback",
    "compensate",
    "cache",
    "rate_limit",
    "budget",
    "concurrency",
    "priority",
)
"""Keys that a step that waits does not have."""

ONLY_WITH: Mapping[str, tuple[str, ...]] = {
    "with": ("uses", "workflow"),
    "clients": ("uses",),
    "retry": ("uses",),
    "isolation": ("uses",),
    "on_interrupt": ("uses",),
    "fallback": ("uses",),
    "cache": ("uses",),
    "rate_limit": ("uses",),
    "concurrency": ("uses",),
    "timeout": ("uses", "choose", "workflow"),
}
"""Key of a step -> the kinds of steps that have it; the rest is for all."""

_DURATION: JsonSchema = {
    "description": "A duration: '90s', '5m', '1h30m', '2d', '250ms', ISO 8601 like 'PT5M', or a number of seconds.",
    "oneOf": [{"type": "string", "pattern": r"^\s*[0-9P][0-9A-Za-z. ]*$"}, {"type": "number", "exclusiveMinimum": 0}],
}
_WORDS: JsonSchema = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_RETRY: JsonSchema = {
    "description": "How failed attempts are repeated.",
    "type": "object",
    "properties": {
        "max_attempts": {"type": "integer", "minimum": 1, "description": "Attempts in all, the first included."},
        "retries": {"type": "integer", "minimum": 0, "description": "The same, the first attempt not included."},
        "base": {"$ref": "#/$defs/duration", "description": "Wait after the first attempt."},
        "factor": {"type": "number", "minimum": 1, "description": "What each further wait is multiplied by."},
        "max_delay": {"$ref": "#/$defs/duration", "description": "Longest wait."},
        "jitter": {"type": "number", "minimum": 0, "maximum": 1, "description": "Random part added to a wait."},
        "delays": {
            "type": "array",
            "items": {"$ref": "#/$defs/duration"},
            "description": "Explicit waits; the last one repeats.",
        },
        "retry_on": {**_WORDS, "description": "Types of errors that are retried."},
        "no_retry_on": {**_WORDS, "description": "Types of errors that are not; wins over retry_on."},
        "on_invalid": {"type": "boolean", "description": "Whether an invalid output is retried."},
        "preset": {"type": "string", "description": "Numbers by name: layered, durable, tool or pipeline."},
    },
    "additionalProperties": False,
}

_SIZE: JsonSchema = {
    "description": "A size: '512 MiB', '2 GiB', a number of bytes, or 'unlimited'.",
    "oneOf": [{"type": "string"}, {"type": "integer", "minimum": 1}],
}
_COUNT: JsonSchema = {"oneOf": [{"type": "integer", "minimum": 0}, {"const": "unlimited"}]}
_BUDGET: JsonSchema = {
    "description": "What may be used up; what would exceed it is refused before.",
    "type": "object",
    "properties": {
        "cost": {"type": "string", "description": "Dollars as a decimal text, like '0.50' or '2.50 USD'."},
        "tokens": {"type": "integer", "minimum": 0, "description": "Tokens of language models, in and out."},
        "requests": {"type": "integer", "minimum": 0, "description": "Paid or limited requests."},
        "wall_time": {**_DURATION, "description": "Time from its start, waits included."},
        "mode": {
            "enum": ["before", "after", "warn"],
            "description": "before (default) refuses what would exceed it, after what has exceeded it, warn nothing.",
        },
        "on_exceeded": {
            "enum": ["stop", "fail"],
            "description": "stop (default) ends what the budget belongs to, fail only the step that asked for more.",
        },
        "after_crash": {
            "enum": ["charge", "release"],
            "description": "Whether what an interrupted attempt might have spent counts (charge, default).",
        },
    },
    "anyOf": [{"required": [name]} for name in ("cost", "tokens", "requests", "wall_time")],
    "additionalProperties": False,
}

_ISOLATION: JsonSchema = {
    "description": "Where the executor runs: in a process of its own (process, or limits for it), or in the run's (inline).",
    "oneOf": [
        {"enum": ["inline", "process"]},
        {
            "type": "object",
            "properties": {
                "memory": {**_SIZE, "description": "Address space."},
                "cpu": {**_DURATION, "description": "Processor time of one call."},
                "open_files": {**_COUNT, "description": "File descriptors."},
                "file_size": {**_SIZE, "description": "Size of a file that it writes."},
                "processes": {**_COUNT, "description": "Processes that it starts, at one time."},
                "output": {**_SIZE, "description": "What one call writes to standard output and error."},
            },
            "additionalProperties": False,
        },
    ],
}


_EXPRESSION: JsonSchema = {"type": "string", "pattern": r"\{\{"}
_WAIT_KEYS: dict[str, JsonSchema] = {
    "duration": {"anyOf": [_DURATION, _EXPRESSION], "description": "So long."},
    "until": {
        "description": "Until this moment: ISO 8601 with its offset from UTC, like '2026-12-01T09:00+01:00'.",
        "type": ["string", "number"],
    },
    "signal": {
        "description": "For a signal of this name.",
        "type": "string",
        "anyOf": [{"pattern": f"^{SIGNAL_NAME}$", "maxLength": MAX_NAME}, _EXPRESSION],
    },
    "schema": {
        "description": "JSON Schema that the signal's payload must fit; approval: {approved: true or false, comment: TEXT}.",
        "anyOf": [{"const": "approval"}, {"type": ["object", "boolean"]}],
    },
    "timeout": {"anyOf": [_DURATION, _EXPRESSION], "description": "Longest wait for the signal."},
    "on_timeout": {"enum": ["fail", "skip", "continue"], "description": "What becomes of the step then; the default is fail."},
    "default": {"description": "The step's output after a timeout with on_timeout: continue."},
    "on_reject": {
        "enum": ["fail", "continue"],
        "description": "What becomes of the step when an approval says no; the default is fail.",
    },
}
_SIGNAL_KEYS = ("schema", "timeout", "on_timeout", "default", "on_reject")
_WAIT: JsonSchema = {
    "description": "What a step waits for.",
    "anyOf": [
        _DURATION,
        _EXPRESSION,
        {
            "type": "object",
            "properties": _WAIT_KEYS,
            "additionalProperties": False,
            "oneOf": [{"required": [kind]} for kind in ("duration", "until", "signal")],
            "dependentRequired": {
                **{key: ["signal"] for key in _SIGNAL_KEYS},
                "on_timeout": ["signal", "timeout"],
                "default": ["signal", "on_timeout"],
            },
        },
    ],
}


_CACHE: JsonSchema = {
    "description": "How the output is kept for later calls.",
    "type": "object",
    "properties": {
        "ttl": {"$ref": "#/$defs/duration", "description": "How old a kept output may be; any age without it."},
        "key": {"description": "What tells calls apart; by default executor, version and inputs. May hold ${{ }}."},
        "allow_effects": {
            "type": "boolean",
            "description": "Whether it holds although the executor does not declare that running it has no effects.",
        },
    },
    "additionalProperties": False,
}
_RATE: JsonSchema = {
    "description": "How often calls may be made; those that have to wait do so in the order of their arrival.",
    "type": "object",
    "properties": {
        "limit": {"type": "integer", "minimum": 1, "maximum": 1_000_000_000, "description": "How many calls."},
        "per": {
            "description": "In which time: second, minute, hour, day, or a duration of whole seconds.",
            "anyOf": [{"enum": ["second", "minute", "hour", "day"]}, {"$ref": "#/$defs/duration"}],
        },
        "key": {"description": "Who shares the rate; by default all calls of the executor. May hold ${{ }}."},
    },
    "required": ["limit", "per"],
    "additionalProperties": False,
}


_CONCURRENCY: JsonSchema = {
    "description": "Slots that calls or runs share.",
    "oneOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_GROUP},
        {
            "type": "object",
            "properties": {
                "group": {"type": "string", "minLength": 1, "maxLength": MAX_GROUP, "description": "What has the slots."},
                "limit": {"type": "integer", "minimum": 1, "description": "How many there are; the default is 1."},
            },
            "required": ["group"],
            "additionalProperties": False,
        },
    ],
}


def _named(values: JsonSchema, spelled: str) -> JsonSchema:
    return {"type": "object", "propertyNames": {"pattern": f"^{spelled}$"}, "additionalProperties": values}


KINDS: dict[str, JsonSchema] = {
    "text": {"type": "string"},
    "name": {"type": "string", "minLength": 1, "maxLength": 200},
    "texts": {"type": "object", "additionalProperties": {"type": "string"}},
    "syntax": {"enum": ["braces"]},
    "flag": {"type": "boolean"},
    "count": {"type": "integer", "minimum": 1},
    "number": {"type": "integer"},
    "number_from_0": {"type": "integer", "minimum": 0},
    "needs_rule": {"enum": ["all_succeeded", "all_done", "any_succeeded"]},
    "on_interrupt": {"enum": ["rerun", "fail", "ask"]},
    "subflow": {"type": "string", "minLength": 1},
    "parallel": {"$ref": "#/$defs/parallel"},
    "choose": {"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#/$defs/branch"}},
    "body": {"$ref": "#/$defs/body"},
    "fallback": {"oneOf": [{"$ref": "#/$defs/body"}, {"type": "array", "items": {"$ref": "#/$defs/body"}, "minItems": 1}]},
    "workflows": {"type": "object", "additionalProperties": {"$ref": "#"}},
    "on_error": {"enum": ["stop", "continue"]},
    "max_failures": {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d{1,3}(\.\d+)?%$"}]},
    "duration": {"$ref": "#/$defs/duration"},
    "retry": {"$ref": "#/$defs/retry"},
    "isolation": {"$ref": "#/$defs/isolation"},
    "budget": {"$ref": "#/$defs/budget"},
    "wait": {"$ref": "#/$defs/wait"},
    "concurrency": {"$ref": "#/$defs/concurrency"},
    "priority": {"type": "integer"},
    "cache": {"$ref": "#/$defs/cache"},
    "rate_limit": {"$ref": "#/$defs/rate_limit"},
    "uses": {"type": "string", "pattern": r"^[^\s${}]+$"},
    "condition": {"type": ["string", "boolean"]},
    "item_name": {"type": "string", "pattern": f"^{NAME}$", "not": {"enum": sorted(RESERVED_NAMES)}},
    "needs": _WORDS,
    "secrets": {"type": "array", "items": {"type": "string", "pattern": f"^{NAME}$"}, "uniqueItems": True},
    "input_type": {"enum": list(INPUT_TYPES)},
    "value": {},
    "with": {"type": ["object", "string"]},
    "foreach": {"type": ["array", "string"]},
    "outputs": _named({}, NAME),
    "inputs": _named({"$ref": "#/$defs/input"}, NAME),
    "defaults": {"$ref": "#/$defs/defaults"},
    "steps": _named({"$ref": "#/$defs/step"}, STEP_ID),
}
"""Kind of value -> its JSON Schema; the loader has a reader of the same name for each."""


def workflow_schema() -> JsonSchema:
    """JSON Schema (2020-12) of a workflow file, for editors. What needs a look at the whole file is the loader's to check."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "treadle workflow",
        **_mapping_schema(WORKFLOW),
        "$defs": {
            "step": {**_mapping_schema(STEP), **_step_rules()},
            "branch": {**_mapping_schema(BRANCH), **_step_rules()},
            "parallel": _mapping_schema(PARALLEL),
            "body": _mapping_schema(BODY),
            "input": _mapping_schema(INPUT),
            "defaults": _mapping_schema(DEFAULTS),
            "duration": _DURATION,
            "retry": _RETRY,
            "isolation": _ISOLATION,
            "budget": _BUDGET,
            "wait": _WAIT,
            "concurrency": _CONCURRENCY,
            "cache": _CACHE,
            "rate_limit": _RATE,
        },
    }


ONLY_WITH_FOREACH = frozenset(("as", "batch", "max_parallel", "max_failures"))
"""Keys of a step that mean nothing without a ``foreach``."""


def _step_rules() -> JsonSchema:
    """Exactly one kind, and no key that means nothing beside it."""
    kinds = [kind for kind in STEP_KINDS if STEP.keys[kind].kind]
    absent = {kind: [name for name, fits in ONLY_WITH.items() if kind not in fits] for kind in kinds}
    absent["wait"] = list(NOT_OF_WAITS)
    alone = [
        {"required": [kind], **({"properties": dict.fromkeys(absent[kind], False)} if absent[kind] else {})} for kind in kinds
    ]
    return {"oneOf": alone, "dependentRequired": {name: ["foreach"] for name in sorted(ONLY_WITH_FOREACH)}}


def _mapping_schema(table: Table) -> JsonSchema:
    properties = {key.name: {"description": key.description, **KINDS[key.kind]} for key in table.keys.values() if key.kind}
    schema: JsonSchema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": list(table.required)} if table.required else schema
