"""From a torch module to the bytes of an ONNX model with a free batch dimension."""

from __future__ import annotations

import logging
import warnings

import torch


def to_onnx(module: torch.nn.Module, example: torch.Tensor) -> bytes:
    """Export ``module``, in eval mode, called with inputs shaped like ``example`` (n >= 2 rows).

    Returns the model as one file's bytes, weights inside.
    """
    plain = example.detach().contiguous()
    module = module.cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    # Says once per operator of torchvision, which nothing here uses, that torchvision is not there.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The exporter warns of deprecations inside torch itself; nothing a caller can act on.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        program = torch.onnx.export(
            module,
            (plain,),
            dynamic_shapes=({0: torch.export.Dim("n")},),
            input_names=["images"],
            output_names=["embeddings"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return bytes(program.model_proto.SerializeToString())
