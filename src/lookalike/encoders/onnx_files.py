"""ONNX files of others: taken in with their weights, and refused if they could do harm.

An ONNX file may name files that hold its weights (external data; what torch's exporter writes by
default), which ONNX Runtime would look for in the current directory. They are taken into the model
(:func:`with_external_data`), so that an encoder is one file with one fingerprint wherever it is
used; only files beside the model are read.

:func:`check_model` looks for what ONNX Runtime does not limit: tensors that are declared larger
than their data, sparse tensors that become huge, nodes that run a part of the model any number of
times, functions that multiply when they are inlined, and nodes that read files. The memory of a run
is limited in :mod:`lookalike.encoders.onnx`; its time is not, which depends on the images' size.

Both read the wire format of Protocol Buffers, so that the package onnx is not needed.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from lookalike.errors import ArtifactError
from lookalike.files import bare_name, open_regular
from lookalike.wire_format import BYTES, read_fields, read_varint, to_varint

MAX_MODEL = 2_000_000_000
"""Bytes of a model with its weights: what Protocol Buffers and ONNX Runtime take in one piece."""

_MAX_NODES = 1_000_000
"""Nodes of a model, with its functions inlined."""

_MAX_FIELDS = 20_000_000
_MAX_DENSE = 1 << 28
"""Values that a sparse tensor may have when it is expanded."""

_MAX_LEVELS = 64
"""Graphs inside each other; Protocol Buffers allow 100 messages inside each other."""

_NESTED: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Messages of ``onnx.proto`` that may hold tensors or nodes, by the number of their field."""

_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_EXTERNAL = 1

_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64}
_BITS |= {14: 64, 15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8}
"""Size of a value by ``TensorProto.DataType``; texts (8) have none."""

_READS_FILES = frozenset({"EPContext"})
_BRANCH = "If"
"""The only operator that may hold graphs: it runs one of them, once."""


@dataclass(slots=True)
class _Message:
    """A message in the wire format: its fields with their numbers, wire types and contents."""

    kind: str
    data: memoryview
    budget: list[int]
    level: int = 0

    def fields(self) -> Iterator[tuple[int, int, int | memoryview, memoryview]]:
        """Return number, wire type, value (or its bytes) and the whole of each field.

        Raises:
            ValueError: it is no such message.
        """
        return read_fields(self.data, self.budget)

    def nested(self, number: int, wire: int, value: int | memoryview) -> _Message | None:
        """Return a field as a message, if it is one that may hold tensors or nodes."""
        kind = _NESTED[self.kind].get(number)
        if kind is None:
            return None
        if wire != BYTES or not isinstance(value, memoryview):
            raise ValueError(f"a {kind} is expected")
        level = self.level + (kind == "graph")
        if level > _MAX_LEVELS:
            raise ValueError("graphs are nested too deeply")
        return _Message(kind, value, self.budget, level)


def _text(value: int | memoryview) -> str:
    if not isinstance(value, memoryview):
        raise ValueError("a text is expected")
    return bytes(value[:1_000]).decode(errors="replace")


def _whole(data: bytes, name: str) -> _Message:
    if data[4:8] == b"ORTM":
        raise ArtifactError(f"{name}: is in ONNX Runtime's own format; export it as ONNX")
    if len(data) > MAX_MODEL:
        raise _too_large(name, len(data))
    return _Message("model", memoryview(data), [_MAX_FIELDS])


def _too_large(name: str, size: int) -> ArtifactError:
    return ArtifactError(
        f"{name}: the model with its weights has {size / 1e9:.1f} GB, ONNX Runtime takes up to "
        f"{MAX_MODEL / 1e9:g} GB in one piece; export it with weights in float16"
    )


def _broken(name: str, error: Exception) -> ArtifactError:
    return ArtifactError(f"{name}: is not a complete ONNX model ({error}); copy or export it again")


def with_external_data(model: bytes, places: Path | Mapping[str, Path], *, name: str) -> bytes:
    """Return a model that holds all of its weights; unchanged if it already does.

    Args:
        model: of any origin.
        places: folder of the model, in which files with weights lie, or where each lies by name.
        name: of the encoder, for messages.

    Raises:
        ArtifactError: it refers to a file that is missing, a link, too short or not in the folder;
            or it is too large with its weights, or no ONNX model.
    """
    try:
        chunks = _Rewriter(places, name).message(_whole(model, name))
    except ValueError as error:
        raise _broken(name, error) from error
    return model if chunks is None else b"".join(chunks)


