"""Tokenizers of image-text models, set up as each kind of model was trained.

A ``tokenizer.json`` says how to split a text; how long it is, what it is padded with and whether it
is lower-cased is said elsewhere or nowhere, and a wrong padding changes embeddings a lot. Here all
of it is written into the file, so that it is complete:

========================  ======  =========================  ===============================
model                     tokens  padding                    text
========================  ======  =========================  ===============================
CLIP                      77      its own, ``<|endoftext|>`` as the file says (lower case)
SigLIP                    64      its own, ``</s>``          lower case, without punctuation
SigLIP 2                  64      its own, ``<pad>``         lower case
others                    any     to the longest of a batch  as the file says
========================  ======  =========================  ===============================

The numbers of tokens are defaults; ``config.json`` may have others. Only JSON is read and written:
the package tokenizers is needed when a text is embedded, not when a model is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lookalike.documents import LARGE, Fields, parse_json

MAX_TOKENS = 512
"""Longest text of models that accept more."""

_CLIP_TOKENS, _SIGLIP_TOKENS = 77, 64
_PUNCTUATION = "[!-/:-@\\[-`{-~]"
_NO_LIMIT = 100_000
"""``model_max_length`` from which on it says that there is none."""


def text_tokenizer(
    tokenizer: bytes,
    config: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any] | None = None,
    *,
    length: int | None = None,
    place: str = "tokenizer.json",
) -> bytes:
    """Return a ``tokenizer.json`` with truncation, padding and lower case as its model needs them.

    Args:
        tokenizer: the file.
        config: of the model, its ``config.json``.
        tokenizer_config: its ``tokenizer_config.json``, if it has one.
        length: tokens that the text network takes, if it takes one number only.
        place: names the file in messages.

    Raises:
        ArtifactError: it is no tokenizer, or has no token to pad with.
    """
    hint = "copy or download the model again"
    fields = Fields.of(parse_json(tokenizer, place, hint=hint, limit=LARGE), place, hint=hint)
    document = dict(fields.values)
    options = dict(tokenizer_config or {})
    family = _family(config, document, options)
    default = {"clip": _CLIP_TOKENS, "siglip": _SIGLIP_TOKENS, "siglip2": _SIGLIP_TOKENS}
    count = length or _max_tokens(config, options, default.get(family))
    token = _pad_token(document, options, family)
    pad_id = _token_id(document, token)
    if pad_id is None:
        raise fields.invalid("added_tokens", f"a token to pad with ({token or 'none is named'})")
    fixed = length is not None or family in default
    document["truncation"] = {
        "direction": "Right",
        "max_length": count,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    document["padding"] = {
        "strategy": {"Fixed": count} if fixed else "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": pad_id,
        "pad_type_id": 0,
        "pad_token": token,
    }
    document["normalizer"] = _normalizer(document.get("normalizer"), family)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _family(
    config: Mapping[str, Any], document: Mapping[str, Any], options: Mapping[str, Any]
) -> str:
    """Return ``clip``, ``siglip``, ``siglip2``, or nothing for other models.

    Models of SigLIP 2 with a fixed input size say that they are SigLIP; their tokenizer is Gemma's.
    """
    kind = str(config.get("model_type", "")).removesuffix("_text_model").removesuffix("_model")
    if kind in ("siglip", "siglip2"):
        name = str(options.get("tokenizer_class", ""))
        model = document.get("model")
        is_gemma = name.startswith(("Gemma", "Siglip2")) or (
            isinstance(model, Mapping) and model.get("type") == "BPE"
        )
        return "siglip2" if is_gemma or kind == "siglip2" else "siglip"
    return "clip" if kind == "clip" else ""


def _max_tokens(config: Mapping[str, Any], options: Mapping[str, Any], default: int | None) -> int:
    """Return the length of texts in tokens."""
    text = config.get("text_config")
    for values in (text if isinstance(text, Mapping) else {}, config):
        positions = values.get("max_position_embeddings")
        if isinstance(positions, int) and positions > 0:
            # RoBERTa and its kin number positions from behind the padding token.
            if "roberta" in str(values.get("model_type", "")):
                pad = values.get("pad_token_id")
                positions -= (pad if isinstance(pad, int) else 1) + 1
            return min(positions, MAX_TOKENS)
    if default is not None:
        return default
    longest = options.get("model_max_length")
    if isinstance(longest, int) and 0 < longest < _NO_LIMIT:
        return min(longest, MAX_TOKENS)
    return MAX_TOKENS


def _pad_token(document: Mapping[str, Any], options: Mapping[str, Any], family: str) -> str:
    """Return the token that texts are padded with, nothing if none is named."""
    token = options.get("pad_token")
    if isinstance(token, Mapping):
        token = token.get("content")
    if isinstance(token, str) and token:
        return token
    padding = document.get("padding")
    if isinstance(padding, Mapping) and isinstance(padding.get("pad_token"), str):
        return str(padding["pad_token"])
    trained = {"clip": "<|endoftext|>", "siglip": "</s>", "siglip2": "<pad>"}.get(family)
    if trained is not None:
        return trained
    known = ("<pad>", "[PAD]", "<|endoftext|>", "</s>")
    return next((each for each in known if _token_id(document, each) is not None), "")


def _token_id(document: Mapping[str, Any], token: str) -> int | None:
    added = document.get("added_tokens")
    for each in added if isinstance(added, list) else []:
        if isinstance(each, Mapping) and each.get("content") == token:
            number = each.get("id")
            return number if isinstance(number, int) else None
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, Mapping):
        number = vocabulary.get(token)
        return number if isinstance(number, int) else None
    for number, pair in enumerate(vocabulary if isinstance(vocabulary, list) else []):
        if isinstance(pair, list) and pair[:1] == [token]:
            return number
    return None


def _normalizer(present: Any, family: str) -> Any:
    """Return the normalizer of a tokenizer, lower case before it where the model needs that."""
    if family not in ("siglip", "siglip2") or _lowers(present):
        return present
    steps: list[Any] = [{"type": "Lowercase"}]
    if family == "siglip":
        steps += [
            {"type": "Replace", "pattern": {"Regex": _PUNCTUATION}, "content": ""},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Strip", "strip_left": True, "strip_right": True},
        ]
    return {"type": "Sequence", "normalizers": [*steps, *([present] if present else [])]}


def _lowers(normalizer: Any) -> bool:
    """Return whether a normalizer has a step to lower case."""
    return any(
        step.get("type") == "Lowercase" or step.get("lowercase") is True
        for step in _steps(normalizer)
    )


def _steps(normalizer: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(normalizer, Mapping):
        yield normalizer
        inner = normalizer.get("normalizers")
        for each in inner if isinstance(inner, list) else []:
            yield from _steps(each)
