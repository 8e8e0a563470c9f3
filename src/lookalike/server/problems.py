"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lookalike.errors import (
    ArtifactError,
    BusyError,
    CancelledError,
    FetchError,
    ImageError,
    InputError,
    LookalikeError,
    MissingDependencyError,
    MissingRowError,
    StorageError,
    TimeLimitError,
    UnreachableError,
)
from lookalike.languages import DEFAULT_LANGUAGE, translate
from lookalike.server.shared_queries import ExpiredQueryError, UnknownQueryError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_TYPES = "urn:lookalike:problem:"


@dataclass
class ProblemError(Exception):
    """A refused request; ``kind`` is the last part of the problem's ``type``.

    ``about``: the parameters that are wrong. ``continue_url``: where the page of the problem offers
    to go on, a path on this service.
    """

    status: int
    kind: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, Any] = field(default_factory=dict)
    about: tuple[str, ...] = ()
    continue_url: str | None = None

    def title(self, language: str = DEFAULT_LANGUAGE) -> str:
        """Return what all problems of this kind are called (RFC 9457, section 3.1.4)."""
        return translate(language)(f"problem-{self.kind}")

    def as_dict(self) -> dict[str, Any]:
        """Return the problem document."""
        return {
            "type": f"{_TYPES}{self.kind}",
            "title": self.title(),
            "status": self.status,
            "detail": self.detail,
            **self.extensions,
        }


_KINDS: tuple[tuple[type[LookalikeError], int, str], ...] = (
    (MissingRowError, 404, "item-not-found"),
    (UnknownQueryError, 404, "shared-query-not-found"),
    (ExpiredQueryError, 410, "shared-query-expired"),
    (ImageError, 422, "invalid-image"),
    (InputError, 422, "invalid-request"),
    (BusyError, 409, "gallery-locked"),
    (FetchError, 502, "fetch-failed"),
    (MissingDependencyError, 501, "missing-dependency"),
    (TimeLimitError, 503, "time-limit"),
    (CancelledError, 503, "stopping"),
    (UnreachableError, 503, "store-unavailable"),
    (ArtifactError, 503, "gallery-unreadable"),
    (StorageError, 507, "write-failed"),
)
"""Error types, HTTP status and kind; the first match applies."""

_RETRY = (ArtifactError, CancelledError)
"""Errors of which the client is told to try again."""

_INTERNAL = (ArtifactError, StorageError, UnreachableError, MissingDependencyError)
"""Errors about files of the service, which clients did not send."""

_PATH = re.compile(  # it begins after a delimiter only, and never tries again what it has read
    r"(?<![^\s'\"()\[\],;])[^\s'\"()\[\],;:/\\]*+(?:(?<!\w[A-Za-z])(?<=[A-Za-z]):)?+"
    r"(?:\\?[/\\][^\s'\"()\[\],;:/\\]++)++"
)

_VARIABLE = re.compile(r"\bLOOKALIKE_[A-Z_]+(?:=[^\s;,:()]*)?")
_VARIABLE_CLAUSE = re.compile(  # "; set LOOKALIKE_FORMATS=tiff", " (LOOKALIKE_OFFLINE is set)"
    r";[^;]*?\bLOOKALIKE_[A-Z_]+[^;]*|\s\([^()]*?\bLOOKALIKE_[A-Z_]+[^()]*\)"
)


def problem_of(error: LookalikeError, hide: Iterable[Callable[[str], str]] = ()) -> ProblemError:
    """Return the problem that reports an error to HTTP clients, after ``hide`` of its message.

    What its message says about environment variables is for the owner of the service: it is logged.
    """
    detail = without_variables(str(error))
    if detail != str(error):
        log.info("%s", error)
    for each in hide:
        detail = each(detail)
    for kind, status, name in _KINDS:
        if isinstance(error, kind):
            headers = {"retry-after": "1"} if isinstance(error, _RETRY) else {}
            if isinstance(error, _INTERNAL):
                detail = without_folders(detail)
            about = error.parameters if isinstance(error, InputError | FetchError) else ()
            if isinstance(error, MissingRowError):
                about = about or ("id",)
            return ProblemError(status, name, detail, headers, about=about)
    return ProblemError(500, "internal-error", without_folders(detail))


def without_folders(text: str) -> str:
    """Return a message with the last part of each file path: the others are not for clients."""
    return _PATH.sub(lambda match: re.split(r"[/\\]", match[0])[-1], text)


def without_variables(text: str) -> str:
    """Return a message without its clauses and brackets that name environment variables.

    Clients of the service cannot set them. A variable elsewhere becomes "a setting".
    """
    return _VARIABLE.sub("a setting", _VARIABLE_CLAUSE.sub("", text))


def stopping() -> ProblemError:
    """Return the problem of a service that is being stopped."""
    return problem_of(CancelledError("the service is being stopped"))


def too_many_requests(reason: str) -> ProblemError:
    """Return the problem of a service at its limits."""
    return ProblemError(
        429,
        "too-many-requests",
        f"{reason}; try again later",
        {"retry-after": "1"},
    )
