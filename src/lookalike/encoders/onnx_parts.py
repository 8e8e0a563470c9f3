"""Inputs and outputs of ONNX models of others, and the part of a model that computes some outputs.

A model with several outputs, such as one of CLIP with both networks, holds more than an encoder
needs. :func:`extract` keeps the nodes and weights that some outputs depend on, so that only these
are saved, loaded and run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lookalike.errors import ArtifactError
from lookalike.onnx_graph import Value, read_value_info
from lookalike.wire_format import Chunk, message, read_fields

_MODEL_GRAPH = 7
_NODE, _TENSOR, _INPUT, _OUTPUT, _SPARSE = 1, 5, 11, 12, 15
_GRAPH_NAME = 2
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE = 1, 2, 5
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_TENSOR_NAME, _SPARSE_VALUES = 8, 1
_MAX_FIELDS = 20_000_000
_MAX_LEVELS = 64


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and returns; values that it holds itself are no inputs."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    def output(self, name: str) -> Value | None:
        """Return an output by name, None if there is none."""
        return next((each for each in self.outputs if each.name == name), None)


@dataclass(slots=True)
class _Node:
    inputs: set[str]
    outputs: set[str]


@dataclass(slots=True)
class _Graph:
    """The fields of a graph: the number of each, the whole field, and what it names."""

    fields: list[tuple[int, memoryview, str | _Node]] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    tensors: set[str] = field(default_factory=set)


def read_signature(model: bytes, *, name: str) -> Signature:
    """Return the inputs and outputs of a model.

    Raises:
        ArtifactError: it is no ONNX model.
    """
    _, graph = _read(model, name, with_nodes=False)
    inputs = tuple(each for each in graph.inputs if each.name not in graph.tensors)
    return Signature(inputs, tuple(graph.outputs))


def extract(model: bytes, outputs: Sequence[str], *, name: str) -> bytes:
    """Return the part of a model that computes some of its outputs, which it has in that order.

    A model without anything else is returned as it is. Shapes of values inside the model are left
    out of a part.

    Args:
        model: with its weights.
        outputs: names of outputs that it has.
        name: of the model, for messages.

    Raises:
        ArtifactError: it is no ONNX model.
    """
    others, graph = _read(model, name, with_nodes=True)
    needed = _needed(graph, outputs)
    present = [each.name for each in graph.outputs]
    if present == list(outputs) and all(
        number not in (_NODE, _INPUT) or _is_needed(item, needed)
        for number, _, item in graph.fields
    ):
        return model
    by_name = {item: whole for number, whole, item in graph.fields if number == _OUTPUT}
    kept: list[Chunk] = [
        whole
        for number, whole, item in graph.fields
        if number == _GRAPH_NAME
        or (number in (_NODE, _TENSOR, _INPUT, _SPARSE) and _is_needed(item, needed))
    ]
    kept += [by_name[each] for each in outputs]
    return b"".join([*others, *message((_MODEL_GRAPH, kept))])


def _is_needed(item: str | _Node, needed: set[str]) -> bool:
    if isinstance(item, _Node):
        return not item.outputs.isdisjoint(needed)
    return item in needed


def _needed(graph: _Graph, outputs: Sequence[str]) -> set[str]:
    """Return the names of all values that outputs depend on."""
    producers = {
        output: item
        for _, _, item in graph.fields
        if isinstance(item, _Node)
        for output in item.outputs
    }
    needed: set[str] = set()
    waiting = list(outputs)
    while waiting:
        value = waiting.pop()
        if value in needed:
            continue
        needed.add(value)
        if (node := producers.get(value)) is not None:
            waiting += node.inputs
    return needed


def _read(model: bytes, name: str, *, with_nodes: bool) -> tuple[list[Chunk], _Graph]:
    """Return the fields of a model but its graph, and the graph, with its nodes or without."""
    budget = [_MAX_FIELDS]
    others: list[Chunk] = []
    graphs: list[_Graph] = []
    try:
        for number, _, value, whole in read_fields(memoryview(model), budget):
            if number == _MODEL_GRAPH:
                graphs.append(_read_graph(_data(value), budget, with_nodes=with_nodes))
            else:
                others.append(whole)
        if len(graphs) != 1:
            raise ValueError(f"{len(graphs)} graphs")
    except ValueError as error:
        raise ArtifactError(
            f"{name}: is not a complete ONNX model ({error}); copy or export it again"
        ) from error
    return others, graphs[0]


def _read_graph(data: memoryview, budget: list[int], *, with_nodes: bool) -> _Graph:
    graph = _Graph()
    for number, _, value, whole in read_fields(data, budget):
        item: str | _Node = ""
        if number == _NODE:
            if not with_nodes:
                continue
            node = _Node(set(), set())
            _read_node(_data(value), node, budget, 0)
            item = node
        elif number == _TENSOR:
            item = _name_of_tensor(_data(value), budget)
            graph.tensors.add(item)
        elif number == _SPARSE:
            item = "".join(
                _name_of_tensor(_data(inner), budget)
                for key, _, inner, _ in read_fields(_data(value), budget)
                if key == _SPARSE_VALUES
            )
            graph.tensors.add(item)
        elif number in (_INPUT, _OUTPUT):
            info = read_value_info(_data(value), budget)
            (graph.inputs if number == _INPUT else graph.outputs).append(info)
            item = info.name
        graph.fields.append((number, whole, item))
    return graph


def _read_node(data: memoryview, node: _Node, budget: list[int], level: int) -> None:
    """Add the names that a node reads and, unless it is inside another, those that it computes."""
    if level > _MAX_LEVELS:
        raise ValueError("graphs are nested too deeply")
    for number, _, value, _ in read_fields(data, budget):
        if number == _NODE_INPUT:
            node.inputs.add(_text(value))
        elif number == _NODE_OUTPUT and level == 0:
            node.outputs.add(_text(value))
        elif number == _NODE_ATTRIBUTE:
            for graph in _inner_graphs(_data(value), budget):
                _read_captured(graph, node, budget, level + 1)
    node.inputs.discard("")
    node.outputs.discard("")


def _inner_graphs(attribute: memoryview, budget: list[int]) -> Iterator[memoryview]:
    for number, _, value, _ in read_fields(attribute, budget):
        if number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            yield _data(value)


def _read_captured(graph: memoryview, node: _Node, budget: list[int], level: int) -> None:
    """Add the names that a graph inside a node reads; they may be values around it."""
    for number, _, value, _ in read_fields(graph, budget):
        if number == _NODE:
            _read_node(_data(value), node, budget, level)
        elif number == _OUTPUT:
            node.inputs.add(read_value_info(_data(value), budget).name)


def _name_of_tensor(data: memoryview, budget: list[int]) -> str:
    names = [v for number, _, v, _ in read_fields(data, budget) if number == _TENSOR_NAME]
    return _text(names[-1]) if names else ""


def _data(value: int | memoryview) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("a message is expected")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_data(value)).decode(errors="replace")
