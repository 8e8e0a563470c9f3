"""Addresses of Milvus collections and their options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from lookalike.config import settings
from lookalike.errors import SettingError, UnknownNameError

SCHEMES = ("milvus://", "milvus+tls://")
PORT = 19530

CONSISTENCIES = {
    "session": "Session",
    "strong": "Strong",
    "bounded": "Bounded",
    "eventual": "Eventually",
}
"""Consistency levels: a search sees the client's own writes, all writes, writes up to some seconds
ago, or whatever has arrived."""


@dataclass(frozen=True, slots=True)
class IndexKind:
    """An index of Milvus.

    Args:
        type: its name in Milvus.
        build: build parameters.
        effort: name of the search parameter that trades speed for recall.
        default: minimum value of that parameter.
        factor: its value is at least this many times k.
        maximum: maximum value of that parameter.
    """

    type: str
    build: Mapping[str, int]
    effort: str = ""
    default: int = 0
    factor: int = 1
    maximum: int = 0

    def search_params(self, k: int, minimum: int = 0) -> dict[str, int]:
        """Return the parameters of a search for ``k`` rows; ``minimum`` replaces the default."""
        if not self.effort:
            return {}
        return {self.effort: min(self.maximum, max(minimum or self.default, self.factor * k))}


INDEXES: Mapping[str, IndexKind] = {
    "hnsw": IndexKind("HNSW", {"M": 16, "efConstruction": 200}, "ef", 128, 2, 32_768),
    "flat": IndexKind("FLAT", {}),
    "ivf_sq8": IndexKind("IVF_SQ8", {"nlist": 1024}, "nprobe", 32, 1, 1024),
    "ivf_flat": IndexKind("IVF_FLAT", {"nlist": 1024}, "nprobe", 32, 1, 1024),
    "diskann": IndexKind("DISKANN", {}, "search_list", 128, 2, 32_768),
}
"""``hnsw`` holds vectors and graph in memory, ``ivf_sq8`` vectors in 8 bits; ``diskann`` keeps
vectors and graph on the disks of query nodes; ``flat`` is exact search."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}(?<!_notes)")
"""Names of collections; those that end in ``_notes`` are sidecars of others."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a collection, and how to create and search it.

    Addresses of one collection are equal, whatever their options.

    Args:
        host: of the server.
        port: of the server.
        name: of the collection.
        tls: encrypt the connection.
        index: a name in :data:`INDEXES`, for a new collection.
        effort: minimum of the index's search parameter; its default if 0.
        consistency: a name in :data:`CONSISTENCIES`.
        shards: write channels of a new collection.
        replicas: copies in the memory of query nodes.
        timeout: seconds after which a request fails, including retries.
        text: the address as it was parsed.
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
    text: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``milvus://HOST[:PORT]/NAME[?OPTION=VALUE&...]``, ``milvus+tls://`` for TLS.

        Raises:
            SettingError: it is not an address, or an option is out of range.
            UnknownNameError: no such option, index or consistency.
        """
        if not isinstance(text, str) or not text.startswith(SCHEMES):
            raise SettingError(f"{text}: expected milvus://HOST:PORT/NAME")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, PORT if parts.port is None else parts.port
        except ValueError as error:
            raise SettingError(f"{text}: invalid address ({error})") from None
        if parts.username is not None or parts.password is not None:
            raise SettingError(
                "the address of a collection cannot hold a user or password; set the environment "
                "variable LOOKALIKE_MILVUS_TOKEN to USER:PASSWORD or to an API key"
            )
        name = parts.path.strip("/")
        if not host or not port:
            missing = "port" if host else "host"
            raise SettingError(f"{text}: has no {missing}; expected milvus://HOST:PORT/NAME")
        if not _NAME.fullmatch(name):
            raise SettingError(
                f"{text}: invalid collection name {name!r}: use at most 200 letters, digits and _, "
                "not starting with a digit and not ending in _notes"
            )
        options: dict[str, Any] = {
            key: _option(text, key, value)
            for key, value in parse_qsl(parts.query, keep_blank_values=True)
        }
        return cls(host, port, name, parts.scheme.endswith("+tls"), text=text, **options)

    @property
    def uri(self) -> str:
        """The server's address for pymilvus."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def folder(self) -> str:
        """The name of a folder for the galleries of the server."""
        return f"{self.host}_{self.port}".replace(":", "_")

    @property
    def server(self) -> str:
        """The server, which alone is sent the token; empty for one on this machine."""
        import ipaddress

        try:
            is_local = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            is_local = self.host == "localhost"
        return "" if is_local else f"{self.host}:{self.port}"

    @property
    def guard(self) -> str:
        """That the token was not sent there, if there is one."""
        if settings().milvus_token is None:
            return ""
        return (
            f"its rows are on the server {self.server}, to which LOOKALIKE_MILVUS_TOKEN was not "
            "sent from here before. If the server is yours"
        )

    @property
    def kind(self) -> IndexKind:
        """The index of a new collection."""
        return INDEXES[self.index]

    def search_params(self, k: int, kind: IndexKind, factor: int = 1) -> dict[str, int]:
        """Return the parameters of a search for ``k`` rows, with ``factor`` times the effort."""
        return kind.search_params(k, factor * (self.effort or kind.default))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"milvus{'+tls' if self.tls else ''}://{host}:{self.port}/{self.name}"


_MAX_DIGITS = 9
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
    if not value.isdecimal() or len(value) > _MAX_DIGITS or not low <= int(value) <= high:
        raise SettingError(
            f"{text}: {key}={value[:80]}: must be a whole number from {low} to {high:,}"
        )
    return int(value)
