"""A client of the HTTP API, with the methods and types of :class:`lookalike.Gallery`.

It needs only the standard library and what decodes images.
"""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
from PIL import Image

from lookalike.errors import BusyError, ImageError, InputError, MissingRowError, ServiceError
from lookalike.filters import Where
from lookalike.images.decode import ImageInput, decode
from lookalike.types import Hit, Hits, ImageArray, Metadata, Metric

_PROBLEMS: Mapping[str, type[Exception]] = {
    "item-not-found": MissingRowError,
    "invalid-image": ImageError,
    "invalid-request": InputError,
    "gallery-locked": BusyError,
}
_BATCH = 64
_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Client:
    """A service at ``url``; ``key`` is an API key, ``timeout`` is in seconds.

    A request that is refused because the service is at its limits, or because a gallery is being
    replaced, is retried up to three times, after the delay that the service asks for.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0

    def galleries(self) -> list[str]:
        """Return the names of the galleries.

        Raises:
            ServiceError: the service cannot be reached, or refuses the request.
        """
        return [gallery["name"] for gallery in self.json("GET", "/v1/galleries")]

    def gallery(self, name: str) -> RemoteGallery:
        """Return a gallery by its name in the service; no request is sent."""
        return RemoteGallery(self, name)

    def json(self, method: str, path: str, body: object = None) -> Any:
        """Send JSON and return the JSON of the response, None if its body is empty."""
        data = None if body is None else json.dumps(body).encode()
        response = self.send(method, path, data, "application/json")
        return json.loads(response) if response else None

    def send(
        self, method: str, path: str, data: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        """Send a request with a body of the media type ``kind``; return the body of the response.

        Raises:
            InputError, MissingRowError, ImageError, BusyError: as the same method of a gallery.
            ServiceError: the service cannot be reached, or refuses the request, or fails.
        """
        headers = {"Accept": "application/json, image/*"}
        if data is not None:
            headers["Content-Type"] = kind
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        url = self.url.rstrip("/") + path
        for attempts_left in reversed(range(_ATTEMPTS)):
            request = urllib.request.Request(url, data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return bytes(response.read())
            except urllib.error.HTTPError as error:
                with error:
                    delay = error.headers.get("Retry-After", "")
                    if error.code in (429, 503) and attempts_left and delay.isdigit():
                        time.sleep(int(delay))
                        continue
                    raise _error_of_response(url, error) from None
            except (OSError, ValueError) as error:
                reason = getattr(error, "reason", error)
                raise ServiceError(f"{self.url}: cannot be reached ({reason})") from error
        raise AssertionError


@dataclass(frozen=True, slots=True)
class RemoteGallery:
    """A gallery of a service. Its methods raise the errors of :meth:`Client.send`."""

    client: Client
    name: str

    def info(self) -> dict[str, Any]:
        """Return the facts of the gallery and the columns of its metadata."""
        info: dict[str, Any] = self.client.json("GET", self._path())
        return info

    def __len__(self) -> int:
        return int(self.info()["rows"])

    def search(  # noqa: PLR0913 - keyword options of the public call
        self,
        query: ImageInput | None = None,
        *,
        id: str | None = None,  # noqa: A002 - its name in the API
        text: str | None = None,
        url: str | None = None,
        k: int = 7,
        metric: Metric | str | None = None,
        where: Where | None = None,
        max_distance: float | None = None,
        exact: bool = False,
        box: Sequence[int] | None = None,
        foreground: bool = False,
        multi_crop: bool = False,
        rerank: str | Sequence[str] | None = None,
        keywords: str | None = None,
    ) -> Hits:
        """Return the ``k`` most similar rows, like :meth:`lookalike.Gallery.search`.

        Instead of an image, id or text, ``url`` is an address for the service to fetch, if it
        allows that. Filters are texts or mappings. The uri of a hit is the URL of its image.
        """
        options = _without_none(
            k=k,
            metric=None if metric is None else Metric(metric).value,
            where=where,
            max_distance=max_distance,
            exact=exact,
            box=None if box is None else list(box),
            foreground=foreground,
            multi_crop=multi_crop,
            rerank=rerank if rerank is None or isinstance(rerank, str) else "+".join(rerank),
            keywords=keywords,
        )
        body = _without_none(id=id, text=text, url=url)
        if query is not None:
            body["image"] = base64.b64encode(_file_bytes(query)).decode()
        result = self.client.json("POST", f"{self._path()}/search", {**body, **options})
        return self._hits(result)

    def search_all(self, queries: Sequence[ImageInput], *, k: int = 7) -> list[Hits]:
        """Return the hits of many images, sent 64 per request.

        Raises:
            ImageError: an image is invalid; no results are returned.
        """
        hits: list[Hits] = []
        for start in range(0, len(queries), _BATCH):
            files = [_file_bytes(query) for query in queries[start : start + _BATCH]]
            images = [{"image": base64.b64encode(data).decode()} for data in files]
            body = {"queries": images, "k": k}
            for each in self.client.json("POST", f"{self._path()}/search/batch", body)["results"]:
                if each["result"] is None:
                    raise _error_of_problem(each["problem"])
                hits.append(self._hits(each["result"]))
        return hits

    def evaluation(self) -> dict[str, Any]:
        """Return the evaluation that ``lookalike evaluate --save`` saved last.

        Raises:
            ServiceError: there is no saved evaluation.
        """
        report: dict[str, Any] = self.client.json("GET", self._path("/evaluation"))
        return report

    def item(self, id: str) -> dict[str, Any]:  # noqa: A002
        """Return an item's id, metadata, content hash, and the paths of its image."""
        item: dict[str, Any] = self.client.json("GET", self._path("/item", id=id))
        return item

    def image(self, id: str) -> ImageArray:  # noqa: A002
        """Return an item's image, decoded."""
        return decode(self.client.send("GET", self._path("/item/image", id=id)), name=id)

    def put(self, id: str, image: ImageInput, metadata: Metadata | None = None) -> bool:  # noqa: A002
        """Add or replace an item; return whether it is new. Its id starts with ``api:``."""
        path = self._path("/item", id=id, metadata=json.dumps(dict(metadata or {})))
        response = self.client.send("PUT", path, _file_bytes(image), "application/octet-stream")
        return bool(json.loads(response)["created"])

    def update_metadata(self, id: str, metadata: Metadata) -> dict[str, Any]:  # noqa: A002
        """Change columns of an item's metadata, None removes one; return all of its metadata."""
        body = {"metadata": dict(metadata)}
        response: dict[str, Any] = self.client.json("PATCH", self._path("/item", id=id), body)
        return dict(response["metadata"])

    def remove(self, id: str) -> None:  # noqa: A002
        """Delete an item that was added with :meth:`put`."""
        self.client.json("DELETE", self._path("/item", id=id))

    def _path(self, resource: str = "", **parameters: str) -> str:
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"/v1/galleries/{quote(self.name, safe='')}{resource}{query}"

    def _hits(self, result: Mapping[str, Any]) -> Hits:
        base = self.client.url.rstrip("/")
        hits = tuple(
            Hit(hit["rank"], hit["id"], base + hit["image_url"], hit["distance"], hit["metadata"])
            for hit in result["hits"]
        )
        return Hits(result["query"], Metric(result["metric"]), hits)


def _without_none(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _file_bytes(image: ImageInput) -> bytes:
    """Return an image file as it is, or a PNG of pixels."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ImageError(f"{image}: cannot be read ({reason})") from error
    if isinstance(image, np.ndarray):
        image = Image.fromarray(decode(image))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _error_of_response(url: str, error: urllib.error.HTTPError) -> Exception:
    try:
        return _error_of_problem(json.loads(error.read()))
    except (ValueError, KeyError, TypeError):
        return ServiceError(
            f"{url}: the service responded {error.code} {error.reason}", status=error.code
        )


def _error_of_problem(problem: Mapping[str, Any]) -> Exception:
    kind = str(problem["type"]).rpartition(":")[2]
    message = f"{problem['title']}: {problem['detail']}"
    if kind in _PROBLEMS:
        return _PROBLEMS[kind](message)
    return ServiceError(message, status=int(problem["status"]), kind=kind)
