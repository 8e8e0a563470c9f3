"""Webhooks: a signed POST to a public address when a job has ended."""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Literal
from urllib.parse import urlsplit

from lookalike.errors import FetchError, InputError
from lookalike.url_fetch import FetchOptions, check_url, post

log = logging.getLogger(__name__)

SIGNATURE = "X-Lookalike-Signature"
"""Header ``t=SECONDS,v1=HEX``: the HMAC-SHA256 of ``SECONDS.BODY``, with the secret as the key."""

_RETRY_AFTER_S = (1.0, 5.0, 25.0)
"""Seconds before each further attempt."""

_TIMEOUT_S = 5.0
_TRY_AGAIN = frozenset((408, 425, 429))


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where to tell that a job has ended, and what became of that.

    Args:
        url: of an http or https server on the public internet.
        secret: key of the signature.
        state: of the delivery.
        attempts: requests that were sent.
        error: why the last one failed.
    """

    url: str
    secret: str = field(repr=False)
    state: Literal["pending", "delivered", "failed"] = "pending"
    attempts: int = 0
    error: str | None = None

    def check(self) -> None:
        """Return if the URL may be one of a webhook.

        Raises:
            InputError: it is none.
        """
        check_url(self.url, what="a URL of a webhook")

    @property
    def origin(self) -> str:
        """The URL without path and query, which may be secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def sign(secret: str, seconds: int, body: bytes) -> str:
    """Return the signature of a body at a time, in seconds since 1970."""
    message = f"{seconds}.".encode() + body
    digest = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def deliver(webhook: Webhook, body: bytes, stopping: threading.Event) -> Webhook:
    """Send a body; return the webhook with what became of it.

    It is sent again if the server cannot be reached, or answers 5xx, 408, 425 or 429: four times at
    most. Redirects are not followed.

    Args:
        webhook: where to.
        body: JSON.
        stopping: ends the waits between attempts.
    """
    attempts = 0
    for wait in (*_RETRY_AFTER_S, None):
        attempts += 1
        error, is_final = _send(webhook, body)
        if error is None:
            return replace(webhook, state="delivered", attempts=attempts)
        if is_final or wait is None or stopping.wait(wait):
            break
    log.warning("webhook to %s failed: %s", webhook.origin, error)
    return replace(webhook, state="failed", attempts=attempts, error=error)


def _send(webhook: Webhook, body: bytes) -> tuple[str | None, bool]:
    """Send a body once; return what went wrong, and whether it will again."""
    headers = {
        "Content-Type": "application/json",
        SIGNATURE: sign(webhook.secret, int(time.time()), body),
    }
    options = FetchOptions(
        timeout=_TIMEOUT_S, max_bytes=0, max_redirects=0, advice="webhooks go to public addresses"
    )
    try:
        status = post(webhook.url, body, headers, options)
    except FetchError as error:
        return _without_url(str(error), webhook), False
    except InputError as error:  # an address that is not public, which is looked up each time
        return _without_url(str(error), webhook), True
    if 200 <= status < 300:
        return None, True
    is_final = status < 500 and status not in _TRY_AGAIN
    return f"the server responded {status}", is_final


def _without_url(text: str, webhook: Webhook) -> str:
    return text.replace(webhook.url, webhook.origin)
