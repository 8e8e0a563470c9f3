"""Exceptions: parameters in messages, nearest names, and the trip to another process."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType

import pytest

from lookalike.errors import (
    InputError,
    MissingDependencyError,
    ServiceError,
    SettingError,
    UnknownNameError,
    require,
)


def test_parameters_read_as_keywords_in_python() -> None:
    error = SettingError("{dim} must be at least 1; {metric} is fixed", dim=0, metric=None)
    assert str(error) == "dim=0 must be at least 1; metric is fixed"


def test_other_interfaces_write_parameters_in_their_own_way() -> None:
    error = SettingError("{dim} must be at least 1", dim=0)
    assert (
        error.format_message(lambda name, value: f"--{name} {value}")
        == "--dim 0 must be at least 1"
    )


def test_braces_that_name_no_parameter_stay() -> None:
    error = InputError("{a} is not {b}; {} and {c d}", a=1)
    assert str(error) == "a=1 is not {b}; {} and {c d}"


@pytest.mark.parametrize(
    ("name", "hint"), [("hgo", ": did you mean 'hog'? available:"), ("xyz", "; available:")]
)
def test_unknown_names_name_the_nearest(name: str, hint: str) -> None:
    error = UnknownNameError("encoder", name, ["pixels", "hog"])
    assert str(error) == f"unknown encoder {name!r}{hint} hog, pixels"


def test_a_missing_package_is_named_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require("json", "a test", "none")
    message = r"a test needs the package 'no_such': pip install 'lookalike\[extra\]'"
    with pytest.raises(MissingDependencyError, match=message):
        require("no_such", "a test", "extra")
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(MissingDependencyError):
        require("json", "a test", "none")
    monkeypatch.setitem(sys.modules, "json", ModuleType("json"))  # without a spec
    require("json", "a test", "none")


def test_errors_can_be_pickled() -> None:
    for error in (
        SettingError("{dim} must be at least 1", dim=0),
        UnknownNameError("encoder", "hgo", ["hog"]),
        ServiceError("no", status=404, kind="not-found"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.__dict__ == error.__dict__
