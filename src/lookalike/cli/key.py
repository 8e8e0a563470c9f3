"""lookalike key: API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import console
from lookalike.cli.commands import Command, new_group
from lookalike.cli.options import AsJson

app = new_group("Manage API keys for lookalike serve --keys FILE.")

_File = Annotated[Path, typer.Argument(metavar="FILE", help="Key file; it stores hashes only.")]
_Name = Annotated[str, typer.Argument(metavar="NAME", help="Who or what the key is for.")]


@app.command("add", cls=Command)
def add_command(
    file: _File,
    name: _Name,
    write: Annotated[
        bool, typer.Option("--write", help="Allow adding, changing and deleting items.")
    ] = False,
) -> None:
    """Create a key and print it; the key is shown only once.

    lookalike key add keys.json alice --write
    """
    from lookalike.server.api_keys import add_key

    print(add_key(file, name, write=write))
    console.note(f"added to {file}: {name} ({_permissions(write)})")


@app.command("list", cls=Command)
def list_command(file: _File, as_json: AsJson = False) -> None:
    """List keys and their permissions."""
    from lookalike.server.api_keys import permission_problem, read_keys

    keys = read_keys(file)
    if as_json:
        console.print_json([{"name": key.name, "write": key.write} for key in keys])
    else:
        rows = [(key.name, _permissions(key.write)) for key in keys]
        console.print_table(("key", "permissions"), rows)
    problem = permission_problem(file)
    if problem is not None:
        console.note(f"warning: {problem}")


@app.command("remove", cls=Command)
def remove_command(file: _File, name: _Name) -> None:
    """Remove a key; a running service refuses it within a second."""
    from lookalike.server.api_keys import remove_key

    remove_key(file, name)
    console.note(f"removed from {file}: {name}")


def _permissions(write: bool) -> str:
    return "read, write" if write else "read"
