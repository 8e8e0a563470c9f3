"""A few rounds of ``faults.py`` and ``store_faults.py`` in ``benchmarks``, which run by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from benchmarks import faults, store_faults
from benchmarks.faults import CASES

from lookalike.gallery.gallery import Gallery
from tests.conftest import Require

pytestmark = pytest.mark.slow


def quiet(_: str) -> None:
    """Print nothing."""


def test_killed_commands_lose_and_double_nothing(tmp_path: Path) -> None:
    report = faults.kill_rounds(tmp_path / "kill", rounds=12, seed=1, say=quiet)
    assert report.faults == []
    assert sum(report.rounds.values()) == 12
    assert report.killed
    assert report.acknowledged_rows > 50
    assert report.acknowledged_labels >= 24


def test_a_lost_row_would_be_found(tmp_path: Path) -> None:
    """The ledger notices rows that vanish, change or appear, and labels that are gone."""
    rounds = faults.KillRounds(tmp_path / "kill", seed=2)
    try:
        rounds._check("before")
        assert rounds.report.faults == []
        gallery = Gallery.open(rounds.gallery)
        gallery.remove(["photos:stable-03.png"])
        rounds._check("after")
    finally:
        rounds.launcher.close()
    assert len(rounds.report.lost) == 1
    assert "photos:stable-03.png is None" in rounds.report.lost[0]
    assert len(rounds.report.labels_lost) == 1


def test_a_full_disk_leaves_the_old_state(tmp_path: Path) -> None:
    names = {"index, more rows", "export, npy", "label propagate --write"}
    cases = [case for case in CASES if case.name in names]
    report = faults.full_disk(tmp_path / "space", cases, shares=(0.0, 0.6))
    assert report.faults == []
    assert len(cases) == len(names)
    assert report.attempts >= 6
    assert report.refused >= 4


def test_reads_during_writes_have_no_errors(tmp_path: Path) -> None:
    report = faults.reads_during_writes(tmp_path / "reads", reads=60)
    assert report.errors == []
    assert report.reads == 60
    assert report.commits > 0


def test_every_odd_file_is_accounted_for(tmp_path: Path) -> None:
    report = faults.odd_files(tmp_path / "odd")
    assert report.problems == []
    assert report.files == report.added + report.failed + report.skipped
    assert min(report.added, report.failed, report.skipped) > 0


def test_a_store_killed_at_random_moments_is_that_of_a_commit(tmp_path: Path) -> None:
    report = store_faults.run_kills(tmp_path, 8, seed=1)
    assert report.faults == []
    assert report.counts["rounds"] == 8
    assert report.counts["acknowledged writes"] > 0


def test_a_store_that_lost_a_commit_would_be_found(tmp_path: Path) -> None:
    rounds = store_faults.KillRounds(tmp_path / "x.gallery" / "store", seed=1)
    assert store_faults.differences(rounds.folder, rounds.model, seed=1) == []
    lost = {"s:1-1": store_faults.Item(1, 1, 1)}
    assert "the rows are others" in store_faults.differences(rounds.folder, lost, seed=1)


@pytest.mark.parametrize("kind", ["insert", "delete"])
def test_each_system_call_may_fail(tmp_path: Path, require: Require, kind: str) -> None:
    require(shutil.which("cc"), "calls are intercepted by a library in C")
    report = store_faults.run_calls(tmp_path, [kind], every=20)
    assert report.faults == []
    assert report.counts["refused"] > 0
    assert report.counts["killed"] > 0


@pytest.mark.parametrize(("kind", "every"), [("replace", 20), ("graph", 2_000)])
def test_the_power_may_be_cut_anywhere(
    tmp_path: Path, require: Require, kind: str, every: int
) -> None:
    require(shutil.which("cc"), "calls are recorded by a library in C")
    report = store_faults.run_cuts(tmp_path, [kind], every=every)
    assert report.faults == []
    assert report.counts["states"] > 10


def test_one_bit_is_noticed_or_has_no_effect(tmp_path: Path) -> None:
    report = store_faults.run_flips(tmp_path, 2, seed=1)
    assert report.faults == []
    assert report.counts["noticed by the check"] > 5
