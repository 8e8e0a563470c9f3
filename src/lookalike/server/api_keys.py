"""API keys: made once, kept as hashes, with rights to read or also to write."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookalike.artifacts import write_atomically
from lookalike.errors import InputError

_PREFIX = "la_"
_BYTES = 32


@dataclass(frozen=True, slots=True)
class Key:
    """Who holds a key, whether it may write, and the SHA-256 of the key itself.

    Keys are 256 random bits, so that a plain hash cannot be searched for them.
    """

    name: str
    write: bool
    sha256: str


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a file of keys, one at least: a service without any would be open.

    Raises:
        InputError: it cannot be read, is no such file, or holds none.
    """
    keys = _read(path)
    if not keys:
        raise InputError(f"{path}: holds no key; make one with lookalike key add {path} NAME")
    return keys


def _read(path: Path) -> tuple[Key, ...]:
    try:
        fields: Mapping[str, Sequence[Mapping[str, Any]]] = json.loads(path.read_bytes())
        return tuple(
            Key(str(each["name"]), each["write"] is True, str(each["sha256"]))
            for each in fields["keys"]
        )
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: is no file of keys ({type(error).__name__}: {error}); make one with "
            f"lookalike key add {path} NAME"
        ) from error


def add_key(path: Path, name: str, *, write: bool) -> str:
    """Add a key to a file of keys, which is made if it is not there, and return the key.

    It is not kept: who loses it needs another one.

    Raises:
        InputError: the file holds a key of that name, or is no file of keys.
        StorageError: it could not be written.
    """
    keys = _read(path) if path.exists() else ()
    if any(key.name == name for key in keys):
        raise InputError(f"{path}: holds a key named {name!r}; remove it first, or choose another")
    secret = _PREFIX + secrets.token_urlsafe(_BYTES)
    _write(path, (*keys, Key(name, write, _hash(secret))))
    return secret


def remove_key(path: Path, name: str) -> None:
    """Remove a key from a file of keys; a running service has it until it is started again.

    Raises:
        InputError: the file holds no key of that name, or is no file of keys.
        StorageError: it could not be written.
    """
    keys = read_keys(path)
    left = tuple(key for key in keys if key.name != name)
    if left == keys:
        held = ", ".join(key.name for key in keys)
        raise InputError(f"{path}: holds no key named {name!r}; it holds {held}")
    _write(path, left)


def find_key(secret: str, keys: Sequence[Key]) -> Key | None:
    """Return the key that a secret is, comparing it with all of them in constant time."""
    given = _hash(secret)
    found = None
    for key in keys:
        if hmac.compare_digest(given, key.sha256):
            found = key
    return found


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _write(path: Path, keys: Sequence[Key]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"keys": [asdict(key) for key in keys]}, indent=2).encode())
