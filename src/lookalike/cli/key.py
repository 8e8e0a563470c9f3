"""lookalike key: API keys of a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import console
from lookalike.cli.commands import Command, new_group

app = new_group("API keys for lookalike serve --keys FILE.")

_File = Annotated[Path, typer.Argument(help="The file of keys; it holds their hashes only.")]
_Name = Annotated[str, typer.Argument(help="Who or what the key is for.")]


@app.command("add", cls=Command)
def add(
    file: _File,
    name: _Name,
    write: Annotated[
        bool, typer.Option("--write", help="It may add, change and delete items too.")
    ] = False,
) -> None:
    """Make a key and print it. It is not kept: who loses it needs another one."""
    from lookalike.server.api_keys import add_key

    print(add_key(file, name, write=write))
    console.note(f"added to {file}: {name}, may {'read and write' if write else 'read'}")


@app.command("list", cls=Command)
def show(file: _File) -> None:
    """List the keys by name and what each may do."""
    from lookalike.server.api_keys import read_keys

    rows = [(key.name, "read, write" if key.write else "read") for key in read_keys(file)]
    console.print_table(("key", "may"), rows)


@app.command("remove", cls=Command)
def remove(file: _File, name: _Name) -> None:
    """Remove a key; a running service has it until it is started again."""
    from lookalike.server.api_keys import remove_key

    remove_key(file, name)
    console.note(f"removed from {file}: {name}")
