"""The connection to a Milvus server; the only module that uses pymilvus.

Requests are retried until the address's timeout while the server cannot be reached or is not ready.
All requests are idempotent: rows are replaced by id.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lookalike.cancellation import check_cancelled
from lookalike.config import settings
from lookalike.errors import (
    ArtifactError,
    LookalikeError,
    SettingError,
    StorageError,
    UnreachableError,
    requiring,
)
from lookalike.process_state import MuteLoggers, default_environment
from lookalike.stores.milvus.address import CONSISTENCIES, Address, IndexKind

MIN_VERSION = (2, 3)
"""The oldest server version that the tests cover."""

MAX_TEXT = 65_535
"""Maximum bytes of a text field."""

PAGE_SIZE = 4_096
"""Entities per page."""

_TEMPORARY = frozenset((1, 2, 5, 8, 101, 103, 400, 401, 500, 501, 503, 601, 901, 902, 903, 904))
"""Error codes of temporary states: starting, loading, balancing segments, rate limits."""

_READS = frozenset(("query", "search"))
_NOT_FOUND = 100
_UNKNOWN = 65_535
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
_CONNECT_S = 10.0
_PORT_CHECK_S = 2.0

STRONG = "strong"
_TOO_LARGE = "larger than max"
_LOGS = MuteLoggers("pymilvus")  # its errors are raised


T = TypeVar("T")
R = TypeVar("R")


class TooLargeError(StorageError):
    """A request or its response exceeds the server's message size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSchema:
    """A collection to create.

    Args:
        name: of the collection.
        key: primary key, a text field.
        texts: other text fields.
        objects: fields of JSON objects.
        vector: the vector field.
        dim: its dimensions.
        metric: ``COSINE`` or ``L2``.
        kind: index of the vector field.
        description: a text that is stored with the collection.
    """

    name: str
    key: str
    texts: Sequence[str]
    objects: Sequence[str] = ()
    vector: str
    dim: int
    metric: str
    kind: IndexKind
    description: str = ""


