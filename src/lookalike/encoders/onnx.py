"""Encoders that run a trained or exported network in ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cache, cached_property, partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.config import settings
from lookalike.documents import Fields
from lookalike.encoders.base import (
    MAX_DIM,
    Encoder,
    Preprocessing,
    fingerprint,
    require_file,
)
from lookalike.encoders.onnx_files import check_model
from lookalike.errors import ArtifactError, InputError, SettingError
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
_INPUTS: Mapping[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
_OUTPUTS = ("tensor(float)", "tensor(float16)", "tensor(double)")
_SCALES_A_BATCH = b"DynamicQuantize"
"""In the names of operators that quantize all rows of a batch by one scale."""


class OnnxModel:
    """An ONNX model; its first output has a row for each row of its inputs.

    Each call uses one core, and several calls may run at once: threads inside a call would
    synchronize after every operator and compete with those of other calls.

    Rows are run one at a time where the model takes one only, or computes a scale for all rows
    together (dynamic quantization): the result for one row then depends on no other.

    Args:
        model: bytes of the ONNX file.
        name: of the model, for messages.
        inputs: how many it must have; any number if None.
    """

    def __init__(self, model: bytes, *, name: str, inputs: int | None = 1) -> None:
        check_model(model, name=name)
        self._name, self._model, self._expected = name, model, inputs
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
            signature, outputs = self._session.get_inputs(), self._session.get_outputs()
            ranks = {each.name: len(each.shape or ()) for each in outputs}
            fixed = {each.shape[0] for each in signature if each.shape}  # names may be no text
        except Exception as error:
            raise ArtifactError(
                f"{name}: ONNX Runtime cannot load the model ({_first_line(error)}); copy or "
                "export it again"
            ) from error
        self.inputs: Mapping[str, Any] = {each.name: _INPUTS.get(each.type) for each in signature}
        """Type of each input by name, None if it is none of numbers."""
        self.outputs: Mapping[str, int] = ranks
        """Number of axes of each output by name, 0 if it is not known."""
        self._one_by_one = fixed == {1} or _SCALES_A_BATCH in model
        wrong = inputs is not None and len(self.inputs) != inputs
        if wrong or not outputs or outputs[0].type not in _OUTPUTS:
            types = ", ".join(each.type for each in outputs[:1]) or "nothing"
            raise ArtifactError(
                f"{name}: the model takes {len(self.inputs)} inputs and returns {types}; expected "
                f"{1 if inputs is None else inputs} and a tensor of numbers"
            )

    def __deepcopy__(self, memo: object) -> OnnxModel:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(OnnxModel, name=self._name, inputs=self._expected)
        return make, (self._model,)

    def __call__(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Run the model on its inputs, in their order; return ``(n, ...)`` float32.

        Raises:
            ArtifactError: ONNX Runtime cannot run it, or it returns another number of rows.
        """
        if self._one_by_one and len(values[0]) > 1:
            rows = [self(*(value[i : i + 1] for value in values)) for i in range(len(values[0]))]
            if len({row.shape for row in rows}) > 1:
                raise ArtifactError(f"{self._name}: the model returns rows of different shapes")
            return np.concatenate(rows)
        first, *_ = self.outputs
        [output] = self.run_named(dict(zip(self.inputs, values, strict=True)), [first])
        if output.ndim == 0 or len(output) != len(values[0]):
            raise ArtifactError(
                f"{self._name}: the model returns an array of shape {output.shape} for "
                f"{len(values[0])} images; expected one row for each"
            )
        return output

    def run_named(
        self, values: Mapping[str, NDArray[Any]], outputs: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Run the model on inputs by name; return some outputs by name, float32.

        Raises:
            ArtifactError: ONNX Runtime cannot run it.
        """
        feeds = {
            name: value if (dtype := self.inputs[name]) is None else value.astype(dtype, copy=False)
            for name, value in values.items()
        }
        try:
            arrays = self._session.run(list(outputs), feeds)
        except Exception as error:
            raise ArtifactError(
                f"{self._name}: ONNX Runtime cannot run the model ({_first_line(error)})"
            ) from error
        return [np.asarray(array, dtype=np.float32) for array in arrays]


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

    def with_size(self, size: int) -> Self:
        """Return the same network for images of another height and width, in pixels.

        Raises:
            InputError: it does not accept images of that size.
            SettingError: the size is out of range.
        """
        clone = copy(self)
        clone.preprocessing = self.preprocessing.with_size(size, size)
        for cached in ("fingerprint", "dim"):
            vars(clone).pop(cached, None)
        reason = f"its embeddings would have another length than {self.dim:,}"
        try:
            is_equal = clone.dim == self.dim
        except ArtifactError:
            is_equal, reason = False, "its network cannot be run on such images"
        if not is_equal:
            p = self.preprocessing
            raise InputError(
                f"encoder {self.name!r}: size={size} is not accepted, since {reason}; use its own "
                f"size, {p.width}x{p.height} pixels"
            )
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
