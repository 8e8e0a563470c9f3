"""Log lines: printable, without secrets of URLs, without floods; the audit log of writes."""

from __future__ import annotations

import io
import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike.cli import logs
from lookalike.errors import LookalikeError
from lookalike.formatting import without_url_secrets
from lookalike.server.audit import AUDIT_LOG, audit


class Lines:
    """A logger of its own with the handler that commands use."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.log = logging.Logger("strangers")
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(logs.LineFormatter("%(levelname)s %(name)s: %(message)s"))
        handler.addFilter(logs.RepeatFilter())
        self.log.addHandler(handler)

    def take(self) -> list[str]:
        text = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        return text.splitlines()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.mark.parametrize(
    "odd", ["\x1b[2J", "\r", "\n", "\x00", "\u202e", "\u2028", "\ud800", "\x9b"]
)
def test_a_message_is_one_printable_line(lines: Lines, odd: str) -> None:
    lines.log.warning("cannot read %s", f"a{odd}WARNING forged")
    (line,) = lines.take()
    assert line.startswith("WARNING strangers: cannot read a\\")
    assert line.isprintable()


def test_a_traceback_is_indented_and_printable(lines: Lines) -> None:
    try:
        raise LookalikeError("a\nERROR forged\x1b[31m https://u:secret@h/x?key=secret")
    except LookalikeError:
        lines.log.exception("failed")
    first, *rest = lines.take()
    assert first == "ERROR strangers: failed"
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
    assert any("LookalikeError: a" in line for line in rest)
    assert "secret" not in "".join(line for line in rest if "raise" not in line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://h/a.png?token=s#f: failed", "https://h/a.png failed"),
        ("<https://u:p@h:1/a>", "<https://h:1/a>"),
        (
            "HTTP://h?x=1 'ftp://h/a?b' milvus+tls://u:p@h/c",
            "HTTP://h 'ftp://h/a' milvus+tls://h/c",
        ),
        ("no address? none", "no address? none"),
    ],
)
def test_urls_lose_their_secrets(text: str, expected: str) -> None:
    assert without_url_secrets(text) == expected


def test_a_long_message_is_cut(lines: Lines) -> None:
    lines.log.warning("x" * 1_000_000)
    assert len(lines.take()[0]) < 3_000


def test_a_flood_is_one_line_a_minute_with_a_count(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("lookalike.cli.logs.time.monotonic", lambda: now[0])
    for _ in range(1_000):
        lines.log.error("no more file descriptors")
    assert len(lines.take()) == 1
    for number in range(1_500):
        lines.log.error("%s failed", number)
    assert len(lines.take()) == 20
    lines.log.error("something else")
    assert len(lines.take()) == 1
    now[0] = 60.0
    lines.log.error("no more file descriptors")
    (line,) = lines.take()
    assert line.endswith("descriptors (999 lines like this left out in the last minute)")


def test_what_a_flood_is_compared_with_is_bounded(lines: Lines) -> None:
    for number in range(5_000):
        lines.log.error(f"template {number}")
    (handler,) = lines.log.handlers
    (repeats,) = handler.filters
    assert isinstance(repeats, logs.RepeatFilter)
    assert len(repeats._windows) <= 1_000


@pytest.fixture
def audit_file(tmp_path: Path) -> Iterator[Path]:
    log = logging.getLogger(AUDIT_LOG)
    level = log.level
    path = tmp_path / "audit.log"
    log.setLevel(logging.INFO)
    logs.log_to_file(AUDIT_LOG, path)
    try:
        yield path
    finally:
        for handler in list(log.handlers):
            log.removeHandler(handler)
            handler.close()
        log.setLevel(level)
        log.propagate = True


def put(path: str = "/v1/galleries/photos/item", query: bytes = b"id=a") -> dict[str, object]:
    headers = [(b"x-request-id", b"r-1")]
    return {"method": "PUT", "path": path, "query_string": query, "headers": headers}


def test_a_write_is_a_line_of_json(audit_file: Path) -> None:
    audit(put(query=b"id=x%0A%1b%E2%80%AE&metadata=%7B%22secret%22%3A1%7D"), "editor", 201)
    audit(put(), "127.0.0.1", None)
    audit(put("/other"), "editor", 500)
    text = audit_file.read_text()
    assert text.isascii()
    first, second, third = map(json.loads, text.splitlines())
    assert first["time"].endswith("+00:00")
    del first["time"]
    assert first == {
        "client": "editor",
        "method": "PUT",
        "gallery": "photos",
        "id": "x\n\x1b\u202e",
        "status": 201,
        "outcome": "done",
        "request_id": "r-1",
    }
    assert (second["outcome"], third["outcome"], third["path"]) == (
        "disconnected",
        "failed",
        "/other",
    )
    assert stat.S_IMODE(audit_file.stat().st_mode) == 0o600


def test_no_write_is_left_out_but_a_flood_of_strangers_is(audit_file: Path) -> None:
    for number in range(200):
        audit(put(query=b"id=%d" % number), "1.2.3.4", 401)
    assert len(audit_file.read_text().splitlines()) == 20
    for _ in range(200):
        audit(put(), "editor", 200)
    assert len(audit_file.read_text().splitlines()) == 220


def test_a_rotated_file_is_opened_again(audit_file: Path) -> None:
    audit(put(), "editor", 200)
    audit_file.rename(audit_file.with_suffix(".1"))
    audit(put(), "editor", 200)
    assert len(audit_file.read_text().splitlines()) == 1
