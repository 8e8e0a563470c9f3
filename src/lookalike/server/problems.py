"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lookalike.errors import (
    ArtifactError,
    BusyError,
    FetchError,
    ImageError,
    InputError,
    LookalikeError,
    MissingDependencyError,
    MissingRowError,
    StorageError,
    UnreachableError,
)

MEDIA_TYPE = "application/problem+json"
_TYPES = "urn:lookalike:problem:"


@dataclass
class ProblemError(Exception):
    """A refused request; ``kind`` is the last part of the problem's ``type``."""

    status: int
    kind: str
    title: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the problem document."""
        return {
            "type": f"{_TYPES}{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.extensions,
        }


_KINDS: tuple[tuple[type[LookalikeError], int, str, str], ...] = (
    (MissingRowError, 404, "item-not-found", "Item not found"),
    (ImageError, 422, "invalid-image", "Invalid image"),
    (InputError, 422, "invalid-request", "Invalid request"),
    (BusyError, 409, "gallery-locked", "Gallery locked by another process"),
    (FetchError, 502, "fetch-failed", "Image could not be fetched"),
    (MissingDependencyError, 501, "missing-dependency", "Missing dependency"),
    (UnreachableError, 503, "store-unavailable", "Vector store unavailable"),
    (ArtifactError, 503, "gallery-unreadable", "Gallery cannot be read"),
    (StorageError, 507, "write-failed", "Gallery cannot be written"),
)
"""Error types, HTTP status, kind and title; the first match applies."""


def problem_of(error: LookalikeError) -> ProblemError:
    """Return the problem that reports an error to HTTP clients."""
    for kind, status, name, title in _KINDS:
        if isinstance(error, kind):
            headers = {"retry-after": "1"} if kind is ArtifactError else {}
            return ProblemError(status, name, title, str(error), headers)
    return ProblemError(500, "internal-error", "Internal error", str(error))


def too_many_requests(reason: str) -> ProblemError:
    """Return the problem of a service at its limits."""
    return ProblemError(
        429,
        "too-many-requests",
        "Too many requests",
        f"{reason}; try again later",
        {"retry-after": "1"},
    )
