"""The exceptions of lookalike, in one tree.

    LookalikeError
    ├── InputError               invalid input
    │   ├── SourceError          a folder, IDX pair or data set is unreadable or empty
    │   ├── ImageError           an image cannot be decoded, or the encoder does not take it
    │   ├── MissingRowError      the gallery has no row with that ID
    │   ├── UnknownNameError     no recipe, encoder or data set of that name; names the nearest
    │   └── SettingError         a parameter is out of range, or parameters exclude each other
    ├── ArtifactError            a folder on disk is not what it should be
    │   ├── FormatVersionError   written by a newer or much older lookalike
    │   ├── ReplacedError        another gallery was put in its place while it was open
    │   └── FingerprintError     embeddings of one encoder for a gallery of another
    ├── ServiceError             a service answered with an error
    ├── UnreachableError         the server of the rows does not answer, or refuses the token
    ├── FetchError               a data set could not be downloaded
    ├── CancelledError           the work was cancelled, since nobody waits for it
    │   └── TimeLimitError       it took longer than its time limit
    ├── MissingDependencyError   an optional package is missing; has the install command
    └── StorageError             a write failed (disk full, no permission); nothing was changed
        └── BusyError            another process is writing

Each message names the input, what is wrong with it, and what to do next.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


TEXT_COMMAND = "lookalike search FOLDER WORDS --encoder clip-b32"
"""The command that searches by text with an image-text encoder, for messages."""


class LookalikeError(Exception):
    """Root of all exceptions that lookalike raises on purpose.

    A message names parameters as ``{name}``, with their values as keywords (None: the name alone):
    ``SettingError("{dim} must be at least 1", dim=0)`` reads "dim=0 must be at least 1". Other
    interfaces write parameters in their own way with :meth:`format_message`.
    """

    def __init__(self, message: str, **parameters: object) -> None:
        super().__init__(message)
        self._message = message
        self._parameters = parameters

    def format_message(self, write: Callable[[str, object], str]) -> str:
        """Return the message with each parameter as ``write(name, value)`` writes it."""

        def replacement(match: re.Match[str]) -> str:
            name = match[1]
            return write(name, self._parameters[name]) if name in self._parameters else match[0]

        return re.sub(r"\{(\w+)\}", replacement, self._message)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters that it is about, in order."""
        return tuple(self._parameters)

    def about(self, *names: str) -> Self:
        """Note parameters that it is about, though its message does not name them; return it."""
        self._parameters = {**dict.fromkeys(names), **self._parameters}
        return self

    def __str__(self) -> str:
        def write(name: str, value: object) -> str:
            if value is None:
                return name
            return f"{name}={value if str(value).strip() else repr(value)}"

        return self.format_message(write)

    def __reduce__(self) -> tuple[object, ...]:
        return Exception.__new__, (type(self),), self.__dict__ | {"args": self.args}


class InputError(LookalikeError):
    """Invalid input."""


class SourceError(InputError):
    """A source is unreadable or has no images."""


class ImageError(InputError):
    """An image cannot be decoded, or the encoder does not take it."""


class MissingRowError(InputError):
    """The gallery has no row with that ID; ``row_id`` is the ID, if one was looked for."""

    row_id: str | None = None


class UnknownNameError(InputError):
    """A name that no registry has; the message names the nearest one.

    Args:
        kind: of what is named.
        name: that is unknown.
        available: all names.
        meant: what ``name`` may mean, instead of the name that is spelled most alike.
        command: that lists the names, instead of the list of all.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        available: Iterable[str],
        *,
        meant: Sequence[str] = (),
        command: str = "",
    ) -> None:
        import difflib  # seldom needed

        names, name = sorted(available), str(name)
        matches = meant or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f": did you mean {' or '.join(map(repr, matches))}?" if matches else ";"
        names_all = f"all names: {command}" if command else f"available: {', '.join(names)}"
        super().__init__(f"unknown {kind} {name!r}{hint} {names_all}")


class SettingError(InputError):
    """A parameter is out of range, or parameters exclude each other."""


class ArtifactError(LookalikeError):
    """A folder on disk is not what it should be."""


class FormatVersionError(ArtifactError):
    """A folder was written by a newer lookalike, or by one whose galleries must be migrated."""


class ReplacedError(ArtifactError):
    """A gallery was replaced by another one while it was open."""


class FingerprintError(ArtifactError):
    """Embeddings of one encoder were passed to a gallery of another."""


class ServiceError(LookalikeError):
    """A service refused or failed; ``status`` is the HTTP status, ``kind`` the problem's type."""

    def __init__(self, message: str, *, status: int = 0, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class UnreachableError(LookalikeError):
    """The server of the rows does not answer, or refuses the token."""


class FetchError(LookalikeError):
    """A data set could not be downloaded."""


class CancelledError(LookalikeError):
    """The work was cancelled, since nobody waits for its result."""


class TimeLimitError(CancelledError):
    """The work took longer than its time limit."""


class MissingDependencyError(LookalikeError):
    """An optional package is missing; the message has the install command."""

    def __init__(self, package: str, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}: pip install 'lookalike[{extra}]'"
        )

    def or_else(self, name: str, value: object) -> Self:
        """Say that a parameter with another value needs no package; return it."""
        self._message += f"; {{{name}}} needs none"
        self._parameters = {**self._parameters, name: value}
        return self


def require(package: str, purpose: str, extra: str) -> None:
    """Check that an optional package is installed; it is not imported.

    Args:
        package: its top-level module.
        purpose: what needs it; begins the message.
        extra: of lookalike, which installs it.

    Raises:
        MissingDependencyError: it is not; the message has the command that installs it.
    """
    if not is_installed(package):
        raise MissingDependencyError(package, purpose, extra)


def is_installed(package: str) -> bool:
    """Return whether a package is installed, by its top-level module; it is not imported."""
    from importlib.util import find_spec

    try:
        return find_spec(package) is not None
    except ValueError:  # imported already, by something that gave it no spec
        return True
    except ImportError:
        return False


@contextmanager
def requiring(package: str, purpose: str, extra: str) -> Iterator[None]:
    """Import an optional package in the block.

    Raises:
        MissingDependencyError: it, or a package that it needs itself, is not installed.
    """
    require(package, purpose, extra)
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or package, purpose, extra) from error


class StorageError(LookalikeError):
    """A write failed; the previous state is unchanged."""


class BusyError(StorageError):
    """Another process is writing."""


def is_panic(error: BaseException) -> bool:
    """Return whether an error is a panic of a library in Rust, which is no Exception."""
    return type(error).__name__ == "PanicException"
