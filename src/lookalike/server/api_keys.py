"""API keys: random secrets, stored as hashes, with read or write permission."""

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
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Key:
    """Name, permission and SHA-256 of an API key.

    Keys are 256 random bits, so a plain hash is safe against guessing.
    """

    name: str
    write: bool
    sha256: str


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a key file, which must hold at least one key: a service without keys would be open.

    Raises:
        InputError: the file cannot be read, is not a key file, or is empty.
    """
    keys = _read(path)
    if not keys:
        raise InputError(f"{path}: no API keys; create one with: lookalike key add {path} NAME")
    return keys


def _read(path: Path) -> tuple[Key, ...]:
    try:
        document: Mapping[str, Sequence[Mapping[str, Any]]] = json.loads(path.read_bytes())
        return tuple(
            Key(str(each["name"]), each["write"] is True, str(each["sha256"]))
            for each in document["keys"]
        )
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a key file ({type(error).__name__}: {error}); create one with: "
            f"lookalike key add {path} NAME"
        ) from error


def add_key(path: Path, name: str, *, write: bool) -> str:
    """Create a key, store its hash in a key file (created if missing) and return the secret.

    The secret cannot be recovered from the file.

    Raises:
        InputError: the name is taken, or the file is not a key file.
        StorageError: the file could not be written.
    """
    keys = _read(path) if path.exists() else ()
    if any(key.name == name for key in keys):
        raise InputError(
            f"{path}: the key {name!r} already exists; choose another name or remove it with: "
            f"lookalike key remove {path} {name}"
        )
    secret = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    _write(path, (*keys, Key(name, write, _hash(secret))))
    return secret


def remove_key(path: Path, name: str) -> None:
    """Remove a key from a key file; a running service accepts it until it restarts.

    Raises:
        InputError: there is no key of that name, or the file is not a key file.
        StorageError: the file could not be written.
    """
    keys = read_keys(path)
    remaining = tuple(key for key in keys if key.name != name)
    if remaining == keys:
        names = ", ".join(key.name for key in keys)
        raise InputError(f"{path}: no key named {name!r}; available: {names}")
    _write(path, remaining)


def find_key(secret: str, keys: Sequence[Key]) -> Key | None:
    """Return the key of a secret, or None; every key is compared, in constant time."""
    digest = _hash(secret)
    match = None
    for key in keys:
        if hmac.compare_digest(digest, key.sha256):
            match = key
    return match


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _write(path: Path, keys: Sequence[Key]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"keys": [asdict(key) for key in keys]}, indent=2).encode())
