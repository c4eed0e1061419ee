"""What installed plugins cost: import, ``--help`` and ``plugins list`` with 30 of them, and steps with 30 inactive ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPETITIONS = 7
PLUGINS = 30


def lay_plugins(folder: Path) -> None:
    """Lay 30 small distributions, each with an executor and a policy, as an installer would."""
    for number in range(PLUGINS):
        name = f"treadle_sample{number}"
        (folder / f"{name}.py").write_text(
            "from treadle import executor, hookimpl\n\n\n"
            f'@executor("sample{number}.noop")\n'
            "async def noop(n: int) -> int:\n"
            '    """Nothing."""\n'
            "    return n\n\n\n"
            "class Policy:\n"
            "    @hookimpl\n"
            "    def validate_output(self, output):\n"
            "        return None\n"
        )
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: treadle-sample{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[treadle.executors]\nsample{number}.noop = {name}:noop\n\n[treadle.policies]\nsample{number} = {name}:Policy\n"
        )
        (info / "RECORD").write_text(
            f"{name}.py,,\n{info.name}/METADATA,,\n{info.name}/entry_points.txt,,\n{info.name}/RECORD,,\n"
        )


def best_ms(*arguments: str, environ: dict[str, str]) -> float:
    """Milliseconds of a Python process, best of some."""
    best = float("inf")
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environ)
        best = min(best, time.perf_counter() - began)
    return best * 1000


def per_step_us(environ: dict[str, str]) -> float:
    """Microseconds per step of a chain in a process of its own, with whatever is installed."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import anyio, json, steps, time\n"
        "time.perf_counter = time.process_time\n"  # what others do on the machine meanwhile must not count
        "from treadle import Registry\n"
        "Registry.discover().entries()\n"
        "steps.REPETITIONS = 15\n"
        "print(json.dumps(anyio.run(steps.best_us, steps.chain(1000))))\n"
    )
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", script, here], check=True, capture_output=True, text=True, env=environ)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lay_plugins(folder)
        bare = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        full = {**bare, "PYTHONPATH": os.pathsep.join([place, *filter(None, [os.environ.get("PYTHONPATH")])])}
        command = str(Path(sys.executable).with_name("treadle"))
        without = with_them = float("inf")
        for _ in range(6):  # in turns, so that a busy moment hits both
            without = min(without, per_step_us(bare))
            with_them = min(with_them, per_step_us(full))
        measured = {
            "python_ms": best_ms("-c", "pass", environ=bare),
            "import_ms": best_ms("-c", "import treadle", environ=full),
            "help_ms": best_ms(command, "--help", environ=full),
            "list_ms": best_ms(command, "plugins", "list", "--json", environ=full),
            "without_plugins_us": without,
            "with_plugins_us": with_them,
        }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
