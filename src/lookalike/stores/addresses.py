"""Addresses of rows outside a gallery's folder, and the stores that are opened by one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol, Self

from lookalike.errors import SettingError
from lookalike.stores.base import VectorStore

_SCHEME = re.compile(r"([a-z][a-z0-9]*(?:[+.-][a-z0-9]+)*)://")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST_NAME = 100


class StoreAddress(Protocol):
    """Where rows are. Addresses of the same rows are equal; as a text they have no options."""

    @property
    def text(self) -> str:
        """The address as it was given, with its options."""
        ...

    @property
    def name(self) -> str:
        """A name for the gallery there, which can be that of a file."""
        ...

    @property
    def folder(self) -> str:
        """The name of a folder for the galleries of this server."""
        ...

    @property
    def server(self) -> str:
        """What the user must have named before a folder of somebody else may lead there.

        Empty if any folder may, such as to a server on this machine.
        """
        ...

    @property
    def guard(self) -> str:
        """Why the user must have named it, as the beginning of a message; empty if not now."""
        ...


class AddressedStore(VectorStore, Protocol):
    """A store that is opened by an address. Files beside its rows hold what else a gallery needs.

    Its methods raise UnreachableError where a server does not answer.
    """

    @property
    def address(self) -> StoreAddress:
        """Where it is."""
        ...

    @property
    def description(self) -> Mapping[str, Any]:
        """What was passed when it was created, among it ``fingerprint``, of the encoder."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """JSON values that ``lookalike info`` shows, such as the kind of index."""
        ...

    def files(self) -> Sequence[str]:
        """Return the names of the files; they may have slashes."""
        ...

    def read_file(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            ArtifactError: it does not exist, or is damaged.
        """
        ...

    def write_file(self, name: str, data: bytes) -> None:
        """Write or replace a file, completely or not at all; when this returns, it is safe.

        Raises:
            StorageError: it could not be written.
        """
        ...

    def drop(self) -> None:
        """Delete the rows and the files."""
        ...


@dataclass(frozen=True, slots=True)
class PlainAddress:
    """An address ``SCHEME://LOCATION[?OPTION=VALUE&...]``.

    Args:
        scheme: which store it is of.
        location: what follows, without the options.
        text: the address as it was parsed.
    """

    scheme: str
    location: str
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address.

        Raises:
            SettingError: it is none.
        """
        location = text.partition("://")[2].partition("?")[0]
        if not is_address(text) or not location:
            raise SettingError(f"{text}: expected an address, SCHEME://LOCATION")
        return cls(scheme_of(text), location, text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlainAddress) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.location}"

    @property
    def options(self) -> dict[str, str]:
        """The options, by name; the last of a name counts."""
        from urllib.parse import parse_qsl

        return dict(parse_qsl(self.text.partition("?")[2], keep_blank_values=True))

    @property
    def name(self) -> str:
        """The last part of the location, without a suffix."""
        stem = _UNSAFE.sub("_", PurePosixPath(self.location).stem)[:_LONGEST_NAME].strip(".")
        return stem or self.scheme

    @property
    def folder(self) -> str:
        """The scheme, and a hash of the location."""
        import hashlib

        return f"{self.scheme}_{hashlib.sha256(str(self).encode()).hexdigest()[:16]}"

    @property
    def server(self) -> str:
        """The same: the user must have named the very address."""
        return self.folder

    @property
    def guard(self) -> str:
        """That it was not named."""
        return f"its rows are at {self}, which was not opened from here before. If that is right"


def is_address(text: object) -> bool:
    """Return whether a text is an address rather than a path."""
    return isinstance(text, str) and _SCHEME.match(text) is not None


def scheme_of(text: str) -> str:
    """Return the scheme of an address; empty if it is none."""
    match = _SCHEME.match(text)
    return match[1] if match else ""
