"""Run the few tests that failed once more, each by itself, and name them: ``again.py``, after a run of pytest that failed.

Tests with processes, signals and clocks meet what the machine does beside them. One that passes by itself still has a fault,
its own or treadle's, and is named so that somebody looks for it; more than a few at once are no accident, and stay failures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FEW = 3


def main() -> int:
    """0 when each test that failed passes by itself."""
    noted = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
    failed = sorted(json.loads(noted.read_text("utf-8"))) if noted.exists() else []
    if not 0 < len(failed) <= FEW:
        print(f"{len(failed)} tests failed; {FEW} at most are run once more.")
        return 1
    pytest = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
    answers = {test: subprocess.run([*pytest, test], cwd=ROOT, env=os.environ, check=False).returncode for test in failed}
    for test, code in answers.items():
        print(f"FAILED TWICE: {test}" if code else f"PASSED ONLY BY ITSELF, look for the reason: {test}")
    return max(map(bool, answers.values()))


if __name__ == "__main__":
    sys.exit(main())
