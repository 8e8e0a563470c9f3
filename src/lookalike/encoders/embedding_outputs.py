"""Which output of a published ONNX model is the embedding, and what is still to be pooled.

Models of the hub return several values, in any order. The embedding is chosen by its name
(:data:`IMAGE_OUTPUTS`, :data:`TEXT_OUTPUTS`); where there is only ``last_hidden_state``, the kind
of model says how it is pooled. A model of an unknown kind is refused with the list of its outputs
rather than guessed at, unless one of them is named. Pooling is added to the model as nodes, so that
a saved encoder is one network with one output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lookalike.encoders.onnx import OnnxModel
from lookalike.encoders.onnx_parts import Signature, extract, read_signature
from lookalike.encoders.options import ModelOptions
from lookalike.encoders.pooling import DEFAULT_POOLING, OF_ANY_SIZE, SINGLE_LAYER
from lookalike.errors import InputError, UnknownNameError
from lookalike.onnx_graph import Graph, append

IMAGE_OUTPUTS = (
    *("image_embeds", "l2norm_image_embeddings", "image_embeddings", "image_features"),
    "pooler_output",
)
TEXT_OUTPUTS = (
    *("text_embeds", "l2norm_text_embeddings", "text_embeddings", "text_features"),
    "pooler_output",
)
"""Names of embeddings, the best first."""

HIDDEN = "last_hidden_state"
SCORES = "logits"
"""Output of classifiers: published models without another one have no embedding."""

_CLS = frozenset(
    {
        *("dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "vit_msn", "vit_mae", "deit"),
        *("beit", "data2vec-vision", "nomic_bert"),
    }
)
"""Kinds of models whose embedding is the first token of ``last_hidden_state``."""

_BY_CLASS = {"NomicVisionModel": "nomic_bert"}

_TOKEN_MEAN = frozenset({"swin", "swinv2", "ijepa"})
"""Kinds of models without such a token: the mean of all tokens."""

_MAP_MEAN = frozenset(
    {
        *("resnet", "regnet", "efficientnet", "mobilenet_v1", "mobilenet_v2", "mobilevit"),
        *("mobilevitv2", "poolformer"),
    }
)
"""Kinds of models whose embedding is the mean of the maps ``(n, c, h, w)``."""

_REGISTERS = {"dinov2_with_registers": 4, "dinov3_vit": 4}
"""Register tokens behind the first one, where ``config.json`` does not say how many."""

TOKEN_POOLINGS = ("cls", "mean")
"""Of tokens ``(n, t, c)``: the first one, or the mean of all but the first and registers."""

MAP_POOLINGS = tuple(SINGLE_LAYER)
"""Of maps ``(n, c, h, w)``."""

_END = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class _Choice:
    """An output and its pooling; none if it is an embedding already."""

    output: str
    pooling: str | None = None


def image_network(
    model: bytes, config: Mapping[str, Any], options: ModelOptions, *, name: str
) -> bytes:
    """Return the part of a model that computes embeddings ``(n, dim)`` of images.

    A model that computes nothing else is returned as it is.

    Args:
        model: with its weights.
        config: its ``config.json``, for the kind of model.
        options: output and pooling, if they are named.
        name: of the encoder, for messages.

    Raises:
        InputError: which output is the embedding is not known, or the part needs other inputs than
            images.
        UnknownNameError: it has no such output, or there is no such pooling.
    """
    signature = _with_ranks(model, name)
    choice = _choose(signature, IMAGE_OUTPUTS, config, options, name)
    part = extract(model, [choice.output], name=f"encoder {name!r}")
    inputs = read_signature(part, name=f"encoder {name!r}").inputs
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs) or "none"
        raise InputError(
            f"encoder {name!r}: its output {choice.output!r} needs {len(inputs)} inputs ({names}); "
            "a network of images takes one. Name an output that needs only images: "
            f"{name},output=NAME. Outputs: {_listed(signature)}"
        )
    shape = inputs[0].shape
    if shape is not None and (len(shape) != 4 or shape[1] not in (None, 1, 3)):
        raise InputError(
            f"encoder {name!r}: its input {inputs[0].name!r} has the shape {_shown(shape)}; a "
            "network of images takes (n, channels, height, width)"
        )
    return part if choice.pooling is None else _pooled(part, choice.pooling, config, name)


def text_network(model: bytes, *, name: str) -> bytes:
    """Return the part of a model that computes embeddings ``(n, dim)`` of texts.

    Raises:
        InputError: which output is the embedding is not known, or the part needs images.
    """
    signature = _with_ranks(model, name)
    choice = _choose(signature, TEXT_OUTPUTS, {}, ModelOptions(), name)
    part = extract(model, [choice.output], name=f"encoder {name!r}")
    inputs = [each.name for each in read_signature(part, name=f"encoder {name!r}").inputs]
    if "pixel_values" in inputs:
        raise InputError(
            f"encoder {name!r}: its output {choice.output!r} of texts needs images, too"
        )
    return part


def has_texts(model: bytes, *, name: str) -> bool:
    """Return whether a model takes both images and texts, and has an output of each by name."""
    signature = read_signature(model, name=f"encoder {name!r}")
    has_both = len(signature.inputs) > 1 and any(i.name == "input_ids" for i in signature.inputs)
    own = [names[:-1] for names in (IMAGE_OUTPUTS, TEXT_OUTPUTS)]
    return has_both and all(any(map(signature.output, names)) for names in own)


def _with_ranks(model: bytes, name: str) -> Signature:
    """Return the signature of a model, with the axes that ONNX Runtime infers for its outputs."""
    signature = read_signature(model, name=f"encoder {name!r}")
    if not signature.outputs:
        raise InputError(f"encoder {name!r}: its model has no outputs")
    if all(each.shape is not None for each in signature.outputs):
        return signature
    ranks = OnnxModel(model, name=f"encoder {name!r}", inputs=None).outputs
    outputs = []
    for each in signature.outputs:
        rank = ranks.get(each.name, 0)
        outputs.append(each if each.shape or not rank else replace(each, shape=(None,) * rank))
    return Signature(signature.inputs, tuple(outputs))


def _choose(
    signature: Signature,
    names: Sequence[str],
    config: Mapping[str, Any],
    options: ModelOptions,
    name: str,
) -> _Choice:
    """Return the output that is the embedding.

    Raises:
        InputError: it is not known.
        UnknownNameError: there is no such output or pooling.
    """
    ranks = {each.name: len(each.shape or ()) for each in signature.outputs}
    single = {each.name for each in signature.outputs if (each.shape or ())[2:] == (1, 1)}
    output = options.output
    if output is not None and output not in ranks:
        raise UnknownNameError(f"output of encoder {name!r}:", output, ranks)
    if output is None:
        known = {each: rank for each, rank in ranks.items() if each != SCORES or not config}
        output = _known_output(known, names, is_pooled=options.pooling is None)
    if output is not None:
        rank = ranks[output]
        pooling = options.pooling or (
            "avg" if output in single else _own_pooling(output, rank, config)
        )
        allowed = {2: (), 3: TOKEN_POOLINGS, 4: MAP_POOLINGS}.get(rank, ())
        if pooling in allowed or (pooling is None and rank in (0, 2)):
            return _Choice(output, pooling)
        if options.pooling is not None and allowed:
            raise UnknownNameError(f"pooling of encoder {name!r}:", options.pooling, allowed)
        if options.pooling is not None:
            raise InputError(
                f"encoder {name!r}: its output {output!r} has no tokens or maps to pool; leave "
                "pooling out"
            )
    raise InputError(
        f"encoder {name!r}: it is not known which of its outputs is the embedding, or how it is "
        f"pooled; add output=NAME, and for tokens or maps pooling=NAME ({', '.join(TOKEN_POOLINGS)}"
        f" for tokens, {', '.join(MAP_POOLINGS)} for maps). Outputs: {_listed(signature)}"
    )


def _known_output(ranks: Mapping[str, int], names: Sequence[str], *, is_pooled: bool) -> str | None:
    """Return the output that has the name of embeddings, or of what is pooled to them."""
    if is_pooled:
        for each in names:
            if ranks.get(each) in (0, 2) or (each == names[-1] and ranks.get(each) == 4):
                return each
    if HIDDEN in ranks or len(ranks) == 1:
        return HIDDEN if HIDDEN in ranks else next(iter(ranks))
    candidates = [each for each, rank in ranks.items() if (rank > 2) != is_pooled]
    return candidates[0] if len(candidates) == 1 else None


def _own_pooling(output: str, rank: int, config: Mapping[str, Any]) -> str | None:
    """Return the pooling that a kind of model was trained with; None if it is not known."""
    kind = _kind(config)
    if rank == 4 and (output == IMAGE_OUTPUTS[-1] or kind in _MAP_MEAN):
        return "avg"
    if rank == 3 and output == HIDDEN:
        return "cls" if kind in _CLS else "mean" if kind in _TOKEN_MEAN else None
    return None


def _pooled(model: bytes, pooling: str, config: Mapping[str, Any], name: str) -> bytes:
    """Return a model with one output of tokens or maps that returns them pooled."""

    def build(graph: Graph, outputs: list[str]) -> list[str]:
        [values] = outputs
        shape = graph.source(values).shape
        if graph.source(values).dtype != np.float32:
            values = graph.node("Cast", values, to=1)
        if pooling == "cls":
            rows = graph.node("Gather", values, graph.constant(np.array(0)), axis=1)
        elif pooling == "mean":
            first = _prefix_tokens(config)
            tokens = graph.slice(values, (1,), (first,), (_END,)) if first else values
            rows = graph.reduce("ReduceMean", tokens, (1,))
        else:
            size = (shape or ())[2:]
            if pooling not in OF_ANY_SIZE and (len(size) != 2 or None in size):
                raise InputError(
                    f"encoder {name!r}: pooling={pooling} needs maps of a fixed size, and the "
                    f"model does not say what theirs is; use pooling={DEFAULT_POOLING}"
                )
            rows = SINGLE_LAYER[pooling](graph, values, (size[0] or 0, size[1] or 0))
        graph.output(rows, (None, None), name="embeddings")
        return [rows]

    return append(model, build, name=f"encoder {name!r}")


def _kind(config: Mapping[str, Any]) -> str:
    """Return the kind of a model; one with code of its own may be told by its class."""
    classes = config.get("architectures")
    names = classes if isinstance(classes, list) else []
    return next(
        (_BY_CLASS[each] for each in names if isinstance(each, str) and each in _BY_CLASS),
        str(config.get("model_type", "")),
    )


def _prefix_tokens(config: Mapping[str, Any]) -> int:
    """Return how many tokens come before those of the image."""
    kind = _kind(config)
    if kind not in _CLS:
        return 0
    registers = config.get("num_register_tokens", _REGISTERS.get(kind, 0))
    return 1 + (registers if isinstance(registers, int) else 0) + (kind == "deit")


def _listed(signature: Signature) -> str:
    return ", ".join(f"{each.name} {_shown(each.shape)}" for each in signature.outputs)


def _shown(shape: Sequence[int | None] | None) -> str:
    """Return the sizes of a shape, those that are free as question marks."""
    return "" if shape is None else f"({', '.join('?' if s is None else str(s) for s in shape)})"
