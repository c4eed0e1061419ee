"""What looks like a secret whoever knows it or not: authorization headers, tokens by their shape, passwords in URLs."""

from __future__ import annotations

import re

HIDDEN = "***"
"""What stands wherever a secret would."""

_TOKENS = (
    r"gh[pousr]_[A-Za-z0-9]{20,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"glpat-[A-Za-z0-9_-]{20,}",  # GitLab
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",  # AWS
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"sk-[A-Za-z0-9_-]{20,}",  # OpenAI, Anthropic and those who do as they do
    r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[A-Za-z0-9_-]{32,}",
    r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",  # JSON web tokens
)

# Each hides its group "hidden", else the whole match. No quantifier stands within another, so time stays linear.
SHAPES = (
    re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?P<hidden>[\s\S]*?)(?:-----END|\Z)"),
    re.compile(
        r"""\b(?:proxy-)?authorization\b["']?\s{0,4}[:=,]\s{0,4}["']?(?:(?:basic|bearer|digest|token|negotiate)\s{1,4})?"""
        r"""(?P<hidden>[^\s"',;}\])]+)""",
        re.IGNORECASE,
    ),
    re.compile(r"\b(?:bearer|basic)\s{1,4}(?P<hidden>[A-Za-z0-9._~+/-]{8,}=*)", re.IGNORECASE),
    re.compile(r"(?<![A-Za-z0-9_-])(?:" + "|".join(_TOKENS) + ")"),
    re.compile(r"[a-z][a-z0-9+.-]{0,30}://(?P<hidden>[^\s/?#@\"'<>]{1,500})@", re.IGNORECASE),
    re.compile(
        r"[?&](?:access_token|refresh_token|id_token|token|api_?key|key|secret|client_secret|password|passwd|sig|signature)="
        r"(?P<hidden>[^\s&#\"'<>]+)",
        re.IGNORECASE,
    ),
)
"""In the order in which they are looked for."""

FIELD = re.compile(
    r"(?:.*[_.-])?(?:authorization|cookie|token|secret|password|passwd|passphrase|private[_-]?key|api[_-]?key|access[_-]?key)",
    re.IGNORECASE,
)
"""The whole name of a field whose text is hidden, whatever it is."""


def without_shapes(text: str, shapes: tuple[re.Pattern[str], ...]) -> str:
    """``text`` with ``***`` wherever one of the shapes is."""
    for shape in shapes:
        text = shape.sub(_hide, text)
    return text


def _hide(match: re.Match[str]) -> str:
    group = "hidden" if "hidden" in match.re.groupindex else 0
    begin, end = match.span(group)
    return match[0][: begin - match.start()] + HIDDEN + match[0][end - match.start() :]
