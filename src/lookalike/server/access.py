"""Who may send which request: host names, API keys, and the sites that requests come from."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope

from lookalike.server.admission import address_of, identify
from lookalike.server.api_keys import Key, find_key
from lookalike.server.links import image_target
from lookalike.server.problems import ProblemError
from lookalike.server.settings import ServeSettings
from lookalike.server.signatures import key_of_url, sign_urls

_PUBLIC = ("/healthz", "/readyz", "/openapi.json", "/docs")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_SHARING = "/shared-queries"
_READ_ONLY_POSTS = (
    *("/search", "/search/image", "/search/batch", "/labeling/coverage"),
    _SHARING,
)
_HARMLESS = ("/healthz", "/openapi.json", "/docs")
_IMAGES = re.compile("/v1/galleries/(?P<gallery>[^/]+)/item/(?P<kind>image|thumbnail)")
"""Paths that may be requested with a signed URL instead of a key."""

_ORIGIN = re.compile(r"https?://[^/?#]+(?=[/?#]|$)")
_OWN_SITES = ("same-origin", "none")


def check_access(scope: Scope, settings: ServeSettings) -> None:
    """Let a request pass, and note its client: the name of its key, or its address.

    Raises:
        ProblemError: the host, the key or the site is refused.
    """
    headers = Headers(scope=scope)
    identify(scope, address_of(scope, settings.trusted_proxies))
    _check_host(headers, settings)
    if not settings.keys:
        _check_site(scope, headers, settings)
    _check_key(scope, headers, settings)
    _check_parameters(scope, settings.limits.parameters)


def is_write(scope: Scope) -> bool:
    """Return whether a request is to change a gallery."""
    return scope["method"] not in _SAFE_METHODS and not scope["path"].endswith(_READ_ONLY_POSTS)


def is_audited(scope: Scope) -> bool:
    """Return whether a request is to change or to store something."""
    return is_write(scope) or (scope["method"] == "POST" and scope["path"].endswith(_SHARING))


def is_free(scope: Scope) -> bool:
    """Return whether a request needs no work to speak of, and so is not counted."""
    path: str = scope["path"]
    return (
        path in (*_PUBLIC, "/metrics")
        or path.startswith("/static/")
        or scope["method"] == "OPTIONS"
    )


def _check_parameters(scope: Scope, limit: int) -> None:
    """Refuse URLs with so many parameters that checking each takes long."""
    count = scope["query_string"].count(b"&") + 1
    if count > limit:
        raise ProblemError(
            422,
            "invalid-request",
            f"the URL has {count:,} parameters; the limit is {limit:,}",
        )


def _check_host(headers: Headers, settings: ServeSettings) -> None:
    """Refuse unknown host names, which protects against DNS rebinding."""
    names = headers.getlist("host")
    if len(names) > 1:
        raise ProblemError(400, "malformed-request", "there is more than one Host header")
    name = names[0] if names else ""
    host = name if name.endswith("]") else name.rsplit(":", 1)[0]
    if settings.hosts and host.lower() not in settings.hosts:
        raise ProblemError(
            421,
            "host-not-allowed",
            f"the request is for the host {host[:100]!r}; to allow it, start the service with: "
            "lookalike serve GALLERY --allow-host HOST",
        )


def _check_site(scope: Scope, headers: Headers, settings: ServeSettings) -> None:
    """Refuse requests that another site makes in a visitor's browser.

    Without API keys, any page could use the service through the browsers of its visitors. A link
    on it may lead to a page without a query; of one with a query, the visitor is asked first.
    """
    path, method = scope["path"], scope["method"]
    if path in _HARMLESS or path.startswith("/static/") or method == "OPTIONS":
        return
    if not _is_cross_site(headers, settings):
        return
    is_link = (
        method == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
        and (path == "/" or path.startswith("/g/"))
    )
    if is_link and not scope["query_string"]:
        return
    raise ProblemError(
        403,
        "cross-site",
        "A link on another site leads to this search."
        if is_link
        else "without API keys, pages of other sites must not use the service; to allow one, start "
        "it with: lookalike serve GALLERY --allow-origin ORIGIN",
        continue_url=_own_url(scope) if is_link else None,
    )


def _is_cross_site(headers: Headers, settings: ServeSettings) -> bool:
    """Return whether a browser says that another site makes the request."""
    origin = headers.get("origin")
    allowed = _origin_of(headers.get("referer", "")) if origin is None else origin  # of <img>
    if "*" in settings.origins or allowed in settings.origins:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in _OWN_SITES
    source = origin if origin is not None else headers.get("referer")
    if not source:
        return False
    return not _is_host(source, headers.get("host", ""))


def _origin_of(url: str) -> str:
    """Return scheme, host and port of a URL, as browsers send them; empty if it is none."""
    match = _ORIGIN.match(url)
    return match[0] if match else ""


def _is_host(source: str, host: str) -> bool:
    """Return whether a URL is of a host, with its port unless a proxy has cut that off."""
    try:
        parts = urlsplit(source)
        own = urlsplit(f"//{host}")
        return parts.hostname == own.hostname and own.port in (None, parts.port)
    except ValueError:
        return False


def _own_url(scope: Scope) -> str:
    """Return path and query of a request, as a relative URL."""
    query = scope["query_string"].decode("latin-1")
    return f"{scope['raw_path'].decode('latin-1')}?{query}"


def _key_of_url(scope: Scope, settings: ServeSettings) -> Key | None:
    """Return the key that the URL of an image was signed for; None if it is not signed.

    Raises:
        ProblemError: the signature is not valid, or not any more.
    """
    image = _IMAGES.fullmatch(scope["path"])
    if image is None or scope["method"] not in ("GET", "HEAD"):
        return None
    parameters = QueryParams(scope["query_string"])
    if "signature" not in parameters:
        return None
    target = image_target(image["gallery"], image["kind"], parameters)
    key, _ = key_of_url(parameters, target, settings.keys, settings.url_secret)
    return key


def _check_key(scope: Scope, headers: Headers, settings: ServeSettings) -> None:
    path = scope["path"]
    if path in _PUBLIC or scope["method"] == "OPTIONS" or path.startswith("/static/"):
        return
    writes, keys = is_write(scope), settings.keys
    if not keys:
        if writes and not settings.allow_writes:
            raise ProblemError(
                403,
                "forbidden",
                "start the service with: lookalike serve GALLERY --write; or with --keys, and send "
                "a key that has write permission",
            )
        return
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        secret = headers.get("x-api-key", "")
    key = find_key(secret.strip(), keys) if secret else None
    if key is not None:
        sign_urls(key, settings.url_secret, settings.url_seconds)
    elif not secret:
        key = _key_of_url(scope, settings)
    if key is None:
        raise ProblemError(
            401,
            "api-key-required",
            "send a valid key as Authorization: Bearer KEY or X-API-Key: KEY",
            {"www-authenticate": "Bearer"},
        )
    identify(scope, key.name, key=key.name)
    if writes and not key.write:
        raise ProblemError(403, "forbidden", f"the key {key.name!r} is read-only")
