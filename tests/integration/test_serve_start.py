"""What keeps ``lookalike serve`` from starting: one line that names it, and what to do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lookalike.server.api_keys import add_key
from tests.conftest import Require
from tests.integration.test_audit import gallery as gallery_path
from tests.integration.test_cli import lookalike

__all__ = ["gallery_path"]  # a fixture

_NOBODY = 65534


@pytest.fixture
def folder(gallery_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a gallery of its own, ``a.gallery``."""
    shutil.copytree(gallery_path, tmp_path / "a.gallery")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error(*arguments: object, prefix: tuple[str, ...] = ()) -> str:
    """Return the line with which the service does not start, in a process if it has a prefix."""
    if prefix:
        command = [*prefix, sys.executable, "-m", "lookalike", "serve", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        code, lines = done.returncode, done.stderr.splitlines()
    else:
        shown = lookalike("serve", *arguments)
        code, lines = shown.returncode, shown.stderr.splitlines()
    assert (code, len(lines)) == (2, 1), lines
    return lines[0].removeprefix("lookalike: error: ")


def test_galleries_of_one_name(folder: Path) -> None:
    assert error("a.gallery", folder / "a.gallery") == (
        f"{folder / 'a.gallery'}: a.gallery is already served as 'a'; rename one with NAME=PATH"
    )


def test_a_port_in_use(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert error("a.gallery", "--port", port) == (
            f"--port {port} is already in use; port 0 picks a free one"
        )


def test_an_address_of_another_machine(folder: Path) -> None:
    add_key(folder / "keys.json", "a", write=False)
    line = error("a.gallery", "--host", "192.0.2.1", "--keys", "keys.json")
    assert line.startswith("--host 192.0.2.1 is no address of this machine; 127.0.0.1 is this ")


def test_a_missing_key_file(folder: Path) -> None:
    assert error("a.gallery", "--keys", "keys.json") == (
        "keys.json: cannot be read (No such file or directory); create it with: "
        "lookalike key add keys.json NAME"
    )


def test_galleries_that_are_broken(folder: Path) -> None:
    broken: dict[str, Callable[[Path], object]] = {
        "gallery.json": lambda path: path.write_text("{"),
        "store/rows.db": lambda path: path.write_text("junk"),
        "store": shutil.rmtree,
        "encoder": shutil.rmtree,
    }
    for name, breaking in broken.items():
        shutil.copytree("a.gallery", "b.gallery")
        breaking(Path("b.gallery") / name)
        line = error("a.gallery", "b.gallery")
        assert line.startswith(f"b.gallery/{name}"), line
        assert line.endswith("; to see what can be done: lookalike doctor b.gallery --deep")
        shutil.rmtree("b.gallery")


@pytest.mark.slow
def test_files_of_another_user(folder: Path, require: Require) -> None:
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        require(shutil.which("setpriv"), "root without setpriv may read everything")
        prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    keys, manifest = folder / "keys.json", folder / "a.gallery" / "gallery.json"
    add_key(keys, "a", write=False)
    for path in (keys, manifest):
        path.chmod(0o000)
        if prefix:
            os.chown(path, _NOBODY, _NOBODY)
    assert error("a.gallery", "--keys", "keys.json", prefix=prefix) == (
        "keys.json: cannot be read (Permission denied); let the service's group read it: "
        "chmod g+r keys.json"
    )
    line = error("a.gallery", prefix=prefix)
    assert line.startswith("a.gallery/gallery.json: cannot be read (Permission denied); ")
    assert line.endswith("; let the service's group read it: chmod -R g+rX a.gallery")


def test_a_key_file_that_everybody_can_write_is_warned_about(folder: Path) -> None:
    keys = folder / "keys.json"
    add_key(keys, "a", write=False)
    keys.chmod(0o666)
    shown = lookalike("serve", "none.gallery", "--keys", "keys.json")
    assert shown.stderr.splitlines()[0] == (
        "warning: keys.json: everybody can write it, and so add keys; mend that with: "
        "chmod o= keys.json"
    )
