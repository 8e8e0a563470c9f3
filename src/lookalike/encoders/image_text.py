"""Image-text encoders: CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023).

They embed images and texts in one space, so that a text query finds images. Here they run in ONNX
Runtime, text queries also by tokenizers.
:mod:`lookalike.encoders.image_text_export` exports them from transformers.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.documents import Fields
from lookalike.encoders.base import Preprocessing, fingerprint, require_file
from lookalike.encoders.onnx import MODEL_FILE, NetworkEncoder, OnnxModel
from lookalike.errors import (
    ArtifactError,
    LookalikeError,
    is_panic,
    requiring,
)
from lookalike.types import Embeddings
from lookalike.vectors import unit_rows

TEXT_FILE = "text.onnx"
TOKENIZER_FILE = "tokenizer.json"


_MAX_TOKENS = 8_192


class ImageTextEncoder(NetworkEncoder):
    """An image network with a text network and its tokenizer for :meth:`encode_text`."""

    kind = "pair"

    def __init__(
        self,
        name: str,
        model: bytes,
        preprocessing: Preprocessing,
        *,
        text: bytes,
        tokenizer: bytes,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        extra = {TEXT_FILE: text, TOKENIZER_FILE: tokenizer}
        super().__init__(name, model, preprocessing, normalized=True, origin=origin, extra=extra)
        self._text_model_bytes, self._tokenizer_bytes = text, tokenizer

    @property
    def logits(self) -> Mapping[str, float] | None:
        """``scale`` and ``bias`` that the networks were trained with; None if they are not known.

        A cosine times ``scale`` plus ``bias`` is what was predicted: by SigLIP the log-odds that
        text and image belong together, by CLIP the logits of a softmax over texts.
        """
        values = self.origin.get("logits")
        if not isinstance(values, Mapping):
            return None
        pair = {name: values.get(name) for name in ("scale", "bias")}
        numbers = {name: float(v) for name, v in pair.items() if isinstance(v, int | float)}
        return numbers if len(numbers) == len(pair) else None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of preprocessing, both networks and the tokenizer."""
        fields = {"kind": self.kind, "preprocessing": self.preprocessing.as_dict()}
        files = {
            MODEL_FILE: self._model,
            TEXT_FILE: self._text_model_bytes,
            TOKENIZER_FILE: self._tokenizer_bytes,
        }
        return fingerprint(fields, files)

    def encode_text_batch(self, texts: Sequence[str]) -> Embeddings:
        """Return ``(n, dim)`` float32 of unit length for n texts; long texts are truncated.

        Raises:
            MissingDependencyError: tokenizers is not installed.
        """
        with self._tokenizing():
            encodings = self._tokenizer.encode_batch(list(texts))
            ids = np.array([encoding.ids for encoding in encodings], np.int64)
            mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
        return unit_rows(self.run_text(ids, mask))

    def run_text(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return ``(n, dim)`` float32 for token ids and attention mask, both ``(n, length)``.

        Raises:
            ArtifactError: the text network takes other inputs.
        """
        model = self._text_model
        values = {
            **dict.fromkeys(("input_ids", "tokens"), ids),
            **dict.fromkeys(("attention_mask", "mask"), mask),
            "position_ids": np.broadcast_to(np.arange(ids.shape[1]), ids.shape),
            "token_type_ids": np.zeros_like(ids),
        }
        unknown = [name for name in model.inputs if name not in values]
        if unknown and len(model.inputs) > 1:
            raise ArtifactError(
                f"encoder {self.name!r}: its text network has an input that is not supported: "
                f"{', '.join(unknown)}"
            )
        arrays = [ids] if unknown else [values[name] for name in model.inputs]
        return model(*arrays).reshape(len(ids), -1)

    @cached_property
    def _tokenizer(self) -> Any:
        with requiring("tokenizers", "text search", "text"):
            tokenizers = importlib.import_module("tokenizers")
        with self._tokenizing():
            tokenizer = tokenizers.Tokenizer.from_str(self._tokenizer_bytes.decode())
            padding = tokenizer.padding or {}
            if (
                max(padding.get("length") or 0, padding.get("pad_to_multiple_of") or 0)
                > _MAX_TOKENS
            ):
                raise ValueError(f"it pads texts to more than {_MAX_TOKENS:,} tokens")
            return tokenizer

    @contextlib.contextmanager
    def _tokenizing(self) -> Iterator[None]:
        """Raise ArtifactError for whatever is wrong with the tokenizer in the block."""
        try:
            yield
        except LookalikeError:
            raise
        except BaseException as error:
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            reason = " ".join(str(error).split())[:200]
            raise ArtifactError(
                f"encoder {self.name!r}: its {TOKENIZER_FILE} is broken ({reason}); copy the "
                "encoder again"
            ) from error

    @cached_property
    def _text_model(self) -> OnnxModel:
        return OnnxModel(self._text_model_bytes, name=f"text network of {self.name!r}", inputs=None)

    @classmethod
    def restore(cls, description: Fields, files: Mapping[str, bytes]) -> Self:
        """Restore from :meth:`describe` and :meth:`files`.

        Raises:
            ArtifactError: a field or a file is missing or broken.
        """
        return cls(
            description.text("name"),
            require_file(description, files, MODEL_FILE),
            Preprocessing.restore(description.object("preprocessing")),
            text=require_file(description, files, TEXT_FILE),
            tokenizer=require_file(description, files, TOKENIZER_FILE),
            origin=description.mapping("origin"),
        )
