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
        typer.Argument(
            metavar="GALLERY", help="Gallery or folder of images, NAME=FOLDER or milvus://..."
        ),
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
    allow_private_urls: Annotated[
        bool,
        typer.Option("--allow-private-urls", help="Fetch rows' images from private networks too."),
    ] = False,
    originals: Annotated[
        bool, typer.Option("--originals", help="Send image files with EXIF, GPS and comments.")
    ] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="Allowed Host header (repeatable).")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Allowed CORS origin (repeatable)."),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Proxy whose X-Forwarded-For to use (repeatable)."),
    ] = None,
    audit_log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append a line per write to FILE instead of stderr."),
    ] = None,
) -> None:
    """Serve galleries over HTTP: a search page and an API.

      lookalike serve photos.gallery
      lookalike serve photos
      lookalike serve shop=products.gallery photos.gallery --port 0
      lookalike serve photos.gallery --host 0.0.0.0 --keys keys.json

    The page is at /, the API's description at /openapi.json.
    """
    import logging

    from lookalike.cli.logs import log_to_file, log_to_stderr
    from lookalike.errors import require
    from lookalike.server.settings import (
        ServeSettings,
        accepted_hosts,
        check_host,
        check_origins,
        gallery_paths,
        proxy_addresses,
    )

    check_host(host, keys=keys is not None)
    check_origins(allow_origin or (), allow_writes=write, keys=keys is not None)
    proxies = proxy_addresses(trusted_proxy or ())
    paths = gallery_paths(galleries)
    require("fastapi", "serving galleries", "serve")
    from lookalike.gallery.on_demand import open_or_index
    from lookalike.server.api_keys import KeyFile, permission_problem
    from lookalike.server.app import create_app
    from lookalike.server.audit import AUDIT_LOG
    from lookalike.server.uvicorn_server import listen, run

    settings = ServeSettings(
        keys=() if keys is None else KeyFile(keys),
        allow_writes=write,
        allow_urls=allow_urls,
        allow_private_urls=allow_private_urls,
        originals=originals,
        hosts=accepted_hosts(host, allow_host or ()),
        origins=tuple(allow_origin or ()),
        trusted_proxies=proxies,
    )
    log_to_stderr(logging.WARNING, "%(levelname)s %(name)s: %(message)s")
    logging.getLogger(AUDIT_LOG).setLevel(logging.INFO)
    if audit_log is not None:
        log_to_file(AUDIT_LOG, audit_log)
    problem = None if keys is None else permission_problem(keys)
    if problem is not None:
        console.note(f"warning: {problem}")
    with console.progress() as on_progress:
        opened = {name: open_or_index(path, progress=on_progress) for name, path in paths.items()}
    app = create_app(opened, settings)
    listening = listen(host, port)
    address, chosen_port = listening.getsockname()[:2]
    url_host = f"[{address}]" if ":" in address else address
    for name, gallery in opened.items():
        console.note(f"{name}: {format_count(len(gallery), 'row')}, {gallery.encoder.name}")
        recorded = gallery.source_options.values()
        if not allow_private_urls and any(each.get("allow_private_urls") for each in recorded):
            console.note(
                f"{name}: images on private networks are not shown; to fetch them, start with "
                "--allow-private-urls"
            )
    console.note(f"serving at http://{url_host}:{chosen_port}/ (Ctrl-C to stop)")
    run(app, listening, settings.limits)