@dataclass(slots=True)
class _Rewriter:
    """Copies a model, with weights in place of the names of files that hold them."""

    places: Path | Mapping[str, Path]
    name: str
    read: int = 0
    """Bytes read from other files."""

    def message(self, message: _Message) -> list[bytes | memoryview] | None:
        """Return a message in pieces; None if nothing in it changes."""
        if message.kind == "tensor":
            return self._tensor(message)
        pieces: list[bytes | memoryview] = []
        changed = False
        for number, wire, value, whole in message.fields():
            inner = message.nested(number, wire, value)
            rewritten = None if inner is None else self.message(inner)
            if rewritten is None:
                pieces.append(whole)
                continue
            changed = True
            pieces.append(to_varint(number << 3 | BYTES))
            pieces.append(to_varint(sum(map(len, rewritten))))
            pieces += rewritten
        return pieces if changed else None

    def _tensor(self, message: _Message) -> list[bytes | memoryview] | None:
        kept, entries = _split_tensor(message)
        if entries is None:
            return None
        data = self._read(entries)
        kept += [to_varint(_RAW_DATA << 3 | BYTES), to_varint(len(data)), data]
        return kept

    def _read(self, entries: Mapping[str, str]) -> bytes:
        """Return the part of a file that holds a tensor's values."""
        location = bare_name(entries.get("location"), self.name)
        numbers = {key: entries.get(key, "0") or "0" for key in ("offset", "length")}
        if not all(map(_is_number, numbers.values())):
            raise ValueError(f"weights in {location} at no valid place")
        offset, length = int(numbers["offset"]), int(numbers["length"])
        try:
            with self._open(location) as file:
                size = file.seek(0, 2)
                length = length or max(0, size - offset)
                self.read += length
                if offset + length > size:
                    raise ArtifactError(
                        f"{self.name}: its weights {location!r} have {size:,} bytes, expected at "
                        f"least {offset + length:,}; copy or export the model again"
                    )
                if self.read > MAX_MODEL:
                    raise _too_large(self.name, self.read)
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise ArtifactError(
                f"{self.name}: its weights {location!r} cannot be read "
                f"({error.strerror or error}); put the file beside the model"
            ) from error

    def _open(self, location: str) -> BinaryIO:
        if isinstance(self.places, Path):
            return open_regular(self.places / location, follow=False)
        if location not in self.places:
            raise FileNotFoundError(errno.ENOENT, "no such file", location)
        return open_regular(self.places[location])


def _split_tensor(message: _Message) -> tuple[list[bytes | memoryview], dict[str, str] | None]:
    """Return a tensor's fields but those that say where its values are, and these by key.

    None instead if its values are in the model.
    """
    kept: list[bytes | memoryview] = []
    entries: dict[str, str] = {}
    is_external = False
    for number, _, value, whole in message.fields():
        if number == _EXTERNAL_DATA and isinstance(value, memoryview):
            pair = {key: _text(text) for key, _, text, _ in _Message("", value, [100]).fields()}
            entries[pair.get(1, "")] = pair.get(2, "")
            is_external = True
        elif number == _DATA_LOCATION:
            is_external = is_external or value == _EXTERNAL
        else:
            kept.append(whole)
    return kept, entries if is_external else None


def external_files(model: bytes, *, name: str) -> list[str]:
    """Return the names of the files beside a model that hold weights of it.

    Raises:
        ArtifactError: it refers to a file that is not in its folder, or is no ONNX model.
    """
    try:
        return sorted({bare_name(each, name) for each in _locations(_whole(model, name))})
    except ValueError as error:
        raise _broken(name, error) from error


def _locations(message: _Message) -> Iterator[str]:
    if message.kind == "tensor":
        _, entries = _split_tensor(message)
        if entries is not None:
            yield entries.get("location", "")
        return
    for number, wire, value, _ in message.fields():
        inner = message.nested(number, wire, value)
        if inner is not None:
            yield from _locations(inner)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 16


@dataclass(slots=True)
class _Nodes:
    """What nodes of a graph or a function run: how many, and which functions how often."""

    count: int = 0
    calls: dict[tuple[str, str], int] = field(default_factory=dict)


def check_model(model: bytes, *, name: str) -> None:
    """Check a model before ONNX Runtime loads it.

    Raises:
        ArtifactError: it could take any amount of memory or time, reads files, or is no ONNX model.
    """
    try:
        _Checker(name).model(_whole(model, name))
    except ValueError as error:
        raise _broken(name, error) from error


