"""A client of the service, with the names and types of :class:`lookalike.Gallery`.

It needs nothing but the standard library and what reads images.
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
    "no-such-item": MissingRowError,
    "bad-image": ImageError,
    "bad-request": InputError,
    "busy": BusyError,
}
_BATCH = 64
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Client:
    """A service at ``url``; ``key`` is an API key, ``timeout`` in seconds.

    A request that is turned away because the service has enough to do is repeated up to three
    times, after the seconds it asks for.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0

    def galleries(self) -> list[str]:
        """Return the names of the galleries.

        Raises:
            ServiceError: the service cannot be reached or refuses.
        """
        return [each["name"] for each in self.json("GET", "/v1/galleries")]

    def gallery(self, name: str) -> RemoteGallery:
        """Return a gallery by the name it is served under."""
        return RemoteGallery(self, name)

    def json(self, method: str, path: str, body: object = None) -> Any:
        """Send JSON and return what the JSON of the answer holds, None where it has no body."""
        data = None if body is None else json.dumps(body).encode()
        return self._read(self.send(method, path, data, "application/json"))

    def send(
        self, method: str, path: str, data: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        """Send a request and return the body of the answer.

        Raises:
            InputError, MissingRowError, ImageError, BusyError: as the same call of a gallery would.
            ServiceError: the service cannot be reached, refuses or fails.
        """
        headers = {"Accept": "application/json, image/*"}
        if data is not None:
            headers["Content-Type"] = kind
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        address = self.url.rstrip("/") + path
        for tries_left in reversed(range(_TRIES)):
            request = urllib.request.Request(address, data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    waits = error.headers.get("Retry-After", "")
                    if error.code == 429 and tries_left and waits.isdigit():
                        time.sleep(int(waits))
                        continue
                    raise _error(address, error) from None
            except (OSError, ValueError) as error:
                reason = getattr(error, "reason", error)
                raise ServiceError(f"{self.url}: cannot be reached ({reason})") from error
        raise AssertionError

    @staticmethod
    def _read(data: bytes) -> Any:
        return json.loads(data) if data else None


@dataclass(frozen=True, slots=True)
class RemoteGallery:
    """A gallery of a service. Its methods raise what :meth:`Client.send` does."""

    client: Client
    name: str

    def info(self) -> dict[str, Any]:
        """Return its facts and the columns of its metadata."""
        found: dict[str, Any] = self.client.json("GET", self._path())
        return found

    def __len__(self) -> int:
        return int(self.info()["rows"])

    def search(
        self,
        query: ImageInput | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the word its users have for it
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
        """Return the ``k`` rows that look most like one query, as a gallery's ``search`` does.

        Instead of an image, id or text, ``url`` is an address for the service to fetch, where it
        may. Filters are texts or structures. The uri of a hit is the address of its image.
        """
        options = _options(
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
        asked = _options(id=id, text=text, url=url)
        if query is not None:
            asked["image"] = base64.b64encode(_file(query)).decode()
        found = self.client.json("POST", f"{self._path()}/search", {**asked, **options})
        return self._hits(found)

    def search_all(self, queries: Sequence[ImageInput], *, k: int = 7) -> list[Hits]:
        """Return the hits of many images, 64 a request.

        Raises:
            ImageError: one cannot be used; nothing is returned of the others.
        """
        found: list[Hits] = []
        for start in range(0, len(queries), _BATCH):
            files = [_file(query) for query in queries[start : start + _BATCH]]
            asked = [{"image": base64.b64encode(data).decode()} for data in files]
            body = {"queries": asked, "k": k}
            for answer in self.client.json("POST", f"{self._path()}/search/batch", body)["answers"]:
                if answer["found"] is None:
                    raise _problem(answer["problem"])
                found.append(self._hits(answer["found"]))
        return found

    def evaluation(self) -> dict[str, Any]:
        """Return how good its answers are, as ``lookalike evaluate --save`` measured it last.

        Raises:
            ServiceError: it was not evaluated so.
        """
        found: dict[str, Any] = self.client.json("GET", self._path("/evaluation"))
        return found

    def item(self, id: str) -> dict[str, Any]:  # noqa: A002
        """Return a row's id, metadata, content hash, and where its image is."""
        found: dict[str, Any] = self.client.json("GET", self._path("/item", id=id))
        return found

    def image(self, id: str) -> ImageArray:  # noqa: A002
        """Return a row's image, decoded."""
        return decode(self.client.send("GET", self._path("/item/image", id=id)), name=id)

    def put(self, id: str, image: ImageInput, metadata: Metadata | None = None) -> bool:  # noqa: A002
        """Add a row, or replace it; return whether it is new. Its id begins with ``api:``."""
        path = self._path("/item", id=id, metadata=json.dumps(dict(metadata or {})))
        answer = self.client.send("PUT", path, _file(image), "application/octet-stream")
        return bool(json.loads(answer)["created"])

    def describe(self, id: str, metadata: Metadata) -> dict[str, Any]:  # noqa: A002
        """Change columns of a row's metadata, those that are None removed; return all of them."""
        body = {"metadata": dict(metadata)}
        found: dict[str, Any] = self.client.json("PATCH", self._path("/item", id=id), body)
        return dict(found["metadata"])

    def remove(self, id: str) -> None:  # noqa: A002
        """Delete a row that was put."""
        self.client.json("DELETE", self._path("/item", id=id))

    def _path(self, below: str = "", **asked: str) -> str:
        query = f"?{urlencode(asked)}" if asked else ""
        return f"/v1/galleries/{quote(self.name, safe='')}{below}{query}"

    def _hits(self, found: Mapping[str, Any]) -> Hits:
        base = self.client.url.rstrip("/")
        rows = tuple(
            Hit(hit["rank"], hit["id"], base + hit["image"], hit["distance"], hit["metadata"])
            for hit in found["hits"]
        )
        return Hits(found["query"], Metric(found["metric"]), rows)


def _options(**given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _file(image: ImageInput) -> bytes:
    """Return an image as the bytes of a file: as it is, or pixels as a PNG."""
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


def _error(address: str, error: urllib.error.HTTPError) -> Exception:
    try:
        return _problem(json.loads(error.read()))
    except (ValueError, KeyError, TypeError):
        return ServiceError(f"{address}: answered {error.code} {error.reason}", status=error.code)


def _problem(found: Mapping[str, Any]) -> Exception:
    kind = str(found["type"]).rpartition(":")[2]
    message = f"{found['title']}: {found['detail']}"
    if kind in _PROBLEMS:
        return _PROBLEMS[kind](message)
    return ServiceError(message, status=int(found["status"]), kind=kind)
