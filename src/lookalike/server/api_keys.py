"""API keys: random secrets, stored as hashes, with read or write permission."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import overload

from lookalike.artifacts import sole_writer, storage_error, write_atomically
from lookalike.documents import Fields, read_json
from lookalike.errors import InputError
from lookalike.formatting import printable

log = logging.getLogger(__name__)

_PREFIX = "la_"
_SECRET_BYTES = 32
_MAX_NAME = 100
_MAX_FILE_BYTES = 4_000_000
_LOCK_WAIT_S = 30.0
_CHECK_EVERY_S = 1.0
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Key:
    """Name, permission and SHA-256 of an API key.

    Keys are 256 random bits, so a plain hash is safe against guessing.

    Raises:
        InputError: the name is not one line of 1 to 100 printable characters, or the hash is not
            one of 64 hexadecimal digits.
    """

    name: str
    write: bool
    sha256: str

    def __post_init__(self) -> None:
        name, digest = self.name, self.sha256
        if not isinstance(name, str) or not 0 < len(name.strip()) <= len(name) <= _MAX_NAME:
            raise InputError(f"the name of a key must have 1 to {_MAX_NAME} characters")
        if printable(name) != name:
            raise InputError(f"the name {printable(name)!r} of a key has control characters")
        if not isinstance(self.write, bool):
            raise InputError(f"the permission to write of the key {name!r} must be true or false")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise InputError(
                f"the hash of the key {name!r} must have 64 hexadecimal digits (0-9a-f)"
            )


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
    hint = "restore it, or create another one with: lookalike key add FILE NAME"
    if path.is_file() and not os.access(path, os.R_OK):
        raise InputError(
            f"{path}: cannot be read (Permission denied); let the service's group read it: "
            f"chmod g+r {path}"
        )
    try:
        document = read_json(path, hint=hint, error=InputError, limit=_MAX_FILE_BYTES)
    except OSError as error:
        advice = "" if path.exists() else f"; create it with: lookalike key add {path} NAME"
        raise InputError(f"{path}: cannot be read ({error.strerror or error}){advice}") from error
    keys = []
    for entry in Fields.of(document, str(path), hint=hint, error=InputError).objects("keys"):
        name, write, digest = entry.text("name"), entry.flag("write"), entry.text("sha256")
        try:
            keys.append(Key(name, write, digest))
        except InputError as error:
            raise InputError(f"{path}: {error}; {hint}") from None
    for what in ("name", "sha256"):
        if len({getattr(key, what) for key in keys}) < len(keys):
            raise InputError(f'{path}: two keys have the same "{what}"; {hint}')
    return tuple(keys)


def add_key(path: Path, name: str, *, write: bool) -> str:
    """Create a key, store its hash in a key file (created if missing) and return the secret.

    The secret cannot be recovered from the file. Several processes may add keys at once. A new
    file can be read by its owner only; an existing one keeps its owner, and its group's rights.

    Raises:
        InputError: the name is taken or invalid, or the file is not a key file.
        BusyError: another process is writing the file for longer than 30 s.
        StorageError: the file could not be written.
    """
    secret = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    key = Key(name, write, _hash(secret))
    with _sole_writer(path):
        keys = _read(path) if path.exists() else ()
        if any(key.name == name for key in keys):
            raise InputError(
                f"{path}: the key {name!r} already exists; choose another name or remove it with: "
                f"lookalike key remove {path} {name}"
            )
        _write(path, (*keys, key))
    return secret


def remove_key(path: Path, name: str) -> None:
    """Remove a key from a key file; a running service refuses it within a second.

    Raises:
        InputError: there is no key of that name, or the file is not a key file.
        BusyError: another process is writing the file for longer than 30 s.
        StorageError: the file could not be written.
    """
    read_keys(path)  # without a file, no lock is left beside it
    with _sole_writer(path):
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


def permission_problem(path: Path) -> str | None:
    """Return what is wrong with the permissions of a key file, and the command that mends it.

    Who can write it can let anybody in; who can read it learns names and hashes, but no key.
    """
    if os.name == "nt":
        return None
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        return f"{path}: everybody can write it, and so add keys; mend that with: chmod o= {path}"
    if mode & stat.S_IROTH:
        return f"{path}: everybody can read its names and hashes; mend that with: chmod o= {path}"
    return None


class KeyFile(Sequence[Key]):
    """The keys of a file, read again when it has changed, at most once a second.

    A key that is removed from the file is refused then, without a restart. A file that cannot be
    read, or is no key file, leaves the keys as they were, and an error is logged. It is true even
    if all keys were removed: a service must not be open then.

    Raises:
        InputError: at first, as :func:`read_keys`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version = self._stat()
        self._keys = read_keys(path)
        self.is_valid = True
        """Whether the file could be read when it changed last."""
        self._checked_at = time.monotonic()
        self._lock = threading.Lock()

    def _stat(self) -> tuple[int, ...] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size

    def _current(self) -> tuple[Key, ...]:
        now = time.monotonic()
        with self._lock:
            if now - self._checked_at >= _CHECK_EVERY_S:
                self._checked_at = now
                self._read_if_changed()
            return self._keys

    def _read_if_changed(self) -> None:
        version = self._stat()
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = _read(self.path)
            self.is_valid = True
        except InputError as error:
            self.is_valid = False
            log.error("the keys stay as they were, since the key file has changed: %s", error)
        else:
            log.warning("%s has changed; keys now: %d", self.path, len(self._keys))

    @overload
    def __getitem__(self, index: int) -> Key: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Key, ...]: ...
    def __getitem__(self, index: int | slice) -> Key | tuple[Key, ...]:
        return self._current()[index]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._current())

    def __len__(self) -> int:
        return len(self._current())

    def __bool__(self) -> bool:
        return True


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _sole_writer(path: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of a key file, a hidden file beside it."""
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    return sole_writer(
        target.with_name(f".{target.name}.lock"), what=f"{path}", wait=_LOCK_WAIT_S, mode=0o600
    )


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Write a key file; the owner of an existing one, such as the service's user, keeps it."""
    target = Path(os.path.realpath(path))  # a link stays one
    before = target.stat() if target.exists() else None
    mode = 0o600 if before is None else 0o600 | stat.S_IMODE(before.st_mode) & 0o060
    data = json.dumps({"keys": [asdict(key) for key in keys]}, indent=2).encode()
    write_atomically(target, data, mode=mode)
    if before is not None and os.name != "nt":
        with contextlib.suppress(PermissionError):
            os.chown(target, before.st_uid, before.st_gid)
