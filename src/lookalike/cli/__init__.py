"""The command line: one module a command, each importing what it needs only when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lookalike.cli.adapt import command as adapt
from lookalike.cli.choose import command as choose
from lookalike.cli.commands import HELP_NAMES, Command, Group, message, usage_message
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
from lookalike.cli.search import command as search
from lookalike.cli.serve import command as serve
from lookalike.cli.torchrun import only_main_prints
from lookalike.cli.train import command as train
from lookalike.errors import LookalikeError

app = typer.Typer(
    name="lookalike",
    cls=Group,
    help="Find similar images, and measure how well it works.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help, in half the time
    context_settings=HELP_NAMES,
)

_SEARCH, _QUALITY, _ENCODERS = "Index and search", "Measure and choose", "Encoders"
_COLLECTIONS, _SETUP = "Explore and label", "Setup and data"

app.command("index", cls=Command, rich_help_panel=_SEARCH)(index)
app.command("search", cls=Command, rich_help_panel=_SEARCH)(search)
app.command("serve", cls=Command, rich_help_panel=_SEARCH)(serve)
app.add_typer(key, name="key", rich_help_panel=_SEARCH)
app.command("info", cls=Command, rich_help_panel=_SEARCH)(info)
app.command("copy", cls=Command, rich_help_panel=_SEARCH)(copy)
app.command("export", cls=Command, rich_help_panel=_SEARCH)(export)
app.add_typer(evaluate, name="evaluate", rich_help_panel=_QUALITY)
app.command("choose", cls=Command, rich_help_panel=_QUALITY)(choose)
app.add_typer(explore, name="explore", rich_help_panel=_COLLECTIONS)
app.add_typer(label, name="label", rich_help_panel=_COLLECTIONS)
app.command("encoders", cls=Command, rich_help_panel=_ENCODERS)(encoders)
app.command("train", cls=Command, rich_help_panel=_ENCODERS)(train)
app.command("recipes", cls=Command, rich_help_panel=_ENCODERS)(recipes)
app.command("adapt", cls=Command, rich_help_panel=_ENCODERS)(adapt)
app.command("doctor", cls=Command, rich_help_panel=_SETUP)(doctor)
app.command("demo", cls=Command, rich_help_panel=_SETUP)(demo)
app.command("datasets", cls=Command, rich_help_panel=_SETUP)(datasets)


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

        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


def main() -> None:
    """Run the command line; a user's mistake is an error on stderr and exit code 2."""
    with only_main_prints():
        code: object = 0
        try:
            code = typer.main.get_command(app).main(prog_name="lookalike", standalone_mode=False)
        except LookalikeError as error:
            _fail(message(error))
        except typer.TyperException as error:
            _fail(usage_message(error))
        if isinstance(code, int) and code:
            sys.exit(code)


def _fail(text: str) -> None:
    print(f"lookalike: error: {text}", file=sys.stderr)
    sys.exit(2)
