"""Settings from environment variables; no other module reads them.

``LOOKALIKE_DATA``     cache folder for data sets and exported encoders (default: the platform's)
``LOOKALIKE_MIRROR``   base URL of a mirror of the data sets
``LOOKALIKE_OFFLINE``  ``1``: no downloads
``LOOKALIKE_FORMATS``  more image formats in uploads to the service, such as ``avif,tiff``
``LOOKALIKE_MILVUS_TOKEN``  Milvus ``USER:PASSWORD`` or API key
``LOOKALIKE_MILVUS_CA``     CA certificate file for milvus+tls://
``LOOKALIKE_DEVICE``   ``cuda``: run networks on a GPU; needs the package onnxruntime-gpu
``LOOKALIKE_THREADS``  threads of each pool (default: the cores that this process may use)
``LOOKALIKE_LOCK_WAIT``  seconds to wait for other processes that write to a gallery (default: 60)
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from lookalike.cpu_quota import affinity, usable_cores
from lookalike.errors import SettingError

DEVICES = ("cpu", "cuda")
_LOCK_WAIT_S = "60"
UPLOAD_FORMATS = ("AVIF", "TIFF", "JPEG2000", "JXL")
"""Formats that the service accepts in uploads only if they are enabled."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings, as :func:`settings` reads them."""

    data: Path
    mirror: str | None
    offline: bool
    threads: int
    formats: tuple[str, ...] = ()
    milvus_token: str | None = field(default=None, repr=False)
    milvus_ca: Path | None = None
    device: str = "cpu"
    lock_wait: float = 60.0


def settings() -> Settings:
    """Read the environment.

    Raises:
        SettingError: ``LOOKALIKE_THREADS`` is not a positive whole number, ``LOOKALIKE_LOCK_WAIT``
            is no time, or ``LOOKALIKE_FORMATS`` or ``LOOKALIKE_DEVICE`` names an unknown one.
    """
    data = os.environ.get("LOOKALIKE_DATA")
    return Settings(
        data=Path(data).expanduser() if data else _user_cache(),
        mirror=os.environ.get("LOOKALIKE_MIRROR") or None,
        offline=os.environ.get("LOOKALIKE_OFFLINE", "") not in ("", "0"),
        threads=_threads(),
        formats=_formats(),
        device=_device(),
        lock_wait=_lock_wait(),
        milvus_token=os.environ.get("LOOKALIKE_MILVUS_TOKEN") or None,
        milvus_ca=Path(ca) if (ca := os.environ.get("LOOKALIKE_MILVUS_CA")) else None,
    )


def _user_cache() -> Path:
    import platformdirs  # which takes a while

    return Path(platformdirs.user_cache_dir("lookalike"))


def lookalike_variables() -> dict[str, str]:
    """Return the lookalike variables that are set, for processes on other machines."""
    return {name: value for name, value in os.environ.items() if name.startswith("LOOKALIKE_")}


def linear_algebra_threads() -> dict[str, str]:
    """Return the variables that give the libraries behind numpy as many threads as every pool.

    They read them when they are imported; without them they use every core of the affinity, which
    is right unless the threads are fewer.
    """
    threads = settings().threads
    if threads >= affinity():
        return {}
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def _threads() -> int:
    raw = os.environ.get("LOOKALIKE_THREADS")
    if not raw:
        return usable_cores()
    if not re.fullmatch("0*[1-9][0-9]{0,5}", raw):
        raise SettingError(f"LOOKALIKE_THREADS={raw!r}: must be a whole number of at least 1")
    return int(raw)


def _lock_wait() -> float:
    raw = os.environ.get("LOOKALIKE_LOCK_WAIT") or _LOCK_WAIT_S
    try:
        seconds = float(raw)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise SettingError(f"LOOKALIKE_LOCK_WAIT={raw!r}: must be a number of seconds, 0 or more")
    return seconds


def _device() -> str:
    raw = os.environ.get("LOOKALIKE_DEVICE") or DEVICES[0]
    if raw not in DEVICES:
        raise SettingError(f"LOOKALIKE_DEVICE={raw!r}: must be {' or '.join(DEVICES)}")
    return raw


def _formats() -> tuple[str, ...]:
    raw = os.environ.get("LOOKALIKE_FORMATS", "")
    names = tuple(dict.fromkeys(raw.replace(",", " ").upper().split()))
    for name in names:
        if name not in UPLOAD_FORMATS:
            allowed = ", ".join(UPLOAD_FORMATS).lower()
            raise SettingError(f"LOOKALIKE_FORMATS={raw!r}: must be among {allowed}")
    return names
