"""Find the links of Markdown pages."""

from __future__ import annotations

import posixpath
import re

from ._link import Link

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")


def links(pages: list[dict[str, object] | None]) -> list[Link]:
    """Every relative link of some pages, each once for its page.

    Args:
        pages: What ``file.read`` gave for each; null for one that could not be read.
    """
    found: dict[tuple[str, str], Link] = {}
    for page in pages:
        if page is None:
            continue
        path, text = str(page["path"]), _CODE.sub("", _FENCE.sub("", str(page["text"])))
        for address in _LINK.findall(text):
            file = address.partition("#")[0]
            if not file or re.match(r"[a-z]+:", address):
                continue  # within the page, or of another site
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
            found[path, target] = {"page": path, "target": target}
    return list(found.values())