@dataclass(slots=True)
class _Checker:
    name: str

    def model(self, message: _Message) -> None:
        main = _Nodes()
        functions: dict[tuple[str, str], _Nodes] = {}
        for number, wire, value, _ in message.fields():
            inner = message.nested(number, wire, value)
            if inner is None:
                continue
            if inner.kind == "function":
                texts = {
                    key: _text(text)
                    for key, _, text, _ in inner.fields()
                    if key in (1, 10) and isinstance(text, memoryview)
                }
                body = functions.setdefault((texts.get(10, ""), texts.get(1, "")), _Nodes())
                self._walk(inner, body)
            else:
                self._walk(inner, main)
        if not main.count:
            raise ValueError("it has no nodes")
        if _inlined(main, functions) > _MAX_NODES:
            raise self._refused(f"has more than {_MAX_NODES:,} nodes")

    def _walk(self, message: _Message, nodes: _Nodes) -> bool:
        """Check the tensors and nodes of a message; return whether it or its parts hold a graph."""
        operator = domain = ""
        has_graph = message.kind == "graph"
        dense_size: list[int] = []
        for number, wire, value, _ in message.fields():
            if message.kind == "node" and number in (4, 7):
                text = _text(value)
                operator, domain = (text, domain) if number == 4 else (operator, text)
            elif message.kind == "sparse" and number == 3:
                dense_size += _numbers(wire, value)
            inner = message.nested(number, wire, value)
            if inner is not None and inner.kind == "tensor":
                self._check_tensor(inner)
            elif inner is not None:
                has_graph = self._walk(inner, nodes) or has_graph
        if dense_size and math.prod(dense_size) > _MAX_DENSE:
            raise self._refused("has a sparse tensor that is too large when it is expanded")
        if message.kind != "node":
            return has_graph
        if has_graph and operator != _BRANCH:
            raise self._refused(f"repeats a part of itself any number of times ({operator})")
        if operator in _READS_FILES:
            raise self._refused(f"reads other files ({operator})")
        nodes.count += 1
        nodes.calls[domain, operator] = nodes.calls.get((domain, operator), 0) + 1
        return False

    def _check_tensor(self, message: _Message) -> None:
        sizes: list[int] = []
        kind = 0
        for number, wire, value, _ in message.fields():
            if number == 1:
                sizes += _numbers(wire, value)
            elif number == 2 and isinstance(value, int):
                kind = value
            elif number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == _EXTERNAL):
                raise ArtifactError(
                    f"{self.name}: its weights are in another file, which is not part of the "
                    "encoder; index again with the original model, onnx:FILE"
                )
        bits = _BITS.get(kind, 1)
        # Values that are not raw are numbers of variable length, of at least 8 bits each.
        if math.prod(sizes) * min(bits, 8) > 8 * len(message.data):
            raise self._refused("has a tensor that is larger than its data")

    def _refused(self, reason: str) -> ArtifactError:
        return ArtifactError(
            f"{self.name}: the model is refused, since it {reason}; export it without that"
        )


def _numbers(wire: int, value: int | memoryview) -> list[int]:
    """Return repeated whole numbers, each as a field or packed into one; below 0 is refused."""
    numbers = []
    if isinstance(value, int):
        numbers.append(value)
    elif wire == BYTES:
        place = 0
        while place < len(value):
            number, place = read_varint(value, place)
            numbers.append(number)
            if len(numbers) > 64:
                raise ValueError("a tensor of too many dimensions")
    if any(number >= 1 << 62 for number in numbers):
        raise ValueError("a tensor of negative size")
    return numbers


def _inlined(main: _Nodes, functions: Mapping[tuple[str, str], _Nodes]) -> int:
    """Return the number of nodes of a graph once its functions are inlined.

    Raises:
        ValueError: functions call themselves.
    """
    known: dict[tuple[str, str], int] = {}
    open_calls: set[tuple[str, str]] = set()

    def size(nodes: _Nodes) -> int:
        total = nodes.count
        for name, times in nodes.calls.items():
            if name not in functions:
                continue
            if name not in known:
                if name in open_calls or len(open_calls) > _MAX_LEVELS:
                    raise ValueError("functions that call themselves")
                open_calls.add(name)
                known[name] = size(functions[name])
                open_calls.remove(name)
            total += times * known[name]
        return min(total, _MAX_NODES + 1)

    return size(main)
