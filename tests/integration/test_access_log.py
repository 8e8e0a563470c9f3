"""The access log of ``lookalike serve``: a line for each request, with nothing secret or forged."""

from __future__ import annotations

import io
import json
import logging
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from lookalike.cli.logs import JsonFormatter, LineFormatter, service_logs
from lookalike.gallery.gallery import Gallery
from lookalike.server.access_log import ACCESS_LOG
from lookalike.server.api_keys import add_key, read_keys
from lookalike.server.settings import ServeSettings
from tests.integration.test_audit import gallery as gallery_path
from tests.integration.test_running import png
from tests.raw_http import connect, eventually, exchange
from tests.serving import Serving, serving

__all__ = ["gallery_path"]  # a fixture

_HOST = b"host: localhost\r\n"


class Log:
    """The lines of the access log, as objects."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(JsonFormatter())

    def lines(self, count: int) -> list[dict[str, Any]]:
        """Wait for some lines, and return all that there are."""
        assert eventually(lambda: len(self._stream.getvalue().splitlines()) >= count)
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    log, logger = Log(), logging.getLogger(ACCESS_LOG)
    level = logger.level
    logger.addHandler(log.handler)
    logger.setLevel(logging.INFO)
    yield log
    logger.removeHandler(log.handler)
    logger.setLevel(level)


@contextmanager
def serve(path: Path, settings: ServeSettings | None = None) -> Iterator[Serving]:
    with serving({"a": Gallery.open(path)}, settings) as served:
        yield served


def test_a_search_is_a_line_with_its_stages(gallery_path: Path, log: Log) -> None:
    with serve(gallery_path) as served:
        path = "/v1/galleries/a/search/image?k=1&keywords=secret"
        headers = {"x-request-id": "Trace-1/a=b"}
        response, body = served.request("POST", path, png(), headers)
        assert response.status == 200, body
        assert response.headers["x-request-id"] == "Trace-1/a=b"
        (line,) = log.lines(1)
    assert {name: line[name] for name in list(line) if not name.endswith(("ms", "time"))} == {
        "level": "info",
        "logger": "lookalike.access",
        "method": "POST",
        "path": "/v1/galleries/a/search/image?k=1&keywords=***",
        "route": "/v1/galleries/{gallery}/search/image",
        "status": 200,
        "bytes": len(body),
        "complete": True,
        "key": None,
        "address": "127.0.0.1",
        "request_id": "Trace-1/a=b",
    }
    timed = re.findall(r"(\w+);dur=", response.headers["server-timing"])
    assert set(line["stages_ms"]) == set(timed) >= {"decode", "encode", "search"}
    assert sum(line["stages_ms"].values()) <= line["duration_ms"] + 0.1


@pytest.mark.parametrize(
    "sent", [b"", b"a b", b"a" * 129, b"\xff", b'"', b"a\tb", b"a\r\nx-request-id: b", b"<b>"]
)
def test_an_invalid_request_id_is_replaced(gallery_path: Path, log: Log, sent: bytes) -> None:
    with serve(gallery_path) as served:
        head = b"GET /nosuch HTTP/1.1\r\nconnection: close\r\n" + _HOST
        answer = exchange(served.port, head + b"x-request-id: " + sent + b"\r\n\r\n")
        (line,) = log.lines(1)
    identity = line["request_id"]
    assert re.fullmatch("[0-9a-f]{16}", identity)
    assert f"x-request-id: {identity}\r\n".encode() in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["request_id"] == identity


def test_keys_are_named_and_secrets_hidden(gallery_path: Path, tmp_path: Path, log: Log) -> None:
    file = tmp_path / "keys.json"
    secret = add_key(file, "the website", write=True)
    with serve(gallery_path, ServeSettings(keys=read_keys(file))) as served:
        for key in (secret, "la_wrong"):
            for name in ("signature", "cursor", "metadata", "q", "nosuch"):
                path = f"/v1/galleries/a/item?id=x&{name}=hidden-value"
                served.request("GET", path, headers={"x-api-key": key})
        lines = log.lines(10)
    assert [line["key"] for line in lines] == ["the website"] * 5 + [None] * 5
    assert {line["status"] for line in lines[5:]} == {401}
    text = json.dumps(lines)
    assert "id=x&signature=***" in text
    assert not any(each in text for each in (secret, "la_wrong", "hidden-value"))


def test_a_proxy_tells_the_client_only_if_it_is_trusted(gallery_path: Path, log: Log) -> None:
    forwarded = {"x-forwarded-for": "9.9.9.9, 2001:db8::7"}
    for proxies in ((), ("127.0.0.1",)):
        with serve(gallery_path, ServeSettings(trusted_proxies=proxies)) as served:
            served.request("GET", "/healthz", headers=forwarded)
    first, second = log.lines(2)
    assert (first["address"], second["address"]) == ("127.0.0.1", "2001:db8::7")


def _fail() -> bytes:
    raise RuntimeError("a bug\nERROR forged")


def test_every_answer_has_a_line(gallery_path: Path, log: Log) -> None:
    """Also those of the CORS middleware, of a bug, of HEAD, and of a parser that gave up."""
    settings = ServeSettings(origins=("https://x.org",))
    with serve(gallery_path, settings) as served:
        served.service.metrics.text = _fail  # type: ignore[method-assign]
        preflight = {"origin": "https://x.org", "access-control-request-method": "POST"}
        asked = [
            served.request("OPTIONS", "/v1/galleries", headers=preflight)[0],
            served.request("GET", "/metrics")[0],
            served.request("HEAD", "/v1/galleries")[0],
            served.request("TRACE", "/")[0],
        ]
        assert exchange(served.port, b"NONSENSE\r\n\r\n").startswith(b"HTTP/1.1 400")
        lines = log.lines(5)
    assert [line["status"] for line in lines] == [*(each.status for each in asked), 400]
    assert [line["status"] for line in lines] == [200, 500, 200, 403, 400]
    assert [line["request_id"] for line in lines[:4]] == [
        each.headers["x-request-id"] for each in asked
    ]
    assert lines[2]["bytes"] == 0
    assert lines[4]["address"] == "127.0.0.1"


def test_a_client_that_leaves_has_a_line(gallery_path: Path, log: Log) -> None:
    with serve(gallery_path) as served:
        head = b"POST /v1/galleries/a/search/image HTTP/1.1\r\ncontent-length: 99\r\n" + _HOST
        with connect(served.port) as connection:
            connection.sendall(head + b"\r\nabc")
        (line,) = log.lines(1)
    assert (line["status"], line["complete"], line["bytes"]) == (None, False, 0)


def test_log_lines_of_a_request_have_its_id(
    gallery_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the service logs while it works for a request, in both formats."""
    for as_json in (False, True):
        with (
            service_logs("warning", as_json=as_json),
            serve(gallery_path) as served,
        ):
            served.service.metrics.text = _fail  # type: ignore[method-assign]
            headers = {"x-request-id": "r-7"}
            assert served.request("GET", "/metrics", headers=headers)[0].status == 500
        lines = capfd.readouterr().err.splitlines()
        errors = [line for line in lines if "Exception in ASGI application" in line]
        assert len(errors) == 1
        if as_json:
            line = json.loads(errors[0])
            assert (line["request_id"], line["level"]) == ("r-7", "error")
            assert line["traceback"][-2:] == ["RuntimeError: a bug", "ERROR forged"]
            assert lines == errors
        else:
            assert errors[0].endswith(" request_id=r-7")
            assert all(line.startswith("  ") for line in lines if line not in errors)


