"""Sums of files: SHA-256, and the SHA-1 that git and the hub of models name small files by."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from lookalike.files import open_regular

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its server describes it.

    Attributes:
        size: in bytes.
        sha256: in hex; None if it is not stated, as of small files of the hub.
        git_sha1: as git names its blob; None if it is not stated, as of large files of the hub.
    """

    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @classmethod
    def of_sum(cls, size: int, text: str) -> RemoteFile:
        """Return a file with the sum that an entity tag or the name of a blob is, if it is one."""
        return cls(
            size,
            sha256=text if _SHA256.fullmatch(text) else None,
            git_sha1=text if _SHA1.fullmatch(text) else None,
        )

    @property
    def has_sum(self) -> bool:
        """Whether its bytes can be verified."""
        return self.sha256 is not None or self.git_sha1 is not None


class Hasher:
    """Sums of bytes that arrive in blocks, compared with those of the file they should be."""

    def __init__(self, file: RemoteFile) -> None:
        self.size = 0
        self._file = file
        self._sha256 = hashlib.sha256()
        self._git = None
        if file.git_sha1 is not None:
            self._git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)

    def update(self, block: bytes) -> None:
        """Add the next bytes."""
        self.size += len(block)
        self._sha256.update(block)
        if self._git is not None:
            self._git.update(block)

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes so far, in hex."""
        return self._sha256.hexdigest()

    @property
    def mismatch(self) -> str:
        """How the bytes differ from what the file should be; empty if they do not."""
        file = self._file
        if self.size != file.size:
            return f"{self.size:,} bytes, not {file.size:,}"
        git_sha1 = None if self._git is None else self._git.hexdigest()
        for name, actual, expected in (
            ("SHA-256", self.sha256, file.sha256),
            ("git SHA-1", git_sha1, file.git_sha1),
        ):
            if expected is not None and actual is not None and actual != expected:
                return f"{name} {actual[:16]}..., not {expected[:16]}..."
        return ""


def mismatch(path: Path, file: RemoteFile) -> str:
    """Return how a file on this machine differs from what it should be; empty if it does not.

    Raises:
        OSError: it cannot be read.
    """
    hasher = Hasher(file)
    with open_regular(path) as content:
        if (size := os.fstat(content.fileno()).st_size) != file.size:
            return f"{size:,} bytes, not {file.size:,}"
        while block := content.read(_BLOCK):
            hasher.update(block)
    return hasher.mismatch
