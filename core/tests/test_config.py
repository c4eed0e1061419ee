"""Where configuration is found, what overrides it, and how its faults are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from treadle._config import Config, load_config
from treadle.errors import ConfigError, ConfigInvalidError

WHOLE = """
[plugins]
block = ["treadle-foo"]
prefer = {"http.request" = "treadle-http"}
policies = ["limits"]
folder = "executors"

[tools]
folder = "tools"

[clients.http]
timeout_s = 5
token = {env = "ACME_TOKEN"}

[clients.billing]
use = "postgres"

[policies.limits]
per_host = 4

[secrets]
API_KEY = {file = "/run/secrets/api"}

[store]
use = "sqlite"

[engine]
use = "redis"

[limits]
http = 3
"""


def write(file: Path, text: str) -> Path:
    """A file with its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def faults_of(folder: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """The faults of a configuration, each as its line, with the folder left out."""
    write(folder / "treadle.toml", text)
    with pytest.raises(ConfigInvalidError) as caught:
        load_config(folder, environ or {})
    assert isinstance(caught.value, ConfigError)
    return [str(fault).replace(f"{folder.resolve()}/", "") for fault in caught.value.faults]


def test_every_table_arrives(tmp_path: Path) -> None:
    """The whole file of the reference page, table by table."""
    file = write(tmp_path / "treadle.toml", WHOLE)

    config = load_config(tmp_path, {})

    assert config.plugins.block == ("treadle-foo",)
    assert config.plugins.prefer == {"http.request": "treadle-http"}
    assert config.plugins.policies == ("limits",)
    assert config.plugins.folder == "executors"
    assert config.plugins.enabled
    assert config.tools == {"folder": "tools"}
    assert config.clients == {"http": {"timeout_s": 5, "token": {"env": "ACME_TOKEN"}}, "billing": {"use": "postgres"}}
    assert config.policies == {"limits": {"per_host": 4}}
    assert config.secrets == {"API_KEY": {"file": "/run/secrets/api"}}
    assert (config.store, config.engine, config.limits) == ({"use": "sqlite"}, {"use": "redis"}, {"http": 3})
    assert (config.root, config.file) == (tmp_path.resolve(), file.resolve())


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    """Nothing need be configured."""
    config = load_config(tmp_path, {})

    assert config == Config(root=tmp_path.resolve())
    assert config.file is None


def test_the_nearest_folder_upwards_decides(tmp_path: Path) -> None:
    """A file further up is not merged in."""
    write(tmp_path / "treadle.toml", '[store]\nuse = "far"\n[tools]\nfolder = "far"')
    write(tmp_path / "a" / "pyproject.toml", '[project]\nname = "x"\n[tool.treadle.store]\nuse = "near"')
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)

    config = load_config(inner, {})

    assert (config.store, config.tools) == ({"use": "near"}, {})
    assert config.root == (tmp_path / "a").resolve()


def test_treadle_toml_wins_over_pyproject_in_one_folder(tmp_path: Path) -> None:
    """One folder, both files: the file of treadle's own name."""
    write(tmp_path / "pyproject.toml", '[tool.treadle.store]\nuse = "project"')
    write(tmp_path / "treadle.toml", '[store]\nuse = "own"')

    assert load_config(tmp_path, {}).store == {"use": "own"}


@pytest.mark.parametrize(
    "text",
    ['[project]\nname = "x"', "[tool.other]\nx = 1", "this is [ not toml", "# tool.treadle\n", "[tool]\ntreadle = 3"],
)
def test_a_pyproject_that_says_nothing_of_treadle_is_passed_by(tmp_path: Path, text: str) -> None:
    """Someone else's file, valid or not, is no business of treadle."""
    write(tmp_path / "treadle.toml", '[store]\nuse = "above"')
    write(tmp_path / "inner" / "pyproject.toml", text)

    assert load_config(tmp_path / "inner", {}).store == {"use": "above"}


def test_a_file_that_is_not_toml_is_named_with_its_line(tmp_path: Path) -> None:
    """The reader's own words, after the name of the file."""
    write(tmp_path / "treadle.toml", "[store]\nuse = \n")

    with pytest.raises(ConfigError, match=r"treadle\.toml: not valid TOML: .*line 2"):
        load_config(tmp_path, {})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Not text at all."""
    (tmp_path / "treadle.toml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match=r"treadle\.toml: cannot be read"):
        load_config(tmp_path, {})


def test_all_faults_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    """File, line, path, what is wrong, and what was probably meant."""
    text = """\
