"""A 10,000-step YAML file: seconds to load and plan it, and the peak memory of its run in MB."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNT = 10_000


def peak_mb() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_file(path: Path) -> None:
    """Steps with needs, two inputs and an expression each."""
    lines = ["name: large", "inputs: {base: {type: integer, default: 1}}", "steps:"]
    for n in range(COUNT):
        lines += [f"  s{n}:", "    uses: bench.noop", f"    with: {{n: {n}, base: '${{{{ inputs.base }}}}'}}"]
        if n:
            lines.append(f"    needs: [s{n // 2}]" if n < 3 else f"    needs: [s{n // 2}, s{n - 1 - n % 2}]")
    path.write_text("\n".join(lines) + "\n")


def load_and_plan(path: str) -> None:
    """Seconds of each, in a fresh process."""
    from treadle import Registry, executor, load_workflow, make_plan

    @executor("bench.noop")
    async def noop(n: int, base: int) -> dict[str, int]:
        """Nothing."""
        return {"i": n + base}

    registry = Registry.of(noop)
    began = time.perf_counter()
    workflow = load_workflow(path)
    loaded = time.perf_counter()
    make_plan(workflow, registry)
    print(json.dumps({"load_s": loaded - began, "plan_s": time.perf_counter() - loaded}))


def run_it(path: str) -> None:
    """Peak memory of loading, planning and running, in a fresh process."""
    from treadle import Registry, executor, load_workflow, run

    @executor("bench.noop")
    async def noop(n: int, base: int) -> dict[str, int]:
        """Nothing."""
        return {"i": n + base}

    imported = peak_mb()
    result = run(load_workflow(path), registry=Registry.of(noop)).check()
    assert len(result.steps) == COUNT, "each step has a result"
    print(json.dumps({"peak_mb": peak_mb(), "import_mb": imported}))


def main() -> None:
    """Measure each in a process of its own and print."""
    if len(sys.argv) > 2:
        {"load": load_and_plan, "run": run_it}[sys.argv[1]](sys.argv[2])
        return
    measured: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.yaml"
        write_file(path)
        for part in ("load", "load", "run"):
            done = subprocess.run([sys.executable, __file__, part, str(path)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            measured |= {key: min(value, measured.get(key, value)) for key, value in found.items()}
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
