"""Dependencies send no telemetry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

_ENCODES = """
import numpy as np
from lookalike.encoders.registry import open_encoder
image = np.zeros((28, 28), np.uint8)
open_encoder("untrained", [image]).encode([image])
"""
_SUPPRESS = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")


def test_onnx_runtime_stores_no_device_id_and_sends_no_telemetry(tmp_path: Path) -> None:
    """It would queue both in the cache folder until there is a connection."""
    environment = {name: value for name, value in os.environ.items() if name not in _SUPPRESS}
    subprocess.run(
        [sys.executable, "-c", _ENCODES], env={**environment, "HOME": str(tmp_path)}, check=True
    )
    assert [path.name for path in tmp_path.rglob("*onnxruntime*")] == []


def test_environment_variable_is_restored() -> None:
    code = f"{_ENCODES}\nimport os\nprint(os.environ.get('ORT_DISABLE_TELEMETRY'))"
    for value in ("0", None):
        environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
        environment |= {} if value is None else {"ORT_DISABLE_TELEMETRY": value}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(value)
