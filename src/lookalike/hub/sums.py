"""Sums of the files of models: SHA-256 of large files, git's SHA-1 of small ones."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from lookalike.files import open_regular

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a model.

    Attributes:
        size: in bytes.
        sha256: in hex; of a small file, None until it was downloaded.
        git_sha1: of a small file, as git names its blob; None of a large one.
    """

    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    @classmethod
    def of_sum(cls, size: int, text: str) -> HubFile:
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
    """Sums of bytes that arrive in blocks.

    Args:
        size: of all the bytes, which is part of what git sums.
    """

    def __init__(self, size: int) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, block: bytes) -> None:
        """Add the next bytes."""
        self.size += len(block)
        self._sha256.update(block)
        self._git.update(block)

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes so far, in hex."""
        return self._sha256.hexdigest()

    def mismatch(self, file: HubFile) -> str:
        """Return how the bytes differ from what the file should be; empty if they do not."""
        if self.size != file.size:
            return f"{self.size:,} bytes, not {file.size:,}"
        for name, actual, expected in (
            ("SHA-256", self.sha256, file.sha256),
            ("git SHA-1", self._git.hexdigest(), file.git_sha1),
        ):
            if expected is not None and actual != expected:
                return f"{name} {actual[:16]}..., not {expected[:16]}..."
        return ""


def hash_file(path: Path, size: int) -> Hasher:
    """Return the sums of a file that should have so many bytes.

    Raises:
        OSError: it cannot be read.
    """
    hasher = Hasher(size)
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            hasher.update(block)
    return hasher
