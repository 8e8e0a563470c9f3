"""An image-text encoder that knows colors: small networks, and texts that find what they say."""

from __future__ import annotations

import json

import numpy as np

from lookalike.encoders.base import Preprocessing
from lookalike.encoders.image_text import ImageTextEncoder
from lookalike.onnx_graph import Graph

_WORDS = {
    "[PAD]": (0.0, 0.0, 0.0),
    "[UNK]": (0.01, 0.01, 0.01),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
}


def color_words() -> ImageTextEncoder:
    """Return an encoder whose embeddings are colors ``(3,)``: of an image, or of a text's words."""
    images = Graph()
    pixels = images.input("images", (None, 3, 8, 8))
    mean = images.reduce("ReduceMean", pixels, (2, 3))
    images.output(images.unit_length(mean), (None, 3), name="embeddings")
    texts = Graph()
    ids = texts.input("input_ids", (None, None), np.int64)
    mask = texts.input("attention_mask", (None, None), np.int64)
    table = texts.constant(np.array(list(_WORDS.values()), np.float32))
    weights = texts.node(
        "Unsqueeze", texts.node("Cast", mask, to=1), texts.constant(np.array([2], np.int64))
    )
    words = texts.node("Mul", texts.node("Gather", table, ids), weights)
    total = texts.reduce("ReduceSum", words, (1,))
    texts.output(texts.unit_length(total), (None, 3), name="embeddings")
    return ImageTextEncoder(
        "color-words",
        images.to_bytes(),
        Preprocessing(8, 8, 3),
        text=texts.to_bytes(),
        tokenizer=_tokenizer(),
    )


def _tokenizer() -> bytes:
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": {
                "strategy": "BatchLongest",
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            },
            "added_tokens": [],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": None,
            "decoder": None,
            "model": {
                "type": "WordLevel",
                "vocab": {word: number for number, word in enumerate(_WORDS)},
                "unk_token": "[UNK]",
            },
        }
    ).encode()
