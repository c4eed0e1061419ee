"""Set up this checkout: uv in ``.tools/``, treadle with every plugin and the development tools in ``.venv/``.

Needs Python 3.11 or later with pip, and git. Changes nothing outside the checkout; running it again is cheap.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
UV = TOOLS / ("bin/uv.exe" if os.name == "nt" else "bin/uv")


def install_uv() -> None:
    """Put uv into ``.tools/``; with ``--target``, pip touches no environment, not even a managed one."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
    subprocess.run([*pip, "--target", str(TOOLS), "uv>=0.9,<1"], check=True)


def sync() -> None:
    """Install every member of the workspace, editable, and the development tools into ``.venv/``."""
    environment = os.environ | {"UV_PROJECT_ENVIRONMENT": str(ROOT / ".venv"), "UV_PYTHON_DOWNLOADS": "never"}
    # An active environment of the caller's is none of our business, and uv would warn about it.
    environment.pop("VIRTUAL_ENV", None)
    # Inexact: what somebody installed by hand to try it out stays.
    command = [str(UV), "sync", "--quiet", "--inexact", "--all-packages", "--python", sys.executable]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def main() -> None:
    """Do both, saying what is being done: the first time takes a minute."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the one file that an older interpreter may be asked to run
        sys.exit(f"treadle needs Python 3.11 or later; this is {sys.version.split()[0]}. Run this script with a later one.")
    if not UV.exists():
        print("setting up: uv into .tools/", file=sys.stderr, flush=True)
        install_uv()
    print("setting up: treadle, its plugins and the development tools into .venv/", file=sys.stderr, flush=True)
    sync()


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"Setting up failed; what the tool said stands above.\n{error}")
