"""Images of sources at URLs."""

from __future__ import annotations

from dataclasses import replace

from lookalike.config import settings
from lookalike.errors import FetchError, ImageError, InputError

_TIMEOUT_S = 30
_MAX_BYTES = 64 << 20
_MAX_REDIRECTS = 5


_ADVICE = "to fetch images from your own network, index with {allow_private_urls}"


def read_url(url: str, *, allow_private: bool = False, advice: str = _ADVICE) -> bytes:
    """Return the bytes of one image at an http or https address.

    Args:
        url: the address.
        allow_private: fetch also from hosts of private networks and from this one.
        advice: ends the message about a host that is not on the public internet.

    Raises:
        ImageError: the host is not on the public internet, the download failed or took longer than
            30 s, the file is larger than 64 MiB, or ``LOOKALIKE_OFFLINE`` is set.
    """
    from lookalike.url_fetch import FetchOptions, fetch, is_public_or_private  # loads ssl

    options = FetchOptions(
        timeout=_TIMEOUT_S,
        max_bytes=_MAX_BYTES,
        max_redirects=_MAX_REDIRECTS,
        advice=advice,
    )
    if allow_private:
        options = replace(
            options,
            is_allowed=is_public_or_private,
            advice="such addresses are never fetched from",
        )
    if settings().offline:
        raise ImageError(f"{url}: not downloaded: downloads are off (LOOKALIKE_OFFLINE is set)")
    try:
        return fetch(url, options)
    except (FetchError, InputError) as error:
        reason = str(error).removeprefix(f"{url}: ")
        raise ImageError(f"{url}: {reason}", allow_private_urls=None) from error
