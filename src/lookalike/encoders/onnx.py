"""Encoders that run a trained or exported network in ONNX Runtime, without torch."""

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
from lookalike.encoders.backbones import ONNX_PREFIX
from lookalike.encoders.base import Preprocessing, fingerprint
from lookalike.errors import ArtifactError, InputError, SettingError
from lookalike.process_state import default_environment
from lookalike.types import Embeddings, ImageArray
from lookalike.vectors import unit_rows

# ONNX Runtime sends telemetry and stores a device id unless this is set before the import.
with default_environment(ORT_DISABLE_TELEMETRY="1"):
    import onnxruntime

MODEL_FILE = "model.onnx"
DECODER_FILE = "decoder.onnx"
BATCH_SIZE = 64
"""Images per call of the network in one thread."""


class OnnxModel:
    """An ONNX model with a free batch dimension; its first output has n rows.

    Each call uses one core, and several calls may run at once: threads inside a call would
    synchronize after every operator and compete with those of other calls.
    """

    def __init__(self, model: bytes, *, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        providers = _providers()
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        except Exception as error:
            raise ArtifactError(f"{name}: ONNX Runtime cannot load the model ({error})") from error
        self._inputs = [each.name for each in self._session.get_inputs()]

    def __call__(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Run the model on its inputs; return ``(n, ...)`` float32."""
        inputs = dict(zip(self._inputs, values, strict=True))
        return np.asarray(self._session.run(None, inputs)[0], dtype=np.float32)


def _providers() -> list[str]:
    """Return ONNX Runtime's execution providers for the configured device.

    Raises:
        SettingError: the device is ``cuda``, but this ONNX Runtime has no GPU support.
    """
    if settings().device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise SettingError(
            "LOOKALIKE_DEVICE=cuda: the installed ONNX Runtime has no GPU support; run: pip "
            "uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    onnxruntime.preload_dlls()
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


class NetworkEncoder:
    """Preprocessing followed by an ONNX model.

    Args:
        name: of the encoder.
        model: bytes of the ONNX file.
        preprocessing: of its images.
        normalized: scale embeddings to unit length.
        origin: recipe, seed, data and versions; not part of the fingerprint.
        extra: further files of the encoder by name, such as a decoder or torch weights.
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
        """Length of an embedding, measured on a black image."""
        p = self.preprocessing
        return int(self._run(np.zeros((1, p.channels, p.height, p.width), np.float32)).size)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of preprocessing and model; name and origin do not count."""
        fields = {"kind": self.kind, "preprocessing": self.preprocessing.as_dict()}
        return fingerprint(fields, {MODEL_FILE: self._model})

    def with_fit(self, mode: str) -> Self:
        """Return the same network with another fit mode.

        Raises:
            UnknownNameError: ``mode`` is none of :data:`lookalike.encoders.base.FIT_MODES`.
        """
        clone = copy(self)
        clone.preprocessing = self.preprocessing.with_fit(mode)
        vars(clone).pop("fingerprint", None)  # a cached property
        return clone

    def encode(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8.

        Raises:
            ImageError: the network accepts one size only, and an image has another.
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
        """Return embeddings ``(n, dim)`` for the output of :meth:`prepare`."""
        rows = self._run(values).reshape(len(values), -1)
        return unit_rows(rows) if self.normalized else rows

    def reconstruct(self, images: Sequence[ImageArray]) -> NDArray[np.float32]:
        """Return the decoder's reconstructions of images, in the shape of its output.

        Raises:
            InputError: the encoder has no decoder.
        """
        if DECODER_FILE not in self._extra:
            raise InputError(f"encoder {self.name!r} cannot reconstruct images: it has no decoder")
        decode = OnnxModel(self._extra[DECODER_FILE], name=f"decoder of {self.name!r}")
        return decode(self._run(self.prepare(images)))

    def files(self) -> Mapping[str, bytes]:
        """Return the model and the extra files."""
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
        """Restore from :meth:`describe` and :meth:`files`.

        Raises:
            ArtifactError: the model is missing or broken.
        """
        if MODEL_FILE not in files:
            raise ArtifactError(
                f"encoder {description['name']!r}: its weights {MODEL_FILE} are missing"
            )
        return cls(
            description["name"],
            files[MODEL_FILE],
            Preprocessing(**description["preprocessing"]),
            normalized=description["normalized"],
            origin=description["origin"],
            extra={name: data for name, data in files.items() if name != MODEL_FILE},
        )


def open_onnx(name: str, sample: Sequence[ImageArray] = ()) -> NetworkEncoder:
    """Open ``onnx:FILE``, a user's own model, with its preprocessing in a JSON file beside it.

    The JSON file has the model's path with the suffix ``.json``. Its fields are ``size`` (pixels,
    or ``[height, width]``), and optionally ``channels`` (default 3), ``mean`` and ``std`` of values
    in [0, 1] (one number, or one for each channel; default 0 and 1), ``filter`` (``bilinear`` or
    ``bicubic``), ``crop`` (center crop as a share of the shorter side; default: stretch the whole
    image) and ``normalize`` (unit length; default true).

    Args:
        name: with the prefix.
        sample: ignored; every encoder is opened with one.

    Raises:
        InputError: a file is missing, or a field is missing, unknown or invalid.
        ArtifactError: ONNX Runtime cannot load the model.
    """
    del sample
    path = Path(name.removeprefix(ONNX_PREFIX)).expanduser()
    try:
        model = path.read_bytes()
    except OSError as error:
        raise InputError(f"encoder {name!r}: cannot be read ({error.strerror or error})") from error
    config = path.with_suffix(".json")
    try:
        fields = json.loads(config.read_bytes())
        preprocessing = _pop_preprocessing(fields)
        normalize = bool(fields.pop("normalize", True))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"encoder {name!r}: {config} must describe the network's input, as in "
            f'{{"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}} ({error})'
        ) from error
    if fields:
        unknown = ", ".join(map(repr, fields))
        raise InputError(
            f"{config}: unknown field {unknown}; fields: size, channels, mean, std, filter, "
            "crop, normalize"
        )
    origin = {"source": str(path.absolute()), "license": "your own"}
    return NetworkEncoder(path.stem, model, preprocessing, normalized=normalize, origin=origin)


def _pop_preprocessing(fields: dict[str, Any]) -> Preprocessing:
    size = fields.pop("size")
    height, width = size if isinstance(size, list) else (size, size)
    channels = int(fields.pop("channels", 3))
    return Preprocessing(
        int(height),
        int(width),
        channels,
        filter=str(fields.pop("filter", "bilinear")),
        crop=fields.pop("crop", None),
        mean=_per_channel(fields.pop("mean", 0.0), channels),
        std=_per_channel(fields.pop("std", 1.0), channels),
    )


def _per_channel(value: float | list[float], channels: int) -> tuple[float, ...]:
    values = [value] * channels if isinstance(value, int | float) else value
    if len(values) != channels:
        raise ValueError(f"expected {channels} numbers, got {values}")
    return tuple(float(number) for number in values)
