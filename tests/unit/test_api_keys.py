"""API keys: what a key file may hold, who may read it, and changes while it is used."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.errors import InputError
from lookalike.server import api_keys
from lookalike.server.api_keys import Key, KeyFile, add_key, find_key, read_keys, remove_key

HASH = "0" * 64


def one_key(entry: str, *values: str) -> str:
    """Return a key file of one entry in which each ``%s`` is a value."""
    return '{"keys":[' + entry % values + "]}"


def key_file(path: Path, *entries: object) -> Path:
    path.write_text(json.dumps({"keys": entries}))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"keys":{}}', "must be a list of objects"),
        ('{"keys":[1]}', "must be a list of objects"),
        ("[]", "must be a JSON object"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        (b"\xff", "not UTF-8"),
        ("[" * 100_000, "levels deep"),
        (one_key(r'{"name":%s}', "1" * 5_000), "4,300 digits"),
        ('{"keys":[{"name":"a","write":true}]}', "sha256. is missing"),
        (one_key(r'{"name":"a","write":1,"sha256":"%s"}', HASH), "true or false"),
        (one_key(r'{"name":1,"write":true,"sha256":"%s"}', HASH), "must be a text"),
        ('{"keys":[{"name":"a","write":true,"sha256":""}]}', "64 hexadecimal digits"),
        ('{"keys":[{"name":"a","write":true,"sha256":"é"}]}', "64 hexadecimal digits"),
        (one_key(r'{"name":"a","write":true,"sha256":"%s"}', "A" * 64), "64 hexadecimal"),
        (one_key(r'{"name":"a","write":true,"sha256":"%s\n"}', HASH), "64 hexadecimal"),
        (one_key(r'{"name":"a\nb","write":true,"sha256":"%s"}', HASH), "control characters"),
        (one_key(r'{"name":" ","write":true,"sha256":"%s"}', HASH), "1 to 100 characters"),
        (one_key(r'{"name":"%s","write":true,"sha256":"%s"}', "a" * 101, HASH), "1 to 100"),
        (one_key(r'{"name":"\ud800","write":true,"sha256":"%s"}', HASH), "surrogate"),
    ],
)
def test_a_broken_key_file_is_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for use in (read_keys, lambda path: add_key(path, "new", write=False), KeyFile):
        with pytest.raises(InputError, match=message) as refused:
            use(path)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 500
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())


def test_names_and_hashes_are_unique(tmp_path: Path) -> None:
    other = "1" * 64
    for one, two, what in (
        ({"name": "a", "sha256": HASH}, {"name": "a", "sha256": other}, "name"),
        ({"name": "a", "sha256": HASH}, {"name": "b", "sha256": HASH}, "sha256"),
    ):
        path = key_file(tmp_path / "k", {**one, "write": True}, {**two, "write": False})
        with pytest.raises(InputError, match=f'same "{what}"'):
            read_keys(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="not a regular file"):
            read_keys(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[31m", "\ud800", "x" * 101])
def test_a_name_is_one_printable_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        add_key(tmp_path / "keys.json", name, write=False)
    assert list(tmp_path.iterdir()) == []


def test_a_key_without_a_valid_hash_cannot_be_made() -> None:
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        Key("a", True, "é")


@pytest.mark.slow
def test_processes_that_add_keys_at_once_lose_none(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    code = (
        "import sys; from pathlib import Path; from lookalike.server.api_keys import add_key\n"
        "for i in range(5): print(add_key(Path(sys.argv[1]), f'{sys.argv[2]}-{i}', write=False))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(file), str(number)], stdout=subprocess.PIPE, text=True
        )
        for number in range(4)
    ]
    printed = [process.communicate()[0] for process in running]
    keys = read_keys(file)
    names = {key.name for key in keys}
    assert names == {f"{number}-{i}" for number in range(4) for i in range(5)}
    assert all(find_key(secret, keys) for text in printed for secret in text.split())


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_only_the_owner_reads_a_new_key_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    add_key(file, "a", write=False)
    assert [stat.S_IMODE(each.stat().st_mode) & 0o077 for each in tmp_path.iterdir()] == [0] * len(
        list(tmp_path.iterdir())
    )
    file.chmod(0o644)
    assert "can read" in str(api_keys.permission_problem(file))
    file.chmod(0o646)
    assert "can write" in str(api_keys.permission_problem(file))
    file.chmod(0o640)  # for the service's group
    assert api_keys.permission_problem(file) is None
    add_key(file, "b", write=False)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_link_to_a_key_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "keys.json"
    link.symlink_to(tmp_path / "real" / "keys.json")
    add_key(link, "a", write=False)
    assert link.is_symlink()
    assert read_keys(tmp_path / "real" / "keys.json")[0].name == "a"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Seconds pass only when a test says so."""
    clock = Clock()
    monkeypatch.setattr(api_keys, "time", clock)
    return clock


def test_a_removed_key_is_refused_within_a_second(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "keys.json"
    kept, revoked = add_key(path, "kept", write=True), add_key(path, "revoked", write=True)
    keys = KeyFile(path)
    remove_key(path, "revoked")
    assert find_key(revoked, keys) is not None  # looked at once a second
    clock.now += 1
    assert find_key(revoked, keys) is None
    assert find_key(kept, keys) == keys[0]
    remove_key(path, "kept")
    clock.now += 1
    assert find_key(kept, keys) is None
    assert len(keys) == 0
    assert keys, "a service whose keys were all removed must not count as open"


def test_a_broken_file_leaves_the_keys(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    secret = add_key(path, "a", write=True)
    keys = KeyFile(path)
    for breaking in (lambda: path.write_text("{"), path.unlink):
        caplog.clear()
        breaking()
        for _ in range(3):
            clock.now += 1
            assert find_key(secret, keys) is not None
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
    new = add_key(path, "b", write=True)
    clock.now += 1
    assert [find_key(each, keys) is not None for each in (secret, new)] == [False, True]
