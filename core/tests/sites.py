"""Distributions for tests: laid into a folder on ``sys.path``, as an installer lays the contents of a wheel."""

from __future__ import annotations

import base64
import hashlib
import textwrap
from collections.abc import Mapping
from pathlib import Path

import attrs
from treadle._config import Config, PluginsConfig
from treadle._plugins import Registry

ECHO = '''
from treadle import executor

@executor("acme.echo")
async def echo(text: str) -> str:
    """Say it again."""
    return text
'''


@attrs.define
class Site:
    """A folder on ``sys.path`` that distributions are laid into, as an installer would."""

    folder: Path

    def lay(
        self, name: str, files: Mapping[str, str], entry_points: str = "", *, version: str = "1.0", metadata: str | None = None
    ) -> Site:
        """Lay a distribution: its modules, its metadata and the list of its files."""
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        own = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: treadle>=0.1,<1\n"
        head = own if metadata is None else metadata
        laid = {
            **{path: textwrap.dedent(text) for path, text in files.items()},
            f"{info}/METADATA": head,
            f"{info}/entry_points.txt": textwrap.dedent(entry_points),
        }
        for path, text in laid.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(text)
        rows = [f"{path},sha256={_digest(text)},{len(text)}" for path, text in laid.items()]
        (self.folder / info / "RECORD").write_text("\n".join([*rows, f"{info}/RECORD,,", ""]))
        return self

    def executor(
        self, distribution: str, module: str, text: str = ECHO, name: str = "acme.echo", attribute: str = "echo"
    ) -> Site:
        """Lay a distribution with one module and one executor."""
        return self.lay(distribution, {f"{module}.py": text}, f"[treadle.executors]\n{name} = {module}:{attribute}\n")

    def discover(self, **plugins: object) -> Registry:
        """A registry of what lies here (and in the environment of the tests)."""
        return Registry.discover(Config(plugins=PluginsConfig(**plugins), root=self.folder))  # type: ignore[arg-type] # by keyword


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
