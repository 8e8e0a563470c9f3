"""The command line: one module a command, each importing what it needs only when it runs."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lookalike.cli.adapt import command as adapt
from lookalike.cli.choose import command as choose
from lookalike.cli.commands import HELP_NAMES, Command, Group, message, usage_message
from lookalike.cli.configuration import ConfiguredCommand
from lookalike.cli.console import any_encoding, note
from lookalike.cli.copy import command as copy
from lookalike.cli.demo import command as demo
from lookalike.cli.doctor import command as doctor
from lookalike.cli.evaluate import app as evaluate
from lookalike.cli.explore import app as explore
from lookalike.cli.export import command as export
from lookalike.cli.index import command as index
from lookalike.cli.info import command as info
from lookalike.cli.key import app as key
from lookalike.cli.label import app as label
from lookalike.cli.listings import datasets, encoders, recipes
from lookalike.cli.logs import notices
from lookalike.cli.remove import command as remove
from lookalike.cli.search import command as search
from lookalike.cli.serve import command as serve
from lookalike.cli.torchrun import only_main_prints
from lookalike.cli.train import command as train
from lookalike.errors import LookalikeError

_PANELS = {
    "Index and search": ("index", "search", "remove", "serve", "key", "info", "copy", "export"),
    "Measure and choose": ("evaluate", "choose"),
    "Train encoders": ("encoders", "recipes", "train", "adapt"),
    "Explore and label": ("explore", "label"),
    "Setup and data": ("doctor", "demo", "datasets"),
}


class _Root(Group):
    """The command line itself; its help page lists the commands in the order of the panels.

    A folder or gallery in the place of a command is searched.
    """

    unknown = "no such command or folder"
    advice = "; to search a folder of images: lookalike FOLDER QUERY"

    def __init__(self, *, commands: dict[str, Any], **attributes: Any) -> None:
        ordered = {name: commands[name] for names in _PANELS.values() for name in names}
        for panel, names in _PANELS.items():
            for name in names:
                ordered[name].rich_help_panel = panel
        super().__init__(commands=ordered, **attributes)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that the first argument names, or the search of the path it is.

        A folder that is called like a command is given as a path: ``./search``.
        """
        first = args[0]
        if first not in self.commands and (os.path.lexists(first) or "://" in first):
            return "search", self.commands["search"], args
        return super().resolve_command(ctx, args)

    def suggestions(self) -> list[str]:
        """Return the commands, and the folders here that could be searched."""
        folders: list[str] = []
        with contextlib.suppress(OSError), os.scandir() as entries:
            names = (each.name for each in entries if each.is_dir())
            folders += [name for name in names if not name.startswith(".")]
        return [*self.commands, *sorted(folders)]


app = typer.Typer(
    name="lookalike",
    cls=_Root,
    help="Find similar images, and measure how well it works.\n\n"
    "  lookalike FOLDER QUERY.jpg\n"
    '  lookalike FOLDER "words"',
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help, in half the time
    context_settings=HELP_NAMES,
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "index": index,
    "search": search,
    "remove": remove,
    "serve": serve,
    "info": info,
    "copy": copy,
    "export": export,
    "choose": choose,
    "encoders": encoders,
    "recipes": recipes,
    "train": train,
    "adapt": adapt,
    "doctor": doctor,
    "demo": demo,
    "datasets": datasets,
}
_GROUPS = {"key": key, "evaluate": evaluate, "explore": explore, "label": label}
for _name, _command in _COMMANDS.items():
    app.command(_name, cls=ConfiguredCommand if _name == "serve" else Command)(_command)
for _name, _group in _GROUPS.items():
    app.add_typer(_group, name=_name)


def _print_version(wanted: bool) -> None:
    if wanted:
        from lookalike._version import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Verbose logging to stderr.")
    ] = False,
) -> None:
    del version
    if verbose:
        import logging

        from lookalike.cli.logs import log_to_stderr

        log_to_stderr(logging.INFO, "%(name)s: %(message)s")


_SURROUNDINGS = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "EDQUOT", "EFBIG", "EIO", "EMFILE", "ENFILE", "ENOSPC", "EPERM", "EROFS"),
        *("EISDIR", "ELOOP", "ENAMETOOLONG", "ENOTDIR", "ENXIO", "ESTALE", "ETIMEDOUT", "ETXTBSY"),
    )
    if hasattr(errno, name)
)
"""System errors that say what is wrong around the command: a full disk, a missing permission,
a path that cannot be one."""


def main() -> None:
    """Run the command line; a user's mistake is an error on stderr and exit code 2."""
    _replace_closed_output()
    with any_encoding(), only_main_prints(), notices():
        code: object = 0
        try:
            code = typer.main.get_command(app).main(prog_name="lookalike", standalone_mode=False)
            sys.stdout.flush()
        except LookalikeError as error:
            _fail(_without_forged_lines(message(error)))
        except typer.TyperException as error:
            _fail(usage_message(error))
        except BrokenPipeError:  # the reader, such as head, has seen enough
            _discard_output()
            sys.exit(1)
        except OSError as error:
            if error.errno not in _SURROUNDINGS:
                raise
            _discard_output()
            _fail(f"{error.filename or 'output'}: {error.strerror}")
        if isinstance(code, int) and code:
            sys.exit(code)


def _replace_closed_output() -> None:
    """Write to nowhere where the process was started without stdout or stderr."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - stays


def _discard_output() -> None:
    """Drop what stdout could not write, so that it is not tried again when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _without_forged_lines(text: str) -> str:
    """Escape line ends in names, which could look like lines of the command; lists are indented."""
    return re.sub(r"\n(?! )", r"\\n", text)


def _fail(text: str) -> None:
    note(f"lookalike: error: {text}")
    sys.exit(2)
