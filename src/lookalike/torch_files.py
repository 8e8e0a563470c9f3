"""Weights in the files of torch, read without torch and without running what is in them.

torch.save writes a pickle, which can run any code where it is loaded. Here the operations of a
pickle are carried out one by one on plain values: names of classes stay names, and the few calls
that make tensors are recognized. Whatever else a file asks for is refused. Three formats:

- a zip file with the pickle in ``data.pkl`` and a file ``data/N`` for each storage (since 2020);
- a chain of five pickles followed by the storages (before that);
- TorchScript: the zip format, whose pickle has a tree of modules. Their code is not read.

Storages hold the elements of tensors in the order of memory; tensors are views of them with an
offset, a shape and strides.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import ArtifactError
from lookalike.files import read_regular

_MAX_OPERATIONS = 5_000_000
_MAX_VALUES = 1_000_000
"""Values of nested dictionaries and lists; one that is in several of them counts each time."""

_MAX_DEPTH = 64
_MAX_PICKLE = 1 << 26
_MAX_AXES = 32
_MAX_NAME = 1_000
_MAX_SIZE = 1 << 48
_SLACK = 1 << 24
_MAX_SHARING = 4
"""Arrays may have so many times the bytes of the file, and :data:`_SLACK` more: several tensors may
be views of one storage, or repeat its elements."""

_MAGIC = 0x1950A86A20F9469CFC6C
_ZIP = b"PK\x03\x04"


def _float8() -> NDArray[np.float32]:
    """Return the values of the 256 codes of float8_e4m3fn."""
    codes = np.arange(256)
    exponents, fractions = codes >> 3 & 15, (codes & 7) / 8
    sizes = np.where(exponents, (1 + fractions) * 2.0 ** (exponents - 7), fractions * 2.0**-6)
    sizes[codes & 127 == 127] = np.nan
    return np.where(codes < 128, sizes, -sizes).astype(np.float32)


def _wide_bfloat16(codes: NDArray[Any]) -> NDArray[Any]:
    return (codes.astype(np.uint32) << 16).view(np.float32)


def _wide_e5m2(codes: NDArray[Any]) -> NDArray[Any]:
    return (codes.astype(np.uint16) << 8).view(np.float16).astype(np.float32)


def _wide_e4m3(codes: NDArray[Any]) -> NDArray[Any]:
    values: NDArray[Any] = _float8()[codes]
    return values


@dataclass(frozen=True, slots=True)
class _Type:
    """A type of elements: of what numpy has, or of codes that ``widen`` turns into float32."""

    code: str
    widen: Callable[[NDArray[Any]], NDArray[Any]] | None = None

    @property
    def size(self) -> int:
        return np.dtype(self.code).itemsize


_BYTE = _Type("u1")
_DTYPES: Mapping[str, _Type] = {
    "float64": _Type("f8"),
    "float32": _Type("f4"),
    "float16": _Type("f2"),
    "bfloat16": _Type("u2", _wide_bfloat16),
    "float8_e5m2": _Type("u1", _wide_e5m2),
    "float8_e4m3fn": _Type("u1", _wide_e4m3),
    "complex64": _Type("c8"),
    "complex128": _Type("c16"),
    "int64": _Type("i8"),
    "int32": _Type("i4"),
    "int16": _Type("i2"),
    "int8": _Type("i1"),
    "uint64": _Type("u8"),
    "uint32": _Type("u4"),
    "uint16": _Type("u2"),
    "uint8": _BYTE,
    "bool": _Type("?"),
}
_STORAGES: Mapping[str, _Type] = {
    "DoubleStorage": _DTYPES["float64"],
    "FloatStorage": _DTYPES["float32"],
    "HalfStorage": _DTYPES["float16"],
    "BFloat16Storage": _DTYPES["bfloat16"],
    "ComplexFloatStorage": _DTYPES["complex64"],
    "ComplexDoubleStorage": _DTYPES["complex128"],
    "LongStorage": _DTYPES["int64"],
    "IntStorage": _DTYPES["int32"],
    "ShortStorage": _DTYPES["int16"],
    "CharStorage": _DTYPES["int8"],
    "ByteStorage": _BYTE,
    "BoolStorage": _DTYPES["bool"],
    "UntypedStorage": _BYTE,
}


def read_state(data: bytes | Path, *, name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays in a file of torch by their dotted names, as ``layer1.0.conv1.weight``.

    Names of keys and of modules inside each other are joined by dots: a model's ``state_dict()``
    keeps the names it has in torch, as do the modules of TorchScript; in a dictionary that holds
    one, they follow its key. A tensor alone has the name ``""``. Other values are left out.

    Args:
        data: the file, or its path.
        name: of the file, for messages.

    Returns:
        Arrays that own their memory; bfloat16 and float8 as float32.

    Raises:
        ArtifactError: it cannot be read, is none of torch's formats or not complete, holds what is
            no array, or two arrays of one name, or is larger than its size allows.
    """
    try:
        content = read_regular(data) if isinstance(data, Path) else data
    except OSError as error:
        raise ArtifactError(f"{name}: cannot be read ({error.strerror or error})") from error
    try:
        file = _Zip.open(content) if content.startswith(_ZIP) else _Legacy.open(content)
        return file.arrays(dict(_leaves(file.root)), _MAX_SHARING * len(content) + _SLACK)
    except _RefusedError as error:
        raise ArtifactError(
            f"{name}: is refused, since it {error}; save the weights alone, with "
            "torch.save(model.state_dict(), FILE)"
        ) from error
    except (ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or ["no reason"])[0][:200]
        raise ArtifactError(
            f"{name}: is no complete file of torch's weights ({reason}); copy or download it again"
        ) from error


