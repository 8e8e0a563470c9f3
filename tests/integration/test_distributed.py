"""Training on two processes under torchrun: gradients, errors, stopping, exact resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lookalike.encoders.persistence import load_encoder
from lookalike.errors import SettingError
from lookalike.training import checkpoints, pipeline
from lookalike.training.distributed import SINGLE_PROCESS, ProcessGroup, current_group
from lookalike.training.loop import Schedule
from lookalike.training.options import TrainingOptions
from lookalike.training.recipes import RECIPES
from lookalike.training.train import train
from tests.distributed_run import SOURCE, WHOLE
from tests.integration.test_cli import lookalike
from tests.processes import children

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 300
TRAIN = (
    *("lookalike", "train", SOURCE, "-o", "e", "--no-evaluate", "--epochs", WHOLE.epochs),
    *("--seed", WHOLE.seed, "--augment", WHOLE.augment, "--size", WHOLE.size),
)


def torchrun(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    threads = {"OMP_NUM_THREADS": "1", "LOOKALIKE_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *start, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **threads, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(
    process: subprocess.Popen[str], meanwhile: Callable[[], None] = lambda: None
) -> tuple[int, str, str]:
    """Return exit status, stdout and stderr."""
    try:
        meanwhile()
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.terminate()
    return process.returncode, out, err


@dataclass(frozen=True)
class DistributedRun:
    """The results of two processes, and the folder of their files."""

    folder: Path
    results: tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def distributed_run(tmp_path_factory: pytest.TempPathFactory) -> DistributedRun:
    folder = tmp_path_factory.mktemp("distributed")
    code, _, err = wait_for(torchrun("tests.distributed_run", folder, cwd=ROOT))
    assert code == 0, err
    one, other = (json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))
    return DistributedRun(folder, (one, other))


def same(one: Path, other: Path) -> bool:
    weights, others = load_file(one), load_file(other)
    assert weights.keys() == others.keys()
    return all(torch.equal(value, others[name]) for name, value in weights.items())


def test_gradients_equal_those_of_one_process_with_the_whole_batch(
    distributed_run: DistributedRun,
) -> None:
    for result in distributed_run.results:
        assert set(result["gradients"]) == {"contrastive", "mean", "contrastive loss", "mean loss"}
        assert max(result["gradients"].values()) < 1e-14


def test_errors_and_reductions_are_shared_by_all_processes(distributed_run: DistributedRun) -> None:
    one, other = distributed_run.results
    assert one["errors"] == [["LookalikeError", "process 1 of 2: mine"], ["SettingError", "ours"]]
    assert other["errors"] == [["SettingError", "mine"], ["LookalikeError", "process 0 of 2: ours"]]
    for result in distributed_run.results:
        assert result["data"].startswith("the 2 processes have read different images")
        assert result["all_reduce_sum"] == [1, 1]
        assert result["all_reduce_max"] == [1, 1, 0.25]
    assert one["fingerprint"] == other["fingerprint"]


@pytest.mark.parametrize("recipe", ["contrastive", "report-conv-bn", "report-linear", "own"])
def test_an_interrupt_of_one_process_stops_all_and_resume_is_exact(
    recipe: str, distributed_run: DistributedRun
) -> None:
    assert all(result[f"{recipe} interrupted"] for result in distributed_run.results)
    whole, parts = (distributed_run.folder / f"{recipe}-{name}" for name in ("whole", "parts"))
    assert same(Path(f"{whole}-0.safetensors"), Path(f"{whole}-1.safetensors"))
    assert same(Path(f"{parts}-0.safetensors"), Path(f"{parts}-1.safetensors"))
    states = [json.loads((each / "checkpoint.json").read_text()) for each in (whole, parts)]
    assert same(whole / states[0]["weights"], parts / states[1]["weights"])
    one, other = ([epoch["curve"] for epoch in state["history"]] for state in states)
    assert one == other
    assert np.mean(one[-1]) < one[0][0]


def test_all_processes_stop_at_the_same_step_at_the_time_limit(
    distributed_run: DistributedRun,
) -> None:
    one, other = (distributed_run.folder / f"minutes-{rank}.safetensors" for rank in range(2))
    assert same(one, other)


def after_checkpoint(folder: Path, action: Callable[[], object]) -> Callable[[], None]:
    """Return a function that waits for the next checkpoint and then calls ``action``."""
    manifest = folder / "e" / "checkpoint" / "checkpoint.json"

    def modified() -> float:
        return manifest.stat().st_mtime if manifest.exists() else 0

    before = modified()

    def wait() -> None:
        end = time.monotonic() + TIMEOUT_S
        while modified() == before and time.monotonic() < end:
            time.sleep(0.02)
        action()

    return wait


def test_a_killed_and_then_interrupted_run_equals_an_uninterrupted_one(
    distributed_run: DistributedRun, tmp_path: Path
) -> None:
    process = torchrun(*TRAIN, cwd=tmp_path)

    def kill() -> None:
        os.kill(max(children(process.pid, named="lookalike")), signal.SIGKILL)

    code, out, err = wait_for(process, after_checkpoint(tmp_path, kill))
    assert (code, out) == (1, "")
    assert f"exitcode  : {-signal.SIGKILL}" in err  # torchrun's own report
    process = torchrun(*TRAIN, "--resume", cwd=tmp_path)
    interrupt = after_checkpoint(tmp_path, lambda: process.send_signal(signal.SIGINT))
    code, out, err = wait_for(process, interrupt)
    assert (code != 0, out) == (True, "")
    assert err.count("interrupted; resume with the same command and --resume") == 1
    state = json.loads((tmp_path / "e" / "checkpoint" / "checkpoint.json").read_text())
    assert 0 < state["epoch"] < (WHOLE.epochs or 0)
    code, out, err = wait_for(torchrun(*TRAIN, "--resume", cwd=tmp_path))
    assert code == 0, err
    assert out.count("e: contrastive, ") == out.count("8 epochs of 100 images") == 1
    assert err.count("next: lookalike index") == 1
    assert err.count("find neighbors") == 1
    encoder = load_encoder(tmp_path / "e")
    assert encoder.fingerprint == distributed_run.results[0]["fingerprint"]
    whole, parts = distributed_run.folder / "whole", tmp_path / "e"
    assert same(whole / "model.safetensors", parts / "model.safetensors")
    assert json.loads((parts / "encoder.json").read_text())["origin"]["processes"] == 2
    alone = replace(WHOLE, resume=True)
    with pytest.raises(SettingError, match="processes was 2, is 1"):
        train(SOURCE, recipe="contrastive", out=parts, options=alone)


def test_an_error_is_printed_once(distributed_run: DistributedRun) -> None:
    one, other = (result["command line"] for result in distributed_run.results)
    assert one == [2, "", "lookalike: error: --size 20 must be from 32 to 224 pixels\n"]
    assert other == [2, "", ""]
    assert not (distributed_run.folder / "refused").exists()


def test_other_processes_are_silent_unless_they_crash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lookalike.cli.torchrun._GRACE_S", 0)
    arguments = ("train", SOURCE, "-o", "e", "--epochs", "few")
    assert "--epochs" in lookalike(*arguments, cwd=tmp_path).stderr
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    monkeypatch.setenv("RANK", "1")
    done = lookalike(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    assert lookalike("recipes").stdout == ""
    monkeypatch.setattr("typer.main.get_command", lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        lookalike("recipes")


def test_a_run_of_one_process_is_not_resumed_by_two(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    checkpoints.save(tmp_path, checkpoints.TrainingState(run={"seed": 1}), model, optimizer)
    checkpoints.load(tmp_path, {"seed": 1}, model, optimizer)
    with pytest.raises(SettingError, match="processes was 1, is 2"):
        checkpoints.load(tmp_path, {"seed": 1, "processes": 2}, model, optimizer)


def test_collectives_of_one_process_return_their_input() -> None:
    rows = torch.arange(5)
    assert current_group() is SINGLE_PROCESS
    assert (SINGLE_PROCESS.is_main, SINGLE_PROCESS.device("cuda")) == (True, "cuda")
    assert SINGLE_PROCESS.all_gather(rows, 5) is rows
    assert torch.equal(SINGLE_PROCESS.shard(rows), rows)
    assert SINGLE_PROCESS.broadcast(lambda: 3) == 3


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shards_partition_the_batch_and_differ_by_at_most_one_row(count: int) -> None:
    rows = torch.arange(20)
    shards = [ProcessGroup(rank=rank, world_size=count).shard(rows) for rank in range(count)]
    assert torch.equal(torch.cat(shards), rows)
    assert {len(shard) for shard in shards} <= {20 // count, 20 // count + 1}


def test_every_process_gets_images_and_its_own_random_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = TrainingOptions(seed=1)
    monkeypatch.setattr(
        "lookalike.training.loop.current_group", lambda: ProcessGroup(rank=1, world_size=3)
    )
    schedule = Schedule.of(RECIPES["report-conv"], 62, options)
    assert [len(rows) for rows in schedule.batches(0, torch.device("cpu"))] == [20, 20, 20]
    numbers = {
        rank: replace(schedule, group=ProcessGroup(rank=rank, world_size=3)) for rank in range(3)
    }.values()
    state = checkpoints.TrainingState(run={}, step=1)
    seeds = {each.generator(state, torch.device("cpu")).initial_seed() for each in numbers}
    assert len(seeds) == 3
    with pytest.raises(
        SettingError, match="11 processes need a batch of at least 22 images; this run has 20"
    ):
        pipeline._check_batch(20, ProcessGroup(rank=0, world_size=11))


def test_cores_are_divided_among_processes_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOOKALIKE_THREADS", raising=False)
    cores = SINGLE_PROCESS.threads
    assert ProcessGroup(world_size=2, local_world_size=2).threads == max(1, cores // 2)
    monkeypatch.setenv("LOOKALIKE_THREADS", "3")
    assert ProcessGroup(world_size=2, local_world_size=2).threads == 3
    assert (
        ProcessGroup(rank=1, world_size=2, local_rank=1, local_world_size=2).device("cuda")
        == "cuda:1"
    )
