"""JSON of a stranger."""

import pytest

from tasks.core.errors import RefusedError
from tasks.exchange.strict_json import parse_strictly


def test_valid_json_is_read() -> None:
    assert parse_strictly(b'{"a": [1, 2.5, "x\\"[{"], "b": {"c": null}}', "it") == {
        "a": [1, 2.5, 'x"[{'],
        "b": {"c": None},
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 1, "a": 2}', "duplicate key"),
        (b'{"a": {"b": 1, "b": 1}}', "duplicate key"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b"[1]", "expected one JSON object, found list"),
        (b'{"a": 1', "not valid JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", "nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "5000 digits"),
        (b"", "not valid JSON"),
    ],
    ids=["twice", "twice inside", "NaN", "infinity", "list", "cut", "UTF-8", "deep", "digits", "empty"],
)
def test_other_content_is_refused_without_being_quoted(content: bytes, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        parse_strictly(content, "it")


def test_brackets_within_strings_are_not_nested() -> None:
    assert parse_strictly(b'{"a": "' + b"[" * 100 + b'"}', "it") == {"a": "[" * 100}
