"""Images at public addresses."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

from lookalike.config import settings
from lookalike.errors import ImageError

_TIMEOUT_S = 10
_MAX_BYTES = 64 << 20


def read_url(url: str) -> bytes:
    """Return the bytes of one image at an http or https address.

    Raises:
        ImageError: the download failed, the file is larger than 64 MiB, or ``LOOKALIKE_OFFLINE``
            is set.
    """
    if settings().offline:
        raise ImageError(f"{url}: not downloaded: LOOKALIKE_OFFLINE is set")
    request = urllib.request.Request(url, headers={"User-Agent": "lookalike"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            data: bytes = response.read(_MAX_BYTES + 1)
    except (urllib.error.URLError, OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ImageError(f"{url}: download failed ({reason})") from error
    if len(data) > _MAX_BYTES:
        raise ImageError(f"{url}: larger than {_MAX_BYTES >> 20} MiB")
    return data
