"""What is imported when; the order of imports is held by ``lint-imports`` (pyproject.toml)."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "cv2",
    "fastapi",
    "lance",
    "matplotlib",
    "numpy",
    "onnxruntime",
    "pymilvus",
    "ray",
    "scipy",
    "skimage",
    "sklearn",
    "starlette",
    "torch",
)


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["train", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys\nsys.argv = ['lookalike', *{arguments!r}]\n"
        "from lookalike.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "loaded = {n.split('.')[0] for n in sys.modules}\n"
        f"print('LOADED', sorted(loaded & set({HEAVY!r})))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: lookalike" in run.stdout
    assert run.stdout.strip().endswith("LOADED []")


def test_evaluation_loads_scipy_stats_only_when_it_needs_it() -> None:
    modules = "metrics, human_judgements, agreement"
    code = (
        f"import sys\nfrom lookalike.evaluation import {modules}\n"
        "print('scipy.stats' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
