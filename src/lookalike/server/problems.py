"""Errors as problem documents (RFC 9457): what went wrong, why, and what to do."""

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
    """A request that is refused: ``kind`` is the last part of the problem's type."""

    status: int
    kind: str
    title: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the document."""
        return {
            "type": f"{_TYPES}{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }


_KINDS: tuple[tuple[type[LookalikeError], int, str, str], ...] = (
    (MissingRowError, 404, "no-such-item", "There is no such item"),
    (ImageError, 422, "bad-image", "The image cannot be used"),
    (InputError, 422, "bad-request", "The request cannot be carried out"),
    (BusyError, 409, "busy", "Another process is writing"),
    (FetchError, 502, "not-fetched", "The address did not give an image"),
    (MissingDependencyError, 501, "not-installed", "This is not installed here"),
    (UnreachableError, 503, "rows-away", "The server of the rows does not answer"),
    (ArtifactError, 503, "gallery-broken", "The gallery cannot be read"),
    (StorageError, 507, "not-written", "The gallery cannot be written"),
)
"""The first that an error is an instance of counts."""


def problem_of(error: LookalikeError) -> ProblemError:
    """Return how an error of lookalike is told over HTTP."""
    for kind, status, name, title in _KINDS:
        if isinstance(error, kind):
            return ProblemError(status, name, title, str(error))
    return ProblemError(500, "error", "Something went wrong", str(error))


def too_busy(what: str) -> ProblemError:
    """Return the problem of a service that has enough to do."""
    return ProblemError(
        429, "too-busy", "The service has enough to do", f"{what}; try again", {"retry-after": "1"}
    )
