"""lookalike serve: galleries over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import console


def command(
    galleries: Annotated[
        list[str], typer.Argument(help="Galleries, each as PATH or NAME=PATH, or milvus://...")
    ],
    host: Annotated[
        str, typer.Option(help="The address to listen at; others than this machine need --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    keys: Annotated[
        Path | None, typer.Option(help="A file of API keys, made with lookalike key add.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Without --keys: anybody here may add and delete.")
    ] = False,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch query images from public addresses.")
    ] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name that the service goes by.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A page's origin that may call it (CORS).")
    ] = None,
) -> None:
    """Serve galleries: an HTTP API, described at /openapi.json."""
    import logging

    from lookalike.server.settings import ServeSettings, check_host, hosts_of, named

    check_host(host, keys=keys is not None)
    paths = named(galleries)
    console.need("fastapi", "serving galleries", "serve")
    from lookalike.gallery.gallery import Gallery
    from lookalike.server.api_keys import read_keys
    from lookalike.server.app import create_app
    from lookalike.server.running import listen, run

    settings = ServeSettings(
        keys=() if keys is None else read_keys(keys),
        write=write,
        urls=allow_urls,
        hosts=hosts_of(host, allow_host or ()),
        origins=tuple(allow_origin or ()),
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    opened = {name: Gallery.open(path) for name, path in paths.items()}
    app = create_app(opened, settings)
    listening = listen(host, port)
    there, chosen = listening.getsockname()[:2]
    shown = f"[{there}]" if ":" in there else there
    for name, gallery in opened.items():
        console.note(f"{name}: {len(gallery):,} rows, {gallery.encoder.name}")
    console.note(f"serving at http://{shown}:{chosen}/ (Ctrl-C ends it)")
    run(app, listening, settings.limits)
