"""ONNX models built from arrays, and nodes added behind the outputs of existing models.

Written in the wire format, so that neither the package onnx nor torch is needed. A small network::

    graph = Graph()
    images = graph.input("images", (None, 3, 224, 224))
    values = graph.relu(graph.conv(images, weight, bias, stride=2, padding=1))
    values = graph.linear(graph.reduce("ReduceMean", values, (2, 3)), matrix, offset)
    graph.output(graph.unit_length(values), (None, 128), name="embeddings")
    model = graph.to_bytes()

Values are named by texts that :meth:`Graph.input`, :meth:`Graph.constant`, :meth:`Graph.node` and
the methods for common layers return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lookalike.errors import ArtifactError
from lookalike.wire_format import Chunk, message, read_fields

OPSET = 17
"""Version of the operators, unless a model has another: what ONNX Runtime 1.12 and later run."""

MIN_OPSET = 11
"""The oldest version that nodes can be added to."""

_IR_VERSION = 8
_PRODUCER = b"lookalike"
_MAX_FIELDS = 20_000_000
_EPSILON = 1e-12

_TYPES: Mapping[str, int] = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
}
"""``TensorProto.DataType`` by the names of numpy."""

_DTYPES = {number: np.dtype(name) for name, number in _TYPES.items()}

_AXES_AS_INPUT = {"ReduceSum": 13}
"""Since which version of the operators the axes of a reduction are an input; 18 for the others."""

_MODEL_GRAPH, _MODEL_OPSETS = 7, 8
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of a model.

    Args:
        name: of the value.
        shape: sizes of its axes, None for those that are free; None if it is not known.
        dtype: of its elements; None for none that numpy has.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: np.dtype[Any] | None

    def chunks(self) -> list[Chunk]:
        """Return the message ``ValueInfoProto``."""
        fields: list[tuple[int, Any]] = []
        if self.dtype is not None:
            fields.append((1, _TYPES[self.dtype.name]))
        if self.shape is not None:
            sizes = (message() if size is None else message((1, size)) for size in self.shape)
            fields.append((2, message(*((1, size) for size in sizes))))
        return message((1, self.name.encode()), (2, message((1, message(*fields)))))


@dataclass(slots=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    domain: str


@dataclass(slots=True)
class Graph:
    """A graph of operators, each of which computes values from others.

    Args:
        opset: version of the operators.
        prefix: of the names of values and nodes, for nodes that are added to another model.
        sources: inputs of the graph; for added nodes the outputs of the other model.
    """

    opset: int = OPSET
    prefix: str = ""
    sources: list[Value] = field(default_factory=list)
    _nodes: list[_Node] = field(default_factory=list)
    _tensors: list[list[Chunk]] = field(default_factory=list)
    _outputs: list[Value] = field(default_factory=list)
    _public: dict[str, str] = field(default_factory=dict)
    _count: int = 0

    def input(self, name: str, shape: Sequence[int | None], dtype: DTypeLike = np.float32) -> str:
        """Add an input; None is the size of a free axis. Return its name."""
        self.sources.append(Value(name, tuple(shape), np.dtype(dtype)))
        return name

    def source(self, name: str) -> Value:
        """Return the shape and type of an input, or of an output that nodes are added to."""
        return next(each for each in self.sources if each.name == name)

    def constant(self, array: NDArray[Any] | float | Sequence[int]) -> str:
        """Add an array, or a number as float32, or whole numbers as int64. Return its name."""
        if isinstance(array, float | int):
            array = np.array(array, np.float32)
        elif not isinstance(array, np.ndarray):
            array = np.array(array, np.int64)
        name = self._new_name("constant")
        self._tensors.append(_tensor(name, array))
        return name

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator. Return the name of its output.

        Args:
            operator: as the specification of ONNX calls it.
            inputs: names of values; empty for an optional one that is left out.
            domain: of the operator, if it is none of ONNX itself.
            attributes: by name: whole numbers, floats, texts, arrays or sequences of them; those
                that are None are left out.
        """
        [output] = self.multi_node(operator, *inputs, outputs=1, domain=domain, **attributes)
        return output

    def multi_node(
        self, operator: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Add an operator with several outputs, as :meth:`node`. Return their names."""
        names = tuple(self._new_name(operator) for _ in range(outputs))
        self._nodes.append(_Node(operator, inputs, names, attributes, domain))
        return names

    def output(
        self,
        value: str,
        shape: Sequence[int | None] | None = None,
        dtype: DTypeLike = np.float32,
        *,
        name: str | None = None,
    ) -> str:
        """Make a value an output, under a name of its own if one is passed.

        Its old name stays valid in this graph. A value that another model computes keeps its name.
        """
        if name is not None and name != value:
            if any(value in node.outputs for node in self._nodes):
                self._public[value] = name
            else:
                self._public[copy := self.node("Identity", value)] = name
                value = copy
        known = None if shape is None else tuple(shape)
        self._outputs.append(Value(value, known, np.dtype(dtype)))
        return value

    def to_bytes(self) -> bytes:
        """Return the model."""
        graph = message(
            *self._contents(),
            (2, _PRODUCER),
            *((_GRAPH_INPUT, each.chunks()) for each in self.sources),
            *((_GRAPH_OUTPUT, each.chunks()) for each in self._final_outputs()),
        )
        opsets = sorted({"": self.opset, **{n.domain: 1 for n in self._nodes if n.domain}}.items())
        return b"".join(
            message(
                (1, _IR_VERSION),
                (2, _PRODUCER),
                (_MODEL_GRAPH, graph),
                *((_MODEL_OPSETS, _opset(domain, version)) for domain, version in opsets),
            )
        )

    # ------------------------------------------------------------ common layers

    def conv(
        self,
        values: str,
        weight: NDArray[Any],
        bias: NDArray[Any] | None = None,
        *,
        stride: int = 1,
        padding: int | tuple[int, int, int, int] = 0,
        groups: int = 1,
    ) -> str:
        """Convolve maps ``(n, c, h, w)`` with a weight ``(out, c / groups, height, width)``.

        Args:
            values: the maps.
            weight: the kernels, as torch keeps them.
            bias: ``(out,)``.
            stride: of both axes.
            padding: zeros on each side, or at the top, left, bottom and right.
            groups: of channels.
        """
        arrays = [weight] if bias is None else [weight, bias]
        return self.node(
            "Conv",
            values,
            *(self.constant(np.asarray(array, np.float32)) for array in arrays),
            kernel_shape=list(weight.shape[2:]),
            strides=[stride, stride],
            pads=_pads(padding),
            group=groups,
        )

    def max_pool(self, values: str, size: int, *, stride: int, padding: int = 0) -> str:
        """Take the maximum of windows of maps ``(n, c, h, w)``."""
        return self.node(
            "MaxPool",
            values,
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=_pads(padding),
        )

    def linear(self, rows: str, weight: NDArray[Any], bias: NDArray[Any] | None = None) -> str:
        """Multiply rows ``(n, c)`` by a weight ``(out, c)``, as torch keeps it, and add a bias."""
        arrays = [weight] if bias is None else [weight, bias]
        constants = (self.constant(np.asarray(array, np.float32)) for array in arrays)
        return self.node("Gemm", rows, *constants, transB=1)

    def relu(self, values: str) -> str:
        """Replace negative values by zero."""
        return self.node("Relu", values)

    def relu6(self, values: str) -> str:
        """Limit values to 0 to 6."""
        return self.node("Clip", values, self.constant(0.0), self.constant(6.0))

    def add(self, one: str, other: str) -> str:
        """Add two values of one shape, or of shapes that broadcast."""
        return self.node("Add", one, other)

    def reduce(
        self, operator: str, values: str, axes: Sequence[int], *, keepdims: bool = False
    ) -> str:
        """Reduce axes by ``ReduceMean``, ``ReduceMax``, ``ReduceSum`` or ``ReduceL2``."""
        if self.opset >= _AXES_AS_INPUT.get(operator, 18):
            constant = self.constant(list(axes))
            return self.node(operator, values, constant, keepdims=int(keepdims))
        return self.node(operator, values, axes=list(axes), keepdims=int(keepdims))

    def slice(
        self, values: str, axes: Sequence[int], starts: Sequence[int], ends: Sequence[int]
    ) -> str:
        """Take a range of each of some axes."""
        parts = (self.constant(list(part)) for part in (starts, ends, axes))
        return self.node("Slice", values, *parts)

    def unit_length(self, rows: str, axis: int = 1) -> str:
        """Scale rows to unit length along an axis; those of length 0 stay so."""
        length = self.reduce("ReduceL2", rows, (axis,), keepdims=True)
        return self.node("Div", rows, self.node("Max", length, self.constant(_EPSILON)))

    # ------------------------------------------------------------ encoding

    def _new_name(self, kind: str) -> str:
        self._count += 1
        return f"{self.prefix}{kind.lower()}_{self._count}"

    def _contents(self) -> Iterable[tuple[int, list[Chunk]]]:
        """Yield the fields of nodes and tensors."""
        for number, node in enumerate(self._nodes):
            fields: list[tuple[int, Any]] = [
                (field, self._public.get(name, name).encode())
                for field, names in ((1, node.inputs), (2, node.outputs))
                for name in names
            ]
            fields += [(3, f"{self.prefix}node_{number}".encode()), (4, node.operator.encode())]
            fields += [
                (5, _attribute(name, value))
                for name, value in node.attributes.items()
                if value is not None
            ]
            if node.domain:
                fields.append((7, node.domain.encode()))
            yield _GRAPH_NODE, message(*fields)
        for tensor in self._tensors:
            yield _GRAPH_TENSOR, tensor

    def _final_outputs(self) -> list[Value]:
        return [
            Value(self._public.get(each.name, each.name), each.shape, each.dtype)
            for each in self._outputs
        ]


Build = Callable[[Graph, list[str]], Sequence[str]]
"""Adds nodes to a graph behind named outputs of a model, and returns the names of its outputs."""


def append(model: bytes, build: Build, *, name: str = "model") -> bytes:
    """Return a model with nodes added behind its outputs, which are replaced.

    Args:
        model: of any origin; its weights may lie in other files.
        build: is called with a graph of the model's version and the names of its outputs, whose
            shapes and types :meth:`Graph.source` tells. It returns the names of the new outputs,
            which it may declare with :meth:`Graph.output`; one that it does not is float32 of any
            shape.
        name: of the model, for messages.

    Raises:
        ArtifactError: it is no ONNX model, has no outputs, or its operators are older than
            :data:`MIN_OPSET`.
    """
    parts = _read_model(model, name)
    prefix = "added_"
    while prefix.encode() in model:  # then no name of the model can begin with it
        prefix = f"added_{len(prefix)}_"
    graph = Graph(parts.opset, prefix, list(parts.outputs))
    outputs = build(graph, [each.name for each in parts.outputs])
    declared = {each.name: each for each in graph._outputs}
    existing = {each.name: each for each in parts.outputs}
    known = {**existing, **declared}
    graph._outputs = [known.get(each, Value(each, None, np.dtype(np.float32))) for each in outputs]
    for value, public in graph._public.items():
        while public.encode() in model:
            public += "_"
        graph._public[value] = public
    whole = message(
        *graph._contents(),
        *((_GRAPH_OUTPUT, each.chunks()) for each in graph._final_outputs()),
    )
    return b"".join([*parts.model, *message((_MODEL_GRAPH, [*parts.graph, *whole]))])


def model_outputs(model: bytes, *, name: str = "model") -> list[Value]:
    """Return the outputs that a model declares.

    Raises:
        ArtifactError: as by :func:`append`.
    """
    return _read_model(model, name).outputs


@dataclass(slots=True)
class _Parts:
    """A model without its graph, its graph without outputs, and what is known of both."""

    model: list[memoryview] = field(default_factory=list)
    graph: list[memoryview] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    opset: int = 0


def _read_model(model: bytes, name: str) -> _Parts:
    budget = [_MAX_FIELDS]
    parts, graphs = _Parts(), []
    try:
        for number, _, value, whole in read_fields(memoryview(model), budget):
            if number == _MODEL_GRAPH and isinstance(value, memoryview):
                graphs.append(value)
                continue
            parts.model.append(whole)
            if number == _MODEL_OPSETS and isinstance(value, memoryview):
                entry = {n: v for n, _, v, _ in read_fields(value, budget)}
                if bytes(_bytes(entry.get(1, memoryview(b"")))) in (b"", b"ai.onnx"):
                    parts.opset = _number(entry.get(2, 0))
        if len(graphs) != 1:
            raise ValueError(f"{len(graphs)} graphs")
        _read_graph(graphs[0], parts, budget)
    except ValueError as error:
        raise ArtifactError(
            f"{name}: is not a complete ONNX model ({error}); copy or export it again"
        ) from error
    if parts.opset < MIN_OPSET:
        raise ArtifactError(
            f"{name}: its operators are of version {parts.opset}; export the model again with "
            f"opset {MIN_OPSET} or later"
        )
    return parts


def _read_graph(data: memoryview, parts: _Parts, budget: list[int]) -> None:
    for number, _, value, whole in read_fields(data, budget):
        if number == _GRAPH_OUTPUT:
            parts.outputs.append(read_value_info(_bytes(value), budget))
        else:
            parts.graph.append(whole)
    if not parts.outputs:
        raise ValueError("no outputs")


def read_value_info(data: memoryview, budget: list[int]) -> Value:
    """Return what a message ``ValueInfoProto`` says; ``budget`` is that of :func:`read_fields`.

    Raises:
        ValueError: it is no such message.
    """
    name, shape, dtype = "", None, None
    for number, _, value, _ in read_fields(data, budget):
        if number == 1:
            name = bytes(_bytes(value)).decode()
        elif number == 2:
            for kind, _, tensor, _ in read_fields(_bytes(value), budget):
                if kind == 1:
                    dtype, shape = _tensor_type(_bytes(tensor), budget)
    return Value(name, shape, dtype)


def _tensor_type(
    data: memoryview, budget: list[int]
) -> tuple[np.dtype[Any] | None, tuple[int | None, ...] | None]:
    dtype, shape = None, None
    for number, _, value, _ in read_fields(data, budget):
        if number == 1:
            dtype = _DTYPES.get(_number(value))
        elif number == 2:
            axes: list[int | None] = []
            for axis, _, size, _ in read_fields(_bytes(value), budget):
                if axis == 1:
                    sizes = [v for n, _, v, _ in read_fields(_bytes(size), budget) if n == 1]
                    axes.append(_number(sizes[-1]) if sizes else None)
            shape = tuple(axes)
    return dtype, shape


def _bytes(value: int | memoryview) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("a message is expected")
    return value


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("a number is expected")
    return value


def _opset(domain: str, version: int) -> list[Chunk]:
    return message(*([(1, domain.encode())] if domain else []), (2, version))


def _tensor(name: str, array: NDArray[Any]) -> list[Chunk]:
    """Return the message ``TensorProto``; its values are not copied where they need not be."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    data = plain.data.cast("B") if plain.size else b""
    dims = ((1, size) for size in array.shape)
    return message(*dims, (2, _TYPES[array.dtype.name]), (8, name.encode()), (9, data))


def _attribute(name: str, value: Any) -> list[Chunk]:
    """Return the message ``AttributeProto``."""
    key = (1, name.encode())
    if isinstance(value, np.ndarray):
        return message(key, (5, _tensor("", value)), (20, 4))
    if isinstance(value, bool | int | np.integer):
        return message(key, (3, int(value)), (20, 2))
    if isinstance(value, float):
        return message(key, (2, value), (20, 1))
    if isinstance(value, str):
        return message(key, (4, value.encode()), (20, 3))
    values = list(value)
    if all(isinstance(each, int | np.integer) for each in values):
        return message(key, *((8, int(each)) for each in values), (20, 7))
    if all(isinstance(each, str) for each in values):
        return message(key, *((9, each.encode()) for each in values), (20, 8))
    return message(key, *((7, float(each)) for each in values), (20, 6))


def _pads(padding: int | tuple[int, int, int, int]) -> list[int]:
    return [padding] * 4 if isinstance(padding, int) else list(padding)


# ---------------------------------------------------------------- weights


def folded_conv(
    state: Mapping[str, NDArray[Any]], conv: str, norm: str, *, eps: float = 1e-5
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight and bias of a convolution with the batch normalization behind it.

    Computed in float64 and element by element, so that every machine gets the same bits.

    Args:
        state: arrays by their names in torch.
        conv: name of the convolution, as ``layer1.0.conv1``.
        norm: name of the normalization, as ``layer1.0.bn1``.
        eps: of the normalization.

    Raises:
        KeyError: an array is missing.
    """
    weight = state[f"{conv}.weight"].astype(np.float64)
    gamma, beta, mean, variance = (
        state[f"{norm}.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + eps)
    bias = state.get(f"{conv}.bias")
    offset = beta - mean * scale if bias is None else beta + (bias - mean) * scale
    scaled = weight * scale.reshape(-1, *(1 for _ in weight.shape[1:]))
    return scaled.astype(np.float32), offset.astype(np.float32)
