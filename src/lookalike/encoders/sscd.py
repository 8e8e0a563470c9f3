"""SSCD, a network that finds copies of images.

Pizzi et al. 2022, "A Self-Supervised Descriptor for Image Copy Detection". A ResNet-50
(He et al. 2016) with generalized mean pooling and a projection to 512 dimensions, trained so that
edited copies of an image, cropped, recompressed or with text on them, stay near it and other images
of the same things do not. The weights are those of the official release, in any
of its layouts: torchvision, Classy Vision and TorchScript.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import write_cache
from lookalike.config import settings
from lookalike.encoders.base import MAX_DIM, Preprocessing
from lookalike.encoders.pooling import gem
from lookalike.encoders.specs import EncoderSpec
from lookalike.errors import ArtifactError, FetchError, InputError
from lookalike.files import expand_home, read_regular
from lookalike.onnx_graph import Graph, folded_conv
from lookalike.types import ImageArray

if TYPE_CHECKING:
    from lookalike.encoders.onnx import NetworkEncoder

SSCD = "sscd"
SSCD_PREFIX = "sscd:"

SIDE = 320
"""Height and width of the input in pixels. Images are stretched to it, as the authors recommend."""

RELEASE = "https://dl.fbaipublicfiles.com/sscd-copy-detection/"
"""Address of the folder that the authors published the weights in."""

SIZE = 98_500_000
"""Bytes of the file, about: those of the weights of this network."""

LICENSE = "MIT"

FILES = tuple(f"sscd_disc_mixup.{layout}.pt" for layout in ("torchvision", "torchscript", "classy"))
"""Names of the file in each layout of the release, of the weights that the authors recommend.

The first one is fetched; any of them is used if it is in the cache."""

_MAX_BLOCKS = 64
_LONGEST_RECORD = 1_000

_Arrays = Mapping[str, NDArray[Any]]

_NESTED = re.compile(
    r"(?:.*\.)?layer([1-4])\.(\d{1,2})\.(conv[123]|bn[123]|downsample\.[01])\.([a-z_]+)"
)
_TOP = re.compile(r"(?:.*\.)?(conv1|bn1|fc)\.([a-z_]+)")
_CLASSY_STEM = re.compile(r"(?:.*\.)?initial_block\._module\.([01])\.([a-z_]+)")
_CLASSY_BLOCK = re.compile(
    r"(?:.*\.)?blocks\.([0-3])\.block\d-(\d{1,2})\."
    r"(convolutional_block\.[01346]|bn|downsample\.[01])\.([a-z_]+)"
)
_CLASSY_HEAD = re.compile(r"(?:.*\.)?embeddings\.1\.([a-z_]+)")
_CLASSY_PARTS = {
    "convolutional_block.0": "conv1",
    "convolutional_block.1": "bn1",
    "convolutional_block.3": "conv2",
    "convolutional_block.4": "bn2",
    "convolutional_block.6": "conv3",
    "bn": "bn3",
}


def sscd_network(state: _Arrays, *, name: str) -> bytes:
    """Build the ONNX model of weights in any layout of the official release.

    Its input ``images`` is ``(n, 3, h, w)`` float32, its output ``embeddings`` ``(n, dim)`` of unit
    length. ResNet-50 and other networks of bottleneck blocks, such as ResNeXt-101, are built by the
    shapes of the weights. Batch normalization is folded into the convolutions.

    Args:
        state: arrays by their names.
        name: of the file, for messages.

    Raises:
        ArtifactError: an array is missing, of another shape, or not finite.
    """
    return _Builder(_torchvision_names(state), name).build()


def _torchvision_names(state: _Arrays) -> dict[str, NDArray[Any]]:
    """Return the arrays under torchvision's names, such as ``layer1.0.conv1.weight``."""
    return {known: array for name, array in state.items() if (known := _torchvision_name(name))}


def _torchvision_name(name: str) -> str:
    if match := _NESTED.fullmatch(name):
        layer, block, part, array = match.groups()
        return f"layer{layer}.{int(block)}.{part}.{array}"
    if match := _CLASSY_BLOCK.fullmatch(name):
        layer, block, part, array = match.groups()
        return f"layer{int(layer) + 1}.{int(block)}.{_CLASSY_PARTS.get(part, part)}.{array}"
    if match := _CLASSY_STEM.fullmatch(name):
        return f"{('conv1', 'bn1')[int(match[1])]}.{match[2]}"
    if match := _CLASSY_HEAD.fullmatch(name):
        return f"fc.{match[1]}"
    match = _TOP.fullmatch(name)
    return f"{match[1]}.{match[2]}" if match else ""


