"""Signed, expiring URLs of images: an ``<img>`` cannot send an API key.

A URL is signed for one API key, gallery, item and kind of image: the image, or its thumbnails up to
a size. Nothing of that can be changed without the secret, and the URL ends with its key. The secret
is never sent; each key has its own one, derived from it (HMAC-SHA256, RFC 2104).
"""

from __future__ import annotations

import hmac
import math
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lookalike.errors import InputError
from lookalike.files import read_regular
from lookalike.server.api_keys import Key
from lookalike.server.problems import ProblemError

MIN_SECRET_BYTES = 32
_MAX_SECRET_BYTES = 4096
_SIGNATURE_BYTES = 18
_KEY_ID_BYTES = 6
_MAX_DIGITS = 12

SIGNATURE_PARAMETERS = ("expires", "key", "signature")
"""Parameters of a signed URL, besides those that are signed."""

FULL = 0
"""Instead of a size: the image itself."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL is of: the image of an item, or its thumbnails up to ``size`` pixels a side.

    ``gallery`` is its name in the service; ``size`` is :data:`FULL` for the image itself.
    """

    gallery: str
    item_id: str
    size: int


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs the URLs of one response, for the API key of its request.

    Args:
        secret: of this key.
        key_id: names the key in URLs, without telling it or its name.
        expires: seconds since 1970 after which the URLs are refused.
    """

    secret: bytes
    key_id: str
    expires: int

    def parameters(self, target: Target) -> str:
        """Return the parameters that are added to a URL."""
        signature = _signature(self.secret, target, self.expires)
        return f"expires={self.expires}&key={self.key_id}&signature={signature}"


_signer: ContextVar[Signer | None] = ContextVar("lookalike-signer", default=None)


def current_signer() -> Signer | None:
    """Return what signs the URLs in the response to the current request; None without keys."""
    return _signer.get()


def sign_urls(key: Key, secret: bytes, seconds: float) -> None:
    """Sign the URLs in the response to the current request, which was sent with a key.

    They are valid for ``seconds`` and at most twice as long, and the same for ``seconds``, so that
    browsers find them in their caches.
    """
    derived, key_id = _derive(secret, key.sha256)
    _signer.set(Signer(derived, key_id, expiry(time.time(), seconds)))


def expiry(now: float, seconds: float) -> int:
    """Return when URLs that are signed now expire, in seconds since 1970."""
    return math.ceil((math.floor(now / seconds) + 2) * seconds)


def key_of_url(
    parameters: Mapping[str, str], target: Target, keys: Iterable[Key], secret: bytes
) -> tuple[Key, int]:
    """Return the key that a URL was signed for, and the time when it expires.

    Args:
        parameters: of the URL.
        target: what is requested; thumbnails up to a size include smaller ones.
        keys: that are valid now.
        secret: of the service.

    Raises:
        ProblemError: the URL was not signed for this, has expired, or its key was removed.
    """
    expires, key_id, signature = (parameters.get(name, "") for name in SIGNATURE_PARAMETERS)
    valid = None
    for key in keys:
        derived, name = _derive(secret, key.sha256)
        if hmac.compare_digest(name.encode(), key_id.encode("utf-8", "replace")):
            valid = key, derived
    is_number = expires.isascii() and expires.isdigit() and len(expires) <= _MAX_DIGITS
    if valid is None or not is_number or not _is_signed(valid[1], target, int(expires), signature):
        raise ProblemError(
            403,
            "invalid-signature",
            "the URL was not signed for this image by this service, or the API key that it was "
            "signed for was removed; request the item again with an API key, for a new URL",
        )
    if time.time() > int(expires):
        raise ProblemError(
            410,
            "url-expired",
            "signed URLs are valid for a limited time; request the item or the search again with "
            "an API key, for a new one",
        )
    return valid[0], int(expires)


def _is_signed(secret: bytes, target: Target, expires: int, signature: str) -> bool:
    """Return whether a signature is of this target, or of thumbnails up to a larger size."""
    sizes = (FULL,) if target.size == FULL else _sizes_from(target.size)
    valid = False
    for size in sizes:
        each = _signature(secret, Target(target.gallery, target.item_id, size), expires)
        valid |= hmac.compare_digest(each.encode(), signature.encode("utf-8", "replace"))
    return valid


def _sizes_from(size: int) -> tuple[int, ...]:
    return tuple(each for each in THUMBNAIL_SIZES if each >= size)


THUMBNAIL_SIZES = (64, 128, 256, 512, 1024)
"""Maximum widths and heights of thumbnails, in pixels."""


def _signature(secret: bytes, target: Target, expires: int) -> str:
    """Return the signature of a target; lengths keep its parts apart."""
    parts = (target.gallery, target.item_id, str(target.size), str(expires))
    message = "".join(f"{len(part)}:{part}" for part in parts)
    return _text(_hmac(secret, message.encode("utf-8", "surrogatepass"))[:_SIGNATURE_BYTES])


@lru_cache(maxsize=1024)
def _derive(secret: bytes, key_hash: str) -> tuple[bytes, str]:
    """Return the secret of an API key, and what names the key in URLs."""
    derived = _hmac(secret, f"lookalike signed URLs of {key_hash}".encode())
    return derived, _text(_hmac(derived, b"name")[:_KEY_ID_BYTES])


def _hmac(secret: bytes, message: bytes) -> bytes:
    return hmac.digest(secret, message, "sha256")


def _text(digest: bytes) -> str:
    return urlsafe_b64encode(digest).decode()  # of a multiple of 3 bytes: without padding


def new_secret() -> bytes:
    """Return a random secret: URLs that are signed with it end with this process."""
    return secrets.token_bytes(MIN_SECRET_BYTES)


def read_secret(path: Path) -> bytes:
    """Return the secret for signed URLs in a file, without spaces and line ends around it.

    Raises:
        InputError: it cannot be read, or is too short to be secret.
    """
    hint = f"create one with: openssl rand -hex {MIN_SECRET_BYTES} > {path}"
    try:
        secret = read_regular(path, limit=_MAX_SECRET_BYTES).strip()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {hint}") from error
    if len(secret) < MIN_SECRET_BYTES:
        raise InputError(
            f"{path}: the secret has {len(secret)} bytes, fewer than {MIN_SECRET_BYTES}; {hint}"
        )
    return secret
