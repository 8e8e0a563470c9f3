"""The command line: one module a verb, each loading what it needs only when it runs."""

from __future__ import annotations

import sys

import typer

from lookalike.cli.adapt import command as adapt
from lookalike.cli.choose import command as choose
from lookalike.cli.copy import command as copy
from lookalike.cli.demo import command as demo
from lookalike.cli.doctor import command as doctor
from lookalike.cli.evaluate import command as evaluate
from lookalike.cli.explore import app as explore
from lookalike.cli.export import command as export
from lookalike.cli.index import command as index
from lookalike.cli.info import command as info
from lookalike.cli.key import app as key
from lookalike.cli.label import app as label
from lookalike.cli.listings import datasets, encoders, recipes
from lookalike.cli.search import command as search
from lookalike.cli.serve import command as serve
from lookalike.cli.torchrun import one_voice
from lookalike.cli.train import command as train
from lookalike.errors import LookalikeError

app = typer.Typer(
    name="lookalike",
    help="Find the images that look like yours.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help, in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo)
app.command("train")(train)
app.command("adapt")(adapt)
app.command("index")(index)
app.command("search")(search)
app.command("evaluate")(evaluate)
app.command("choose")(choose)
app.add_typer(label, name="label")
app.add_typer(explore, name="explore")
app.command("copy")(copy)
app.command("serve")(serve)
app.add_typer(key, name="key")
app.command("info")(info)
app.command("export")(export)
app.command("doctor")(doctor)
app.command("encoders")(encoders)
app.command("recipes")(recipes)
app.command("datasets")(datasets)


def _print_version(asked: bool) -> None:
    if asked:
        from lookalike._version import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version."
    ),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Say more on stderr."),
) -> None:
    del version
    if verbose:
        import logging

        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    with one_voice():
        try:
            app()
        except LookalikeError as error:
            print(f"lookalike: error: {error}", file=sys.stderr)
            sys.exit(2)
