"""The audit log: one line for each request that would write, whether it was accepted or not."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus

from starlette.datastructures import QueryParams
from starlette.types import Scope

from lookalike.server.log_fields import log_fields
from lookalike.server.request_ids import request_id

AUDIT_LOG = "lookalike.audit"
"""The logger; its messages are fields, at the level INFO."""

_log = logging.getLogger(AUDIT_LOG)

_ITEM_PATH = re.compile(r"/v1/galleries/([^/]+)/")
_BY_ANYBODY = (401, 403, 408, 413, 421, 429)
"""Statuses of requests that need no right to write: of these, a flood is not logged one by one."""


def audit(scope: Scope, client: str, status: int | None) -> None:
    """Log who wanted to write what, and with which result.

    Args:
        scope: of the request.
        client: name of the API key, or IP address without keys.
        status: of the response; None if the client disconnected before it.
    """
    if not _log.isEnabledFor(logging.INFO):
        return
    gallery = _ITEM_PATH.match(scope["path"])
    fields: dict[str, object] = {
        "client": client,
        "method": scope["method"],
        "gallery": gallery[1] if gallery else None,
        "id": QueryParams(scope["query_string"]).get("id"),
        "status": status,
        "outcome": _outcome(status),
    }
    if gallery is None or scope["path"].endswith("/shared-queries"):
        fields["path"] = scope["path"]
    fields["request_id"] = request_id(scope)
    log_fields(_log, fields, each=status not in _BY_ANYBODY)


def _outcome(status: int | None) -> str:
    if status is None:
        return "disconnected"
    if status < HTTPStatus.BAD_REQUEST:
        return "done"
    return "refused" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "failed"
