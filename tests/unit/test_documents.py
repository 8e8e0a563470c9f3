"""JSON documents of strangers: a value of the expected type, or one line."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from lookalike.documents import MAX_DEPTH, Fields, parse_json, read_json
from lookalike.errors import ArtifactError, InputError

HOSTILE = {
    "deep lists": (b"[" * 100_000, "60 levels deep"),
    "deep objects": (b'{"a":' * 100_000, "60 levels deep"),
    "deep and closed": (b"[" * 200 + b"]" * 200, "60 levels deep"),
    "huge integer": (b'{"a": ' + b"1" * 5_000 + b"}", "4,300 digits"),
    "huge number": (b'{"a": 1e999}', "'1e999' out of range"),
    "not a number": (b'{"a": NaN}', "NaN is not a number"),
    "infinite": (b"[-Infinity]", "-Infinity is not a number"),
    "a key twice": (b'{"a": 1, "b": {"c": 2, "c": 3}}', "'c' twice"),
    "not UTF-8": (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    "lone surrogate": (b'{"a": "\\ud800"}', "surrogate"),
    "lone surrogate as a key": (b'[{"\\uDFFF": 1}]', "surrogate"),
    "cut": (b'{"a": [1, 2', "line 1, column 12"),
    "empty": (b"", "line 1, column 1"),
    "many empty lists": (b"[" + b"[]," * 6_000_000 + b"[]]", "too many values"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_documents_are_refused_in_one_line(kind: str) -> None:
    data, reason = HOSTILE[kind]
    with pytest.raises(ArtifactError) as caught:
        parse_json(data, "photos.gallery/gallery.json", hint="copy it again", limit=100_000_000)
    message = str(caught.value)
    assert reason in message
    assert message.startswith("photos.gallery/gallery.json: cannot be read (")
    assert message.endswith("; copy it again")
    assert "\n" not in message
    assert len(message) < 200


def test_documents_at_the_limits_are_read() -> None:
    data = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert parse_json(data, "f")
    with pytest.raises(ArtifactError, match="levels deep"):
        parse_json(b"[" + data + b"]", "f")
    assert parse_json(b'"\\ud83d\\ude00"', "f") == "😀"
    assert parse_json(b"1" * 4_300, "f") > 0
    with pytest.raises(ArtifactError, match="larger than 1 MB"):
        parse_json(b'"' + b"a" * 1_000_000 + b'"', "f", limit=1_000_000)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.json").open("wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match="larger than 50 MB"):
            read_json(tmp_path / "sparse.json", limit=50_000_000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_reading_never_waits_or_follows_a_link_on_request(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "link.json").symlink_to("a.json")
    assert read_json(tmp_path / "link.json") == {"a": 1}
    with pytest.raises(ArtifactError, match=r"link.json: cannot be read \(is a link\)"):
        read_json(tmp_path / "link.json", follow=False)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InputError, match="not a regular file"):
        read_json(tmp_path / "pipe.json", error=InputError)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


FIELDS: dict[str, Any] = {
    "text": "a",
    "flag": True,
    "count": 3,
    "share": 0.5,
    "texts": ["a"],
    "numbers": [1, 2.5],
    "object": {"inner": "x"},
    "objects": [{"inner": "x"}, {}],
}


def test_fields_have_the_type_that_is_asked_for() -> None:
    fields = Fields.of(FIELDS, "f.json")
    assert fields.text("text", allowed=("a", "b")) == "a"
    assert fields.text("none", "default") == "default"
    assert fields.flag("flag") is True
    assert fields.integer("count", 1, 3) == 3
    assert fields.number("share", 0, 1) == 0.5
    assert fields.texts("texts") == ("a",)
    assert fields.numbers("numbers", 0, 3) == (1.0, 2.5)
    assert fields.object("object").text("inner") == "x"
    assert [inner.has("inner") for inner in fields.objects("objects")] == [True, False]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda f: f.text("count"), "'count' must be a text, not 3"),
        (lambda f: f.text("text", allowed=("b",)), "'text' must be one of b, not 'a'"),
        (lambda f: f.flag("count"), "must be true or false, not 3"),
        (lambda f: f.flag("text"), "must be true or false, not 'a'"),
        (lambda f: f.integer("flag", 0, 9), "must be a whole number from 0 to 9, not True"),
        (lambda f: f.integer("count", 0, 2), "from 0 to 2, not 3"),
        (lambda f: f.integer("share", 0, 2), "not 0.5"),
        (lambda f: f.number("texts", 0, 1), "must be a number from 0 to 1"),
        (lambda f: f.texts("text"), "must be a list of texts"),
        (lambda f: f.texts("numbers"), "must be a list of texts"),
        (lambda f: f.object("objects"), "must be an object"),
        (lambda f: f.object("object").text("none"), "field 'object.none' is missing"),
        (lambda f: f.objects("objects")[1].text("inner"), r"'objects\[1\].inner' is missing"),
        (lambda f: f.objects("object"), "must be a list of objects"),
        (lambda f: f.only(("text", "flag")), "unknown field 'count'; fields: text, flag; again"),
    ],
)
def test_other_types_and_ranges_are_named(read: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(Fields.of(FIELDS, "f.json", hint="again", error=InputError))


def test_a_document_that_is_no_object_is_named() -> None:
    with pytest.raises(ArtifactError, match=r"f.json: must be a JSON object, not \[\]"):
        Fields.of([], "f.json")


def test_values_in_messages_are_short_and_on_one_line() -> None:
    fields = Fields.of({"a": "x\n" * 5_000, "b": list(range(5_000))}, "f.json")
    for name in "ab":
        with pytest.raises(ArtifactError) as caught:
            fields.flag(name)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 150


def test_a_repeated_key_is_found_among_many_in_one_pass() -> None:
    keys = ",".join(f'"{number}":0' for number in range(300_000))
    with pytest.raises(ArtifactError, match="key '299999' twice"):
        parse_json(f'{{{keys},"299999":1}}'.encode(), "x.json")
