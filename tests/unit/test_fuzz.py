"""Fuzz targets: inputs that were crashes, and a few new ones of each target."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from lookalike.cancellation import check_cancelled
from lookalike.errors import InputError
from tests.fuzz.engine import Target, mutations, replay
from tests.fuzz.targets import CASES, TARGETS, target

_COUNT = 60
_FILES = sorted(path for path in CASES.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", _FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_input_that_was_a_crash_is_none(path: Path) -> None:
    assert replay(target(path.parent.name), path.read_bytes()) == ""


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_are_taken_or_refused(name: str) -> None:
    outcome = mutations(target(name), _COUNT)
    assert [crash.detail for crash in outcome.crashes] == []
    assert outcome.inputs == _COUNT + len(target(name).seeds)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_valid(name: str) -> None:
    """A target whose seeds are refused at once reaches little of its parser."""
    chosen = target(name)
    outcome = mutations(chosen, 0)
    assert outcome.taken >= 1, outcome.summary()


def test_the_engine_tells_crashes_from_refusals() -> None:
    inputs = itertools.count()

    def parse(_: bytes) -> None:
        number = next(inputs)
        if number % 3 == 1:
            raise InputError("no")
        if number % 3 == 2:
            raise KeyError("oops")

    outcome = mutations(Target("t", parse, (b"seed",)), 299)
    assert (outcome.inputs, outcome.taken, outcome.crashed) == (300, 100, 100)
    assert outcome.refused == {"InputError": 100}
    (crash,) = outcome.crashes  # one for each place
    assert crash.reason == "KeyError: 'oops'"


def test_documented_exceptions_are_no_crashes() -> None:
    def parse(_: bytes) -> None:
        raise KeyError

    assert mutations(Target("t", parse, (b"",), refuses=(KeyError,)), 10).crashed == 0
    assert mutations(Target("t", parse, (b"",)), 10).crashed == 11


def test_an_input_that_takes_too_long_is_a_crash() -> None:
    def parse(_: bytes) -> None:
        while True:
            check_cancelled()

    def busy(_: bytes) -> None:
        while True:
            pass

    for run in (parse, busy):
        outcome = mutations(Target("t", run, (b"",), seconds=0.05), 0)
        assert outcome.crashed == 1


def test_the_same_seed_is_the_same_inputs() -> None:
    def inputs(seed: int) -> list[bytes]:
        seen: list[bytes] = []
        for name in ("filter-text", "filter-structure", "exif"):
            chosen = target(name)
            spy = Target(name, seen.append, chosen.seeds, chosen.mutate)
            mutations(spy, 30, seed)
        return seen

    assert inputs(1) == inputs(1)
    assert inputs(1) != inputs(2)
