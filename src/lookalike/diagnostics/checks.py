"""The checks of ``lookalike doctor``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lookalike._version import __version__
from lookalike.config import hub_settings, settings
from lookalike.cpu_quota import affinity, cpu_quota, usable_cores
from lookalike.encoders.backbones import BACKBONES, CACHE_FOLDER
from lookalike.errors import SettingError
from lookalike.formatting import format_count

_PROBE_S = 120
"""Seconds after which a probe is given up."""

_WITHOUT_SUCCESS = "used as commands use it, without success"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Args:
        name: of the part.
        ok: whether it works; None if it is optional and not installed.
        detail: its version, why it is broken, or how to install it.
        tried: what was done to find out; empty for facts that nothing can be tried of.
        required: whether lookalike needs the part.
    """

    name: str
    ok: bool | None
    detail: str
    tried: str = ""
    required: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "name": self.name,
            "ok": self.ok,
            "required": self.required,
            "tried": self.tried,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of lookalike that is tried in a process of its own.

    Args:
        name: of the part, and of its function in :mod:`lookalike.diagnostics.probes`.
        tried: what that function does, in the past tense.
        purpose: what the part is for.
        extra: of lookalike with its packages; None for a required part.
        packages: modules that must be installed; the version of the first one is shown.
    """

    name: str
    tried: str
    purpose: str
    extra: str | None
    packages: tuple[str, ...]

    def missing(self) -> list[str]:
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


_PARTS = (
    _Part("embeddings", "encoded an image", "", None, ("onnxruntime",)),
    _Part("rows", "wrote and searched rows", "", None, ("sqlite3",)),
    _Part("images", "wrote and read {output}", "", None, ("PIL",)),
    _Part("charts", "drew a chart", "reports, plots", "report", ("matplotlib",)),
    _Part("torch", "trained a network for a step", "training", "train", ("torch",)),
    _Part(
        "onnxscript",
        "exported a network",
        "exporting encoders",
        "train",
        ("onnxscript", "onnx", "torch"),
    ),
    *(
        _Part(each.name, "encoded an image", each.summary, None, each.packages)
        for each in BACKBONES.values()
    ),
    _Part("timm", "ran a small model{output}", "encoders timm:NAME", "timm", ("timm", "torch")),
    _Part(
        "transformers",
        "ran a small model{output}",
        "encoders transformers:NAME",
        "transformers",
        ("transformers", "torch"),
    ),
    _Part("tokenizers", "encoded a text", "", None, ("tokenizers",)),
    _Part("service", "searched over HTTP", "serve", "serve", ("fastapi", "uvicorn", "httptools")),
    _Part("label", "clustered 30 images", "label", "label", ("sklearn", "scipy")),
    _Part("map", "mapped 30 images", "explore", "explore", ("openTSNE",)),
    _Part("heif", "found its HEVC decoder", "HEIC photographs", "heif", ("pi_heif",)),
    _Part("raw", "loaded, decoded nothing", "raw photographs", "raw", ("rawpy",)),
    _Part("jxl", "wrote and read an image", "JPEG XL", "jxl", ("pyjpegxl",)),
    _Part("svg", "drew an image", "SVG, emoji data sets", "svg", ("resvg_py",)),
    _Part("tifffile", "read 5 bands", "TIFFs of many bands", "tiff", ("tifffile",)),
    _Part("geometric", "found features", "re-ranking: geometric", "geometric", ("cv2",)),
    _Part("watch", "watched a folder", "index --watch", "watch", ("watchfiles",)),
    _Part("ann", "searched 100 vectors", "index --ann", "ann", ("usearch",)),
    _Part("parquet", "wrote and read a table", "Parquet files", "parquet", ("pyarrow",)),
    _Part("lance", "wrote and read a table", "old galleries", "lance", ("lance", "pyarrow")),
    _Part("stamps", "read a photograph", "the data set stamps", "stamps", ("skimage",)),
    _Part("milvus", "called a closed port", "galleries in Milvus", "milvus", ("pymilvus",)),
    _Part("ray", "imported, not started", "index --runner ray", "scale", ("ray",)),
)


def run_checks() -> Iterator[Check]:
    """Yield the checks in a fixed order, each when it is done; parts are tried side by side."""
    yield Check("lookalike", True, f"{__version__}, Python {platform.python_version()}")
    config = settings()
    with ThreadPoolExecutor(config.threads) as pool:
        try:
            yield from pool.map(_try, _PARTS)
        finally:
            pool.shutdown(cancel_futures=True)
    yield _cache()
    where = "off (LOOKALIKE_OFFLINE)" if config.offline else config.mirror or "allowed"
    yield Check("downloads", True, where)
    yield _hub()
    yield Check("threads", True, f"{config.threads} ({_limit()})")


def _try(part: _Part) -> Check:
    """Try a part in a process of its own, if its packages are installed."""
    required = part.extra is None
    missing = part.missing()
    if missing:
        install = f"pip install 'lookalike[{part.extra}]' ({part.purpose})"
        if required:
            install = f"{', '.join(missing)} not installed; reinstall lookalike"
        return Check(part.name, False if required else None, install, required=required)
    version = f"{part.packages[0]} {_version(part.packages[0])}"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lookalike.diagnostics.probes", part.name],
            env={**os.environ, "LOOKALIKE_THREADS": "1", "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=_PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        tried = f"gave up after {_PROBE_S} s"
        return Check(part.name, False, version, tried, required=required)
    said = done.stdout.strip().rpartition("\n")[2]
    if done.returncode == 0:
        tried = part.tried.format(output=said)
        return Check(part.name, True, version, tried, required=required)
    reason = said or f"the process ended with {done.returncode}: {_last_line(done.stderr)}"
    return Check(part.name, False, f"{version}: {reason}", _WITHOUT_SUCCESS, required)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]


def _cache() -> Check:
    folder = settings().data
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"{folder}: {error.strerror or error} (LOOKALIKE_DATA)"
        return Check("cache", False, reason, "wrote a file", required=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    exported = len(list((folder / CACHE_FOLDER).glob("*.onnx")))
    encoders = format_count(exported, "exported encoder")
    detail = f"{size / 1e6:,.0f} MB, {encoders}, in {folder} (LOOKALIKE_DATA)"
    return Check("cache", True, detail, "wrote a file", required=True)


def _hub() -> Check:
    """Check the settings of the hub of models, without a request."""
    try:
        config = hub_settings()
    except SettingError as error:
        return Check("hub", False, str(error))
    token = f"token in {config.token_source}" if config.token else "no token"
    where = f"off ({config.offline})" if config.offline else f"{config.endpoint}, {token}"
    other = f"; reads {config.cache}" if config.cache.is_dir() else ""
    return Check("hub", True, where + other)


def _limit() -> str:
    """Return what the number of threads comes from."""
    if settings().threads != usable_cores():
        return "LOOKALIKE_THREADS"
    quota = cpu_quota()
    if quota is not None and quota < affinity():
        return f"CPU quota of {quota:g} of {affinity()} cores"
    return "usable cores"


def _version(module: str) -> str:
    if module == "sqlite3":
        return sqlite3.sqlite_version
    for name in importlib.metadata.packages_distributions().get(module, ()):
        return importlib.metadata.version(name)
    return "of unknown version"
