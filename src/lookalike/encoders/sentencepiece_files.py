"""Tokenizers of SentencePiece (Kudo and Richardson 2018), rewritten as a ``tokenizer.json``.

SigLIP's models came with a ``spiece.model`` alone. It is a message of Protocol Buffers with the
pieces and their log-probabilities, and a table of characters for normalization. The package
tokenizers computes the same tokens from them, so that sentencepiece itself is not needed.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator
from typing import Any

from lookalike.errors import ArtifactError
from lookalike.wire_format import read_fields

SENTENCEPIECE_FILE = "spiece.model"

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_MODEL_TYPE, _BYTE_FALLBACK, _CHARACTERS = 3, 35, 2
_PIECE, _SCORE, _TYPE = 1, 2, 3
_UNIGRAM = 1
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
"""Numbers of fields and values in ``sentencepiece_model.proto``."""

_MAX_FIELDS = 4_000_000
_SPACE = "▁"


def sentencepiece_tokenizer(
    data: bytes, *, end: str = "</s>", place: str = "spiece.model"
) -> bytes:
    """Return a ``spiece.model`` as the bytes of a ``tokenizer.json``.

    Args:
        data: the file.
        end: the token that ends a text.
        place: names the file in messages.

    Raises:
        ArtifactError: it is broken, is not a unigram model, or lacks ``end``.
    """
    try:
        pieces, trainer, characters = _read(data)
    except (ValueError, struct.error) as error:
        raise ArtifactError(
            f"{place}: is not a model of SentencePiece ({error}); copy or download the model again"
        ) from error
    unknown = next((number for number, each in enumerate(pieces) if each[2] == _UNKNOWN), None)
    numbers = {piece: number for number, (piece, _, _) in enumerate(pieces)}
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM or unknown is None or end not in numbers:
        raise ArtifactError(
            f"{place}: is not a unigram model of SentencePiece with the tokens <unk> and {end}; "
            "use a model that has a tokenizer.json"
        )
    special = [
        {
            "id": number,
            "content": piece,
            "special": kind != _NORMAL,
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
        }
        for number, (piece, _, kind) in enumerate(pieces)
        if kind in (_UNKNOWN, _CONTROL)
    ]
    metaspace: dict[str, Any] = {
        "type": "Metaspace",
        "replacement": _SPACE,
        "prepend_scheme": "always",
        "split": True,
    }
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ]
    if characters:
        table = base64.b64encode(characters).decode()
        steps.insert(0, {"type": "Precompiled", "precompiled_charsmap": table})
    text, ending = {"Sequence": {"id": "A", "type_id": 0}}, {"id": end, "type_id": 0}
    document = {
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [text, {"SpecialToken": ending}],
            "pair": [
                *(text, {"SpecialToken": ending}),
                *({"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": ending}),
            ],
            "special_tokens": {end: {"id": end, "ids": [numbers[end]], "tokens": [end]}},
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [[piece, score] for piece, score, _ in pieces],
            "byte_fallback": bool(trainer.get(_BYTE_FALLBACK, 0)),
        },
    }
    return json.dumps(document, ensure_ascii=False).encode()


def _read(data: bytes) -> tuple[list[tuple[str, float, int]], dict[int, int], bytes]:
    """Return pieces with scores and types, the numbers of the trainer, and the characters' table.

    Raises:
        ValueError: it is no such message.
    """
    budget = [_MAX_FIELDS]
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, int] = {}
    characters = b""
    for number, value in _values(memoryview(data), budget):
        if not isinstance(value, memoryview):
            continue
        fields = dict(_values(value, budget))
        if number == _PIECES:
            piece, score, kind = fields.get(_PIECE), fields.get(_SCORE), fields.get(_TYPE, _NORMAL)
            if not isinstance(piece, memoryview) or not isinstance(kind, int):
                raise ValueError("a piece is missing")
            chance = struct.unpack("<f", score)[0] if isinstance(score, memoryview) else 0.0
            if not math.isfinite(chance):
                raise ValueError("a log-probability is not finite")
            pieces.append((bytes(piece).decode(), chance, kind))
        elif number == _TRAINER:
            trainer = {key: each for key, each in fields.items() if isinstance(each, int)}
        elif number == _NORMALIZER and isinstance(table := fields.get(_CHARACTERS), memoryview):
            characters = bytes(table)
    if not pieces:
        raise ValueError("it has no pieces")
    return pieces, trainer, characters


def _values(data: memoryview, budget: list[int]) -> Iterator[tuple[int, int | memoryview]]:
    for number, _, value, _ in read_fields(data, budget):
        yield number, value
