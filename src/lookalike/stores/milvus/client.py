"""The connection to a Milvus server; the only module that knows its client.

Requests are repeated until the address's timeout where that may help: while the server cannot be
reached, or says that it is not ready. All that are sent may be: rows are replaced by id.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from lookalike.config import settings
from lookalike.errors import (
    ArtifactError,
    LookalikeError,
    MissingDependencyError,
    SettingError,
    StorageError,
    UnreachableError,
)
from lookalike.process_state import MuteLoggers, default_environment
from lookalike.stores.milvus.address import CONSISTENCIES, Address, IndexKind

OLDEST = (2, 3)
"""The oldest version of the server that this is tested with."""

LONGEST = 65_535
"""Bytes of a text, at most."""

PAGE = 4_096
"""Rows read at a time."""

_NOT_READY = frozenset((1, 2, 5, 8, 101, 103, 400, 401, 500, 501, 503, 601, 901, 902, 903, 904))
"""Milvus' codes of what passes: starting, loading, moving rows between nodes, too many requests."""

_GONE = 100
_UNKNOWN = 65_535
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
_FIRST_LOOK_S = 10.0
_LOOK_S = 2.0

STRONG = "strong"
_TOO_LARGE = "larger than max"
_LOGS = MuteLoggers("pymilvus")  # errors are raised, and need not be logged as well


T = TypeVar("T")
R = TypeVar("R")


class TooLargeError(StorageError):
    """A request, or the answer to it, is larger than the server takes or sends at once."""


