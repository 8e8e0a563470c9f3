"""Forms with files, as browsers and curl send them."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from lookalike.server.multipart import is_form, parse_form
from lookalike.server.problems import ProblemError

TYPE = "multipart/form-data; boundary=----WebKitFormBoundaryAb'(1)"
EDGE = b"------WebKitFormBoundaryAb'(1)"


def form(*parts: bytes) -> bytes:
    return b"".join(EDGE + b"\r\n" + part + b"\r\n" for part in parts) + EDGE + b"--\r\n"


def field(name: str, content: bytes, rest: str = "") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"{rest}\r\n\r\n'.encode() + content


def test_fields_and_files_in_order() -> None:
    content = bytes(range(256)) + b"\r\n--x\r\n\r\n"
    body = form(
        field("k", b"5"),
        field("image", content, '; filename="a \\"b\\" %22c.png"\r\nContent-Type: image/PNG'),
        field("image", b"", '; filename=""'),
        field("\u00e4", "\u00fc".encode()),
    )
    parts = parse_form(body, TYPE, 4)
    assert [(each.name, each.filename, each.content_type) for each in parts] == [
        ("k", None, ""),
        ("image", 'a "b" "c.png', "image/png"),
        ("image", "", ""),
        ("\u00e4", None, ""),
    ]
    assert parts[0].text() == "5"
    assert parts[1].data() == content
    assert len(parts[1]) == len(content)
    assert len(parts[2]) == 0
    assert parts[3].text() == "\u00fc"


def test_a_preamble_and_an_epilogue_are_ignored() -> None:
    body = b"hello\r\n" + form(field("a", b"1")) + b"bye"
    assert [each.data() for each in parse_form(body, TYPE, 9)] == [b"1"]
    assert parse_form(EDGE + b"--\r\n", TYPE, 9) == []


@pytest.mark.parametrize(
    "kind", ['multipart/form-data; boundary="a b"', "multipart/form-data;charset=x;boundary=ab ; y"]
)
def test_boundaries_in_quotes_and_between_parameters(kind: str) -> None:
    edge = b"--a b" if '"' in kind else b"--ab"
    body = edge + b"\r\n" + field("n", b"v") + b"\r\n" + edge + b"--"
    assert [each.name for each in parse_form(body, kind, 1)] == ["n"]


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (form(field("a", b"1")), "multipart/form-data", "no boundary"),
        (b"", TYPE, "does not begin"),
        (b"\xff" * 100, TYPE, "does not begin"),
        (form(field("a", b"1"))[:-40], TYPE, "field 1 does not end"),
        (EDGE + b"junk", TYPE, "field 1 does not begin with a line end"),
        (form(b"no headers"), TYPE, "field 1 has no end of its headers"),
        (form(b"\r\ncontent"), TYPE, "field 1 has no name"),
        (form(b"X: 1\r\n\r\ncontent"), TYPE, "field 1 has no name"),
        (form(b'Content-Disposition: attachment; name="a"\r\n\r\n1'), TYPE, "no name"),
        (form(b"X: " + b"y" * 9_000 + b"\r\n\r\n1"), TYPE, "no end of its headers"),
    ],
)
def test_a_malformed_form_is_a_problem_that_says_where(body: bytes, kind: str, reason: str) -> None:
    with pytest.raises(ProblemError) as raised:
        parse_form(body, kind, 10)
    assert raised.value.status == 400
    assert reason in raised.value.detail


def test_fields_are_limited_and_texts_must_be_utf_8() -> None:
    body = form(*[field("a", b"\xff")] * 3)
    with pytest.raises(ProblemError) as raised:
        parse_form(body, TYPE, 2)
    assert raised.value.status == 413
    with pytest.raises(ProblemError, match="UTF-8"):
        parse_form(body, TYPE, 3)[0].text()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("Multipart/Form-Data; boundary=x", True), ("multipart/mixed", False), ("", False)],
)
def test_forms_are_known_by_their_type(kind: str, expected: bool) -> None:
    assert is_form(kind) is expected


def test_what_curl_sends(tmp_path: Path) -> None:
    """The bytes of a real request, with a file name that has to be escaped."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is missing")
    file = tmp_path / 'a"b.png'
    file.write_bytes(b"\x89PNG\r\n\x1a\n--")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        escaped = str(file).replace('"', '\\"')
        arguments = ["-F", f'image=@"{escaped}"', "-F", "k=3", "-H", "Expect:", url]
        with subprocess.Popen([curl, "-s", *arguments]) as process:
            connection, _ = server.accept()
            with connection:
                data = b""
                while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < int(
                    data.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                ):
                    data += connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            process.wait(10)
    head, _, body = data.partition(b"\r\n\r\n")
    kind = next(
        line.partition(b":")[2].strip().decode()
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-type:")
    )
    image, k = parse_form(body, kind, 2)
    assert (image.name, image.filename, image.content_type) == ("image", 'a"b.png', "image/png")
    assert image.data() == file.read_bytes()
    assert k.text() == "3"
