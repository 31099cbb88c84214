"""JSON that is none, or means two things, is refused."""

import os
from pathlib import Path

import pytest

from hrnet_zoo.zoo.strict_json import Fault, as_digest, as_pair, as_text, as_whole, parse, read, require_keys, shown


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        (b"\xff", "no JSON"),
        ("[" * 100_000 + "]" * 100_000, "nests too deep"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1e999}', "infinite"),
        ('{"a": ' + "9" * 5000 + "}", "number too long"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' twice"),
        ('{"a": {"b": 1, "b": 1}}', "'b' twice"),
        (" " * 1_000_001, "more than 1,000,000 bytes"),
    ],
)
def test_what_is_no_json(text: str | bytes, found: str) -> None:
    with pytest.raises(Fault) as caught:
        parse(text, 1_000_000)
    assert found in caught.value.found
    assert caught.value.path == "$"


def test_what_is_json() -> None:
    assert parse(b'{"a": [1, 2.5, null, true, "\xc3\xa4"]}', 100) == {"a": [1, 2.5, None, True, "ä"]}


def test_a_file_is_read_to_one_byte_beyond_the_limit(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 100)
    assert len(read(tmp_path / "long", 10)) == 11


@pytest.mark.parametrize("name", ["absent", ".", "pipe", "a\0b"])
def test_what_is_no_file(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Fault):
        read(tmp_path / name, 10)


@pytest.mark.parametrize("value", ["", " a", "a\n", "a\x1b[31m", "\ud800", "x" * 11, 3, None, ["a"]])
def test_texts_are_short_and_printable(value: object) -> None:
    with pytest.raises(Fault):
        as_text(value, "$.x", 10)


@pytest.mark.parametrize("value", [True, 1.0, "1", -1, 256, None])
def test_whole_numbers_are_whole_and_in_range(value: object) -> None:
    with pytest.raises(Fault):
        as_whole(value, "$.x", 0, 255)


def test_places_are_named() -> None:
    with pytest.raises(Fault) as caught:
        as_pair([1, 0.5], "$.resize_to", 0, 9)
    assert caught.value.path == "$.resize_to[1]"
    with pytest.raises(Fault) as caught:
        require_keys({"a": 1}, "$.x", ("a", "b"))
    assert (caught.value.path, caught.value.found) == ("$.x.b", "missing")
    with pytest.raises(Fault, match="unknown key 'c'"):
        require_keys({"c": 1}, "$.x", ())


def test_digests() -> None:
    assert as_digest("0f" * 32, "$") == "0f" * 32
    for wrong in ("0F" * 32, "0f" * 31, 12, "\u0660" * 64):
        with pytest.raises(Fault):
            as_digest(wrong, "$")


def test_values_are_shown_short_and_in_ascii() -> None:
    assert shown("ä\x1b") == r"'\xe4\x1b'"
    assert len(shown("x" * 1000)) == 100
