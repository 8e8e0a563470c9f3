"""The untrained baseline ``encoders/untrained.onnx``: report-conv with its initial weights.

``python -m lookalike.training.untrained`` writes the file; a test compares it with this module.
"""

from __future__ import annotations

from pathlib import Path

import torch

import lookalike.encoders
from lookalike.encoders.export import to_onnx
from lookalike.training.networks import convolutional
from lookalike.training.torch_state import preserve_torch_state, seed_weights


@preserve_torch_state()
def untrained_model() -> bytes:
    """Return the encoder of report-conv with the initial weights of seed 0, as ONNX."""
    seed_weights(0)
    return to_onnx(convolutional(batch_norm=False).encoder, torch.zeros(2, 1, 28, 28))


if __name__ == "__main__":
    target = Path(lookalike.encoders.__file__).with_name("untrained.onnx")
    target.write_bytes(untrained_model())
