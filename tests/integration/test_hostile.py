"""Small versions of ``benchmarks/hostile.py``, which runs for an hour by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import hostile

from lookalike.gallery.gallery import Gallery

pytestmark = pytest.mark.slow


def quiet(_: str) -> None:
    """Print nothing."""


def test_a_service_killed_during_writes_loses_nothing(tmp_path: Path) -> None:
    report = hostile.kills(tmp_path / "kills", rounds=4, seed=1, say=quiet)
    assert report.problems == []
    assert report.rounds == 4
    assert report.acknowledged > 0


def test_a_lost_write_would_be_found(tmp_path: Path) -> None:
    kills = hostile.ServiceKills(tmp_path / "kills", seed=2)
    try:
        kills.run(1, quiet)
    finally:
        kills.launcher.close()
    present = [row_id for row_id, states in kills._allowed.items() if None not in states]
    assert present
    Gallery.open(kills.gallery).remove(present[:1])
    kills._check()
    assert len(kills.report.problems) == 1
    assert f"{present[0]} is None" in kills.report.problems[0]


def test_a_service_under_attack_answers_others(tmp_path: Path) -> None:
    report = hostile.soak(tmp_path / "soak", minutes=0.1, clients=8)
    assert set(report.statuses) == {"200"}
    assert not report.restarted
    assert report.stop_code == 0
    assert sum(report.attacks.values()) > 0
    assert max(report.memory) < hostile.MAX_MEMORY
