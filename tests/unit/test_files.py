"""Names that are not UTF-8 as texts and back, and files that would be waited for."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lookalike.errors import ArtifactError, ImageError
from lookalike.files import (
    bare_name,
    escape_name,
    read_regular,
    unescape_name,
    valid_text,
)
from lookalike.formatting import printable
from lookalike.images.decode import decode

pytestmark = pytest.mark.skipif(os.name == "nt", reason="names are Unicode on Windows")

PIECES = st.sampled_from((b"\\", b"x", b"e9", b"5c", b"\xe9", b"\xff", "é".encode(), b"/", b"a"))
NAMES = st.one_of(st.binary(max_size=8), st.lists(PIECES, max_size=8).map(b"".join))


@given(NAMES)
@example(b"caf\xe9.jpg")
@example(b"caf\\xe9.jpg")
@example(b"\\x5c\xe9")
def test_any_name_becomes_a_valid_text_and_back(name: bytes) -> None:
    path = os.fsdecode(name)
    text = escape_name(path)
    json.dumps(text, ensure_ascii=False).encode()
    assert os.fsencode(unescape_name(text)) == name


@given(NAMES, NAMES)
@example(b"caf\xe9", b"caf\\xe9")
@example(b"\\x5cxe9", b"\\xe9")
def test_different_names_have_different_texts(one: bytes, other: bytes) -> None:
    texts = escape_name(os.fsdecode(one)), escape_name(os.fsdecode(other))
    assert (texts[0] == texts[1]) is (one == other)


@given(st.text(max_size=8))
def test_valid_names_stay_as_they_are(name: str) -> None:
    if "\\" not in name:
        assert escape_name(name) == unescape_name(name) == valid_text(name) == name


def test_texts_with_lone_surrogates_become_valid() -> None:
    assert valid_text("caf\udce9") == r"caf\xe9"
    assert valid_text("a\ud83d") == r"a\ud83d"
    assert valid_text("😀é") == "😀é"


@pytest.mark.parametrize("name", ["café.jpg".encode(), b"caf\xe9.jpg", "\u0444/\u00e9".encode()])
def test_texts_of_names_do_not_depend_on_the_locale(name: bytes) -> None:
    text = escape_name(os.fsdecode(name))
    assert escape_name(name.decode("ascii", "surrogateescape")) == text
    script = (
        "import os, sys; from lookalike.files import escape_name, unescape_name; "
        f"assert sys.getfilesystemencoding() == 'ascii'; name = os.fsdecode({name!r}); "
        f"assert escape_name(name) == {text!a}; assert unescape_name({text!a}) == name"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", script], env={**os.environ, **plain}, check=True)


def test_names_are_printed_on_one_line() -> None:
    assert printable("a\nb\x1b[31m\u202egpj\x00") == r"a\nb\x1b[31m\u202egpj\x00"
    assert printable("café 中文 😀") == "café 中文 😀"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert read_regular(tmp_path / "file") == read_regular(tmp_path / "link") == b"x"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for place in (tmp_path / "pipe.jpg", tmp_path / "socket", Path("/dev/zero")):
            with pytest.raises(OSError, match="not a regular file"):
                read_regular(place)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")
    with pytest.raises(ImageError, match="not a regular file"):
        decode(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("name", ["model.onnx", "0-1-model.safetensors", "Größe 1.bin", "a" * 200])
def test_bare_names_are_returned_as_they_are(name: str) -> None:
    assert bare_name(name, "x.encoder") == name
    assert bare_name(name, "x.encoder", allowed=(name, "other")) == name
    with pytest.raises(ArtifactError, match=r"x\.encoder: names the file .* does not belong there"):
        bare_name(name, "x.encoder", allowed=("other",))


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../a", "/a", "a/b", "a\\b", "c:a", "a\0", "a\nb", "\u202ea", "a.", "a "),
        *("*", "a" * 201, None, 3, b"a", ["a"]),
    ],
)
def test_names_that_lead_elsewhere_are_refused_in_one_line(name: object) -> None:
    with pytest.raises(ArtifactError, match="is not a plain file name") as caught:
        bare_name(name, "x.encoder")
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200
