"""Run the few tests that failed once more, each by itself, and name them.

``again.py`` does so after a run of pytest that failed; ``again.py ARGUMENTS`` runs pytest with these arguments first.

Tests with processes, signals and clocks meet what the machine does beside them. One that passes by itself still has a fault,
its own or treadle's, and is named so that somebody looks for it; more than a few at once are no accident, and stay failures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTED = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
FEW = 3


def pytest(*arguments: str) -> int:
    """The exit code of pytest."""
    return subprocess.run([sys.executable, "-P", "-m", "pytest", *arguments], cwd=ROOT, check=False).returncode


def main(arguments: list[str]) -> int:
    """The exit code: 0 when each test that failed passes by itself."""
    if arguments:
        NOTED.unlink(missing_ok=True)
        code = pytest(*arguments)
        if code != 1:  # all passed, or something kept them from running
            return code
    failed = sorted(json.loads(NOTED.read_text("utf-8"))) if NOTED.exists() else []
    if not 0 < len(failed) <= FEW:
        print(f"{len(failed)} tests failed; {FEW} at most are run once more.")
        return 1
    answers = {test: pytest("--quiet", "-p", "no:cacheprovider", test) for test in failed}
    for test, code in answers.items():
        print(f"FAILED TWICE: {test}" if code else f"PASSED ONLY BY ITSELF, look for the reason: {test}")
    return max(map(bool, answers.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
