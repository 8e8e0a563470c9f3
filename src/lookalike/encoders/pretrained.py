"""Backbones that others trained, exported once to ONNX and kept in the cache.

torch is needed for the export only: where the cache has the network, as on a machine that searches
and serves, nothing but ONNX Runtime is. The imports of torch are therefore inside the functions.
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

from lookalike.artifacts import write_atomically
from lookalike.encoders.backbones import (
    BACKBONES,
    DEFAULT_POOLING,
    NATIVE_POOLING,
    TIMM_PREFIXES,
    Backbone,
    LoadedBackbone,
    cached,
    load_timm,
)
from lookalike.encoders.base import Preprocessing
from lookalike.errors import (
    ArtifactError,
    MissingDependencyError,
    SettingError,
    UnknownNameError,
)
from lookalike.types import ImageArray

if TYPE_CHECKING:
    from lookalike.encoders.onnx import NetworkEncoder

EXTRA = "pretrained"
POOLINGS = ("gem", "avg", "max", "rmac", "attention", "places", "layers")
SIZES = (64, 1024)
"""The least and the largest size that can be asked for, in pixels."""

_TOLERANCE = 1e-3


def open_backbone(
    name: str, sample: Sequence[ImageArray] = (), *, size: int | None = None, fit: str | None = None
) -> NetworkEncoder:
    """Open a pretrained encoder, exporting it first if the cache does not have it.

    Args:
        name: a name in :data:`BACKBONES`, ``timm:NAME`` or ``hf-hub:NAME``, perhaps with one of
            :data:`POOLINGS` after a slash (``gem`` for our own names unless given). Those of timm
            pool as they were trained to unless given.
        sample: not looked at.
        size: height and width that images are brought to, in pixels; the network's own unless
            given.
        fit: how; a key of :data:`lookalike.encoders.base.FIT_MODES`, the network's own unless given.

    Raises:
        UnknownNameError: no such name, pooling or fit.
        MissingDependencyError: a package that the export takes is not installed.
        InputError: timm does not know the model, cannot get it, or it has no maps to pool.
        SettingError: ``size`` out of range.
        ArtifactError: weights that are not those expected, or an export that differs from torch.
    """
    del sample
    base, pooling = _split(name)
    if size is not None and not SIZES[0] <= size <= SIZES[1]:
        raise SettingError(f"encoder {name!r}: size={size} must be from {SIZES[0]} to {SIZES[1]}")
    variant = pooling if size is None else f"{pooling}-{size}"
    if name.startswith(TIMM_PREFIXES):
        safe = re.sub(r"[^\w.\-]", "_", base)
        path = cached(f"{safe}-{variant}")
        opened = _open(name, pooling, path, lambda: load_timm(base, pooling, size))
    elif base in BACKBONES:
        backbone = BACKBONES[base]
        opened = _open(
            name, pooling, backbone.path(variant), lambda: _sized(backbone, pooling, size)
        )
    else:
        raise UnknownNameError("encoder", base, BACKBONES)
    return opened if fit is None else opened.with_fit(fit)


def _sized(backbone: Backbone, pooling: str, size: int | None) -> LoadedBackbone:
    loaded = backbone.load(pooling)
    if size is None:
        return loaded
    return replace(loaded, preprocessing=replace(loaded.preprocessing, height=size, width=size))


def _split(name: str) -> tuple[str, str]:
    """Return a name without its pooling, and the pooling."""
    base, mark, pooling = name.rpartition("/")
    if name.startswith(TIMM_PREFIXES):
        return (base, pooling) if pooling in POOLINGS else (name, NATIVE_POOLING)
    if not mark:
        return name, DEFAULT_POOLING
    if pooling not in POOLINGS:
        raise UnknownNameError("pooling", pooling, POOLINGS)
    return base, pooling


def _open(
    name: str, pooling: str, path: Path, load: Callable[[], LoadedBackbone]
) -> NetworkEncoder:
    from lookalike.encoders.onnx import NetworkEncoder

    described = path.with_suffix(".json")
    if not (path.is_file() and described.is_file()):
        _export(name, pooling, path, load)
    try:
        fields = json.loads(described.read_bytes())
        return NetworkEncoder(
            fields["name"],
            path.read_bytes(),
            Preprocessing(**fields["preprocessing"]),
            normalized=True,
            origin=fields["origin"],
        )
    except (OSError, ValueError, KeyError, TypeError, ArtifactError) as error:
        raise ArtifactError(
            f"{path}: the exported network is broken ({error}); remove it, it is made again"
        ) from error


def _export(name: str, pooling: str, path: Path, load: Callable[[], LoadedBackbone]) -> None:
    """Export a backbone into the cache: the network first, what describes it last."""
    from lookalike.encoders.onnx import NetworkEncoder

    try:
        import torch

        from lookalike.encoders.export import to_onnx
        from lookalike.encoders.pooling import MODULES, Embedder

        loaded = load()
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "torch", f"encoder {name!r}", EXTRA) from error
    p = loaded.preprocessing
    embedder = Embedder(loaded.features, MODULES[pooling]()).eval()
    example = torch.rand(2, 3, p.height, p.width, generator=torch.Generator().manual_seed(0))
    model = to_onnx(embedder, example)
    encoder = NetworkEncoder(name, model, p, normalized=True)
    with torch.no_grad():
        check_export(name, embedder(example).numpy(), encoder.run(example.numpy()))
    origin = {**loaded.facts, "pooling": pooling, "torch": torch.__version__}
    fields = {"name": name, "preprocessing": p.as_dict(), "origin": origin}
    write_atomically(path, model)
    write_atomically(path.with_suffix(".json"), json.dumps(fields, indent=2).encode())


def check_export(name: str, expected: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    """See that what was exported computes what torch did.

    Raises:
        ArtifactError: it does not.
    """
    difference = float(np.abs(found - expected).max())
    if not difference <= _TOLERANCE:
        raise ArtifactError(
            f"encoder {name!r}: ONNX Runtime computes other embeddings than torch (difference "
            f"{difference:.2g}); nothing was kept"
        )