class _RefusedError(ValueError):
    """What a file contains beside arrays."""


# ---------------------------------------------------------------- values


@dataclass(frozen=True, slots=True)
class _Name:
    """A class or function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:120]


@dataclass(slots=True)
class _Object:
    """A module of TorchScript; its state is what it is built from."""

    state: Any = None


@dataclass(frozen=True, slots=True)
class _Storage:
    """Elements in memory: ``size`` of a type, from ``start`` on of a storage with a key."""

    key: str
    type: _Type
    size: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    type: _Type
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, data: memoryview, order: Literal["<", ">"]) -> NDArray[Any]:
        """Return the elements from the bytes of the storage, in their byte order."""
        size = self.type.size
        first = self.storage.start * self.storage.type.size + self.offset * size
        used = math.prod(self.shape) and 1 + sum(
            (length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True)
        )
        limit = (self.storage.start + self.storage.size) * self.storage.type.size
        if first + used * size > min(limit, len(data)):
            raise ValueError("a tensor is larger than its storage")
        dtype = np.dtype(self.type.code).newbyteorder(order)
        flat = np.frombuffer(data[first : first + used * size], dtype)
        steps = tuple(stride * size for stride in self.strides)
        view = np.lib.stride_tricks.as_strided(flat, self.shape, steps if used else None)
        plain: NDArray[Any] = np.array(view, dtype.newbyteorder("="), order="C")
        return plain if self.type.widen is None else np.asarray(self.type.widen(plain))

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, of float32 for those that numpy does not have."""
        return math.prod(self.shape) * (self.type.size if self.type.widen is None else 4)


def _leaves(root: Any) -> Iterator[tuple[str, _Tensor]]:
    """Yield the tensors in nested dictionaries, lists and modules with their dotted names."""
    names: set[str] = set()
    left = _MAX_VALUES
    stack: list[tuple[str, Any, int]] = [("", root, 0)]
    while stack:
        name, value, depth = stack.pop()
        left -= 1
        if left < 0 or depth > _MAX_DEPTH:
            raise _RefusedError("has too many values inside each other")
        if isinstance(value, _Tensor):
            if name in names:
                raise ValueError(f"two arrays are called {name[:120]!r}")
            names.add(name)
            yield name, value
            continue
        if len(name) > _MAX_NAME:
            raise ValueError("a name is too long")
        inner = value.state if isinstance(value, _Object) else value
        if isinstance(inner, dict):
            pairs = list(inner.items())
        elif isinstance(inner, list | tuple):
            pairs = list(enumerate(inner))
        elif isinstance(value, _Object) and inner is not None:
            pairs = [("", inner)]
        else:
            continue
        if len(pairs) + len(stack) > _MAX_VALUES:
            raise _RefusedError("has too many values inside each other")
        dot = f"{name}." if name else ""
        stack += [(f"{dot}{key}", each, depth + 1) for key, each in reversed(pairs)]


