"""lookalike serve: galleries over HTTP."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from lookalike.cli.commands import message
from lookalike.cli.logs import Announcer, log_to_file, service_logs
from lookalike.errors import ArtifactError, LookalikeError, SettingError, require
from lookalike.formatting import format_count


def command(
    galleries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="GALLERY", help="Gallery or folder of images, NAME=FOLDER or milvus://..."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read options from a TOML file.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the options in effect (TOML) and exit.")
    ] = False,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on; a public one needs --keys.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port (0 picks a free one).")
    ] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", readable=False, help="Key file; see lookalike key add."),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Allow unauthenticated writes from localhost.")
    ] = False,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Allow query images by public URL.")
    ] = False,
    allow_webhooks: Annotated[
        bool, typer.Option("--allow-webhooks", help="Call public URLs when index jobs end.")
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
    url_secret: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Secret of signed URLs, the same for all replicas."),
    ] = None,
    url_seconds: Annotated[
        float,
        typer.Option(min=1, max=31_536_000, metavar="SECONDS", help="Validity of signed URLs."),
    ] = 3600.0,
    share_queries: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=3_650,
            metavar="DAYS",
            help="Store query images that visitors share a link to.",
        ),
    ] = None,
    share_folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of shared queries.", show_default="in the cache folder"
        ),
    ] = None,
    audit_log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append a line per write to FILE instead of stderr."),
    ] = None,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(metavar="FORMAT", help="Log lines as text or json."),
    ] = "text",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(metavar="LEVEL", help="debug, info (each request), warning or error."),
    ] = "warning",
) -> None:
    """Serve galleries over HTTP: a search page and an API.

      lookalike serve photos.gallery
      lookalike serve photos
      lookalike serve shop=products.gallery photos.gallery --port 0
      lookalike serve photos.gallery --host 0.0.0.0 --keys keys.json
      lookalike serve --config lookalike.toml

    The page is at /, the API's description at /openapi.json. Each option can also be in the file,
    and in a variable such as LOOKALIKE_SERVE_PORT.
    """
    from lookalike.server.settings import (
        ServeSettings,
        accepted_hosts,
        check_host,
        check_origins,
        gallery_paths,
        proxy_addresses,
    )

    del config, print_config  # see ConfiguredCommand
    with _logging(log_level, as_json=log_format == "json") as announce:
        check_host(host, keys=keys is not None)
        if share_folder is not None and share_queries is None:
            raise SettingError(
                "{share_folder} is where shared queries are stored: set {share_queries} to a "
                "number of days, too",
                share_folder=None,
                share_queries=None,
            )
        check_origins(allow_origin or (), allow_writes=write, keys=keys is not None)
        proxies = proxy_addresses(trusted_proxy or ())
        paths = gallery_paths(galleries or ())
        require("fastapi", "serving galleries", "serve")
        from lookalike.gallery.on_demand import open_or_index
        from lookalike.server.api_keys import KeyFile, permission_problem
        from lookalike.server.app import create_app
        from lookalike.server.audit import AUDIT_LOG
        from lookalike.server.signatures import new_secret, read_secret
        from lookalike.server.uvicorn_server import listen, run

        settings = ServeSettings(
            keys=() if keys is None else KeyFile(keys),
            allow_writes=write,
            allow_urls=allow_urls,
            allow_webhooks=allow_webhooks,
            allow_private_urls=allow_private_urls,
            originals=originals,
            hosts=accepted_hosts(host, allow_host or ()),
            origins=tuple(allow_origin or ()),
            trusted_proxies=proxies,
            url_secret=new_secret() if url_secret is None else read_secret(url_secret),
            url_seconds=url_seconds,
            share_days=share_queries or 0,
            share_folder=share_folder,
        )
        logging.getLogger(AUDIT_LOG).setLevel(logging.INFO)
        if audit_log is not None:
            log_to_file(AUDIT_LOG, audit_log)
        problem = None if keys is None else permission_problem(keys)
        if problem is not None:
            announce(problem, logging.WARNING)
        with announce.progress() as on_progress:
            opened = {}
            for name, path in paths.items():
                with _advising(path):
                    opened[name] = open_or_index(path, progress=on_progress)
        with _advising(*paths.values()):
            app = create_app(opened, settings)
        listening = listen(host, port)
        address, chosen_port = listening.getsockname()[:2]
        url_host = f"[{address}]" if ":" in address else address
        for name, gallery in opened.items():
            announce(f"{name}: {format_count(len(gallery), 'row')}, {gallery.encoder.name}")
            recorded = gallery.source_options.values()
            if not allow_private_urls and any(each.get("allow_private_urls") for each in recorded):
                announce(
                    f"{name}: images on private networks are not shown; to fetch them, start with "
                    "--allow-private-urls"
                )
        announce(f"serving at http://{url_host}:{chosen_port}/ (Ctrl-C to stop)")
        run(app, listening, settings.limits)


@contextlib.contextmanager
def _advising(*galleries: str) -> Iterator[None]:
    """Add what leads on to an error that says nothing of it: a permission, or a command."""
    from lookalike.stores.registry import is_address

    try:
        yield
    except (ArtifactError, PermissionError) as error:
        text = str(error)
        if isinstance(error, PermissionError):
            text = f"{error.filename}: cannot be read ({error.strerror})"
        path = next((each for each in galleries if each in text), galleries[0])
        if "lookalike " in text or is_address(path):
            raise
        if isinstance(error, PermissionError) or isinstance(error.__cause__, PermissionError):
            advice = f"let the service's group read it: chmod -R g+rX {shlex.quote(path)}"
        else:
            advice = f"to see what can be done: lookalike doctor {shlex.quote(path)} --deep"
        raise ArtifactError(f"{text}; {advice}") from error


@contextlib.contextmanager
def _logging(level: str, *, as_json: bool) -> Iterator[Announcer]:
    """Yield what prints a line about the service; in JSON, errors of its start are lines too."""
    with service_logs(level, as_json=as_json) as announce:
        try:
            yield announce
        except LookalikeError as error:
            if not as_json:
                raise
            announce(message(error), logging.ERROR)
            raise typer.Exit(2) from error
