"""Tokenizers are completed as the kind of model was trained: length, padding, lower case."""

from __future__ import annotations

import json
import string
from importlib.util import find_spec
from typing import Any

import pytest

from lookalike.encoders.tokenization import text_tokenizer
from lookalike.errors import ArtifactError
from tests.conftest import Require

LETTERS = [*string.ascii_letters, "!", "▁", " "]


def unigram(**fields: Any) -> bytes:
    pieces = [[name, -1.0] for name in ("<pad>", "</s>", "<unk>", *LETTERS)]
    model = {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False}
    return json.dumps(_document(model, fields)).encode()


def bpe(**fields: Any) -> bytes:
    names = ("<pad>", "<|endoftext|>", *LETTERS)
    model = {"type": "BPE", "vocab": {n: i for i, n in enumerate(names)}, "merges": []}
    return json.dumps(_document(model, fields)).encode()


def _document(model: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    empty = dict.fromkeys(
        ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    )
    return {"version": "1.0", **empty, "added_tokens": [], "model": model, **fields}


def tokens(tokenizer: bytes, *texts: str) -> list[list[str]]:
    from tokenizers import Tokenizer

    return [each.tokens for each in Tokenizer.from_str(tokenizer.decode()).encode_batch(texts)]


@pytest.fixture(autouse=True)
def _tokenizers(require: Require) -> None:
    require(find_spec("tokenizers"), "tokenizers is not installed")


def test_clip_has_77_tokens_with_its_own_padding() -> None:
    [row] = tokens(text_tokenizer(bpe(), {"model_type": "clip"}), "Ab")
    assert row == ["A", "b", *["<|endoftext|>"] * 75]
    named = {"pad_token": {"content": "!", "__type": "AddedToken"}}
    [row] = tokens(text_tokenizer(bpe(), {"model_type": "clip"}, named), "Ab")
    assert row[2:] == ["!"] * 75
    config = {"model_type": "clip", "text_config": {"max_position_embeddings": 12}}
    [row] = tokens(text_tokenizer(bpe(), config), "x" * 40)
    assert row == ["x"] * 12


def test_siglip_has_64_tokens_in_lower_case_without_punctuation() -> None:
    config = {"model_type": "siglip", "text_config": {"vocab_size": 32_000}}
    [row] = tokens(text_tokenizer(unigram(), config), "  A!  b ")
    assert row == ["a", " ", "b", *["</s>"] * 61]
    step = {"type": "Lowercase"}
    own = {"type": "Sequence", "normalizers": [step]}
    [row] = tokens(text_tokenizer(unigram(normalizer=own), config), "A!")
    assert row[:3] == ["a", "!", "</s>"]  # a file that says how texts are prepared is complete


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"model_type": "siglip2"}, {}),
        ({"model_type": "siglip"}, {"tokenizer_class": "GemmaTokenizerFast"}),
        ({"model_type": "siglip_text_model"}, {}),
    ],
)
def test_siglip_2_has_64_tokens_in_lower_case(
    config: dict[str, Any], options: dict[str, Any]
) -> None:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    [row] = tokens(text_tokenizer(bpe(normalizer=replace), config, options), "A! b")
    assert row == ["a", "!", "▁", "b", *["<pad>"] * 60]


def test_other_models_are_padded_to_the_longest_text() -> None:
    config = {"model_type": "jina_clip", "max_position_embeddings": 514}
    rows = tokens(text_tokenizer(bpe(), config), "Ab", "Abcd")
    assert rows == [["A", "b", "<pad>", "<pad>"], ["A", "b", "c", "d"]]
    long = "x" * 2_000
    lengths = {
        len(tokens(text_tokenizer(bpe(), {"model_type": kind, **more}, options), long)[0])
        for kind, more, options in (
            ("x", {}, {}),
            ("x", {"max_position_embeddings": 9_000}, {}),
            ("xlm-roberta", {"max_position_embeddings": 514}, {}),
            ("x", {}, {"model_max_length": 10**30}),
        )
    }
    assert lengths == {512}
    assert len(tokens(text_tokenizer(bpe(), {}, {"model_max_length": 9}), long)[0]) == 9
    [row] = tokens(text_tokenizer(bpe(), {}, length=5), "Ab")  # what the network takes
    assert row == ["A", "b", *["<pad>"] * 3]


def test_a_padding_that_the_file_has_is_kept() -> None:
    padding = {"strategy": "BatchLongest", "direction": "Left", "pad_id": 3, "pad_token": "B"}
    [row, _] = tokens(text_tokenizer(bpe(padding=padding), {}), "a", "abc")
    assert row == ["a", "B", "B"]
    added = [{"id": 900, "content": "[PAD]", "special": True}]
    document = json.loads(text_tokenizer(bpe(added_tokens=added), {}, {"pad_token": "[PAD]"}))
    assert document["padding"]["pad_id"] == 900


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"[]", {}, "tokenizer.json: must be a JSON object"),
        (b"{", {}, "cannot be read"),
        (b'{"model": 3, "added_tokens": 4}', {}, "a token to pad with"),
        (bpe(), {"pad_token": "<nothing>"}, "a token to pad with .<nothing>"),
    ],
)
def test_broken_tokenizers_are_refused(data: bytes, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        text_tokenizer(data, {"model_type": "clip"}, options)
