"""What every demo returns, and the commands it shows."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from lookalike.evaluation.results import Evaluation
from lookalike.search.hits import Hits


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The outcome of a demo.

    ``hits`` are the results of its example query, drawn in the file ``figure``; ``report`` is the
    HTML report, ``seconds`` the run time, and ``next_commands`` are commands to try.
    """

    evaluation: Evaluation
    hits: Hits
    gallery: Path
    report: Path
    figure: Path
    seconds: float
    next_commands: tuple[str, ...]


def shell_command(*arguments: str | Path | int | float) -> str:
    """Return a ``lookalike`` command line, quoted for a shell where necessary."""
    return " ".join(("lookalike", *(_quote(str(each)) for each in arguments)))


def shell_line(*arguments: str | Path | int | float) -> str:
    """Return a command line as demos show it among their steps."""
    return f"   $ {shell_command(*arguments)}"


def _quote(argument: str) -> str:
    quoted = shlex.quote(argument)
    if quoted != argument and not set('"$`\\') & set(argument):
        return f'"{argument}"'  # easier to read around single quotes
    return quoted
