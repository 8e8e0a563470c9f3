"""Pretrained encoders: networks that are built or exported to ONNX once, into the cache.

Those of :data:`lookalike.encoders.backbones.BACKBONES` are built without torch. Those of timm are
exported by it, which is therefore imported inside functions: with the exported network in the
cache, as on a machine that serves, ONNX Runtime is enough.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import write_cache
from lookalike.documents import Fields, read_json
from lookalike.encoders.backbones import (
    BACKBONES,
    EXPORT_VERSION,
    TIMM_PREFIXES,
    Backbone,
    cache_path,
    is_outdated,
)
from lookalike.encoders.base import Preprocessing
from lookalike.encoders.export_progress import ExportProgress
from lookalike.encoders.pooling import DEFAULT_POOLING, NATIVE_POOLING, POOLINGS, add_pooling
from lookalike.encoders.timm_export import load_timm
from lookalike.errors import (
    ArtifactError,
    MissingDependencyError,
    SettingError,
    UnknownNameError,
    require,
)
from lookalike.files import read_regular
from lookalike.onnx_graph import Graph, append, model_outputs
from lookalike.types import ImageArray

if TYPE_CHECKING:
    from lookalike.encoders.onnx import NetworkEncoder

_MIN_SIZE, _MAX_SIZE = 64, 1024
"""Limits of the option ``size``, in pixels."""


def open_backbone(
    name: str, sample: Sequence[ImageArray] = (), *, size: int | None = None, fit: str | None = None
) -> NetworkEncoder:
    """Open a pretrained encoder, making its network first if it is not in the cache.

    Args:
        name: a name in :data:`BACKBONES`, ``timm:NAME`` or ``hf-hub:NAME``, optionally followed by
            a slash and one of :data:`lookalike.encoders.pooling.POOLINGS`. The default pooling is
            ``gem``, for timm the model's native one.
        sample: ignored; every encoder is opened with one.
        size: input height and width in pixels; default the network's own.
        fit: one of :data:`lookalike.encoders.base.FIT_MODES`; default the network's own.

    Raises:
        UnknownNameError: no such name, pooling or fit mode.
        MissingDependencyError: a package that the export needs is not installed.
        InputError: timm cannot load the model, or it has no feature maps to pool.
        SettingError: ``size`` is out of range.
        FetchError: the weights are not on this machine and cannot be fetched.
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
        encoder = _open(name, path, lambda: _export_timm(name, base, pooling, size))
    elif base in BACKBONES:
        backbone = BACKBONES[base]
        path = backbone.cache_path(variant)
        encoder = _open(name, path, lambda: _build(backbone, pooling, size))
    else:
        raise UnknownNameError("encoder", base, BACKBONES)
    return encoder if fit is None else encoder.with_fit(fit)


@dataclass(frozen=True, slots=True)
class _Network:
    """A network with a pooling, as an ONNX model."""

    model: bytes
    preprocessing: Preprocessing
    origin: Mapping[str, Any]


def _build(backbone: Backbone, pooling: str, size: int | None) -> _Network:
    model = backbone.build(pooling, size)
    return _Network(model, backbone.preprocessing(size), {**backbone.origin, "pooling": pooling})


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


def _open(name: str, path: Path, make: Callable[[], _Network]) -> NetworkEncoder:
    from lookalike.encoders.onnx import NetworkEncoder

    encoder = _cached(path)
    is_timm = name.startswith(TIMM_PREFIXES)
    if encoder is None or (is_timm and is_outdated(name, encoder.origin, "timm")):
        network = make()
        encoder = NetworkEncoder(
            name, network.model, network.preprocessing, normalized=True, origin=network.origin
        )
        _write(path, encoder)
    return encoder


def _cached(path: Path) -> NetworkEncoder | None:
    """Return the encoder in the cache, None if there is none.

    Raises:
        ArtifactError: it is broken.
    """
    from lookalike.encoders.onnx import NetworkEncoder

    config = path.with_suffix(".json")
    if not (path.is_file() and config.is_file()):
        return None
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
            f"{path}: the network in the cache is broken ({error}); delete the file, and it is "
            "made again"
        ) from error


