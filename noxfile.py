"""What is checked, and how: ``nox -l`` lists it. Every session but the plain checks makes its own environment."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "typing", "rows", "docs"]

ROOT = Path(__file__).parent
PROJECTS = {
    tomllib.loads(file.read_text("utf-8"))["project"]["name"]: file.parent
    for file in sorted([*ROOT.glob("core/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")])
}
PLUGINS = sorted(set(PROJECTS) - {"treadle"})
DEV = ROOT / ".venv" / ("Scripts" if sys.platform == "win32" else "bin")


def dev(session: nox.Session, tool: str, *args: str, success_codes: tuple[int, ...] = (0,)) -> None:
    """Run a tool of the checkout's own environment, as ``.ci/setup.py`` left it."""
    if not (DEV / tool).exists():
        session.error("There is no .venv with the development tools yet. Run: python3 .ci/setup.py")
    session.run(str(DEV / tool), *args, external=True, success_codes=success_codes)


def wheel(session: nox.Session, project: Path) -> str:
    """Build one member as a third party would install it, and return the wheel's path."""
    folder = Path(session.create_tmp()) / project.name
    session.run("uv", "build", "--quiet", "--wheel", "--no-sources", "--out-dir", str(folder), str(project), external=True)
    return str(max(folder.glob("*.whl"), key=lambda file: file.stat().st_mtime))


def group(project: Path, name: str) -> list[str]:
    """The options that install a project's dependency group, when it has one of that name."""
    file = project / "pyproject.toml"
    groups = tomllib.loads(file.read_text("utf-8")).get("dependency-groups", {})
    return ["--group", f"{file}:{name}"] if name in groups else []


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Ruff, and that everything is formatted."""
    dev(session, "ruff", "check", ".")
    dev(session, "ruff", "format", "--check", ".")


@nox.session(venv_backend="none")
def typing(session: nox.Session) -> None:
    """Mypy, strict, over what ships; pyright, strict, over the public API as its users write it."""
    dev(session, "mypy")
    dev(session, "pyright")


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """The whole suite in the checkout's environment; arguments go to pytest."""
    dev(session, "pytest", "-n", "auto", *session.posargs)


@nox.session
@nox.parametrize("distribution", PLUGINS, ids=PLUGINS)
def plugins(session: nox.Session, distribution: str) -> None:
    """One plugin's tests, with nothing of the checkout but its wheel and the core's."""
    alone(session, PROJECTS[distribution])


@nox.session
def core(session: nox.Session) -> None:
    """Core's tests, with nothing of the checkout but its wheel: no plugin is there."""
    alone(session, PROJECTS["treadle"])


def alone(session: nox.Session, project: Path) -> None:
    """Run a member's tests against its built wheel."""
    wheels = dict.fromkeys([wheel(session, PROJECTS["treadle"]), wheel(session, project)])
    session.install(*wheels, *group(ROOT, "test"), *group(project, "dev"))
    session.run("uv", "pip", "check", external=True)
    session.run("python", ".ci/again.py", str(project / "tests"), *session.posargs)


@nox.session
def minimums(session: nox.Session) -> None:
    """The whole suite with the lowest version that each floor allows."""
    members = [option for project in PROJECTS.values() for option in ("--editable", str(project))]
    groups = [option for project in (ROOT, *PROJECTS.values()) for option in group(project, "dev")]
    session.install("--resolution", "lowest-direct", *members, *groups)
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session(venv_backend="none")
def coverage(session: nox.Session) -> None:
    """Branch coverage of core by its tests and those of whole runs, held against the floor of each part."""
    dev(session, "coverage", "erase")
    # Being measured slows everything down, so tests of speed may fail here; whether tests pass is the other sessions' question.
    tests = ["core/tests", "tests/fundamentals", "tests/integration"]
    dev(session, "coverage", "run", "-m", "pytest", "--quiet", *tests, *session.posargs, success_codes=(0, 1))
    dev(session, "coverage", "combine", "--quiet")
    dev(session, "coverage", "json", "--quiet", "-o", ".coverage.json")
    dev(session, "python", "tests/house/coverage_floors.py", ".coverage.json")


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """The figures, beside raw limits of the same run, as JSON lines; ``-- --graphs DIR`` runs WfFormat graphs."""
    dev(session, "python", "tests/bench/run.py", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """The figures of kept runs once more, with those of an engine of the same kind beside them in the same run."""
    session.install("-r", "tests/bench/dbos.txt")
    session.env["TREADLE_BENCH_DBOS"] = str(Path(session.bin) / "python")
    dev(session, "python", "tests/bench/run.py", "durable", *session.posargs)


@nox.session
@nox.parametrize("backend", ["phoenix", "mlflow"], ids=["phoenix", "mlflow"])
def backends(session: nox.Session, backend: str) -> None:
    """Trace trees read back from independent OTLP backends, each installed into an environment of its own."""
    session.install("-r", f"tests/backends/{backend}.txt")
    dev(session, "python", f"tests/backends/{backend}.py", session.bin, *session.posargs)


@nox.session(venv_backend="none")
def chaos(session: nox.Session) -> None:
    """All kills and power cuts: 1,000 kills, 100 runs whose resume is killed 20 times, 1,350 power cuts.

    And 300 double resumes, 200 owners that sleep through their lease, 100 orphaned families, 20 poisoned runs; 12 kills of runs
    whose 100,000 spans nobody takes until they have ended; 50 kills each of migration, vacuum, backup and cleaning; an error of
    each of the first 200 writes; 8 writers; 200 series of cuts of Postgres; 300 random histories;
    each faulty store against each test of the contract.
    """
    environ = {"TREADLE_KILLS": "1000", "TREADLE_RELENTLESS": "100", "TREADLE_POWER_CUTS": "1350"}
    environ |= {
        "TREADLE_UPKEEP_KILLS": "50",
        "TREADLE_IO_ERRORS": "200",
        "TREADLE_CUTS": "200",
        "TREADLE_STORE_EXAMPLES": "300",
        "TREADLE_MUTANTS": "1",
        "TREADLE_DOUBLE_RESUMES": "300",
        "TREADLE_ZOMBIES": "200",
        "TREADLE_ORPHANS": "100",
        "TREADLE_POISONS": "20",
    }
    environ |= {"TREADLE_SPAN_KILLS": "12", "TREADLE_SPAN_ITEMS": "1000"}
    session.env.update(environ)
    stores = (
        *(f"plugins/treadle-sqlite/tests/test_{name}.py" for name in ("power_cuts", "upkeep", "trouble", "store")),
        *("plugins/treadle-postgres/tests/test_cut_connections.py", "tests/integration/test_store_machine.py"),
        "tests/integration/test_store_contract.py",
    )
    dev(session, "pytest", "-s", "tests/chaos", *stores, *session.posargs)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Schemas and generated pages are what the code says now; ``-- --write`` brings them up to date."""
    dev(session, "python", "tests/house/generated.py", *(session.posargs or ["--check"]))


@nox.session(venv_backend="none")
def rows(session: nox.Session) -> None:
    """Each requirement of this work with the tests that carry it; fails for one without, or for an unknown ID."""
    dev(session, "python", "tests/house/rows.py")
