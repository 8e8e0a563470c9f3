"""Pretrained encoders: backbones exported once to ONNX, into the cache.

Only the export needs torch, which is therefore imported inside functions. With the exported network
in the cache, as on a machine that serves, ONNX Runtime is enough.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import write_cache
from lookalike.documents import Fields, read_json
from lookalike.encoders.backbones import (
    BACKBONES,
    DEFAULT_POOLING,
    NATIVE_POOLING,
    TIMM_PREFIXES,
    Backbone,
    LoadedBackbone,
    cache_path,
)
from lookalike.encoders.base import Preprocessing
from lookalike.encoders.timm_export import load_timm
from lookalike.errors import (
    ArtifactError,
    MissingDependencyError,
    SettingError,
    UnknownNameError,
)
from lookalike.files import read_regular
from lookalike.types import ImageArray

if TYPE_CHECKING:
    from lookalike.encoders.onnx import NetworkEncoder

POOLINGS = ("gem", "avg", "max", "rmac", "attention", "grid", "layers")

_MIN_SIZE, _MAX_SIZE = 64, 1024
"""Limits of the option ``size``, in pixels."""


def open_backbone(
    name: str, sample: Sequence[ImageArray] = (), *, size: int | None = None, fit: str | None = None
) -> NetworkEncoder:
    """Open a pretrained encoder, exporting it first if it is not in the cache.

    Args:
        name: a name in :data:`BACKBONES`, ``timm:NAME`` or ``hf-hub:NAME``, optionally followed by
            a slash and one of :data:`POOLINGS`. The default pooling is ``gem``, for timm the
            model's native one.
        sample: ignored; every encoder is opened with one.
        size: input height and width in pixels; default the network's own.
        fit: one of :data:`lookalike.encoders.base.FIT_MODES`; default the network's own.

    Raises:
        UnknownNameError: no such name, pooling or fit mode.
        MissingDependencyError: a package that the export needs is not installed.
        InputError: timm cannot load the model, or it has no feature maps to pool.
        SettingError: ``size`` is out of range.
        ArtifactError: the weights are not the pinned ones, or the export differs from torch.
    """
    del sample
    base, pooling = _split_pooling(name)
    if size is not None and not _MIN_SIZE <= size <= _MAX_SIZE:
        raise SettingError(
            f"encoder {name!r}: size={size} must be from {_MIN_SIZE} to {_MAX_SIZE} pixels"
        )
    variant = pooling if size is None else f"{pooling}-{size}"
    if name.startswith(TIMM_PREFIXES):
        safe = re.sub(r"[^\w.\-]", "_", base)
        path = cache_path(f"{safe}-{variant}")
        encoder = _open(name, pooling, path, lambda: load_timm(base, pooling, size))
    elif base in BACKBONES:
        backbone = BACKBONES[base]
        path = backbone.cache_path(variant)
        encoder = _open(name, pooling, path, lambda: _load_at_size(backbone, pooling, size))
    else:
        raise UnknownNameError("encoder", base, BACKBONES)
    return encoder if fit is None else encoder.with_fit(fit)


def _load_at_size(backbone: Backbone, pooling: str, size: int | None) -> LoadedBackbone:
    loaded = backbone.load(pooling)
    if size is None:
        return loaded
    return replace(loaded, preprocessing=replace(loaded.preprocessing, height=size, width=size))


def _split_pooling(name: str) -> tuple[str, str]:
    """Return a name without its pooling, and the pooling."""
    base, slash, pooling = name.rpartition("/")
    if name.startswith(TIMM_PREFIXES):
        return (base, pooling) if pooling in POOLINGS else (name, NATIVE_POOLING)
    if not slash:
        return name, DEFAULT_POOLING
    if pooling not in POOLINGS:
        raise UnknownNameError("pooling", pooling, POOLINGS)
    return base, pooling


def _open(
    name: str, pooling: str, path: Path, load: Callable[[], LoadedBackbone]
) -> NetworkEncoder:
    from lookalike.encoders.onnx import NetworkEncoder

    config = path.with_suffix(".json")
    if not (path.is_file() and config.is_file()):
        return _export(name, pooling, path, load)
    try:
        fields = Fields.of(read_json(config), str(config))
        return NetworkEncoder(
            fields.text("name"),
            read_regular(path),
            Preprocessing.restore(fields.object("preprocessing")),
            normalized=True,
            origin=fields.mapping("origin"),
        )
    except (OSError, ArtifactError) as error:
        raise ArtifactError(
            f"{path}: the exported network is broken ({error}); delete the file to export it again"
        ) from error


def _export(
    name: str, pooling: str, path: Path, load: Callable[[], LoadedBackbone]
) -> NetworkEncoder:
    """Export a backbone into the cache: the network first, its configuration last."""
    from lookalike.encoders.onnx import NetworkEncoder

    try:
        import torch

        from lookalike.encoders.export import to_onnx
        from lookalike.encoders.pooling import MODULES, Embedder

        loaded = load()
    except ModuleNotFoundError as error:
        extra = "timm" if name.startswith(TIMM_PREFIXES) else "pretrained"
        raise MissingDependencyError(error.name or "torch", f"encoder {name!r}", extra) from error
    p = loaded.preprocessing
    embedder = Embedder(loaded.features, MODULES[pooling]()).eval()
    example = torch.rand(2, 3, p.height, p.width, generator=torch.Generator().manual_seed(0))
    model = to_onnx(embedder, example)
    origin = {**loaded.origin, "pooling": pooling, "torch": torch.__version__}
    encoder = NetworkEncoder(name, model, p, normalized=True, origin=origin)
    with torch.no_grad():
        check_export(name, embedder(example).numpy(), encoder.run(example.numpy()))
    fields = {"name": name, "preprocessing": p.as_dict(), "origin": origin}
    write_cache(path, model)
    if path.is_file():
        write_cache(path.with_suffix(".json"), json.dumps(fields, indent=2).encode())
    return encoder


def check_export(name: str, expected: NDArray[np.float32], actual: NDArray[np.float32]) -> None:
    """Check that ONNX Runtime computes the embeddings ``(n, dim)`` that torch does.

    Raises:
        ArtifactError: they do not agree (:mod:`lookalike.encoders.export`).
    """
    from lookalike.encoders.export import compare_embeddings

    agreement = compare_embeddings(expected, actual)
    if not agreement.sufficient:
        raise ArtifactError(
            f"encoder {name!r}: the export was discarded, since ONNX Runtime computes other "
            f"embeddings than torch ({agreement})"
        )