# ---------------------------------------------------------------- pickles

_MARK = object()


def _whole(value: Any, most: int = _MAX_SIZE) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("a size is no whole number")
    return value


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > _MAX_AXES:
        raise ValueError("a shape is no list of numbers")
    return tuple(map(_whole, value))


def _storage(identifier: Any) -> _Storage:
    """Return the storage that a persistent ID names: type, key, device, size, and part of it."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
        if isinstance(identifier, tuple) and identifier[:1] == ("module",):
            raise _RefusedError("holds a whole model, with its code")
        raise ValueError("a storage has no valid name")
    kind, type_, key, _, size, *view = identifier
    if kind != "storage" or not isinstance(type_, _Name) or not isinstance(key, str):
        raise ValueError("a storage has no valid name")
    element = _STORAGES.get(type_.name) if type_.module in ("torch", "torch.storage") else None
    if element is None:
        raise _RefusedError(f"contains {type_}, which is no storage of numbers")
    if view and view[0] is not None:
        if not isinstance(view[0], tuple) or len(view[0]) != 3:
            raise ValueError("a part of a storage has no valid place")
        _, start, length = view[0]
        return _Storage(key, element, _whole(length), _whole(start))
    return _Storage(key, element, _whole(size))


def _rebuild_plain(arguments: Sequence[Any]) -> _Tensor:
    return _rebuild(arguments, None, arguments[6:7])


def _rebuild_typed(arguments: Sequence[Any]) -> _Tensor:
    dtype = arguments[6] if len(arguments) > 6 else None
    if not isinstance(dtype, _Name) or dtype.module != "torch" or dtype.name not in _DTYPES:
        raise ValueError("a tensor has no type")
    return _rebuild(arguments, _DTYPES[dtype.name], arguments[7:8])


def _rebuild(arguments: Sequence[Any], type_: _Type | None, marks: Sequence[Any]) -> _Tensor:
    if len(arguments) < 4 or not isinstance(arguments[0], _Storage):
        raise ValueError("a tensor has no storage")
    storage, offset, shape, strides = arguments[:4]
    shape, strides = _sizes(shape), _sizes(strides)
    if len(shape) != len(strides):
        raise ValueError("a tensor has more sizes than strides")
    if any(marks):  # set on views that are computed when they are read
        raise _RefusedError("contains the conjugate or negative of a tensor")
    return _Tensor(storage, type_ or storage.type, _whole(offset), shape, strides)


def _first(arguments: Sequence[Any]) -> Any:
    if not arguments:
        raise ValueError("a call has no arguments")
    return arguments[0]


def _pairs(arguments: Sequence[Any]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for pair in arguments[0] if arguments and isinstance(arguments[0], list | tuple) else ():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError("a dictionary has no pairs")
        result[_key(pair[0])] = pair[1]
    return result


_CALLS: Mapping[tuple[str, str], Callable[[Sequence[Any]], Any]] = {
    ("collections", "OrderedDict"): _pairs,
    ("_codecs", "encode"): _first,
    ("torch._utils", "_rebuild_tensor"): _rebuild_plain,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_plain,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_typed,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch", "Size"): _first,
    ("torch", "device"): _first,
    ("torch.jit._pickle", "build_intlist"): _first,
    ("torch.jit._pickle", "build_doublelist"): _first,
    ("torch.jit._pickle", "build_boollist"): _first,
    ("torch.jit._pickle", "build_tensorlist"): _first,
    ("torch.jit._pickle", "restore_type_tag"): _first,
}
"""The calls that are understood, and what stands in their place."""


def _key(value: Any) -> str | int:
    """Return a key; numbers are small, and texts have random hashes, so that none collide."""
    if isinstance(value, str) or (type(value) is int and abs(value) < 1 << 60):
        return value
    raise ValueError("a key is no text or whole number")


@dataclass(slots=True)
class _Machine:
    """Carries out the operations of a pickle on plain values."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, _Type] = field(default_factory=dict)
    """The types of the storages that were named, by their keys."""

    budget: int = _MAX_OPERATIONS

    def load(self, file: io.BytesIO) -> Any:
        """Return the value of the pickle at the file's position, which moves behind it."""
        self.stack, self.memo = [], {}
        for operation, argument, _ in pickletools.genops(file):
            self.budget -= 1
            if self.budget < 0:
                raise _RefusedError(f"has more than {_MAX_OPERATIONS:,} operations")
            name = operation.name
            if name == "STOP":
                return self._pop()
            if name in _PUSHED:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise _RefusedError(f"contains the operation {name}")
        raise ValueError("cut off")

    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("the pickle is broken")
        return self.stack.pop()

    def _pop_mark(self) -> list[Any]:
        """Return the values above the last mark, which goes too."""
        place = len(self.stack) - 1
        while place >= 0 and self.stack[place] is not _MARK:
            place -= 1
        if place < 0:
            raise ValueError("the pickle is broken")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def _top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError("the pickle is broken")
        return self.stack[-1]

    def drop(self, _: Any) -> None:
        """Remove the value on top."""
        self._pop()

    def put(self, place: Any) -> None:
        """Remember the value on top."""
        self.memo[int(place)] = self._top(object)

    def memoize(self, _: Any) -> None:
        """Remember the value on top under the next number."""
        self.put(len(self.memo))

    def get(self, place: Any) -> None:
        """Push a remembered value."""
        if int(place) not in self.memo:
            raise ValueError("the pickle is broken")
        self.stack.append(self.memo[int(place)])

    def tuple_of(self, count: int | None) -> None:
        """Replace values by a tuple of them."""
        values = self._pop_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self.stack.append(tuple(values))

    def list_of(self, _: Any) -> None:
        """Replace values by a list of them."""
        self.stack.append(self._pop_mark())

    def append(self, values: list[Any]) -> None:
        """Append to the list on top."""
        self._top(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        """Add keys and values in turn to the dictionary on top."""
        if len(values) % 2:
            raise ValueError("the pickle is broken")
        self._top(dict).update(
            {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}
        )

    def dict_of(self, _: Any) -> None:
        """Replace keys and values by a dictionary of them."""
        values = self._pop_mark()
        self.stack.append({})
        self.set_items(values)

    def name(self, text: Any) -> None:
        """Push the name of a class or function."""
        module, _, name = str(text).partition(" ")
        self._push_name(module, name)

    def stack_name(self, _: Any) -> None:
        """Replace two texts by the name that they are."""
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("the pickle is broken")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        known = _Name(module, name)
        is_type = module in ("torch", "torch.storage") and (name in _DTYPES or name in _STORAGES)
        if not (is_type or (module, name) in _CALLS or module.split(".")[0] == "__torch__"):
            raise _RefusedError(f"contains {known}, which is no array")
        self.stack.append(known)

    def call(self, _: Any) -> None:
        """Replace the name of a function and its arguments by what it makes."""
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("the pickle is broken")
        make = _CALLS.get((function.module, function.name))
        if make is None:
            raise _RefusedError(f"calls {function}")
        self.stack.append(make(arguments))

    def new_object(self, _: Any) -> None:
        """Replace the name of a class and its arguments by an object."""
        arguments, kind = self._pop(), self._pop()
        if not isinstance(kind, _Name) or arguments != () or kind.module[:9] != "__torch__":
            raise _RefusedError("contains an object of a class")
        self.stack.append(_Object())

    def build(self, _: Any) -> None:
        """Set the state of a module; that of anything else does not count."""
        state, value = self._pop(), self._top(object)
        if isinstance(value, _Object):
            value.state = state

    def storage(self, _: Any) -> None:
        """Replace a persistent ID by the storage that it names."""
        storage = _storage(self._pop())
        self.storages.setdefault(storage.key, storage.type)
        self.stack.append(storage)


_PUSHED = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "POP": _Machine.drop,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": lambda machine, _: machine.tuple_of(None),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_of,
    "APPEND": lambda machine, _: machine.append([machine._pop()]),
    "APPENDS": lambda machine, _: machine.append(machine._pop_mark()),
    "DICT": _Machine.dict_of,
    "SETITEM": lambda machine, _: machine.set_items([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine._pop_mark()),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new_object,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}


# ---------------------------------------------------------------- files


class _File(ABC):
    """A file of torch: the value of its pickle, and the bytes of its storages."""

    root: Any
    order: Literal["<", ">"]

    @abstractmethod
    def storage(self, key: str) -> memoryview:
        """Return the bytes of a storage."""

    def arrays(self, tensors: Mapping[str, _Tensor], limit: int) -> dict[str, NDArray[Any]]:
        """Return tensors as arrays, one storage at a time."""
        if sum(tensor.nbytes for tensor in tensors.values()) > limit:
            raise _RefusedError("has tensors that are much larger than itself")
        by_key: dict[str, list[str]] = {}
        for name, tensor in tensors.items():
            by_key.setdefault(tensor.storage.key, []).append(name)
        arrays = {}
        for key, names in by_key.items():
            data = self.storage(key)
            for name in names:
                arrays[name] = tensors[name].array(data, self.order)
        return {name: arrays[name] for name in tensors}


@dataclass(slots=True)
class _Zip(_File):
    root: Any
    order: Literal["<", ">"]
    folder: str
    zip: zipfile.ZipFile

    @classmethod
    def open(cls, data: bytes) -> _Zip:
        try:
            archive = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise ValueError(str(error)) from error
        pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} files data.pkl, expected one")
        folder = pickles[0].split("/")[0]
        self = cls(None, "<", folder, archive)
        order = self._read("byteorder", 16) if self._has("byteorder") else b"little"
        if order not in (b"little", b"big"):
            raise ValueError("no valid byteorder")
        self.order = "<" if order == b"little" else ">"
        self.root = _Machine().load(io.BytesIO(self._read("data.pkl", _MAX_PICKLE)))
        return self

    def storage(self, key: str) -> memoryview:
        return memoryview(self._read(f"data/{key}", _MAX_SIZE))

    def _has(self, name: str) -> bool:
        return f"{self.folder}/{name}" in self.zip.NameToInfo

    def _read(self, name: str, limit: int) -> bytes:
        if not self._has(name):
            raise ValueError(f"no file {name[:120]}")
        entry = self.zip.getinfo(f"{self.folder}/{name}")
        # torch compresses code only, which is not read: no file can become larger than it is.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > limit:
            raise _RefusedError(f"has a file {name[:120]} that is compressed or too large")
        try:
            return self.zip.read(entry)
        except (
            *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
            *(RuntimeError, KeyError),  # encrypted, or of an unknown version
        ) as error:
            raise ValueError(str(error)) from error


@dataclass(slots=True)
class _Legacy(_File):
    root: Any
    order: Literal["<", ">"]
    storages: dict[str, memoryview]

    @classmethod
    def open(cls, data: bytes) -> _Legacy:
        file, machine = io.BytesIO(data), _Machine()
        try:
            is_known = machine.load(file) == _MAGIC
        except ValueError:
            is_known = False
        if not is_known:
            raise ValueError("neither of its two formats")
        machine.load(file)  # version of the format
        machine.load(file)  # of the machine, whose byte order does not matter: storages are little
        root, keys = machine.load(file), machine.load(file)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("no list of storages")
        storages, view, place = {}, memoryview(data), file.tell()
        for key in keys:
            if key not in machine.storages:
                raise ValueError("a storage of no tensor")
            count = int.from_bytes(view[place : place + 8], "little")
            start, length = place + 8, count * machine.storages[key].size
            if length > len(data) - start:
                raise ValueError("cut off")
            storages[key], place = view[start : start + length], start + length
        return cls(root, "<", storages)

    def storage(self, key: str) -> memoryview:
        if key not in self.storages:
            raise ValueError("a tensor has no storage")
        return self.storages[key]
