"""No regular expression of this package takes more than linear time, whatever it is given.

All of them are found in the source. Each is tried on long texts of the characters that it names,
in a process that a signal ends if one text takes hundreds of times longer than it should.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import lookalike

LENGTH = 20_000
SECONDS = 1.5
"""Processor time for one text: a linear expression needs a hundredth of that."""

ROOT = Path(lookalike.__file__).parent
USES = {"match", "fullmatch", "search", "sub", "findall", "finditer", "split"}


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression in the source, and whether it is searched for or matched at one place."""

    place: str
    pattern: re.Pattern[str]
    uses: frozenset[str]

    def run(self, text: str) -> None:
        """Use the expression as the source does."""
        for name in sorted(self.uses):
            getattr(self.pattern, name if name in ("match", "fullmatch") else "search")(text)


def expressions() -> Iterator[Expression]:
    """Yield each expression for texts."""
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [
            (node, node.func)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        ]
        names = {
            id(node.value): each.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for each in node.targets
            if isinstance(each, ast.Name)
        }
        for node, function in calls:
            if not (isinstance(function.value, ast.Name) and function.value.id == "re"):
                continue
            if function.attr == "compile":
                name = names.get(id(node), "")
                uses = {f.attr for _, f in calls if ast.unparse(f.value) == name} & USES
                arguments = node.args
            else:
                uses, arguments = {function.attr} & USES, node.args[:1]
            values = [_value(each, path) for each in arguments]
            if uses and isinstance(values[0], str):
                place = f"{path.relative_to(ROOT).as_posix()}:{node.lineno}"
                yield Expression(place, re.compile(*values), frozenset(uses))  # type: ignore[call-overload]


def _value(node: ast.expr, path: Path) -> object:
    """Return the value of an expression of Python; None if it is known to callers only."""
    code = compile(ast.Expression(node), str(path), "eval")
    try:
        return eval(code, {"re": re})
    except NameError:
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        try:
            return eval(code, {**vars(importlib.import_module(name))})
        except NameError:
            return None


def hostile_texts(pattern: str) -> Iterator[str]:
    """Yield long texts of one or two of the characters that a pattern is about."""
    own = sorted({each for each in pattern if not each.isalnum()} | {pattern[:1]})
    characters = [*dict.fromkeys(["a", "1", " ", ".", "\n", "[", "'", *own])][:24]
    pairs = itertools.islice(itertools.permutations(characters, 2), 200)
    for unit in (*characters, *map("".join, pairs)):
        text = (unit * LENGTH)[:LENGTH]
        yield text + "!"
        yield "1" + text + "\0"


def try_all() -> None:
    """Try every expression; print each place before it. A signal ends one that takes too long."""
    for expression in expressions():
        sys.stdout.write(f"{expression.place}\n")
        sys.stdout.flush()
        for text in hostile_texts(expression.pattern.pattern):
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            expression.run(text)
    signal.setitimer(signal.ITIMER_PROF, 0)


def test_expressions_are_found() -> None:
    places = [expression.place for expression in expressions()]
    files = {place.partition(":")[0] for place in places}
    assert {"filters/text.py", "filters/conditions.py", "stores/words.py", "errors.py"} <= files
    assert len(places) >= 20


def run_in_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"from tests.unit.test_regular_expressions import *; {code}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT.parents[1],
    )


@pytest.mark.slow
def test_no_expression_backtracks() -> None:
    process = run_in_process("try_all()")
    last = process.stdout.splitlines()[-1:]
    assert process.returncode == 0, f"{last} takes too long, or failed: {process.stderr[-500:]}"


@pytest.mark.slow
def test_an_expression_that_backtracks_is_noticed() -> None:
    code = "signal.setitimer(signal.ITIMER_PROF, .5); re.compile('a+$').search('a' * 200_000 + '!')"
    assert run_in_process(code).returncode == -signal.SIGPROF
