"""Files that were made to exhaust the reader: each ends in a clear error, soon, and in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

STEP = "name: x\nsteps:\n a:\n  uses: x\n  with:\n"
LEVELS = "abcdefgh"
BOMBS = {
    # reliability of YAML: anchors, depth, numbers, tags, size
    "anchors": (
        "yaml",
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip(LEVELS, "bcdefghi", strict=True)),
    ),
    "recursive": ("yaml", "name: &a [*a]\nsteps: *a\n"),
    "merge": ("yaml", "a: &a {x: 1}\nb:\n  <<: [" + ",".join(["*a"] * 8_000) + "]\n"),
    "5k lists": ("yaml", "[" * 5_000),
    "100k lists": ("yaml", "[" * 100_000),
    "100k mappings": ("yaml", "{a: " * 100_000),
    "100k items": ("yaml", "- " * 100_000),
    "100k keys": ("yaml", "? " * 100_000),
    "deep lines": ("yaml", "".join(" " * depth + "a:\n" for depth in range(2_500))),
    "doubled keys": ("yaml", "a: 1\n" * 100_000),
    "digits": ("yaml", "name: " + "9" * 5_000),
    "tag": ("yaml", "name: !!python/object/apply:os.system [id]"),
    "tags": ("yaml", "[" + "!a 1," * 500_000 + "]"),
    "aliases": ("yaml", "[" + "*a," * 1_000_000 + "]"),
    "open quote": ("yaml", 'a: "' + "x" * ((4 << 20) - 10)),
    "long key": ("yaml", "k" * 4_000_000 + ": 1"),
    "garbage": ("yaml", "".join(f"key{number}: 1\n" for number in range(20_000))),
    "json lists": ("json", "[" * 100_000),
    "json doubled": ("json", "{" + '"a":2,' * 500_000 + '"b":1}'),
    "json empties": ("json", "[" + "[]," * 1_300_000 + "[]]"),
    "json digits": ("json", '{"a": ' + "9" * 5_000 + "}"),
    "toml key": ("toml", ".".join(["a"] * 100_000) + " = 1"),
    "toml lists": ("toml", "a = " + "[" * 100_000),
    "toml tables": ("toml", "a = " + "{a=" * 100_000),
    # and of expressions
    "long expression": ("yaml", f"{STEP}   k: ${{{{ {'a+' * 5_000}a }}}}"),
    "deep expression": ("yaml", f"{STEP}   k: ${{{{ {'(' * 3_000}1{')' * 3_000} }}}}"),
    "nots": ("yaml", f"{STEP}   k: ${{{{ {'not ' * 1_500}a }}}}"),
    "open expressions": ("yaml", f'{STEP}   k: "' + "$${{'" * 600_000 + '${{ "'),
    "power": ("yaml", f"{STEP}   k: ${{{{ (7**(10**7))%10 }}}}"),
    "bad expressions": ("yaml", STEP + "".join(f"   k{number}: ${{{{ a + {number} ! }}}}\n" for number in range(10_000))),
}
CHILD = """
import json, resource, sys, time
from treadle._loader import load_workflow
from treadle.errors import WorkflowInvalidError
import treadle._expressions._grammar, treadle._workflow._yaml
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
answers = {}
for file in sys.argv[1:]:
    started, message = time.process_time(), ""
    try:
        load_workflow(file)
    except WorkflowInvalidError as error:
        message = str(error)
    seconds = time.process_time() - started
    status = open("/proc/self/status").read()  # ru_maxrss begins with what the parent had
    peak_mb = int(status.partition("VmHWM:")[2].split()[0]) // 1024
    answers[file] = {"seconds": seconds, "peak_mb": peak_mb, "message": message[:400], "length": len(message)}
print(json.dumps(answers))
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_in_a_clear_error_within_a_second(tmp_path: Path, name: str) -> None:
    """Under 1 s of the processor and 300 MB, in a process of its own, with a message that can be read."""
    suffix, text = BOMBS[name]
    file = tmp_path / f"bomb.{suffix}"
    file.write_text(text, "utf-8")
    child = subprocess.run([sys.executable, "-c", CHILD, str(file)], capture_output=True, text=True, timeout=60)

    assert child.returncode == 0, child.stderr[-2_000:]
    answer = json.loads(child.stdout)[str(file)]
    assert "fault" in answer["message"]
    assert "bomb" in answer["message"]
    assert answer["length"] < 60_000
    assert answer["seconds"] < 1
    assert answer["peak_mb"] < 300
