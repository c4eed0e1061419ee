"""What structure costs: planning a large file of groups, choices and items; evaluating an expression; a long foreach.

python tests/bench/structures.py
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 10_000
ITEMS = 100_000
ROUNDS = 1_000

EXPRESSIONS = (
    "steps.page.output.total",
    "steps.page.output.total > 100 and inputs.limit is not none",
    "steps.page.output.items | map(attribute='n') | sum > inputs.limit",
    "(steps.page.output.items | length) * 2 + inputs.limit if steps.page.status == 'completed' else 0",
    "inputs.names | join(', ') | upper",
    "steps.page.output['items'][index].n == item.n or errors.page is none",
)


def write_file(path: Path) -> None:
    """Groups of eight, choices of four and groups for each of two items, each needing the one before it."""
    lines = ["name: structured", "inputs: {base: {type: integer, default: 1}}", "steps:"]
    written = group = 0
    while written < STEPS:
        lines.append(f"  g{group}:")
        if group:
            lines.append(f"    needs: [g{group - 1}]")
        form = group % 3
        if form == 1:
            lines.append("    choose:")
            for branch in range(4):
                taken = "else: true" if branch == 3 else f"when: 'inputs.base + {branch} > 3'"
                lines.append(f"      s{written + branch}: {{{taken}, uses: bench.noop, with: {{n: {branch}}}}}")
        else:
            lines += ["    when: inputs.base > 0", "    foreach: [1, 2]"] if form == 2 else []
            value = f"${{{{ steps.g{group - 1}.attempts + item }}}}" if form == 2 else "${{ inputs.base }}"
            lines.append("    parallel:\n      steps:")
            for child in range(8):
                lines.append(f"        s{written + child}: {{uses: bench.noop, with: {{n: '{value}'}}}}")
        written += (4 if form == 1 else 8) + 1
        group += 1
    path.write_text("\n".join(lines) + "\n")


def plan(path: str) -> dict[str, float]:
    """Seconds of processor time to read the file and to plan it."""
    from treadle import Registry, executor, load_workflow, make_plan

    @executor("bench.noop")
    async def noop(n: int) -> int:
        """Nothing."""
        return n

    registry = Registry.of(noop)
    began = time.process_time()
    planned = make_plan(load_workflow(path), registry)
    took = time.process_time() - began
    assert len(planned.steps) >= STEPS, "the file has so many"
    return {"structured_plan_s": took}


def evaluate() -> dict[str, float]:
    """Microseconds of one evaluation, the median over expressions as people write them."""
    from treadle._expressions import parse_expression

    items = [{"n": number} for number in range(10)]
    page = {"output": {"total": 120, "items": items}, "status": "completed", "attempts": 1, "error": None, "errors": []}
    names = {"steps": {"page": page}, "inputs": {"limit": 5, "names": ["a", "b"]}, "errors": {"page": None}}
    names |= {"item": items[3], "index": 3}
    times = []
    for source in EXPRESSIONS:
        expression = parse_expression(source)
        best = float("inf")
        for _ in range(5):
            began = time.process_time()
            for _ in range(ROUNDS):
                expression.evaluate(names)
            best = min(best, (time.process_time() - began) / ROUNDS)
        times.append(best * 1e6)
    return {"expression_us": statistics.median(times)}


def items() -> dict[str, float]:
    """A foreach over many items that do nothing: microseconds for each, and the peak memory of the process in MB."""
    from treadle import Registry, Workflow, executor, run

    @executor("bench.noop")
    async def noop(n: int) -> int:
        """Nothing."""
        return n

    workflow = Workflow("items")
    given = workflow.input("items", type="array")
    workflow.step("each", "bench.noop", foreach=given, n="${{ item }}")
    began = time.process_time()
    result = run(workflow, {"items": list(range(ITEMS))}, registry=Registry.of(noop)).check()
    took = time.process_time() - began
    assert result.steps["each"].attempts == ITEMS, "each item was done"
    return {"item_us": took / ITEMS * 1e6, "items_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Measure each in a process of its own and print."""
    if len(sys.argv) > 1:
        print(json.dumps(plan(sys.argv[2]) if sys.argv[1] == "plan" else {"evaluate": evaluate, "items": items}[sys.argv[1]]()))
        return
    measured: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "structured.yaml"
        write_file(path)
        for part in (["plan", str(path)], ["plan", str(path)], ["evaluate"], ["items"], ["items"]):
            done = subprocess.run([sys.executable, __file__, *part], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            measured |= {key: min(value, measured.get(key, value)) for key, value in found.items()}
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
