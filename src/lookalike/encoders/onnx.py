"""A trained or exported network, run by ONNX Runtime; torch is not needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.config import settings
from lookalike.encoders.base import Preprocessing, fingerprint
from lookalike.errors import ArtifactError, InputError, SettingError
from lookalike.process_state import default_environment
from lookalike.types import Embeddings, ImageArray
from lookalike.vectors import unit_rows

# It sends its makers usage data and keeps a device id, unless this is set before it is imported.
with default_environment(ORT_DISABLE_TELEMETRY="1"):
    import onnxruntime

MODEL_FILE = "model.onnx"
DECODER_FILE = "decoder.onnx"
BATCH_SIZE = 64
"""Images that one thread takes through the network at a time."""


class OnnxModel:
    """An ONNX model with a free batch dimension; its first output has n rows.

    A call keeps one
    core busy, several at a time as many: threads within a call would wait for each other after
    each of its operators, and for those of other calls.
    """

    def __init__(self, model: bytes, *, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        providers = _providers()
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        except Exception as error:
            raise ArtifactError(f"{name}: not a model that ONNX Runtime reads ({error})") from error
        self._inputs = [each.name for each in self._session.get_inputs()]

    def __call__(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Run the model on its inputs; return ``(n, ...)`` float32."""
        inputs = dict(zip(self._inputs, values, strict=True))
        return np.asarray(self._session.run(None, inputs)[0], dtype=np.float32)


def _providers() -> list[str]:
    """Return what ONNX Runtime is to run networks on.

    Raises:
        SettingError: a GPU is asked for, and this ONNX Runtime has none.
    """
    if settings().device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise SettingError(
            "LOOKALIKE_DEVICE=cuda: this ONNX Runtime cannot use a GPU; pip uninstall onnxruntime, "
            "and pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    onnxruntime.preload_dlls()
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


class NetworkEncoder:
    """A network as an encoder: preprocessing, then the ONNX model; ``normalized``, to unit length.

    ``origin`` says where it comes from (recipe, seed, data, versions) and is no part of the
    fingerprint. ``extra`` files (a decoder, torch weights) are kept beside the model.
    """

    kind = "network"

    def __init__(
        self,
        name: str,
        model: bytes,
        preprocessing: Preprocessing,
        *,
        normalized: bool = False,
        origin: Mapping[str, Any] | None = None,
        extra: Mapping[str, bytes] | None = None,
    ) -> None:
        self.name = name
        self.preprocessing = preprocessing
        self.normalized = normalized
        self.origin = dict(origin or {})
        self._model = model
        self._extra = dict(extra or {})
        self._run = OnnxModel(model, name=f"encoder {name!r}")

    @cached_property
    def dim(self) -> int:
        """Length of an embedding, found by encoding a black image."""
        p = self.preprocessing
        return int(self._run(np.zeros((1, p.channels, p.height, p.width), np.float32)).size)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of what it computes: preprocessing and model, not its name or origin."""
        fields = {"kind": self.kind, "preprocessing": self.preprocessing.as_dict()}
        return fingerprint(fields, {MODEL_FILE: self._model})

    def with_fit(self, fit: str) -> Self:
        """Return the same network for images brought to its size in another way.

        Raises:
            UnknownNameError: ``fit`` is none of :data:`lookalike.encoders.base.FIT_MODES`.
        """
        changed = copy(self)
        changed.preprocessing = self.preprocessing.with_fit(fit)
        vars(changed).pop("fingerprint", None)
        return changed

    def encode(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8.

        Raises:
            ImageError: an image has another size than the network was trained on.
        """
        out = np.empty((len(images), self.dim), np.float32)

        def encode(start: int) -> None:
            batch = slice(start, start + BATCH_SIZE)
            out[batch] = self.run(self.prepare(images[batch]))

        starts = range(0, len(images), BATCH_SIZE)
        if len(starts) <= 1:
            for start in starts:
                encode(start)
            return out
        with ThreadPoolExecutor(settings().threads, thread_name_prefix="lookalike-encode") as pool:
            for _ in pool.map(encode, starts):
                pass
        return out

    def prepare(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's input, ``(n, channels, height, width)`` float32."""
        return self.preprocessing.scaled(self.preprocessing.apply(images))

    def run(self, values: NDArray[np.float32]) -> Embeddings:
        """Return the embeddings ``(n, dim)`` of what :meth:`prepare` returned."""
        rows = self._run(values).reshape(len(values), -1)
        return unit_rows(rows) if self.normalized else rows

    def reconstruct(self, images: Sequence[ImageArray]) -> NDArray[np.float32]:
        """Return what the decoder makes of the images' embeddings, as its network shapes them.

        Raises:
            InputError: the encoder has no decoder.
        """
        if DECODER_FILE not in self._extra:
            raise InputError(f"encoder {self.name!r} has no decoder: it does not reconstruct")
        decode = OnnxModel(self._extra[DECODER_FILE], name=f"decoder of {self.name!r}")
        return decode(self._run(self.prepare(images)))

    def files(self) -> Mapping[str, bytes]:
        """Return the model and the files kept beside it."""
        return {MODEL_FILE: self._model, **self._extra}

    def describe(self) -> Mapping[str, Any]:
        """Return kind, name, preprocessing and origin."""
        return {
            "kind": self.kind,
            "name": self.name,
            "normalized": self.normalized,
            "preprocessing": self.preprocessing.as_dict(),
            "origin": self.origin,
        }

    @classmethod
    def restore(cls, description: Mapping[str, Any], files: Mapping[str, bytes]) -> Self:
        """Make it again from :meth:`describe` and :meth:`files`.

        Raises:
            ArtifactError: the model is missing or broken.
        """
        if MODEL_FILE not in files:
            raise ArtifactError(
                f"encoder {description['name']!r}: its weights {MODEL_FILE} are gone"
            )
        return cls(
            description["name"],
            files[MODEL_FILE],
            Preprocessing(**description["preprocessing"]),
            normalized=description["normalized"],
            origin=description["origin"],
            extra={name: data for name, data in files.items() if name != MODEL_FILE},
        )


PREFIX = "onnx:"


def open_onnx(name: str, sample: Sequence[ImageArray] = ()) -> NetworkEncoder:
    """Open a network of one's own: ``onnx:FILE``, with a file beside it that says what it takes.

    ``FILE`` without its suffix, and ``.json``, holds ``size`` (pixels, or ``[height, width]``)
    and, unless they are these: ``channels`` 3, ``mean`` 0 and ``std`` 1 (numbers or one for each
    channel, of values in [0, 1]), ``filter`` bilinear or bicubic, ``crop`` (the share of the
    shorter side that is kept, in the middle; all of the image, stretched, unless given) and
    ``normalize`` true.

    Raises:
        InputError: a file is missing or says something else.
        ArtifactError: not a model that ONNX Runtime reads.
    """
    del sample
    path = Path(name.removeprefix(PREFIX)).expanduser()
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
        normalize = bool(said.pop("normalize", True))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"encoder {name!r}: {described} must say what the network takes, as in "
            f'{{"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}} ({error})'
        ) from error
    if said:
        raise InputError(f"{described}: knows nothing of {', '.join(map(repr, said))}")
    origin = {"source": str(path.absolute()), "license": "your own"}
    return NetworkEncoder(path.stem, model, preprocessing, normalized=normalize, origin=origin)


def _each(value: float | list[float], channels: int) -> tuple[float, ...]:
    values = [value] * channels if isinstance(value, int | float) else value
    if len(values) != channels:
        raise ValueError(f"expected {channels} numbers, got {values}")
    return tuple(float(each) for each in values)