[plugin]
block = []
[plugins]
blok = ["x"]
prefer = ["a"]
policies = "limits"
folder = 3
[clients]
http = 5
[clients.db]
use = 4
[secrets]
TOKEN = "plain"
[store]
use = 1
"""

    faults = faults_of(tmp_path, text)

    assert faults == [
        "treadle.toml:1:1: plugin: unknown key (did you mean 'plugins'?)",
        "treadle.toml:4:1: plugins.blok: unknown key (did you mean 'block'?)",
        'treadle.toml:5:1: plugins.prefer: must map names to distributions (like prefer = {"http.request" = "treadle-http"})',
        'treadle.toml:6:1: plugins.policies: must be a list of texts (like policies = ["name"])',
        "treadle.toml:7:1: plugins.folder: must be a text",
        "treadle.toml:9:1: clients.http: must be a table of settings (write [clients.http])",
        "treadle.toml:11:1: clients.db.use: must be a text",
        "treadle.toml:13:1: secrets.TOKEN: a secret cannot be written into the configuration "
        '(Say where it comes from: {env = "NAME"} or {file = "PATH"})',
        "treadle.toml:15:1: store.use: must be a text",
    ]


def test_faults_of_pyproject_have_its_lines(tmp_path: Path) -> None:
    """Places are counted in the whole file, paths from [tool.treadle] on."""
    write(tmp_path / "pyproject.toml", "[project]\nname = 'x'\n\n[tool.treadle.plugins]\nfolders = 1\n")

    with pytest.raises(ConfigInvalidError, match=r"pyproject\.toml:5:1: plugins\.folders: unknown key"):
        load_config(tmp_path, {})


def test_a_secret_in_the_file_is_never_repeated(tmp_path: Path) -> None:
    """An error about a secret must not print it."""
    assert "hunter2" not in "".join(faults_of(tmp_path, '[secrets]\nTOKEN = "hunter2"\nB = {value = "hunter2"}'))


def test_variables_override_single_keys(tmp_path: Path) -> None:
    """Each value is read as TOML when it is TOML, else it is a text; the rest of a table stays."""
    write(tmp_path / "treadle.toml", '[clients.http]\ntimeout_s = 5\nbase_url = "a"\n[clients.my-api]\nx = 1')
    environ = {
        "TREADLE_CLIENTS__HTTP__TIMEOUT_S": "3",
        "TREADLE_CLIENTS__HTTP__VERIFY": "false",
        "TREADLE_CLIENTS__HTTP__RATE": "0.5",
        "TREADLE_CLIENTS__HTTP__HOSTS": '["a", "b"]',
        "TREADLE_CLIENTS__HTTP__TOKEN": '{env = "ACME"}',
        "TREADLE_CLIENTS__HTTP__USER": "anna berg",
        "TREADLE_CLIENTS__HTTP__CODE": '"007"',
        "TREADLE_CLIENTS__HTTP__DAY": "2024-05-01",
        "TREADLE_CLIENTS__HTTP__TRICK": "1\nother = 2",
        "TREADLE_CLIENTS__HTTP__HEADERS__ACCEPT": "text/html",
        "TREADLE_CLIENTS__MY_API__X": "2",
        "TREADLE_PLUGINS__BLOCK": '["treadle-bar"]',
        "TREADLE_STORE__USE": "postgres",
        "TREADLE_SECRETS__API_KEY": '{env = "K"}',
        "TREADLE_OTHER": "ignored",
        "OTHER__THING": "ignored",
    }

    config = load_config(tmp_path, environ)

    assert config.clients["http"] == {
        "timeout_s": 3,
        "base_url": "a",
        "verify": False,
        "rate": 0.5,
        "hosts": ["a", "b"],
        "token": {"env": "ACME"},
        "user": "anna berg",
        "code": "007",
        "day": "2024-05-01",
        "trick": "1\nother = 2",
        "headers": {"accept": "text/html"},
    }
    assert config.clients["my-api"] == {"x": 2}
    assert config.plugins.block == ("treadle-bar",)
    assert config.store == {"use": "postgres"}
    assert config.secrets == {"API_KEY": {"env": "K"}}


def test_faults_of_variables_name_the_variable(tmp_path: Path) -> None:
    """A misspelt or mistyped variable is found as well as a line of the file."""
    environ = {
        "TREADLE_CLIENT__HTTP__X": "1",
        "TREADLE_CLIENTS____X": "1",
        "TREADLE_PLUGINS__FOLDR": "x",
        "TREADLE_STORE__USE__PATH": "x",
        "TREADLE_SECRETS__TOKEN": "hunter2",
        "TREADLE_PLUGINS": "some",
    }

    faults = faults_of(tmp_path, '[store]\nuse = "sqlite"', environ)

    assert sorted(faults) == sorted(
        [
            "TREADLE_CLIENTS____X: this is not the name of a setting",
            "TREADLE_CLIENT__HTTP__X: this is not the name of a setting (did you mean 'clients'?)",
            "TREADLE_STORE__USE__PATH: store.use.path: 'use' is not a table",
            "TREADLE_PLUGINS__FOLDR: plugins.foldr: unknown key (did you mean 'folder'?)",
            "TREADLE_PLUGINS: 'some' is not known (the only value is 'none')",
            "TREADLE_SECRETS__TOKEN: secrets.TOKEN: a secret cannot be written into the configuration "
            '(Say where it comes from: {env = "NAME"} or {file = "PATH"})',
        ]
    )


def test_treadle_plugins_none_boots_bare(tmp_path: Path) -> None:
    """The one switch for a machine on which plugins break everything."""
    assert not load_config(tmp_path, {"TREADLE_PLUGINS": "none"}).plugins.enabled
    assert load_config(tmp_path, {"TREADLE_PLUGINS": ""}).plugins.enabled


def test_the_working_directory_and_environment_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments the process's own are used."""
    write(tmp_path / "treadle.toml", '[store]\nuse = "sqlite"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TREADLE_ENGINE__USE", "redis")

    config = load_config()

    assert (config.store, config.engine) == ({"use": "sqlite"}, {"use": "redis"})
