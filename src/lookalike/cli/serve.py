"""lookalike serve: galleries over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli import console
from lookalike.formatting import format_count


def command(
    galleries: Annotated[
        list[str],
        typer.Argument(metavar="GALLERY", help="Gallery: FOLDER, NAME=FOLDER or milvus://..."),
    ],
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on; a public one needs --keys.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port (0 picks a free one).")
    ] = 8000,
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Key file; see lookalike key add.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Allow unauthenticated writes from localhost.")
    ] = False,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Allow query images by public URL.")
    ] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="Allowed Host header (repeatable).")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Allowed CORS origin (repeatable)."),
    ] = None,
) -> None:
    """Serve galleries over HTTP: a search page and an API.

      lookalike serve photos.gallery
      lookalike serve shop=products.gallery photos.gallery --port 0
      lookalike serve photos.gallery --host 0.0.0.0 --keys keys.json

    The page is at /, the API's description at /openapi.json.
    """
    import logging

    from lookalike.server.settings import ServeSettings, accepted_hosts, check_host, gallery_paths

    check_host(host, keys=keys is not None)
    paths = gallery_paths(galleries)
    console.require_package("fastapi", "serving galleries", "serve")
    from lookalike.gallery.gallery import Gallery
    from lookalike.server.api_keys import read_keys
    from lookalike.server.app import create_app
    from lookalike.server.uvicorn_server import listen, run

    settings = ServeSettings(
        keys=() if keys is None else read_keys(keys),
        allow_writes=write,
        allow_urls=allow_urls,
        hosts=accepted_hosts(host, allow_host or ()),
        origins=tuple(allow_origin or ()),
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    opened = {name: Gallery.open(path) for name, path in paths.items()}
    app = create_app(opened, settings)
    listening = listen(host, port)
    address, chosen_port = listening.getsockname()[:2]
    url_host = f"[{address}]" if ":" in address else address
    for name, gallery in opened.items():
        console.note(f"{name}: {format_count(len(gallery), 'row')}, {gallery.encoder.name}")
    console.note(f"serving at http://{url_host}:{chosen_port}/ (Ctrl-C to stop)")
    run(app, listening, settings.limits)
