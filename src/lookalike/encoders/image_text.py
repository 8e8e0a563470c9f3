"""Networks for images and words with one space of embeddings: CLIP (Radford et al. 2021), SigLIP.

``transformers:NAME`` opens a model that transformers knows, by the name of a folder or of the hub,
exports both of its halves to ONNX once, and keeps them in the cache. From then on ONNX Runtime and
tokenizers (``pip install 'lookalike[text]'``) are all that a search by words takes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lookalike.encoders.base import Preprocessing, fingerprint
from lookalike.encoders.onnx import MODEL_FILE, NetworkEncoder, OnnxModel
from lookalike.errors import ArtifactError, InputError, MissingDependencyError
from lookalike.types import Embeddings
from lookalike.vectors import unit_rows

if TYPE_CHECKING:
    pass

TEXT = "text.onnx"
TOKENIZER = "tokenizer.json"


class ImageTextEncoder(NetworkEncoder):
    """An image network that has a text network beside it: :meth:`encode_text`."""

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
        extra = {TEXT: text, TOKENIZER: tokenizer}
        super().__init__(name, model, preprocessing, normalized=True, origin=origin, extra=extra)
        self._text, self._tokenizer = text, tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """Identity of what it computes, for images and for words."""
        fields = {"kind": self.kind, "preprocessing": self.preprocessing.as_dict()}
        return fingerprint(
            fields, {MODEL_FILE: self._model, TEXT: self._text, TOKENIZER: self._tokenizer}
        )

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        """Return ``(n, dim)`` float32 of unit length for n texts; what is too long is cut.

        Raises:
            InputError: a text is empty.
            MissingDependencyError: tokenizers is not installed.
        """
        for text in texts:
            if not text.strip():
                raise InputError("the text to search for is empty")
        tokens = self._words.encode_batch(list(texts))
        ids = np.array([each.ids for each in tokens], np.int64)
        mask = np.array([each.attention_mask for each in tokens], np.int64)
        return unit_rows(self._network(ids, mask).reshape(len(ids), -1))

    @cached_property
    def _words(self) -> Any:
        try:
            tokenizers = importlib.import_module("tokenizers")
        except ModuleNotFoundError:
            raise MissingDependencyError("tokenizers", "searching by words", "text") from None
        return tokenizers.Tokenizer.from_str(self._tokenizer.decode())

    @cached_property
    def _network(self) -> OnnxModel:
        return OnnxModel(self._text, name=f"text network of {self.name!r}")

    @classmethod
    def restore(cls, description: Mapping[str, Any], files: Mapping[str, bytes]) -> Self:
        """Make it again from :meth:`describe` and :meth:`files`.

        Raises:
            ArtifactError: a file is missing or broken.
        """
        for name in (MODEL_FILE, TEXT, TOKENIZER):
            if name not in files:
                raise ArtifactError(f"encoder {description['name']!r}: its file {name} is gone")
        return cls(
            description["name"],
            files[MODEL_FILE],
            Preprocessing(**description["preprocessing"]),
            text=files[TEXT],
            tokenizer=files[TOKENIZER],
            origin=description["origin"],
        )
