"""Export of torch modules to ONNX models with a free batch dimension."""

from __future__ import annotations

import logging

import torch

from lookalike.process_state import IgnoreWarnings, MuteLoggers

# The exporter warns of deprecations inside torch, which callers cannot act on.
_DEPRECATED = IgnoreWarnings(FutureWarning), IgnoreWarnings(DeprecationWarning)

# Logs a message for each operator of torchvision, unused here, that is not installed.
_REGISTRATION = MuteLoggers("torch.onnx._internal.exporter._registration", logging.ERROR)


def to_onnx(
    module: torch.nn.Module, *examples: torch.Tensor, names: tuple[str, ...] = ("images",)
) -> bytes:
    """Return ``module`` in eval mode as the bytes of one ONNX file with its weights.

    Args:
        module: moved to the CPU and switched to eval mode.
        examples: inputs, at least 2 rows each.
        names: of the inputs.
    """
    plain = tuple(example.detach().contiguous() for example in examples)
    module = module.cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    # With several inputs, the exporter refuses one name for the axis of all.
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
    # The exporter records the source file of each operator, with this machine's paths.
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
    return bytes(model.SerializeToString())
