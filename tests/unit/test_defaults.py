"""The defaults of the command line are those of the functions that it calls."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

import pytest
from typer.main import get_command

import lookalike as la
from lookalike.cli import app
from lookalike.evaluation.candidates import ChooseOptions
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.ray_runner import RayRunner
from lookalike.server.settings import ServeSettings
from lookalike.sources import SourceOptions

_OUTPUT = ("as_json", "force", "out")
"""What only commands have: files that they write, and how they print."""


@dataclass(frozen=True)
class Case:
    """A command, what it calls, options of another name there, and what only the command has.

    ``fixed`` are options whose default is written in another way: both of them, and why.
    """

    calls: tuple[Callable[..., Any] | type, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    own: tuple[str, ...] = ()
    fixed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


CASES = {
    "train": Case(
        (la.train, la.TrainingOptions),
        own=("labels", "evaluate"),  # of the final evaluation
    ),
    "adapt": Case((la.adapt, la.AdaptOptions)),
    "choose": Case(
        (la.choose, ChooseOptions),
        {"encoder": "encoders"},
        own=("ask", "cheapest", "plot"),  # which of its results is written
    ),
    "evaluate": Case((la.evaluate,), own=("save", "report")),
    "evaluate robustness": Case((la.evaluate_robustness,), own=("report",)),
    "evaluate judgements": Case((la.evaluate_judgements,), own=("report",)),
    "explore map": Case((la.map,), own=("thumbnails",)),
    "explore clusters": Case((la.map,)),
    "explore outliers": Case((la.outliers,)),
    "explore duplicates": Case((la.duplicates,)),
    "label suggest": Case((la.suggest_labels,), own=("save",)),
    "label propagate": Case((la.propagate_labels,), own=("column",)),
    "label issues": Case((la.find_label_issues,), own=("k",)),  # how many are listed
    "search": Case(
        (Gallery.search, Gallery.browse, la.open_on_demand, SourceOptions),
        {"ids": "id"},
        own=(
            *("include_self", "preview", "paths", "null", "as_csv"),  # what is printed
            *("image", "matches", "open_sheet", "copy_to", "link_to"),
        ),
        fixed={"sort": (None, "id")},  # without it, images are listed by a search
    ),
    "index": Case(
        (Gallery.create, Gallery.sync, la.open_source, SourceOptions, RayRunner),
        # None: as the source was indexed before
        own=("ann", "watch", "window", "max_megapixels", "strict"),
        fixed={
            "runner": ("local", None),
            "pages": (None, "first"),
            "allow_private_urls": (None, False),
            "exif": (None, False),
            "gps": (None, False),
        },
    ),
    "export": Case((Gallery.export,)),
    "copy": Case((Gallery.copy_to,)),
    "serve": Case(
        (ServeSettings,),
        {
            "write": "allow_writes",
            "allow_host": "hosts",
            "allow_origin": "origins",
            "trusted_proxy": "trusted_proxies",
            "share_queries": "share_days",
        },
        own=(
            *("galleries", "config", "print_config", "host", "port"),
            *("audit_log", "log_format", "log_level"),
        ),
        fixed={
            "url_secret": (None, dataclasses.MISSING),  # a new one, made at the start
            "share_queries": (None, 0),
        },
    ),
}

WITHOUT_FUNCTION = ("info", "remove", "encoders", "recipes", "doctor", "demo", "datasets", "key")
"""Commands that only print, or call no function with defaults."""


def commands() -> Iterator[tuple[str, Callable[..., None]]]:
    """Yield all commands with their functions, those of groups as ``group command``."""
    root = get_command(app)
    assert hasattr(root, "commands")
    for name, command in root.commands.items():
        if getattr(command, "default", None) is not None:
            yield name, command.default.callback
        if not hasattr(command, "commands"):
            yield name, command.callback
        for sub_name, sub_command in getattr(command, "commands", {}).items():
            yield f"{name} {sub_name}", sub_command.callback


def defaults(call: Callable[..., Any] | type) -> dict[str, Any]:
    """Return the defaults of a function's parameters, or of a dataclass's fields."""
    if isinstance(call, type) and is_dataclass(call):
        return {each.name: each.default for each in fields(call)}
    parameters = inspect.signature(call).parameters.values()
    return {each.name: each.default for each in parameters}


def plain(default: Any) -> Any:
    """Return a default as both sides can write it: no list is None, members are their values."""
    if default is inspect.Parameter.empty or default in ((), [], ""):
        return None
    return default.value if isinstance(default, Enum) else default


def test_every_command_is_compared_or_has_nothing_to_compare() -> None:
    names = {name for name, _ in commands()}
    assert set(CASES) <= names
    left = {name for name in names - set(CASES) if name.split()[0] not in WITHOUT_FUNCTION}
    assert left == set()


@pytest.mark.parametrize("name", CASES)
def test_defaults_of_a_command_are_those_of_its_functions(name: str) -> None:
    case = CASES[name]
    function = inspect.unwrap(dict(commands())[name])
    own = {*case.own, *_OUTPUT}
    called: dict[str, Any] = {}
    for call in case.calls:
        called = defaults(call) | called
    assert [option for option in case.own if option in called] == []
    compared = {
        option: default
        for option, default in defaults(function).items()
        if default is not inspect.Parameter.empty and option not in own
    }
    assert compared.keys() | own >= case.names.keys() | case.fixed.keys()
    missing = [each for each in compared if case.names.get(each, each) not in called]
    assert missing == []
    different = {}
    for option, default in compared.items():
        pair = (plain(default), plain(called[case.names.get(option, option)]))
        expected = case.fixed.get(option)
        if pair != expected if expected else pair[0] != pair[1]:
            different[option] = pair
    assert different == {}