class _Builder:
    """Builds the graph from arrays under torchvision's names."""

    def __init__(self, arrays: _Arrays, name: str) -> None:
        self._arrays, self._name = arrays, name
        self._graph = Graph()

    def build(self) -> bytes:
        g = self._graph
        values = g.input("images", (None, 3, None, None))
        values, channels = self._convolve(values, "conv1", "bn1", 3, stride=2, padding=3)
        values = g.max_pool(g.relu(values), 3, stride=2, padding=1)
        for layer in range(1, 5):
            for block in range(self._count(layer)):
                stride = 2 if layer > 1 and block == 0 else 1
                values, channels = self._block(values, f"layer{layer}.{block}", channels, stride)
        weight = self._array("fc.weight", (None, channels))
        bias = self._array("fc.bias", (len(weight),))
        embeddings = g.unit_length(g.linear(gem(g, values), weight, bias))
        g.output(embeddings, (None, len(weight)), name="embeddings")
        return g.to_bytes()

    def _count(self, layer: int) -> int:
        """Return the number of blocks of a layer, at least one."""
        count = 1
        while f"layer{layer}.{count}.conv1.weight" in self._arrays and count < _MAX_BLOCKS:
            count += 1
        return count

    def _block(self, values: str, place: str, channels: int, stride: int) -> tuple[str, int]:
        """Add a bottleneck block (He et al. 2016, figure 5); the 3x3 convolution has the stride."""
        g = self._graph
        out, inner = self._convolve(values, f"{place}.conv1", f"{place}.bn1", channels)
        out, inner = self._convolve(
            g.relu(out), f"{place}.conv2", f"{place}.bn2", inner, stride=stride, padding=1
        )
        out, outer = self._convolve(g.relu(out), f"{place}.conv3", f"{place}.bn3", inner)
        shortcut = values
        if f"{place}.downsample.0.weight" in self._arrays:
            shortcut, channels = self._convolve(
                values, f"{place}.downsample.0", f"{place}.downsample.1", channels, stride=stride
            )
        elif stride > 1:
            raise self._missing(f"{place}.downsample.0.weight")
        if channels != outer:
            raise self._wrong(f"{place}.conv3.weight", f"{channels} outputs, not {outer}")
        return g.relu(g.add(out, shortcut)), outer

    def _convolve(
        self, values: str, conv: str, norm: str, channels: int, *, stride: int = 1, padding: int = 0
    ) -> tuple[str, int]:
        """Add a convolution with its normalization; return the maps and their channels."""
        size = 2 * padding + 1
        weight = self._array(f"{conv}.weight", (None, None, size, size))
        count, width = weight.shape[:2]
        groups, rest = divmod(channels, width)
        if rest or count % groups:
            raise self._wrong(f"{conv}.weight", f"groups of {channels} channels, not of {width}")
        for part in ("weight", "bias", "running_mean", "running_var"):
            self._array(f"{norm}.{part}", (count,))
        if self._arrays[f"{norm}.running_var"].min() < 0:
            raise self._wrong(f"{norm}.running_var", "no negative numbers")
        folded, bias = folded_conv(self._arrays, conv, norm)
        maps = self._graph.conv(values, folded, bias, stride=stride, padding=padding, groups=groups)
        return maps, count

    def _array(self, name: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """Return an array; None is any length.

        Raises:
            ArtifactError: it is missing, of another shape or type, or not finite.
        """
        if name not in self._arrays:
            raise self._missing(name)
        array = self._arrays[name]
        lengths = zip(array.shape, shape, strict=False)
        if (
            array.ndim != len(shape)
            or any(e not in (None, a) for a, e in lengths)
            or not array.size
        ):
            expected = " x ".join("n" if each is None else str(each) for each in shape)
            raise self._wrong(name, f"the shape {expected}, not {array.shape}")
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise self._wrong(name, "finite numbers")
        if max(array.shape) > MAX_DIM:
            raise self._wrong(name, f"at most {MAX_DIM:,} rows")
        return array

    def _missing(self, name: str) -> ArtifactError:
        return ArtifactError(
            f"{self._name}: is no network of SSCD (it has no weights {name}); {_HINT}"
        )

    def _wrong(self, name: str, expected: str) -> ArtifactError:
        return ArtifactError(
            f"{self._name}: is no network of SSCD ({name} should have {expected}); {_HINT}"
        )


_HINT = "take sscd_disc_mixup.torchvision.pt, or another file of weights, of the official release"


def cached_weights() -> list[Path]:
    """Return the file of the weights in the cache, in any layout; nothing if it is not there."""
    return [path for name in FILES if (path := _folder() / name).is_file()][:1]


def _folder() -> Path:
    return settings().data / SSCD


def fetch_weights() -> tuple[Path, bytes]:
    """Return the file of the weights in the cache, and its bytes; fetch it if it is not there.

    The release states no sum of it. Its SHA-256 is recorded in the cache at the first use and
    compared from then on.

    Raises:
        FetchError: it cannot be fetched, or has changed since its first use.
        StorageError: the cache cannot be written.
    """
    paths = cached_weights()
    path = paths[0] if paths else _download()
    try:
        data = read_regular(path)
    except OSError as error:
        raise FetchError(f"{path}: cannot be read ({error.strerror or error})") from error
    digest = hashlib.sha256(data).hexdigest()
    record = path.with_name(f"{path.name}.sha256")
    try:
        recorded = read_regular(record, limit=_LONGEST_RECORD).decode("ascii", "replace").split()
    except OSError:
        write_cache(record, f"{digest}  {path.name}\n".encode())
        return path, data
    if recorded[:1] != [digest]:
        raise FetchError(
            f"{path}: has changed since its first use (SHA-256 {digest[:16]}..., recorded in "
            f"{record.name}: {' '.join(recorded)[:16]}...); delete both files to fetch it again"
        )
    return path, data


def _download() -> Path:
    """Fetch the file of the weights into the cache.

    Raises:
        FetchError: it cannot be fetched; the message says where it could be put.
        StorageError: the cache cannot be written.
    """
    from lookalike.transfer.addresses import fetch_file

    config = settings()
    path = _folder() / FILES[0]
    by_hand = f"put {' or '.join(FILES[:2])} of {RELEASE} into {path.parent}, or open sscd:FILE"
    if config.offline:
        raise FetchError(
            f"encoder {SSCD!r}: its weights are not in the cache, and LOOKALIKE_OFFLINE forbids to "
            f"download them; {by_hand}"
        )
    base = RELEASE if config.mirror is None else f"{config.mirror.rstrip('/')}/{SSCD}/"
    try:
        fetch_file(f"{base}{path.name}", path, size=SIZE, license_=LICENSE)
    except FetchError as error:
        raise FetchError(f"encoder {SSCD!r}: {error}. Try again, or {by_hand}") from error
    return path


def open_sscd(name: str, sample: Sequence[ImageArray] = ()) -> NetworkEncoder:
    """Open ``sscd``, or the weights in a file of the user's by ``sscd:FILE``.

    Args:
        name: ``sscd``, whose weights are fetched if they are not in the cache, or with the prefix.
        sample: ignored; every encoder is opened with one.

    Raises:
        InputError: the user's file cannot be read.
        FetchError: the weights cannot be fetched.
        ArtifactError: the file has no weights of such a network.
    """
    from lookalike.encoders.onnx import NetworkEncoder
    from lookalike.torch_files import read_state

    del sample
    if name.strip() == SSCD_PREFIX:
        raise InputError(f"encoder {name!r}: names no file; write {SSCD_PREFIX}FILE or {SSCD}")
    if name.startswith(SSCD_PREFIX):
        path = Path(expand_home(name.removeprefix(SSCD_PREFIX)))
        source, weights_license = str(path.absolute()), "your own"
        try:
            data = read_regular(path)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"encoder {name!r}: cannot be read ({reason})") from error
    else:
        path, data = fetch_weights()
        source, weights_license = f"{RELEASE}{path.name}", LICENSE
    try:
        model = sscd_network(read_state(data, name=str(path)), name=str(path))
    except ArtifactError as error:
        if name != SSCD:
            raise
        raise ArtifactError(
            f"{error}; delete it and its .sha256, and it is fetched again"
        ) from error
    origin = {
        "source": source,
        "license": weights_license,
        "weights": hashlib.sha256(data).hexdigest(),
    }
    return NetworkEncoder(name, model, PREPROCESSING, normalized=True, origin=origin)


PREPROCESSING = Preprocessing(SIDE, SIDE, 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

SSCD_SPEC = EncoderSpec(
    SSCD,
    "finds copies",
    open_sscd,
    sample=0,
    license=LICENSE,
    dim=512,
    input=f"{SIDE}x{SIDE} RGB",
    source=f"{RELEASE}{FILES[0]}",
    download=SIZE,
    weights=cached_weights,
)
