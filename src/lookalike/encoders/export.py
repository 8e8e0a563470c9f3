"""From a torch module to the bytes of an ONNX model with a free batch dimension."""

from __future__ import annotations

import logging

import torch

from lookalike.process_state import IgnoreWarnings, MuteLoggers

# The exporter warns of deprecations inside torch itself; nothing a caller can act on.
_DEPRECATED = IgnoreWarnings(FutureWarning), IgnoreWarnings(DeprecationWarning)

# Says once per operator of torchvision, which nothing here uses, that torchvision is not there.
_REGISTRATION = MuteLoggers("torch.onnx._internal.exporter._registration", logging.ERROR)


def to_onnx(
    module: torch.nn.Module, *examples: torch.Tensor, names: tuple[str, ...] = ("images",)
) -> bytes:
    """Export ``module``, in eval mode, called with inputs shaped like ``examples`` (n >= 2 rows).

    Returns the model as one file's bytes, weights inside; ``names`` are those of its inputs.
    """
    plain = tuple(example.detach().contiguous() for example in examples)
    module = module.cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    # Of several inputs, one axis must not be named twice.
    rows = torch.export.Dim("n") if len(plain) == 1 else torch.export.Dim.DYNAMIC
    with _DEPRECATED[0], _DEPRECATED[1], _REGISTRATION:
        program = torch.onnx.export(
            module,
            plain,
            dynamic_shapes=tuple({0: rows} for _ in plain),
            input_names=list(names),
            output_names=["embeddings"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    model = program.model_proto
    # The exporter notes which line of which file each operator comes from: paths of this machine.
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
    return bytes(model.SerializeToString())
