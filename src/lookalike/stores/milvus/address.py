"""Addresses of collections in Milvus, and what may be chosen in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from lookalike.errors import SettingError, UnknownNameError

SCHEMES = ("milvus://", "milvus+tls://")
PORT = 19530

CONSISTENCIES = {
    "session": "Session",
    "strong": "Strong",
    "bounded": "Bounded",
    "eventual": "Eventually",
}
"""What searches see: a client's own writes at once, everybody's, those of some seconds ago, or
what has arrived."""


@dataclass(frozen=True, slots=True)
class IndexKind:
    """An index of Milvus: its type there, how it is built, and how it is searched for n rows.

    ``search`` names the parameter that says how far a search looks, ``least`` its value, or
    ``factor`` times as many as are asked for where that is more, at most ``most``.
    """

    type: str
    build: Mapping[str, int]
    search: str = ""
    least: int = 0
    factor: int = 1
    most: int = 0

    def looking(self, k: int, least: int = 0) -> dict[str, int]:
        """Return the parameters of a search for n rows; ``least`` replaces its own if not 0."""
        if not self.search:
            return {}
        return {self.search: min(self.most, max(least or self.least, self.factor * k))}


INDEXES: Mapping[str, IndexKind] = {
    "hnsw": IndexKind("HNSW", {"M": 16, "efConstruction": 200}, "ef", 128, 2, 32_768),
    "flat": IndexKind("FLAT", {}),
    "ivf_sq8": IndexKind("IVF_SQ8", {"nlist": 1024}, "nprobe", 32, 1, 1024),
    "ivf_flat": IndexKind("IVF_FLAT", {"nlist": 1024}, "nprobe", 32, 1, 1024),
    "diskann": IndexKind("DISKANN", {}, "search_list", 128, 2, 32_768),
}
"""``hnsw`` holds vectors and graph in memory, ``ivf_sq8`` a quarter of the vectors' size, and
``diskann`` keeps both on the query nodes' disks; ``flat`` compares all rows."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}(?<!_notes)")
"""Of a collection; what ends in ``_notes`` lies beside another."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a collection is, and how it is to be made and searched.

    ``index`` is a name in :data:`INDEXES`, ``effort`` replaces the least value of its search
    parameter, ``consistency`` is a name in :data:`CONSISTENCIES`, ``shards`` the write channels a
    new collection gets, ``replicas`` the copies of it in query nodes' memory, ``timeout`` the
    seconds after which a request is given up, retries included. Addresses are equal where the
    collection is the same.
    """

    host: str
    port: int
    name: str
    tls: bool = field(default=False, compare=False)
    index: str = field(default="hnsw", compare=False)
    effort: int = field(default=0, compare=False)
    consistency: str = field(default="session", compare=False)
    shards: int = field(default=1, compare=False)
    replicas: int = field(default=1, compare=False)
    timeout: float = field(default=30.0, compare=False)
    given: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``milvus://HOST[:PORT]/NAME[?OPTION=VALUE&...]``, ``milvus+tls://`` for TLS.

        Raises:
            SettingError: it is none, or an option is out of range.
            UnknownNameError: no such option, index or consistency.
        """
        if not is_address(text):
            raise SettingError(f"{text}: expected milvus://HOST:PORT/NAME")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, PORT if parts.port is None else parts.port
        except ValueError as error:
            raise SettingError(f"{text}: is no address ({error})") from None
        if parts.username is not None or parts.password is not None:
            raise SettingError(
                "the address of a collection holds no user or password; put USER:PASSWORD, or a "
                "key, into the environment as LOOKALIKE_MILVUS_TOKEN"
            )
        name = parts.path.strip("/")
        if not host or not port:
            lacks = "port" if host else "host"
            raise SettingError(f"{text}: names no {lacks}; expected milvus://HOST:PORT/NAME")
        if not _NAME.fullmatch(name):
            raise SettingError(
                f"{text}: {name!r} cannot name a collection: letters, digits and _ only, not "
                "beginning with a digit nor ending in _notes, at most 200"
            )
        chosen: dict[str, Any] = {
            key: _option(text, key, value)
            for key, value in parse_qsl(parts.query, keep_blank_values=True)
        }
        return cls(host, port, name, parts.scheme.endswith("+tls"), given=text, **chosen)

    @property
    def uri(self) -> str:
        """Where the server is, in the client's words."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def kind(self) -> IndexKind:
        """The index of the collection."""
        return INDEXES[self.index]

    def looking(self, k: int, kind: IndexKind, wider: int = 1) -> dict[str, int]:
        """Return the parameters of a search for n rows through an index, ``wider`` times as far."""
        return kind.looking(k, wider * (self.effort or kind.least))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"milvus{'+tls' if self.tls else ''}://{host}:{self.port}/{self.name}"


def is_address(text: object) -> bool:
    """Tell whether a text is the address of a collection, rather than a path."""
    return isinstance(text, str) and text.startswith(SCHEMES)


_NUMBERS = {"effort": (1, 32_768), "shards": (1, 64), "replicas": (1, 64), "timeout": (1, 3_600)}
_NAMES = {"index": INDEXES, "consistency": CONSISTENCIES}


def _option(text: str, key: str, value: str) -> str | int:
    if key in _NAMES:
        if value.lower() not in _NAMES[key]:
            raise UnknownNameError(key, value, _NAMES[key])
        return value.lower()
    if key not in _NUMBERS:
        raise UnknownNameError(f"option of {text.partition('?')[0]}:", key, (*_NAMES, *_NUMBERS))
    low, high = _NUMBERS[key]
    if not value.isdecimal() or not low <= int(value) <= high:
        raise SettingError(f"{text}: {key}={value}: must be a whole number from {low} to {high:,}")
    return int(value)