class Connection:
    """A client of the server at an address, by gRPC, connected when it is first needed.

    It may be used by several threads; sent to another process, it connects anew there.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._client: Any = None
        self._making = threading.Lock()

    def __reduce__(self) -> tuple[type[Connection], tuple[Address]]:
        return Connection, (self.address,)

    @property
    def client(self) -> Any:
        """Milvus' own client.

        Raises:
            MissingDependencyError: pymilvus is not installed.
            UnreachableError: the server does not answer, or refuses the token.
            SettingError: the server is too old.
        """
        with self._making:
            if self._client is None:
                self._client = self._connected()
            return self._client

    def exists(self, name: str) -> bool:
        """Tell whether there is a collection of that name."""
        return bool(self.ask("has_collection", name))

    def describe(self, name: str) -> dict[str, Any]:
        """Return what the server says of a collection.

        Raises:
            ArtifactError: there is none.
        """
        return dict(self.ask("describe_collection", name))

    def create(
        self,
        name: str,
        fields: Mapping[str, int],
        *,
        key: str,
        texts: Sequence[str],
        objects: Sequence[str] = (),
        metric: str,
        kind: IndexKind,
        described: str = "",
    ) -> None:
        """Make a collection with an index over its one field of vectors, and load it.

        Args:
            name: of the collection.
            fields: the field of vectors, and their dimensions.
            key: the field of texts that rows are told apart by.
            texts: other fields of texts.
            objects: fields of JSON objects.
            metric: ``COSINE`` or ``L2``.
            kind: of index.
            described: a text that stays with the collection.
        """
        from pymilvus import DataType

        client, address = self.client, self.address
        schema = client.create_schema(
            auto_id=False, enable_dynamic_field=False, description=described
        )
        schema.add_field(key, DataType.VARCHAR, is_primary=True, max_length=LONGEST)
        for text in texts:
            schema.add_field(text, DataType.VARCHAR, max_length=LONGEST)
        for name_of in objects:
            schema.add_field(name_of, DataType.JSON)
        index = client.prepare_index_params()
        for vectors, dim in fields.items():
            schema.add_field(vectors, DataType.FLOAT_VECTOR, dim=dim)
            index.add_index(vectors, index_type=kind.type, metric_type=metric, params=kind.build)
        self.ask(
            "create_collection",
            name,
            schema=schema,
            consistency_level=CONSISTENCIES[address.consistency],
            num_shards=address.shards,
        )
        self.ask("create_index", name, index)
        self.ask("load_collection", name, replica_number=address.replicas)

    def load(self, name: str) -> None:
        """Have a collection held ready for searches; nothing is done if it is."""
        state = self.ask("get_load_state", name)["state"]
        if state.name != "Loaded":
            self.ask("load_collection", name, replica_number=self.address.replicas)

    def pages(
        self, name: str, key: str, where: str, fields: Sequence[str], page: int = PAGE
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield all rows that an expression matches, in order of their key, some at a time.

        The first page sees all that anybody has written. This is not the client's own iterator,
        which puts keys with quotes into its expressions as they are.

        Args:
            name: of the collection.
            key: its field of keys, which is read too.
            where: the expression; all rows if empty.
            fields: that are read.
            page: rows at a time, at most; fewer where the server cannot send as many.

        Raises:
            UnreachableError: the server does not answer.
        """
        level, begins = CONSISTENCIES[STRONG], f'{key} >= ""'
        while True:
            try:
                rows = self.ask(
                    "query",
                    name,
                    filter=f"{begins} and ({where})" if where else begins,
                    output_fields=[key, *fields],
                    limit=page,
                    reduce_stop_for_best=True,
                    consistency_level=level,
                )
            except TooLargeError:
                if page == 1:
                    raise
                page = max(1, page // 4)
                continue
            if not rows:
                return
            yield list(rows)
            level = CONSISTENCIES[self.address.consistency]
            begins = f"{key} > {quoted(rows[-1][key])}"

    def ask(self, method: str, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the client with the collection's name, again while that may help.

        Raises:
            ArtifactError: there is no such collection.
            UnreachableError: the server does not answer.
            StorageError: the server refuses.
            TooLargeError: it refuses since it is asked for too much at once.
        """
        call = getattr(self.client, method)
        options["timeout"] = self.address.timeout
        return self._repeated(method, name, lambda: call(name, *arguments, **options))

    def _repeated(self, method: str, name: str, call: Callable[[], Any]) -> Any:
        from grpc import RpcError
        from pymilvus.exceptions import MilvusException

        until = time.monotonic() + self.address.timeout
        pauses = iter(_PAUSES)
        pause = 0.0
        while True:
            try:
                with _LOGS:
                    return call()
            except (MilvusException, RpcError, ValueError) as error:
                if isinstance(error, ValueError) and "closed channel" not in str(error):
                    raise
                pause = next(pauses, pause)
                if not _passes(error) or time.monotonic() + pause > until:
                    raise self._error(method, name, error) from error
                time.sleep(pause)

    def _connected(self) -> Any:
        try:
            with default_environment(GRPC_VERBOSITY="NONE"):  # read when it is imported
                from pymilvus import MilvusClient
                from pymilvus.exceptions import MilvusException
        except ModuleNotFoundError:
            raise MissingDependencyError(
                "pymilvus", f"the store {self.address}", "milvus"
            ) from None
        from grpc import RpcError

        config = settings()
        more = {"server_pem_path": str(config.milvus_ca)} if config.milvus_ca else {}
        try:
            with _LOGS:
                client = MilvusClient(
                    uri=self.address.uri,
                    token=config.milvus_token or "",
                    timeout=min(_FIRST_LOOK_S, self.address.timeout),
                    dedicated=True,
                    **more,
                )
                said = str(client.get_server_version(timeout=self.address.timeout))
        except OSError as error:
            raise SettingError(
                f"LOOKALIKE_MILVUS_CA={config.milvus_ca}: cannot be read ({error.strerror})"
            ) from error
        except (MilvusException, RpcError) as error:
            raise self._error("connect", "", error) from error
        found = re.search(r"(\d+)\.(\d+)", said)
        if found is not None and tuple(map(int, found.groups())) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise SettingError(
                f"{self.address}: the server is Milvus {said}; {oldest} or newer is needed"
            )
        return client

    def _listens(self) -> bool:
        """Tell whether anything listens at the address."""
        try:
            where = (self.address.host, self.address.port)
            with socket.create_connection(where, timeout=_LOOK_S):
                return True
        except OSError:
            return False

    def _error(self, method: str, name: str, error: Exception) -> LookalikeError:
        """Say in one line what happened, and what to do."""
        code, said = getattr(error, "code", None), _said(error)
        if code == _GONE or "collection not found" in said:
            return ArtifactError(
                f"{self.address}: the server has no collection {name!r}; index the images again, "
                "or see whether the address is right"
            )
        if _TOO_LARGE in said:
            return TooLargeError(f"{self.address}: {method} of too much at once ({said})")
        refused = "auth" in said.lower() or "permission" in said.lower()
        if refused or (method == "connect" and self._listens()):
            return UnreachableError(
                f"{self.address}: the server lets nobody in with this token; see that "
                "LOOKALIKE_MILVUS_TOKEN is USER:PASSWORD or a key of it, and whether it wants TLS "
                "(milvus+tls://)"
            )
        if method == "connect" or _passes(error):
            return UnreachableError(
                f"{self.address}: the server does not answer ({said}); see that it runs, and that "
                "the address is right"
            )
        return StorageError(f"{self.address}: {method} was refused ({said})")


def quoted(text: str) -> str:
    """Return a text as a literal of Milvus' expressions."""
    return json.dumps(text, ensure_ascii=False)


def in_parts(items: Sequence[T], call: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """Return what a call returns for all items, made for parts where they are too much at once."""
    try:
        return list(call(items))
    except TooLargeError:
        if len(items) < 2:
            raise
    half = len(items) // 2
    return [*in_parts(items[:half], call), *in_parts(items[half:], call)]


def _passes(error: Exception) -> bool:
    """Tell whether the same request may succeed later."""
    if type(error).__name__ == "MilvusUnavailableException" or getattr(error, "retriable", False):
        return True
    code = getattr(error, "code", None)
    if callable(code):  # of gRPC: the connection broke, or the time was over
        return _TOO_LARGE not in _said(error)
    if isinstance(code, int) and not isinstance(code, bool) and code != _UNKNOWN:
        return code in _NOT_READY
    return not isinstance(code, int) or "not ready" in _said(error)


def _said(error: Exception) -> str:
    """Return the first line of what an error says, without numbers of no use to people."""
    details = getattr(error, "details", None)
    text = details() if callable(details) else getattr(error, "message", "") or str(error)
    first = str(text).strip().splitlines()[0] if str(text).strip() else type(error).__name__
    return first.partition(", debug=")[0][:300]
