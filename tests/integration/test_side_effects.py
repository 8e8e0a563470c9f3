"""Training, adapting and export do not change the state of the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import lookalike as la
from lookalike.encoders.export import to_onnx
from lookalike.errors import ArtifactError, SettingError
from lookalike.sources import Source, open_source
from lookalike.training.adapt import AdaptOptions, adapt
from lookalike.training.options import TrainingOptions
from lookalike.training.train import train
from lookalike.training.untrained import untrained_model
from lookalike.types import Progress
from tests.process_state import unchanged

LOGGERS = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx")
ONCE = TrainingOptions(epochs=1, seed=7)


@pytest.fixture
def few() -> Source:
    return open_source("dataset:digits/train[:200]")


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """Import the modules of torch's exporter first: some set filters and variables on import."""
    to_onnx(torch.nn.Linear(3, 2), torch.zeros(2, 3))


@pytest.fixture(autouse=True)
def modified_torch_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set a number of threads and a random state other than those of training."""
    monkeypatch.setenv("LOOKALIKE_THREADS", "1")
    threads = torch.get_num_threads()
    with torch.random.fork_rng([]):
        torch.set_num_threads(3)
        torch.manual_seed(12345)
        yield
    torch.set_num_threads(threads)


def test_training_restores_the_process(few: Source, tmp_path: Path) -> None:
    with unchanged(*LOGGERS):
        train(few, recipe="report-conv-bn", out=tmp_path / "e", options=ONCE)


def test_training_uses_its_own_threads_and_random_numbers(few: Source, tmp_path: Path) -> None:
    threads = []

    def record(progress: Progress) -> None:
        threads.append(torch.get_num_threads())

    first = train(few, recipe="report-conv", out=tmp_path / "1", options=ONCE, progress=record)
    torch.rand(100)
    second = train(few, recipe="report-conv", out=tmp_path / "2", options=ONCE)
    assert threads[-1] == 1
    assert first.files()["model.safetensors"] == second.files()["model.safetensors"]


def test_failed_training_restores_the_process(few: Source, tmp_path: Path) -> None:
    with unchanged(*LOGGERS), pytest.raises(SettingError):
        train(few, recipe="report-conv", options=TrainingOptions(epochs=1, device="cuda:99"))
    options = TrainingOptions(epochs=1, resume=True)
    with unchanged(*LOGGERS), pytest.raises(ArtifactError):
        train(few, recipe="report-conv", out=tmp_path / "e", options=options)


def test_interrupted_training_restores_the_process(few: Source, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.task.startswith("train"):
            os.kill(os.getpid(), signal.SIGINT)

    with unchanged(*LOGGERS), pytest.raises(KeyboardInterrupt):
        train(few, recipe="report-conv", out=tmp_path / "e", options=ONCE, progress=interrupt)


def test_adapting_with_contrast_restores_the_process() -> None:
    few = open_source("dataset:digits/train[:30]")
    encoder = la.open_encoder("pixels", [item.image() for item in few])
    with unchanged(*LOGGERS):
        adapt(few, encoder=encoder, options=AdaptOptions(views_per_image=3, dim=8, contrast=True))


def test_export_restores_the_process() -> None:
    module = torch.nn.Linear(3, 2)
    with unchanged(*LOGGERS):
        to_onnx(module, torch.zeros(2, 3))
        untrained_model()


def test_the_openmp_variable_is_set_only_during_the_import_of_torch() -> None:
    code = (
        "import os, sys; before = dict(os.environ)\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': print(os.environ.get('OMP_WAIT_POLICY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import lookalike.training.pipeline\n"
        "new = {k for k, v in os.environ.items() if before.get(k) != v}\n"
        "print(sorted(k for k in new if not k.startswith(('TORCH', 'PYTORCH'))))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["PASSIVE", "[]"]


def test_training_does_not_touch_the_random_state_of_numpy(few: Source) -> None:
    np.random.seed(3)  # noqa: NPY002 - state of the program
    expected = np.random.rand(2)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    train(few, recipe="report-linear", options=ONCE)
    np.testing.assert_array_equal(np.random.rand(2), expected)  # noqa: NPY002
