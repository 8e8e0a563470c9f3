"""``lookalike serve`` as a process: its audit log, revoked keys, and what its log shows."""

from __future__ import annotations

import http.client
import json
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

import lookalike as la
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ServiceError
from lookalike.server.api_keys import add_key, remove_key
from lookalike.sources import open_source
from tests.integration.test_running import png

pytestmark = pytest.mark.slow

_PATIENCE_S = 30


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    (folder / "few").mkdir()
    (folder / "few" / "a.png").write_bytes(png())
    source = open_source(folder / "few")
    encoder = open_encoder("color", [np.zeros((8, 8, 3), np.uint8)])
    la.Gallery.create(folder / "a.gallery", encoder=encoder).sync(source)
    return folder / "a.gallery"


@contextmanager
def serve(*arguments: object) -> Iterator[tuple[int, list[str]]]:
    """Yield the port of a service and a list that holds what it printed, once it has ended."""
    command = [sys.executable, "-m", "lookalike", "serve", *map(str, arguments), "--port", "0"]
    printed: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = iter(process.stderr.readline, "")
            line = next(line for line in lines if "serving at" in line)
            port = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            assert port is not None
            yield int(port[1]), printed
            process.send_signal(signal.SIGTERM)
            assert process.wait(_PATIENCE_S) == 0
            printed += process.stderr.read().splitlines()
        finally:
            if process.poll() is None:
                process.kill()


def put(port: int, row_id: str, key: str) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)) as connection:
        path = f"/v1/galleries/a/item?id={quote(row_id)}&metadata=%7B%22secret%22:1%7D"
        connection.request("PUT", path, png(), {"x-api-key": key})
        return connection.getresponse().status


def test_writes_are_audited_and_revoked_keys_refused(gallery: Path, tmp_path: Path) -> None:
    keys, log = tmp_path / "keys.json", tmp_path / "audit.log"
    reader, writer = add_key(keys, "reader", write=False), add_key(keys, "writer", write=True)
    with serve(gallery, "--keys", keys, "--audit-log", log) as (port, printed):
        client = la.Client(f"http://127.0.0.1:{port}", key=writer)
        remote = client.gallery("a")
        assert remote.add(png(1), ids="x") == ["api:x"]
        remote.update_metadata("api:x", {"label": "b"})
        remote.remove("api:x")
        assert put(port, "y\n\x1b[31m", writer) in (200, 201, 422)
        assert put(port, "z", reader) == 403
        assert put(port, "z", "la_wrong") == 401
        remote.search(png(), k=1)
        assert len(log.read_text().splitlines()) == 6
        remove_key(keys, "writer")
        until = time.monotonic() + _PATIENCE_S
        while put(port, "later", writer) != 401:
            assert time.monotonic() < until
            time.sleep(0.1)
        with pytest.raises(ServiceError, match="API key required"):
            client.galleries()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [
        (line["client"], line["method"], line["id"], line["outcome"]) for line in lines[:3]
    ] == [
        ("writer", "PUT", "api:x", "done"),
        ("writer", "PATCH", "api:x", "done"),
        ("writer", "DELETE", "api:x", "done"),
    ]
    assert (lines[3]["id"], lines[3]["client"]) == ("y\n\x1b[31m", "writer")
    assert [(line["client"], line["status"]) for line in lines[4:6]] == [
        ("reader", 403),
        ("127.0.0.1", 401),
    ]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    text = "\n".join(printed) + log.read_text()
    assert all(secret not in text for secret in (reader, writer, "secret"))
    assert any("has changed; keys now: 1" in line for line in printed)


def test_without_a_file_writes_are_on_stderr_as_printable_lines(gallery: Path) -> None:
    with serve(gallery, "--write") as (port, printed):
        put(port, "x\r\nERROR forged", "")
    (line,) = [line for line in printed if "lookalike.audit" in line]
    assert re.match(r"\S+ INFO lookalike\.audit: client=127\.0\.0\.1 method=PUT ", line)
    assert line.isprintable()
    assert not any(line.startswith("ERROR forged") for line in printed)


def test_a_key_file_for_everybody_is_warned_about(gallery: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    add_key(keys, "a", write=False)
    keys.chmod(0o644)
    command = [sys.executable, "-m", "lookalike", "key", "list", str(keys)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "warning: " in done.stderr
    assert "chmod o=" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="environments are in /proc")
def test_decoders_do_not_get_tokens(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_MILVUS_TOKEN", "user:secret")
    monkeypatch.setenv("LOOKALIKE_THREADS", "1")
    with serve(gallery) as (port, _):
        la.Client(f"http://127.0.0.1:{port}").gallery("a").search(png(), k=1)
        environments = [
            _read(path / "environ")
            for path in Path("/proc").iterdir()
            if path.name.isdecimal() and b"decoder_process" in _read(path / "cmdline")
        ]
    ours = [each for each in environments if b"LOOKALIKE_THREADS=1" in each]
    assert ours
    assert not any(b"secret" in each for each in ours)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""
