"""Secrets never show, and come from where the configuration says."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import attrs
import pytest
from treadle._config import Config
from treadle._secrets import Secret, hide, resolve
from treadle.errors import ConfigError, SecretNotFoundError

VALUE = "tr0ub4dor&3"


@attrs.define
class Holder:
    """A client's settings."""

    token: Secret


def test_no_text_of_a_secret_holds_its_value() -> None:
    """repr, str, format, f-strings and the repr of what holds it show asterisks."""
    secret = Secret(VALUE)

    texts = [repr(secret), str(secret), f"{secret}", f"{secret:>20}", f"{secret!r:10}", f"{secret}", repr(Holder(secret))]

    assert not [text for text in texts if VALUE in text]
    assert repr(secret) == "Secret(***)"
    assert f"{secret:>5}" == "  ***"
    assert secret.reveal() == VALUE


def test_equality_tells_nothing_of_the_value() -> None:
    """Two secrets of one value differ; each is equal to itself and can be a key."""
    secret, twin = Secret(VALUE), Secret(VALUE)

    others: list[object] = [twin, VALUE, "***"]
    assert not [other for other in others if secret == other]
    assert {secret: 1, twin: 2}[secret] == 1


def test_copies_are_the_secret_itself_and_pickles_are_refused() -> None:
    """What copies settings keeps working; what would write them down does not."""
    secret = Secret(VALUE)

    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(secret, protocol)
    with pytest.raises(TypeError, match="gives out no state"):
        secret.__getstate__()


def test_json_refuses_a_secret() -> None:
    """No JSON writer can write the value by accident; as data it shows asterisks."""
    data = attrs.asdict(Holder(Secret(VALUE)))

    with pytest.raises(TypeError):
        json.dumps(data)
    assert VALUE not in json.dumps(data, default=str)
    assert VALUE not in json.dumps(data, default=repr)


def test_a_secret_holds_a_text_only() -> None:
    """Another type is refused, without showing the value."""
    with pytest.raises(TypeError, match="not bytes") as caught:
        Secret(VALUE.encode())  # type: ignore[arg-type] # the mistake that is tested

    assert VALUE not in str(caught.value)


@pytest.mark.parametrize(
    "data", [VALUE, "", 5, None, [], {}, {"env": ""}, {"env": 3}, {"env": "A", "file": "b"}, {"vault": VALUE}]
)
def test_only_env_and_file_are_sources(data: object) -> None:
    """A plain text, or anything else, is an error that names the setting and shows no value."""
    with pytest.raises(ConfigError, match=r"\[clients\.http\] token") as caught:
        Secret.from_config(data, where="[clients.http] token")

    assert VALUE not in str(caught.value)
    assert '{env = "NAME"}' in caught.value.remedy


def test_a_configured_secret_is_read_when_it_is_revealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable may be set, or change, after the configuration was read."""
    secret = Secret.from_config({"env": "ACME_TOKEN"}, where="[clients.http] token")

    monkeypatch.delenv("ACME_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"^\[clients\.http\] token: the secret has no value .* variable ACME_TOKEN\)"):
        secret.reveal()
    monkeypatch.setenv("ACME_TOKEN", "one")
    assert secret.reveal() == "one"
    monkeypatch.setenv("ACME_TOKEN", "two")
    assert secret.reveal() == "two"


def test_a_file_gives_its_text_without_the_last_line_break(tmp_path: Path) -> None:
    """Only the line break that ends the file is left out; relative files start from the configuration's folder."""
    (tmp_path / "key").write_bytes(b"  line 1\nline 2 \r\n")

    assert Secret.from_config({"file": "key"}, root=tmp_path).reveal() == "  line 1\nline 2 "


def test_a_workflow_secret_comes_from_the_table_or_its_variable(tmp_path: Path) -> None:
    """[secrets] decides; a name that it does not have is a variable."""
    (tmp_path / "key").write_text("from file\n")
    config = Config(secrets={"A": {"env": "ACME_A"}, "B": {"file": "key"}}, root=tmp_path)
    environ = {"ACME_A": "from env", "A": "not this", "C": "from variable"}

    assert [resolve(name, config, environ) for name in "ABC"] == ["from env", "from file", "from variable"]


def test_a_missing_workflow_secret_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """The error names the secret, the place, and what to do."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    config = Config(secrets={"A": {"env": "ACME_A"}, "B": {"file": "nowhere"}, "D": {"file": "binary"}}, root=tmp_path)

    with pytest.raises(SecretNotFoundError, match="environment variable ACME_A") as caught:
        resolve("A", config, {"A": "x"})
    with pytest.raises(SecretNotFoundError, match="No such file"):
        resolve("B", config, {})
    with pytest.raises(SecretNotFoundError, match="environment variable C"):
        resolve("C", config, {})
    with pytest.raises(SecretNotFoundError, match="not UTF-8"):
        resolve("D", config, {})
    assert "Set the environment variable A" in caught.value.remedy


@pytest.mark.parametrize("spelled", ['pa"ss/wörd\\1', "pa%22ss%2Fw%C3%B6rd%5C1", 'pa\\"ss/w\\u00f6rd\\\\1', 'pa"ss/wörd\\\\1'])
def test_a_secret_is_hidden_in_every_spelling(spelled: str) -> None:
    """As it is, in a URL, in JSON and in the repr of a text: none of them leaves with an error or a span."""
    assert hide(f"could not log in with {spelled}!", ['pa"ss/wörd\\1']) == "could not log in with ***!"
