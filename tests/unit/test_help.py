"""Help pages and usage errors of every command."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from lookalike.cli import app
from lookalike.cli.commands import DefaultGroup
from lookalike.errors import SettingError
from tests.integration.test_cli import lookalike

COLUMNS = 80
PYTHON_TYPES = re.compile(r"<\w+|\b(TEXT|INTEGER|FLOAT|PATH|BOOLEAN|RANGE|str|int|float|bool)\b")
OLD_WORDS = re.compile(
    r"(?<![\w\x22-])(hits?|asks?|asked|said|told|made|anew|perhaps|spread|colou?rs|normalised"
    r"|unless given|so many|looks? at|goes on|go on|ways|truth|in words"
    r"|-n|--parts|--words|--truth|--ways|--given|--reroot|--passes|--grounds|--street|--self"
    r"|--views|--judge)(?![\w-])"
)


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield all commands with the words that name them."""
    if isinstance(command, DefaultGroup):
        yield path, command.default
    else:
        yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*path, name))


ALL = dict(walk(typer.main.get_command(app)))


@pytest.fixture(params=ALL, ids=lambda path: "-".join(path) or "lookalike")
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The words that name a command."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    words: tuple[str, ...] = request.param
    return words


def page(path: tuple[str, ...]) -> str:
    shown = lookalike(*path, "--help")
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def entries(text: str) -> dict[str, list[str]]:
    """Return the lines of each argument and option."""
    lines_of: dict[str, list[str]] = {}
    for line in text.partition("\nOptions:\n")[2].splitlines():
        if re.match(r"  \S", line):
            lines_of[line.split("  ")[1]] = [line]
        elif line.startswith("    "):
            lines_of[list(lines_of)[-1]].append(line)
    return lines_of


def test_all_commands_are_found() -> None:
    assert {("search",), ("evaluate",), ("evaluate", "robustness"), ("label", "issues")} <= set(ALL)
    assert len(ALL) > 25


def test_help_fits_80_columns(path: tuple[str, ...]) -> None:
    assert max(map(len, page(path).splitlines())) <= COLUMNS


def test_help_has_no_python_types_and_no_old_words(path: tuple[str, ...]) -> None:
    text = page(path)
    assert PYTHON_TYPES.search(text) is None
    assert OLD_WORDS.search(text) is None


def test_options_have_help_of_at_most_two_lines(path: tuple[str, ...]) -> None:
    for lines in entries(page(path)).values():
        described = [
            line for line in lines if re.search(r"\S  +\S", line) or line.startswith("   ")
        ]
        assert 1 <= len(described) <= 2, lines


def test_parameters_have_metavars(path: tuple[str, ...]) -> None:
    for param in ALL[path].params:
        assert param.help, param.name
        assert param.help[-1] in ".)", param.help
        if param.param_type_name == "argument" or not param.is_flag:
            assert re.fullmatch(r"[A-Z][A-Z,:]*", param.metavar or ""), param.name


def test_summaries_fit_the_list_of_commands(path: tuple[str, ...]) -> None:
    assert "..." not in page(path).partition("Commands:")[2]
    if not path:
        listed = page(path).partition("Options:")[0].partition("\n\n")[2]
        assert "..." not in listed
        assert {words[0] for words in ALL if words} <= set(listed.split())


def test_the_default_of_k_is_shown() -> None:
    for command in ("search", "evaluate"):
        assert "-k K" in page((command,))
        assert "Results per query. [default: 7]" in page((command,))


def test_evaluate_lists_its_three_commands() -> None:
    text = page(("evaluate",))
    assert "Usage: lookalike evaluate [OPTIONS] GALLERY [QUERIES]" in text
    assert "\n  robustness " in text
    assert "\n  judgements " in text


TYPOS = {
    ("serach",): ("no such command or folder serach; did you mean search?", "lookalike"),
    ("evaluat", "x"): ("no such command or folder evaluat; did you mean evaluate?", "lookalike"),
    ("label", "isues"): ("no such command isues; did you mean issues?", "lookalike label"),
    ("evaluate", "robustnes", "x"): (
        "no such command robustnes; did you mean robustness?",
        "lookalike evaluate",
    ),
    ("search", "x", "--exclud"): ("no such option --exclud", "lookalike search"),
    ("search", "x", "--exat"): ("no such option --exat; did you mean --exact?", "lookalike search"),
    ("search", "x", "--multi"): (
        "no such option --multi; did you mean --multi-crop?",
        "lookalike search",
    ),
    ("evaluate", "robustness", "x", "--metrc"): (
        "no such option --metrc; did you mean --metric?",
        "lookalike evaluate robustness",
    ),
    ("search",): ("missing argument GALLERY", "lookalike search"),
    ("train", "x"): ("missing option --out", "lookalike train"),
    ("info", "a", "b"): ("unexpected argument b", "lookalike info"),
    ("search", "x", "-k", "seven"): ("-k must be a whole number", "lookalike search"),
    ("search", "x", "--max-distance", "far"): (
        "--max-distance must be a number",
        "lookalike search",
    ),
    ("serve", "x", "--port", "70000"): ("--port must be at most 65535", "lookalike serve"),
}


@pytest.mark.parametrize("arguments", TYPOS, ids=" ".join)
def test_usage_errors_are_one_line_and_name_the_help_page(arguments: tuple[str, ...]) -> None:
    message, command = TYPOS[arguments]
    shown = lookalike(*arguments)
    assert shown.returncode == 2
    assert shown.stdout == ""
    assert shown.stderr == f"lookalike: error: {message}\nTry: {command} --help\n"


def test_a_group_without_a_command_shows_its_help() -> None:
    shown = lookalike("label")
    assert shown.returncode == 2
    assert "Usage: lookalike label" in shown.stderr


def test_errors_write_parameters_as_options() -> None:
    shown = lookalike("search", "none.gallery", "a.png")
    assert shown.stderr.startswith("lookalike: error: none.gallery: not a gallery")
    shown = lookalike("choose", "dataset:digits/test", "--ask", "1", "-o", "x")
    assert shown.stderr == "lookalike: error: --ask 1 must be at least 2\n"
    shown = lookalike("index", "x.gallery", "x", "--watch", "--dry-run")
    assert shown.stderr == "lookalike: error: --watch and --dry-run exclude each other\n"


def test_errors_write_other_values_as_python_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gallery.json").touch()

    def fail(*_: object, **__: object) -> None:
        raise SettingError(
            "{k} with {where}, {train}, {gallery}, {query}, {depth}",
            k=3,
            where="year > 3",
            train=False,
            gallery="a.gallery",
            query=None,
            depth=2,
        )

    monkeypatch.setattr("lookalike.gallery.gallery.Gallery.open", fail)
    shown = lookalike("search", tmp_path, "--text", "x")
    assert shown.stderr == (
        "lookalike: error: -k 3 with --where 'year > 3', train=False, GALLERY a.gallery, QUERY, "
        "depth=2\n"
    )


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys; sys.argv = ['lookalike', '--help']\n"
        "from lookalike.cli import main\n"
        "main()\n"
        "print(sorted({'numpy', 'torch', 'rich', 'PIL', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
