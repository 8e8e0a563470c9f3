"""Names replaced in the rebuild do not come back: in docs, help pages, code and file names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from lookalike.cli import app

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "lookalike"

OPTIONS = (
    "--parts --words --grounds --street --self --truth --ways --given --reroot --passes "
    "--judgements"
)
"""Options that no command has any more."""

WORDS = (
    "first_right map_found map_gain in_none takes_text rows-away changeable self_retrieval "
    "labelling labelled colour grey neighbour neighbourhood normalised licence "
    "PairEncoder _Crew"
)
"""Keys, names and British spellings that occur nowhere."""

PHRASES = (
    r"label spread",
    r"label check\b",
    r"(train|adapt) [^\n]*--views(?![-\w])",
    r"evaluate [^\n]*--keep\b",
    r"lookalike [a-z]+ [^\n]*\s-n\b",
    r"--rerank (?:\S+\+)?(expand|augment|reciprocal|diffuse|spatial)\b",
)
"""Commands that have another form now."""

IDENTIFIERS = (
    "Look Views Known Done Work Sent Shared _Crew _hire furthest tend Right Basis Notes Given "
    "Suspect Faith outlying spare Told Ask Served Way Tried PairEncoder assess self_retrieval "
    "summed from_first"
)
"""Names that no class, function, parameter or variable has."""

MODULES = (
    "homes judged kept verdicts ways originals invariance truths hit_judgements judgement_files "
    "asking choosing trials reading street redrawing distortions view_making encoders/pairs own "
    "classic discriminant wrappers catalog catalogue catalogues copies mapping atlas processes "
    "training/contrasting training/views objectives training/run gate drawing server/pictures "
    "telemetry fetching decoding decoder server/keys screen launched folders checkup"
)
"""Modules that are called otherwise now, some with their package."""

WORDINGS = (
    "Say more on stderr",
    "Print the version",
    "Ask with a row of the gallery",
    "Ask with words",
    "How many hits for each query",
    "Only rows like these",
    "Only hits as near as this",
    "Look at every row",
    "Print a JSON line a query",
    "Also if over half of the source's rows go",
    "Then stay, and do it again",
    "Change nothing, only say",
    "are known again",
    "goes on where it was",
    "in torch's words",
    "Judge a gallery by labels",
    "0: any that is free",
    "Another name that the service goes by",
    "It is not kept: who loses it",
    "Tell the whole story",
    "nothing to search for: give",
    "not an image in a format that is read",
    "The service has enough to do",
    "There is no such page",
)
"""Sentences that were replaced."""


def help_pages() -> Iterator[tuple[str, str]]:
    """Yield the help page of each command by its name."""

    def pages(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
        context = typer.Context(command, info_name=name, parent=parent)
        yield context.command_path, command.get_help(context)
        for sub, each in getattr(command, "commands", {}).items():
            yield from pages(each, sub, context)

    return pages(typer.main.get_command(app), "lookalike", None)


def texts() -> dict[str, str]:
    """Return all texts that may hold no old name: docs, code, pages and scripts, help pages."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    paths += [path for path in SRC.rglob("*") if path.suffix in (".py", ".html", ".js", ".css")]
    paths.remove(SRC / "artifacts.py")  # reads formats 1 and 2, which have the old names
    by_name = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
    return by_name | {f"{name} --help": page for name, page in help_pages()}


TEXTS = texts()


def occurrences(pattern: str) -> list[str]:
    """Return the places of a pattern as NAME:LINE."""
    return [
        f"{name}:{text[: match.start()].count(chr(10)) + 1}"
        for name, text in TEXTS.items()
        for match in re.finditer(pattern, text)
    ]


@pytest.mark.parametrize("option", OPTIONS.split())
def test_old_options_are_gone(option: str) -> None:
    assert occurrences(rf"(?<![-\w]){option}(?![-\w])") == []


@pytest.mark.parametrize("word", WORDS.split())
def test_old_words_are_gone(word: str) -> None:
    assert occurrences(rf"\b{word}\b") == []


@pytest.mark.parametrize("phrase", PHRASES)
def test_old_commands_are_gone(phrase: str) -> None:
    assert occurrences(phrase) == []


@pytest.mark.parametrize("wording", WORDINGS)
def test_old_wordings_are_gone(wording: str) -> None:
    assert occurrences(r"\s+".join(map(re.escape, wording.split()))) == []


def _names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


def test_old_identifiers_are_gone() -> None:
    identifiers = set(IDENTIFIERS.split())
    assert [
        f"{name} at {path}:{line}"
        for path, text in TEXTS.items()
        if path.endswith(".py")
        for name, line in _names(ast.parse(text))
        if name in identifiers
    ] == []


def test_old_modules_are_gone() -> None:
    modules = {path.relative_to(SRC).with_suffix("").as_posix() for path in SRC.rglob("*.py")}
    old = [name for name in modules for each in MODULES.split() if f"/{name}".endswith(f"/{each}")]
    assert old == []
