"""Export of torch modules to ONNX models with a free batch dimension, and a check of the result."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lookalike.errors import InputError
from lookalike.process_state import IgnoreWarnings, MuteLoggers

# The exporter warns of deprecations and attributes inside torch, which callers cannot act on.
_INTERNAL = tuple(map(IgnoreWarnings, (FutureWarning, DeprecationWarning, UserWarning)))

# Logs a message for each operator of torchvision, unused here, that is not installed.
_REGISTRATION = MuteLoggers("torch.onnx._internal.exporter._registration", logging.ERROR)


def to_onnx(
    module: torch.nn.Module,
    *examples: torch.Tensor,
    names: tuple[str, ...] = ("images",),
    outputs: tuple[str, ...] = ("embeddings",),
    purpose: str = "the network",
) -> bytes:
    """Return ``module`` in eval mode as the bytes of one ONNX file with its weights.

    Args:
        module: moved to the CPU and switched to eval mode.
        examples: inputs, at least 2 rows each.
        names: of the inputs.
        outputs: names of the outputs.
        purpose: names the network in messages.

    Raises:
        InputError: torch cannot export it.
    """
    plain = tuple(example.detach().contiguous() for example in examples)
    module = module.cpu().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    # With several inputs, the exporter refuses one name for the axis of all.
    rows = torch.export.Dim("n") if len(plain) == 1 else torch.export.Dim.DYNAMIC
    shapes = tuple({0: rows} for _ in plain)
    try:
        with _INTERNAL[0], _INTERNAL[1], _INTERNAL[2], _REGISTRATION:
            model = _export(module, plain, shapes, (names, outputs))
            if any(each.type.tensor_type.shape.dim[0].dim_value for each in model.graph.input):
                # Code such as ``len(images)`` fixes the number of images, unless it is compiled.
                traced = torch.export.export(module, plain, dynamic_shapes=shapes, strict=True)
                model = _export(traced, plain, shapes, (names, outputs))
    except Exception as error:  # torch raises many kinds
        raise InputError(
            f"{purpose}: torch {torch.__version__} cannot export it to ONNX ({_reason(error)}); "
            "change what the exporter names, or use a model published as ONNX: hub:OWNER/NAME"
        ) from error
    # The exporter records the source file of each operator, with this machine's paths.
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
    return bytes(model.SerializeToString())


def _export(
    module: torch.nn.Module | torch.export.ExportedProgram,
    examples: tuple[torch.Tensor, ...],
    shapes: tuple[Any, ...],
    names: tuple[tuple[str, ...], tuple[str, ...]],
) -> Any:
    program = torch.onnx.export(
        module,
        examples,
        dynamic_shapes=shapes,
        input_names=list(names[0]),
        output_names=list(names[1]),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return program.model_proto


def _reason(error: Exception) -> str:
    """Return what the exporter says went wrong, behind its advice to developers of torch."""
    cause = error.__cause__ if isinstance(error, torch.onnx.OnnxExporterError) else None
    text = str(cause or error).strip() or type(error).__name__
    return " ".join(text.split())[:300]


MIN_COSINE = 0.9999
"""Smallest cosine that the two embeddings of an image may have.

Rounding errors of float32 leave more than 0.999999; a wrong operator or a missing layer leaves less
than 0.99. The similarity of two images changes by at most 3 points of 100, twice the distance
``sqrt(2 - 2 * 0.9999)``."""

MIN_NEIGHBORS = 0.99
"""Minimum share of nearest neighbors that both have: one in a hundred may be a near-tie."""

_NEIGHBORS = 10
_NEGLIGIBLE = 1e-3
"""Relative to the mean length of embeddings: shorter ones count as zero, and distances that differ
by less as equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportAgreement:
    """How well embeddings by ONNX Runtime agree with those by torch.

    Args:
        images: number of images compared.
        cosine: the smallest cosine between the two embeddings of an image; NaN if one of them is
            not finite.
        neighbors: share of the nearest neighbors among these images (10 of each, by Euclidean
            distance) that are nearest neighbors in torch too; ties count.
    """

    images: int
    cosine: float
    neighbors: float

    @property
    def sufficient(self) -> bool:
        """Whether both reach :data:`MIN_COSINE` and :data:`MIN_NEIGHBORS`."""
        return self.cosine >= MIN_COSINE and self.neighbors >= MIN_NEIGHBORS

    def __str__(self) -> str:
        return (
            f"smallest cosine {self.cosine:.6f}, at least {MIN_COSINE} expected; "
            f"{self.neighbors:.1%} of the nearest neighbors equal, at least {MIN_NEIGHBORS:.0%} "
            f"expected; on {self.images} images"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return images, cosine (None for NaN), neighbors and ``sufficient`` as JSON values."""
        return {
            "images": self.images,
            "cosine": self.cosine if np.isfinite(self.cosine) else None,
            "neighbors": self.neighbors,
            "sufficient": self.sufficient,
        }


def compare_embeddings(
    expected: NDArray[np.float32], actual: NDArray[np.float32]
) -> ExportAgreement:
    """Compare embeddings ``(n, dim)`` of the same n >= 2 images by torch and by ONNX Runtime."""
    count = len(expected)
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return ExportAgreement(images=count, cosine=float("nan"), neighbors=0.0)
    one, other = expected.astype(np.float64), actual.astype(np.float64)
    lengths, other_lengths = (np.linalg.norm(rows, axis=1) for rows in (one, other))
    negligible = _NEGLIGIBLE * float(np.concatenate([lengths, other_lengths]).mean())
    products = np.maximum(lengths * other_lengths, np.finfo(np.float64).tiny)
    cosines = (one * other).sum(axis=1) / products
    both_zero = np.maximum(lengths, other_lengths) <= negligible
    k = min(_NEIGHBORS, count - 1)
    distances = _distances(one)
    limits = np.sort(distances, axis=1)[:, k - 1, None] + negligible
    nearest = np.argsort(_distances(other), axis=1)[:, :k]
    return ExportAgreement(
        images=count,
        cosine=float(np.where(both_zero, 1, cosines).min()),
        neighbors=float((np.take_along_axis(distances, nearest, 1) <= limits).mean()),
    )


def _distances(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Euclidean distances ``(n, n)`` between rows, infinite to themselves."""
    squares = (rows * rows).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0))
    np.fill_diagonal(distances, np.inf)
    return np.asarray(distances)