class Connection:
    """A gRPC connection to the server at an address, opened on first use.

    It is thread-safe. Pickled to another process, it opens a connection of its own there.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._client: Any = None
        self._connecting = threading.Lock()

    def __reduce__(self) -> tuple[type[Connection], tuple[Address]]:
        return Connection, (self.address,)

    @property
    def client(self) -> Any:
        """The client of pymilvus.

        Raises:
            MissingDependencyError: pymilvus is not installed.
            UnreachableError: the server does not answer, or refuses the token.
            SettingError: the server is too old.
        """
        with self._connecting:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def has_collection(self, name: str) -> bool:
        """Return whether a collection exists."""
        return bool(self.call("has_collection", name))

    def describe_collection(self, name: str) -> dict[str, Any]:
        """Return the server's description of a collection.

        Raises:
            ArtifactError: it does not exist.
        """
        return dict(self.call("describe_collection", name))

    def create_collection(self, wanted: CollectionSchema) -> None:
        """Create a collection with an index over its vectors, and load it."""
        from pymilvus import DataType

        client, address = self.client, self.address
        schema = client.create_schema(
            auto_id=False, enable_dynamic_field=False, description=wanted.description
        )
        schema.add_field(wanted.key, DataType.VARCHAR, is_primary=True, max_length=MAX_TEXT)
        for name in wanted.texts:
            schema.add_field(name, DataType.VARCHAR, max_length=MAX_TEXT)
        for name in wanted.objects:
            schema.add_field(name, DataType.JSON)
        schema.add_field(wanted.vector, DataType.FLOAT_VECTOR, dim=wanted.dim)
        index, kind = client.prepare_index_params(), wanted.kind
        index.add_index(
            wanted.vector, index_type=kind.type, metric_type=wanted.metric, params=kind.build
        )
        self.call(
            "create_collection",
            wanted.name,
            schema=schema,
            consistency_level=CONSISTENCIES[address.consistency],
            num_shards=address.shards,
        )
        self.call("create_index", wanted.name, index)
        self.call("load_collection", wanted.name, replica_number=address.replicas)

    def load_collection(self, name: str) -> None:
        """Load a collection for searches, unless it is loaded."""
        state = self.call("get_load_state", name)["state"]
        if state.name != "Loaded":
            self.call("load_collection", name, replica_number=self.address.replicas)

    def iter_pages(
        self,
        name: str,
        key: str,
        expression: str,
        fields: Sequence[str],
        page_size: int = PAGE_SIZE,
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield all entities that an expression matches, in order of their key, page by page.

        The first page sees all writes of all clients. pymilvus has an iterator too, but it puts
        keys with quotes into its expressions unescaped.

        Args:
            name: the collection.
            key: its primary key, which is read too.
            expression: the condition; all entities if empty.
            fields: fields to read.
            page_size: maximum entities per page; fewer where the server cannot send as many.

        Raises:
            UnreachableError: the server does not answer.
        """
        level, after = CONSISTENCIES[STRONG], f'{key} >= ""'
        while True:
            check_cancelled()
            try:
                entities = self.call(
                    "query",
                    name,
                    filter=f"{after} and ({expression})" if expression else after,
                    output_fields=[key, *fields],
                    limit=page_size,
                    reduce_stop_for_best=True,
                    consistency_level=level,
                )
            except TooLargeError:
                if page_size == 1:
                    raise
                page_size = max(1, page_size // 4)
                continue
            if not entities:
                return
            yield list(entities)
            level = CONSISTENCIES[self.address.consistency]
            after = f"{key} > {quote(entities[-1][key])}"

    def call(self, method: str, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of pymilvus on a collection; retry temporary failures.

        Raises:
            ArtifactError: the collection does not exist.
            UnreachableError: the server does not answer.
            StorageError: the server refuses.
            TooLargeError: the request or its response is too large.
        """
        function = getattr(self.client, method)
        options["timeout"] = self.address.timeout
        return self._retry(method, name, lambda: function(name, *arguments, **options))

    def _retry(self, method: str, name: str, call: Callable[[], Any]) -> Any:
        from grpc import RpcError
        from pymilvus.exceptions import MilvusException

        until = time.monotonic() + self.address.timeout
        pauses = iter(_PAUSES)
        pause = 0.0
        while True:
            if method in _READS:
                check_cancelled()
            try:
                with _LOGS:
                    result = call()
                    # A server that was restarted may answer before it has loaded all rows.
                    if not pause or method not in _READS or self._is_loaded(name):
                        return result
                if time.monotonic() + pause > until:
                    raise UnreachableError(
                        f"{self.address}: the server has not loaded all rows of {name!r} yet; try "
                        "again"
                    )
                time.sleep(pause)
            except (MilvusException, RpcError, ValueError) as error:
                if isinstance(error, ValueError) and "closed channel" not in str(error):
                    raise
                pause = next(pauses, pause)
                if not _is_temporary(error) or time.monotonic() + pause > until:
                    raise self._error(method, name, error) from error
                time.sleep(pause)

    def _is_loaded(self, name: str) -> bool:
        """Return whether all rows of a collection are loaded for searches."""
        state = self.client.get_load_state(name, timeout=self.address.timeout)["state"]
        return str(state.name) == "Loaded"

    def _connect(self) -> Any:
        with (
            requiring("pymilvus", f"the store {self.address}", "milvus"),
            default_environment(GRPC_VERBOSITY="NONE"),  # read when it is imported
        ):
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException
        from grpc import RpcError

        config = settings()
        options = {"server_pem_path": str(config.milvus_ca)} if config.milvus_ca else {}
        try:
            with _LOGS:
                client = MilvusClient(
                    uri=self.address.uri,
                    token=config.milvus_token or "",
                    timeout=min(_CONNECT_S, self.address.timeout),
                    dedicated=True,
                    **options,
                )
                version = str(client.get_server_version(timeout=self.address.timeout))
        except OSError as error:
            raise SettingError(
                f"LOOKALIKE_MILVUS_CA={config.milvus_ca}: cannot be read ({error.strerror})"
            ) from error
        except (MilvusException, RpcError) as error:
            raise self._error("connect", "", error) from error
        match = re.search(r"(\d{1,9})\.(\d{1,9})", version)
        if match is not None and tuple(map(int, match.groups())) < MIN_VERSION:
            minimum = ".".join(map(str, MIN_VERSION))
            raise SettingError(
                f"{self.address}: the server is Milvus {version}; {minimum} or newer is required"
            )
        return client

    def _port_is_open(self) -> bool:
        """Return whether anything listens at the address."""
        try:
            server = (self.address.host, self.address.port)
            with socket.create_connection(server, timeout=_PORT_CHECK_S):
                return True
        except OSError:
            return False

    def _error(self, method: str, name: str, error: Exception) -> LookalikeError:
        """Return what happened in one line, and what to do."""
        code, message = getattr(error, "code", None), _without_token(_message(error))
        if code == _NOT_FOUND or "collection not found" in message:
            return ArtifactError(
                f"{self.address}: the server has no collection {name!r}; check the address, or "
                "index the images again"
            )
        if _TOO_LARGE in message:
            return TooLargeError(f"{self.address}: {method}: the message is too large ({message})")
        refused = "auth" in message.lower() or "permission" in message.lower()
        if refused or (method == "connect" and self._port_is_open()):
            return UnreachableError(
                f"{self.address}: the server refuses this token; check that LOOKALIKE_MILVUS_TOKEN "
                "is USER:PASSWORD or an API key, and whether the server needs TLS (milvus+tls://)"
            )
        if method == "connect" or _is_temporary(error):
            return UnreachableError(
                f"{self.address}: the server does not answer ({message}); check that it runs and "
                "that the address is right"
            )
        return StorageError(f"{self.address}: {method} failed ({message})")


def quote(text: str) -> str:
    """Return a text as a literal of Milvus expressions."""
    return json.dumps(text, ensure_ascii=False)


def call_in_parts(items: Sequence[T], call: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """Return the results of a call for all items; halve them while a message is too large."""
    try:
        return list(call(items))
    except TooLargeError:
        if len(items) < 2:
            raise
    half = len(items) // 2
    return [*call_in_parts(items[:half], call), *call_in_parts(items[half:], call)]


def _is_temporary(error: Exception) -> bool:
    """Return whether the same request may succeed later."""
    if type(error).__name__ == "MilvusUnavailableException" or getattr(error, "retriable", False):
        return True
    code = getattr(error, "code", None)
    if callable(code):  # of gRPC: the connection broke, or it timed out
        return _TOO_LARGE not in _message(error)
    if isinstance(code, int) and not isinstance(code, bool) and code != _UNKNOWN:
        return code in _TEMPORARY
    return not isinstance(code, int) or "not ready" in _message(error)


def _without_token(message: str) -> str:
    """Return a server's message without the token, should it repeat that, or its password."""
    token = settings().milvus_token or ""
    for secret in (token, token.partition(":")[2]):
        message = message.replace(secret, "***") if secret else message
    return message


def _message(error: Exception) -> str:
    """Return the first line of an error's message, without debugging details."""
    details = getattr(error, "details", None)
    text = details() if callable(details) else getattr(error, "message", "") or str(error)
    first = str(text).strip().splitlines()[0] if str(text).strip() else type(error).__name__
    return first.partition(", debug=")[0][:300]
