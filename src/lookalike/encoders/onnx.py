"""Encoders that run a trained or exported network in ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.config import settings
from lookalike.documents import Fields, read_json
from lookalike.encoders.backbones import ONNX_PREFIX
from lookalike.encoders.base import (
    MAX_DIM,
    MAX_SIDE,
    MAX_VALUE,
    MIN_CROP,
    MIN_STD,
    Encoder,
    Preprocessing,
    fingerprint,
    require_file,
)
from lookalike.encoders.onnx_files import check_model, with_external_data
from lookalike.errors import ArtifactError, InputError, SettingError
from lookalike.files import expand_home, read_regular
from lookalike.images.decode import FILTERS
from lookalike.images.memory import available_memory
from lookalike.process_state import default_environment
from lookalike.types import Embeddings, ImageArray
from lookalike.vectors import unit_rows

# ONNX Runtime sends telemetry and stores a device id unless this is set before the import.
with default_environment(ORT_DISABLE_TELEMETRY="1"):
    import onnxruntime

MODEL_FILE = "model.onnx"
DECODER_FILE = "decoder.onnx"
BATCH_SIZE = 64
"""Images per call of the network in one thread; fewer if they are very large."""

_BATCH_PIXELS = BATCH_SIZE * 512 * 512
_MIN_MEMORY = 2 << 30
_OUTPUTS = ("tensor(float)", "tensor(float16)", "tensor(double)")


class OnnxModel:
    """An ONNX model with a free batch dimension; its first output has n rows.

    Each call uses one core, and several calls may run at once: threads inside a call would
    synchronize after every operator and compete with those of other calls.
    """

    def __init__(self, model: bytes, *, name: str, inputs: int = 1) -> None:
        check_model(model, name=name)
        self._name, self._model = name, model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # the message is in the exception, too
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if _limits_memory():
            options.add_session_config_entry("session.use_env_allocators", "1")
        providers = _providers()
        try:
            self._session = onnxruntime.InferenceSession(
                model,
                options,
                providers=providers,
                enable_fallback=len(providers) > 1,  # which prints to stdout, and tries twice
            )
        except Exception as error:
            raise ArtifactError(
                f"{name}: ONNX Runtime cannot load the model ({_first_line(error)}); copy or "
                "export it again"
            ) from error
        self._inputs = [each.name for each in self._session.get_inputs()]
        outputs = self._session.get_outputs()
        self._output = outputs[0].name if outputs else ""
        if len(self._inputs) != inputs or not outputs or outputs[0].type not in _OUTPUTS:
            types = ", ".join(each.type for each in outputs[:1]) or "nothing"
            raise ArtifactError(
                f"{name}: the model takes {len(self._inputs)} inputs and returns {types}; expected "
                f"{inputs} and a tensor of numbers"
            )

    def __deepcopy__(self, memo: object) -> OnnxModel:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(OnnxModel, name=self._name, inputs=len(self._inputs))
        return make, (self._model,)

    def __call__(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Run the model on its inputs; return ``(n, ...)`` float32.

        Raises:
            ArtifactError: ONNX Runtime cannot run it, or it returns another number of rows.
        """
        inputs = dict(zip(self._inputs, values, strict=True))
        try:
            output = self._session.run([self._output], inputs)[0]
        except Exception as error:
            raise ArtifactError(
                f"{self._name}: ONNX Runtime cannot run the model ({_first_line(error)})"
            ) from error
        rows = np.asarray(output, dtype=np.float32)
        if rows.ndim == 0 or len(rows) != len(values[0]):
            raise ArtifactError(
                f"{self._name}: the model returns an array of shape {rows.shape} for "
                f"{len(values[0])} images; expected one row for each"
            )
        return rows