class Process:
    """``lookalike serve`` as a process; ``lines`` is what it printed, once it has ended."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "lookalike", "serve", *map(str, arguments)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        self.lines += (line.rstrip("\n") for line in self._process.stderr)

    def port(self) -> int:
        assert eventually(lambda: re.search(r":\d+/ ", "\n".join(self.lines)) is not None)
        port = re.search(r"http://127\.0\.0\.1:(\d+)/", "\n".join(self.lines))
        assert port is not None
        return int(port[1])

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()
            self._reader.join(30)
            assert self._process.stderr is not None
            self._process.stderr.close()


FORGED = quote("x\r\nERROR forged\u2028\x1b[31m")


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_all_lines_have_one_format(gallery_path: Path, tmp_path: Path, log_format: str) -> None:
    keys = tmp_path / "keys.json"
    writer = add_key(keys, "wörk er", write=True)
    process = Process(
        *(gallery_path, "--port", "0", "--keys", keys),
        *("--log-format", log_format, "--log-level", "info"),
    )
    try:
        port = process.port()
        for path in (f"item?id={FORGED}", f"{FORGED}?size={FORGED}&{FORGED}=1"):
            head = f"PUT /v1/galleries/a/{path} HTTP/1.1\r\nx-api-key: {writer}\r\n".encode()
            close = b"connection: close\r\ncontent-length: 0\r\n\r\n"
            exchange(port, head + _HOST + b"x-request-id: a b\r\n" + close)
    finally:
        assert process.stop() == 0
    access = [line for line in process.lines if "lookalike.access" in line]
    audited = [line for line in process.lines if "lookalike.audit" in line]
    assert len(access) == len(audited) == 2
    assert all(line.isprintable() and line.isascii() for line in process.lines)
    assert writer not in "".join(process.lines)
    if log_format == "json":
        lines = [json.loads(line) for line in process.lines]
        assert {line["level"] for line in lines} == {"info"}
        assert {line["key"] for line in map(json.loads, access)} == {"wörk er"}
        assert {line["client"] for line in map(json.loads, audited)} == {"wörk er"}
    else:
        logged = [line for line in process.lines if "lookalike." in line.split(": ", 1)[0]]
        start = r"20[\d-]+T[\d:.]+\+00:00 INFO lookalike\.(access|audit): \w+="
        assert all(re.match(start, line) for line in logged)
        assert r'key="w\u00f6rk er"' in access[0]


@pytest.mark.slow
def test_errors_of_the_start_are_lines_of_the_format_too(tmp_path: Path) -> None:
    process = Process(tmp_path / "none.gallery", "--log-format", "json")
    assert process.wait() == 2
    (line,) = map(json.loads, process.lines)
    assert line["level"] == "error"
    assert "none.gallery: not a gallery" in line["message"]


@pytest.mark.slow
def test_a_folder_is_indexed_without_other_lines(
    gallery_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "cache"))
    process = Process(gallery_path.parent / "few", "--port", "0", "--log-format", "json")
    try:
        process.port()
    finally:
        assert process.stop() == 0
    lines = [json.loads(line) for line in process.lines]
    assert lines[-1]["message"].startswith("serving at http://127.0.0.1:")


def test_verbose_is_the_level_info(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    verbose = logging.StreamHandler()
    verbose.setFormatter(LineFormatter("%(name)s: %(message)s"))
    own = logging.getLogger("lookalike.test")
    before = list(root.handlers), root.level, logging.getLogger("lookalike").level
    root.addHandler(verbose)
    try:
        with service_logs("error", as_json=False):
            own.info("one line")
        own.warning("as before")
    finally:
        root.removeHandler(verbose)
    assert (list(root.handlers), root.level, logging.getLogger("lookalike").level) == before
    first, second = capfd.readouterr().err.splitlines()
    assert " INFO lookalike.test: one line" in first
    assert second == "lookalike.test: as before"