def _write(path: Path, encoder: NetworkEncoder) -> None:
    """Write a network into the cache: the model first, its configuration last."""
    fields = {
        "name": encoder.name,
        "preprocessing": encoder.preprocessing.as_dict(),
        "origin": encoder.origin,
    }
    for model in encoder.files().values():
        write_cache(path, model)
    if path.is_file():
        write_cache(path.with_suffix(".json"), json.dumps(fields, indent=2).encode())


def _export_timm(name: str, base: str, pooling: str, size: int | None) -> _Network:
    """Export a model of timm, and add the pooling behind its feature maps."""
    purpose = f"encoder {name!r}"
    require("torch", purpose, "timm")
    progress = ExportProgress(name, 3)
    progress.begin("loading")
    try:
        import torch

        from lookalike.encoders.export import to_onnx

        loaded = load_timm(base, pooling, size)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "torch", f"encoder {name!r}", "timm") from error
    p = loaded.preprocessing
    example = torch.rand(2, 3, p.height, p.width, generator=torch.Generator().manual_seed(0))
    features = loaded.features.eval()
    with torch.no_grad():
        output = features(example)
    maps = [each.numpy() for each in (output if isinstance(output, list | tuple) else [output])]
    progress.begin("network")
    names = tuple(f"features_{number}" for number in range(len(maps)))
    model = pooled(
        to_onnx(features, example, outputs=names, purpose=purpose),
        pooling,
        name=f"encoder {name!r}",
    )
    progress.begin("comparison with torch")
    check_export(name, pool(pooling, maps), _run(name, model, example.numpy()))
    progress.end()
    origin = {**loaded.origin, "pooling": pooling, "torch": torch.__version__}
    origin["export"] = EXPORT_VERSION
    return _Network(model, p, origin)


def pooled(model: bytes, pooling: str, *, name: str) -> bytes:
    """Add a pooling behind the feature maps of a model, whose sizes it declares.

    Args:
        model: returns maps ``(n, c, h, w)``, for the pooling ``layers`` several, the deepest last;
            for the native pooling ``(n, dim)``.
        pooling: one of :data:`lookalike.encoders.pooling.POOLINGS`, or the native one.
        name: for messages.

    Raises:
        ArtifactError: it does not declare how large they are.
    """
    sizes = [_sizes(value.shape, name) for value in model_outputs(model, name=name)]

    def add(graph: Graph, maps: list[str]) -> list[str]:
        embeddings = add_pooling(graph, pooling, maps, sizes)
        return [graph.output(embeddings, (None, None), name="embeddings")]

    return append(model, add, name=name)


def _sizes(shape: tuple[int | None, ...] | None, name: str) -> tuple[int, int]:
    """Return height and width of maps; nothing of embeddings."""
    if shape is not None and len(shape) == 2:
        return 1, 1
    if shape is None or len(shape) != 4 or shape[2] is None or shape[3] is None:
        raise ArtifactError(f"{name}: does not declare the size of its feature maps")
    return shape[2], shape[3]


def pool(pooling: str, maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Pool feature maps ``(n, c, h, w)``, or several of them, to ``(n, dim)`` of unit length."""
    graph = Graph()
    names = [
        graph.input(f"maps_{number}", (None, *each.shape[1:])) for number, each in enumerate(maps)
    ]
    sizes = [(each.shape[2], each.shape[3]) if each.ndim == 4 else (1, 1) for each in maps]
    embeddings = add_pooling(graph, pooling, names, sizes)
    graph.output(embeddings, (None, None), name="embeddings")
    return _run(f"pooling {pooling!r}", graph.to_bytes(), *maps)


def _run(name: str, model: bytes, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    from lookalike.encoders.onnx import OnnxModel

    return OnnxModel(model, name=name, inputs=len(inputs))(*inputs)


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