def _first_line(error: Exception) -> str:
    """Return ONNX Runtime's message in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]


@cache
def _limits_memory() -> bool:
    """Let all models take at most half of the memory that was free at first; return if it works.

    Their tensors are what a model can make as large as it likes.
    """
    try:
        onnxruntime.create_and_register_allocator(
            onnxruntime.OrtMemoryInfo(
                "Cpu",
                onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
                0,
                onnxruntime.OrtMemType.DEFAULT,
            ),
            onnxruntime.OrtArenaCfg({"max_mem": max(_MIN_MEMORY, available_memory() // 2)}),
        )
    except Exception:  # noqa: BLE001 - another user of ONNX Runtime in this process has done so
        return False
    return True


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


class NetworkEncoder(Encoder):
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
    name: str
    normalized: bool

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
        dim = int(self._run(np.zeros((1, p.channels, p.height, p.width), np.float32)).size)
        if not 1 <= dim <= MAX_DIM:
            raise ArtifactError(
                f"encoder {self.name!r}: its model returns {dim:,} numbers for an image; expected "
                f"1 to {MAX_DIM:,}"
            )
        return dim

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

    def encode_batch(self, images: Sequence[ImageArray] | NDArray[np.uint8]) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8.

        Raises:
            ImageError: the network accepts one size only, and an image has another.
        """
        out = np.empty((len(images), self.dim), np.float32)
        p = self.preprocessing
        size = max(1, min(BATCH_SIZE, _BATCH_PIXELS // (p.height * p.width)))

        def encode(start: int) -> None:
            batch = slice(start, start + size)
            out[batch] = self.run(self.prepare(images[batch]))

        starts = range(0, len(images), size)
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
        """Return embeddings ``(n, dim)`` for the output of :meth:`prepare`.

        Raises:
            ArtifactError: ONNX Runtime cannot run the model, or it returns embeddings of another
                length than for a black image.
        """
        rows = self._run(values).reshape(len(values), -1)
        if rows.shape[1] != self.dim:
            raise ArtifactError(
                f"encoder {self.name!r}: its model returns {rows.shape[1]:,} numbers for an image, "
                f"and {self.dim:,} for another"
            )
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
    def restore(cls, description: Fields, files: Mapping[str, bytes]) -> Self:
        """Restore from :meth:`describe` and :meth:`files`.

        Raises:
            ArtifactError: a field or the model is missing or broken.
        """
        return cls(
            description.text("name"),
            require_file(description, files, MODEL_FILE),
            Preprocessing.restore(description.object("preprocessing")),
            normalized=description.flag("normalized"),
            origin=description.mapping("origin"),
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
    path = Path(expand_home(name.removeprefix(ONNX_PREFIX)))
    try:
        model = read_regular(path)
    except OSError as error:
        raise InputError(f"encoder {name!r}: cannot be read ({error.strerror or error})") from error
    config = path.with_suffix(".json")
    try:
        document = read_json(config, hint=_EXAMPLE, error=InputError)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"encoder {name!r}: there is no file {config}; {_EXAMPLE}") from None
    fields = Fields.of(document, str(config), hint=_EXAMPLE, error=InputError)
    fields.only(("size", "channels", "mean", "std", "filter", "crop", "normalize"))
    preprocessing = _preprocessing(fields)
    normalize = fields.flag("normalize", True)
    model = with_external_data(model, path.parent, name=f"encoder {name!r}")
    origin = {"source": str(path.absolute()), "license": "your own"}
    return NetworkEncoder(path.stem, model, preprocessing, normalized=normalize, origin=origin)


_EXAMPLE = (
    "it describes the network's input, as in "
    '{"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}'
)


def _preprocessing(fields: Fields) -> Preprocessing:
    if isinstance(fields.values.get("size"), list):
        sizes = fields.integers("size", 1, MAX_SIDE)
        if len(sizes) != 2:
            raise fields.invalid("size", "pixels, or [height, width]")
        height, width = sizes
    else:
        height = width = fields.integer("size", 1, MAX_SIDE)
    channels = fields.integer("channels", 1, 3, 3)
    if channels == 2:
        raise fields.invalid("channels", "1 or 3")
    return Preprocessing(
        height,
        width,
        channels,
        filter=fields.text("filter", "bilinear", allowed=FILTERS),
        crop=fields.number("crop", MIN_CROP, 1) if fields.has("crop") else None,
        mean=_per_channel(fields, "mean", 0.0, channels),
        std=_per_channel(fields, "std", 1.0, channels),
    )


def _per_channel(fields: Fields, name: str, default: float, channels: int) -> tuple[float, ...]:
    low, high = (MIN_STD, MAX_VALUE) if name == "std" else (-MAX_VALUE, MAX_VALUE)
    if not isinstance(fields.values.get(name), list):
        return (float(fields.number(name, low, high, default)),) * channels
    values = fields.numbers(name, low, high)
    if len(values) != channels:
        raise fields.invalid(name, f"a number, or a list of {channels}")
    return tuple(map(float, values))
