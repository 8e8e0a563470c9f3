"""Encoding speed of a contrastive encoder in ONNX Runtime, compared with torch.

    python benchmarks/encode.py [ENCODER]

Without an encoder folder, one is trained for half a minute first. Rounds alternate, so that other
load slows both. Measured are the network alone and, for a single image, ``encode`` as in a search.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lookalike.config import settings
from lookalike.encoders.base import Preprocessing
from lookalike.encoders.export import to_onnx
from lookalike.encoders.hog import FineHog
from lookalike.encoders.onnx import BATCH_SIZE, MODEL_FILE, NetworkEncoder, OnnxModel
from lookalike.encoders.persistence import load_encoder
from lookalike.sources import ArraySource, open_source
from lookalike.training.options import TrainingOptions
from lookalike.training.towers import Concatenated, FineHogModule, UnitLength, tower
from lookalike.training.train import train

ROUNDS = 15
BATCH = 256


def seconds_per_call(call: Callable[[], object], times: int) -> float:
    """Return the mean duration of a call in seconds."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def encode_batch(network: OnnxModel, batch: NDArray[np.float32]) -> None:
    """Run a batch as an encoder does, in chunks spread over threads."""
    chunks = [batch[start : start + BATCH_SIZE] for start in range(0, len(batch), BATCH_SIZE)]
    with ThreadPoolExecutor(settings().threads) as pool:
        list(pool.map(network, chunks))


def main() -> None:
    """Print both rates, their ratio, and the latency for one image."""
    source = open_source("dataset:mnist/train[:5000]")
    assert isinstance(source, ArraySource)
    torch.set_num_threads(settings().threads)
    if len(sys.argv) > 1:
        encoder = load_encoder(Path(sys.argv[1]))
    else:
        options = TrainingOptions(minutes=0.5, augment="digits")
        encoder = train(source, recipe="contrastive", options=options)
    assert isinstance(encoder, NetworkEncoder)
    fine = FineHog.fit("hog-fine", Preprocessing(28, 28, 1), list(source.images))
    halves = torch.nn.Sequential(tower(1, 28, 28), UnitLength(), torch.nn.Linear(128, 128))
    model = Concatenated(halves, FineHogModule(fine), 0.7).eval()
    exported = OnnxModel(to_onnx(model, torch.zeros(2, 1, 28, 28)), name="benchmark")
    batch = encoder.prepare(source.images[:BATCH])
    tensor = torch.from_numpy(batch)
    single = source.images[:1]
    rates: dict[str, list[float]] = {"torch": [], "ONNX Runtime": [], "one": []}
    with torch.inference_mode():
        np.testing.assert_allclose(exported(batch), model(tensor).numpy(), atol=1e-4)
        for _ in range(ROUNDS):
            rates["torch"].append(BATCH / seconds_per_call(lambda: model(tensor), 4))
            rates["ONNX Runtime"].append(
                BATCH / seconds_per_call(lambda: encode_batch(exported, batch), 4)
            )
            rates["one"].append(1000 * seconds_per_call(lambda: encoder.encode(single), 40))
    ratios = [a / b for a, b in zip(rates["ONNX Runtime"], rates["torch"], strict=True)]
    size = len(encoder.files()[MODEL_FILE]) / 1e6
    print(f"{settings().threads} threads, batches of {BATCH}, {ROUNDS} rounds, model {size:.1f} MB")
    for name in ("torch", "ONNX Runtime"):
        print(f"  {name:13} {statistics.median(rates[name]):8,.0f} images/s")
    print(
        f"  ratio         {statistics.median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    print(
        f"  one image     {statistics.median(rates['one']):8.3f} ms (best {min(rates['one']):.3f})"
    )


if __name__ == "__main__":
    main()
