"""Nothing that a package does on its own tells anybody that, or on what, lookalike is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ENCODES = """
import numpy as np
from lookalike.encoders.registry import open_encoder
image = np.zeros((28, 28), np.uint8)
open_encoder("untrained", [image]).encode([image])
"""
_SUPPRESS = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")


def test_onnx_runtime_keeps_no_device_id_and_sends_nothing(tmp_path: Path) -> None:
    """It would leave both in the cache folder, and wait for a connection to send them by."""
    kept = {name: value for name, value in os.environ.items() if name not in _SUPPRESS}
    subprocess.run(
        [sys.executable, "-c", _ENCODES], env={**kept, "HOME": str(tmp_path)}, check=True
    )
    assert [path.name for path in tmp_path.rglob("*onnxruntime*")] == []


def test_the_variable_is_left_as_it_was() -> None:
    code = f"{_ENCODES}\nimport os\nprint(os.environ.get('ORT_DISABLE_TELEMETRY'))"
    for value in ("0", None):
        given = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
        given |= {} if value is None else {"ORT_DISABLE_TELEMETRY": value}
        done = subprocess.run(
            [sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == str(value)
