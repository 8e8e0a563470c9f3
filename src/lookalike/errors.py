"""The errors that lookalike raises, all below one root.

    LookalikeError
    ├── InputError               what was given cannot be used
    │   ├── SourceError          a folder, IDX pair or data set cannot be read, or is empty
    │   ├── ImageError           one image cannot be decoded, or the encoder cannot take it
    │   ├── MissingRowError      no row of the gallery has that id
    │   ├── UnknownNameError     no such recipe, encoder or data set; the nearest is offered
    │   └── SettingError         an option outside its range, or options that exclude each other
    ├── ArtifactError            a folder on disk is not what it should be
    │   ├── FormatVersionError   written by a newer lookalike
    │   └── FingerprintError     vectors of one encoder offered to a gallery of another
    ├── ServiceError             a service answered with an error
    ├── UnreachableError         the server that has the rows does not answer, or lets nobody in
    ├── FetchError               no place that should have a data set gave it
    ├── MissingDependencyError   an optional package is needed; how to install it is said
    └── StorageError             a write failed (disk full, no permission); the old state is kept
        └── BusyError            another process is writing

Each message names the input, says why it was refused, and what to do next.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class LookalikeError(Exception):
    """Root of every error that lookalike raises on purpose.

    A message names parameters as ``{name}``, each with its value as a keyword (None where only the
    name matters): ``SettingError("{dim} must be at least 1", dim=0)`` reads "dim=0 must be at least
    1". Other interfaces call :meth:`worded` to write parameters in their own way.
    """

    def __init__(self, message: str, **parameters: object) -> None:
        super().__init__(message)
        self._message = message
        self._parameters = parameters

    def worded(self, write: Callable[[str, object], str]) -> str:
        """Return the message with each parameter as ``write(name, value)`` writes it."""

        def replacement(match: re.Match[str]) -> str:
            name = match[1]
            return write(name, self._parameters[name]) if name in self._parameters else match[0]

        return re.sub(r"\{(\w+)\}", replacement, self._message)

    def __str__(self) -> str:
        return self.worded(lambda name, value: name if value is None else f"{name}={value}")

    def __reduce__(self) -> tuple[object, ...]:
        return Exception.__new__, (type(self),), self.__dict__ | {"args": self.args}


class InputError(LookalikeError):
    """What was given cannot be used."""


class SourceError(InputError):
    """A source of images cannot be read, or has none."""


class ImageError(InputError):
    """One image cannot be decoded, or the encoder cannot take it."""


class MissingRowError(InputError):
    """No row of a gallery has that id."""


class UnknownNameError(InputError):
    """A name that is in no registry."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}known are {', '.join(names)}")


class SettingError(InputError):
    """An option outside its range, or options that exclude each other."""


class ArtifactError(LookalikeError):
    """A folder on disk is not what it should be."""


class FormatVersionError(ArtifactError):
    """A folder was written by a newer lookalike."""


class FingerprintError(ArtifactError):
    """Vectors of one encoder were offered to a gallery of another."""


class ServiceError(LookalikeError):
    """A service refused or failed; ``status`` is HTTP's, ``kind`` the problem's."""

    def __init__(self, message: str, *, status: int = 0, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class UnreachableError(LookalikeError):
    """The server that has the rows does not answer, or refuses the token."""


class FetchError(LookalikeError):
    """No place that should have a data set gave it."""


class MissingDependencyError(LookalikeError):
    """An optional package is needed for this."""

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}: pip install 'lookalike[{extra}]'"
        )


class StorageError(LookalikeError):
    """A write failed; what was there before is unchanged."""


class BusyError(StorageError):
    """Another process is writing."""
