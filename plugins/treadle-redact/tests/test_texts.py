"""What is found in texts and data: values in every spelling, and shapes."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from base64 import b64encode, urlsafe_b64encode
from collections import namedtuple
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import attrs
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle.ports import ErrorInfo, Issue
from treadle_redact import Redactor

SECRET = 'pä$$/w+rd "&\\ 9?~'

SPELL: dict[str, Callable[[str], str]] = {
    "itself": str,
    "json": json.dumps,
    "json in utf-8": lambda text: json.dumps(text, ensure_ascii=False),
    "json with slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "json within json": lambda text: json.dumps(json.dumps(text)),
    "python": repr,
    "url": lambda text: quote(text, safe=""),
    "url path": quote,
    "url query": quote_plus,
    "url in lower case": lambda text: re.sub("%..", lambda match: match[0].lower(), quote(text, safe="")),
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    "base64": lambda text: b64encode(text.encode()).decode(),
    "base64 for urls": lambda text: urlsafe_b64encode(text.encode()).decode(),
    "base64 after one byte": lambda text: b64encode(b"u" + text.encode() + b"xy").decode(),
    "base64 after two bytes": lambda text: b64encode(b"u:" + text.encode() + b"xy").decode(),
}


def knowing(*values: str) -> Redactor:
    redactor = Redactor((), hides_fields=False)
    redactor.learn(values)
    return redactor


@pytest.mark.parametrize("spell", SPELL.values(), ids=SPELL)
def test_a_value_is_found_in_every_spelling(spell: Callable[[str], str]) -> None:
    """Wherever it stands in a text, and nothing but it is hidden."""
    text = f"before {spell(SECRET)} after"

    cleaned = knowing(SECRET).text(text)

    assert cleaned.startswith("before ")
    assert cleaned.endswith(" after")
    assert "***" in cleaned
    assert len(cleaned) <= 30  # of base64, the characters that neighbours decide with it may stay


@given(
    secret=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=8, max_size=60),
    before=st.binary(max_size=9),
    after=st.binary(max_size=9),
)
def test_base64_is_found_whatever_stands_around(secret: str, before: bytes, after: bytes) -> None:
    """The value may begin at any place of the coded bytes; of what it alone decides, nothing stays."""
    coded = b64encode(before + secret.encode() + after).decode()

    cleaned = knowing(secret).text(coded)

    assert "***" in cleaned
    assert secret not in cleaned


def test_every_line_of_a_key_is_found() -> None:
    """A value of several lines is found whole, line by line, indented, and with its breaks escaped."""
    key = "first-line-of-it\nsecond-line-of-it\nshort\n"
    redactor = knowing(key)

    assert redactor.text(key) == "***"
    assert redactor.text("> second-line-of-it") == "> ***"
    assert "line-of-it" not in redactor.text("  first-line-of-it\n  second-line-of-it\n")
    assert "line-of-it" not in redactor.text(json.dumps({"key": key}))
    assert redactor.text("short") == "short"


def test_a_short_value_is_not_looked_for() -> None:
    """Seven characters are part of innocent words."""
    assert knowing("private").text("private parts") == "private parts"
    assert knowing("privates").text("privates") == "***"


SHAPES = {
    "Authorization: Bearer abc.def-123": "Authorization: Bearer ***",
    "authorization=Basic dXNlcjpwYXNz": "authorization=Basic ***",
    "{'Authorization': 'token 0123456789'}": "{'Authorization': 'token ***'}",
    "('Proxy-Authorization', 'Digest xyz')": "('Proxy-Authorization', 'Digest ***')",
    '{"authorization": "abc"}': '{"authorization": "***"}',
    "sent Bearer abcdefgh.ijkl": "sent Bearer ***",
    "ghp_" + "a1B2" * 9: "***",
    "key AKIA" + "ABCD" * 4 + ".": "key ***.",
    "xoxb-1234567890-abc": "***",
    "sk-" + "ant0" * 8: "***",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln": "***",
    "postgresql://me:pass@db.example/x": "postgresql://***@db.example/x",
    "https://token@host/": "https://***@host/",
    "GET /a?b=1&api_key=xyz&c=2": "GET /a?b=1&api_key=***&c=2",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----": (
        "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----"
    ),
}


@pytest.mark.parametrize(("text", "cleaned"), SHAPES.items(), ids=range(len(SHAPES)))
def test_shapes_are_hidden(text: str, cleaned: str) -> None:
    """Headers, tokens, URLs and keys lose their secret and keep the rest; a second time changes nothing."""
    redactor = Redactor()

    assert redactor.text(text) == cleaned
    assert redactor.text(cleaned) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "a bearer of bad news",
        "the author of basic things",
        "mail me@example.org",
        "https://example.org/a@b?page=2",
        "task-force sky-high risk-aversion-of-the-management",
        "12:30:05 INFO page: done",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
)
def test_innocent_texts_stay(text: str) -> None:
    """What only looks a little like a secret is shown."""
    assert Redactor().text(text) == text


@pytest.mark.parametrize(
    "piece", ["Authorization: ", "bearer ", "a://", "-----BEGIN PRIVATE KEY-----", "eyJaaaaaaaa.", "?key=", "sk-a"]
)
def test_time_is_linear(piece: str) -> None:
    """A text made to be looked at for long is not: a megabyte of beginnings takes less than two seconds."""
    text = piece * (1_000_000 // len(piece))
    began = time.process_time()

    Redactor().text(text)

    assert time.process_time() - began < 2


@attrs.frozen
class Account:
    name: str
    password: str
    urls: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Holder:
    account: Account
    note: str = ""


class Model(pydantic.BaseModel):
    api_key: str
    count: int


Pair = namedtuple("Pair", ["left", "right"])


def test_data_is_looked_into() -> None:
    """Mappings with their keys, lists, tuples, attrs classes, dataclasses and models; what changes is a copy."""
    redactor = Redactor()
    redactor.learn(["correct horse"])
    value = {
        "correct horse": 1,
        "holder": Holder(Account("ann", "x", ("https://u:p@h/",)), "the correct horse"),
        "model": Model(api_key="x", count=3),
        "pair": Pair("correct horse", 2),
        "max_tokens": 5,
        "token": "x",
    }
    before = repr(value)

    assert redactor.value(value) == {
        "***": 1,
        "holder": Holder(Account("ann", "***", ("https://***@h/",)), "the ***"),
        "model": Model(api_key="***", count=3),
        "pair": Pair("***", 2),
        "max_tokens": 5,
        "token": "***",
    }
    assert repr(value) == before


def test_data_without_secrets_is_given_back_itself() -> None:
    """Nothing is copied in vain."""
    value = {"a": [1, ("b", None)], "c": Holder(Account("ann", ""), "d"), "e": ErrorInfo("T", "m", issues=(Issue("i"),))}

    assert Redactor().value(value) is value


def test_data_that_holds_itself_is_no_danger() -> None:
    """A cycle, which is no JSON, ends the search."""
    value: list[object] = ["a"]
    value.append(value)

    assert Redactor().value(value) is value
