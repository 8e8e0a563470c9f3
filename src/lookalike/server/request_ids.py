"""IDs of requests, by which a client's report, a problem and the log lines of a request meet."""

from __future__ import annotations

import random
import re
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

HEADER = b"x-request-id"
"""The header with which a client or proxy names a request, and each response has."""

_VALID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_ID_BITS = 64

_current: ContextVar[str] = ContextVar("lookalike-request-id", default="")


def request_id(scope: MutableMapping[str, Any]) -> str:
    """Return the ID of a request: its ``X-Request-Id`` if that is valid, else a random one.

    Valid is one of 1 to 128 letters, digits and ``._:/+=@-``, which no log has to escape.
    """
    state = scope.setdefault("state", {})
    if "request_id" not in state:
        sent = [value for name, value in scope.get("headers", ()) if name == HEADER]
        valid = len(sent) == 1 and _VALID.fullmatch(sent[0])
        state["request_id"] = (
            sent[0].decode() if valid else f"{random.getrandbits(_ID_BITS):0{_ID_BITS // 4}x}"
        )
        _current.set(state["request_id"])
    identity: str = state["request_id"]
    return identity


def current_request_id() -> str:
    """Return the ID of the request that the current task or thread works for, or an empty text."""
    return _current.get()
