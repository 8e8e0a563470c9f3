"""Settings from environment variables; no other module reads them.

``LOOKALIKE_DATA``     cache folder for data sets, networks and exported encoders (default: the
                       platform's)
``LOOKALIKE_MIRROR``   base URL of a mirror of the data sets
``LOOKALIKE_OFFLINE``  ``1``: no downloads
``LOOKALIKE_FORMATS``  more image formats in uploads to the service, such as ``avif,tiff``
``LOOKALIKE_MILVUS_TOKEN``  Milvus ``USER:PASSWORD`` or API key
``LOOKALIKE_MILVUS_CA``     CA certificate file for milvus+tls://
``LOOKALIKE_DEVICE``   ``cuda``: run networks on a GPU; needs the package onnxruntime-gpu
``LOOKALIKE_THREADS``  threads of each pool (default: the cores that this process may use)
``LOOKALIKE_SERVE_...``  the options of ``lookalike serve``, such as ``LOOKALIKE_SERVE_PORT``
``LOOKALIKE_LOCK_WAIT``  seconds to wait for other processes that write to a gallery (default: 60)

Those of the public hub of models, which other tools read, too:

``HF_ENDPOINT``        base URL of the hub, such as a mirror's
``HF_TOKEN``           access token, for gated and private models; also HUGGING_FACE_HUB_TOKEN
``HF_TOKEN_PATH``      file with the token (default: ``token`` in HF_HOME)
``HF_HUB_DISABLE_IMPLICIT_TOKEN``  ``1``: send no token
``HF_HUB_OFFLINE``     ``1``: no requests to the hub; also TRANSFORMERS_OFFLINE
``HF_HOME``            folder of the token and cache of other tools (default: ~/.cache/huggingface)
``HF_HUB_CACHE``       their cache, from which models are read (default: ``hub`` in HF_HOME)
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from lookalike.cpu_quota import affinity, usable_cores
from lookalike.errors import SettingError
from lookalike.files import expand_home, read_regular
from lookalike.formatting import without_url_secrets

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


HUB = "https://huggingface.co"
"""The public hub of models."""


@dataclass(frozen=True, slots=True)
class HubSettings:
    """The settings of the hub of models, as :func:`hub_settings` reads them.

    Attributes:
        endpoint: base URL, without a slash at its end.
        cache: of other tools, which is only read.
        offline: the variable that forbids requests, with its value; empty if none does.
        token: sent to the endpoint's host, and to no other.
        token_source: the variable or file that the token is from.
    """

    endpoint: str
    cache: Path
    offline: str
    token: str | None = field(default=None, repr=False)
    token_source: str = ""


def hub_settings() -> HubSettings:
    """Read the environment, and the file of the token.

    Raises:
        SettingError: ``HF_ENDPOINT`` is no URL, or the token has characters that none can have.
    """
    environment = os.environ.get
    cache = environment("XDG_CACHE_HOME") or "~/.cache"
    home = _folder(environment("HF_HOME") or f"{cache}/huggingface")
    hub = environment("HF_HUB_CACHE") or environment("HUGGINGFACE_HUB_CACHE")
    token, source = _hub_token(home)
    return HubSettings(
        endpoint=_hub_endpoint(),
        cache=_folder(hub) if hub else home / "hub",
        offline=_hub_offline(),
        token=token,
        token_source=source,
    )


def _folder(text: str) -> Path:
    return Path(expand_home(os.path.expandvars(text)))


def _hub_endpoint() -> str:
    endpoint = (os.environ.get("HF_ENDPOINT") or HUB).strip().rstrip("/")
    shown = without_url_secrets(endpoint)
    host = r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
    if not re.fullmatch(rf"https?://{host}(/[!-~]*)?", endpoint) or set("?#@\\") & set(endpoint):
        raise SettingError(
            f"HF_ENDPOINT={shown!r}: must be an address such as {HUB}, without user and query"
        )
    return endpoint


def _hub_offline() -> str:
    if settings().offline:
        return "LOOKALIKE_OFFLINE=" + os.environ["LOOKALIKE_OFFLINE"]
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if _is_on(name):
            return f"{name}={os.environ[name]}"
    return ""


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")


def _hub_token(home: Path) -> tuple[str | None, str]:
    """Return the token and where it is from."""
    if _is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        return None, ""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name, "").strip():
            return _checked_token(token, name), name
    path = os.environ.get("HF_TOKEN_PATH")
    file = _folder(path) if path else home / "token"
    try:
        token = read_regular(file, limit=_LONGEST_TOKEN).decode("utf-8", "replace").strip()
    except OSError:
        return None, ""
    return (_checked_token(token, str(file)), str(file)) if token else (None, "")


def _checked_token(token: str, source: str) -> str:
    if not re.fullmatch(r"[!-~]+", token):
        raise SettingError(f"{source}: has characters that no token of the hub can have")
    return token


_LONGEST_TOKEN = 10_000


def _user_cache() -> Path:
    import platformdirs  # which takes a while

    return Path(platformdirs.user_cache_dir("lookalike"))


def lookalike_variables() -> dict[str, str]:
    """Return the lookalike variables that are set, for processes on other machines."""
    return {name: value for name, value in os.environ.items() if name.startswith("LOOKALIKE_")}


def command_variables(prefix: str) -> dict[str, str]:
    """Return the variables of a command that are set and not empty, by their names."""
    variables = lookalike_variables().items()
    return {name: value for name, value in variables if name.startswith(prefix) and value}


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
