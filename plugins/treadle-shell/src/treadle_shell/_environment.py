"""The environment of a command: a few names of ours, what the step gives, and what says which call it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from json import dumps

from treadle.errors import PermanentError
from treadle.ports import Context

INHERITED = frozenset(
    (
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "TMP",
        "TEMP",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    )
)
"""What a command inherits of treadle's own environment, besides ``LC_*``; everything else has to be given."""

MAX_VALUE_BYTES = 131_000
"""The kernel refuses a single string of 128 KiB or more."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Names through which a value could change which program runs or what it loads; data never gets to set them.
_POWERFUL = re.compile(
    r"PATH|HOME|SHELL|IFS|ENV|BASH_\w*|SHELLOPTS|PS4|CDPATH|PROMPT_COMMAND|EDITOR|VISUAL|PAGER|BROWSER|LESS\w*|MAKEFLAGS"
    r"|LD_\w*|DYLD_\w*|PYTHON\w*|PERL\w*|RUBY\w*|NODE_\w*|NPM_\w*|_?JAVA_\w*|JDK_JAVA_\w*|GIT_\w*|SSH_\w*|GCONV_PATH|LOCPATH"
    r"|NLSPATH|OPENSSL_\w*|SSL_CERT_\w*|CURL_\w*|TAR_OPTIONS|XDG_\w*|TMPDIR|TREADLE_\w*|TRACEPARENT|(?i:\w+_proxy)"
)


def build_environment(
    ctx: Context,
    inherited: Mapping[str, str],
    *,
    env: Mapping[str, str],
    inputs: Mapping[str, object],
    pass_env: Iterable[str],
) -> dict[str, str]:
    """The whole environment of a command; later sources win over earlier ones.

    Args:
        ctx: The call, which adds its run, step, trace and idempotency key.
        inherited: treadle's own environment, of which only the listed names pass.
        env: What the step's author sets, by any name.
        inputs: Data for a script; a value that is not text becomes JSON text.
        pass_env: Further names to inherit; one that is not set is left out.

    Raises:
        PermanentError: A name or value that an environment cannot hold, or an input by a name that steers programs.
    """
    passing = {*INHERITED, *pass_env}
    built = {name: value for name, value in inherited.items() if name in passing or name.startswith("LC_")}
    built.update((_checked_name(name, "env"), _checked_value(name, value, "env")) for name, value in env.items())
    for name, value in inputs.items():
        if _POWERFUL.fullmatch(name):
            raise PermanentError(
                f"Input {name!r} of the script has a name that steers programs, so data may not set it.",
                "Give it another name, or set it on purpose with 'env'.",
            )
        text = value if isinstance(value, str) else dumps(value, ensure_ascii=False)
        built[_checked_name(name, "inputs")] = _checked_value(name, text, "inputs")
    built.update(_call_facts(ctx))
    return built


def _call_facts(ctx: Context) -> dict[str, str]:
    facts = {
        "TREADLE_RUN_ID": ctx.run_id,
        "TREADLE_STEP": ctx.step,
        "TREADLE_ATTEMPT": str(ctx.attempt),
        "TREADLE_IDEMPOTENCY_KEY": ctx.idempotency_key,
    }
    if ctx.index is not None:
        facts["TREADLE_INDEX"] = str(ctx.index)
    if ctx.traceparent:
        facts["TRACEPARENT"] = ctx.traceparent
    return facts


def _checked_name(name: str, owner: str) -> str:
    if not _NAME.fullmatch(name):
        raise PermanentError(
            f"{owner}: {name!r} cannot be the name of an environment variable.",
            "Use letters, digits and underscores, not beginning with a digit.",
        )
    return name


def _checked_value(name: str, value: str, owner: str) -> str:
    if "\0" in value:
        raise PermanentError(
            f"{owner}.{name}: an environment variable cannot hold a NUL character.", "Remove it from the value."
        )
    try:
        size = len(name) + len(value.encode())
    except UnicodeEncodeError as error:
        raise PermanentError(f"{owner}.{name}: the value is not valid text: {error}.", "Pass valid Unicode.") from error
    if size > MAX_VALUE_BYTES:
        raise PermanentError(
            f"{owner}.{name}: {size:,} bytes are more than an environment variable holds ({MAX_VALUE_BYTES:,}).",
            "Pass large data with 'stdin', or write it to a file first.",
        )
    return value
