"""Pooling of feature maps to one vector per image, as nodes of an ONNX graph.

Maps are values ``(n, c, h, w)`` of a graph. They are built here into the networks that are made
without torch, and added behind those that torch exported. The sizes of maps are known when nodes
are added: regions and cells are at fixed positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lookalike.onnx_graph import Graph

DEFAULT_POOLING, MULTI_LAYER_POOLING, NATIVE_POOLING = "gem", "layers", "own"
"""The default pooling, the one of several layers, and the one that a network was trained with."""

POOLINGS = (DEFAULT_POOLING, "avg", "max", "rmac", "attention", "grid", MULTI_LAYER_POOLING)

Size = tuple[int, int]
"""Height and width of maps."""

_EPSILON = 1e-12
_GEM_POWER = 3.0
_GEM_MINIMUM = 1e-6
_LARGE = 12
"""Rows from which on maps are pooled over a grid of 4 x 4 cells instead of 3 x 3."""


def add_pooling(graph: Graph, pooling: str, maps: Sequence[str], sizes: Sequence[Size]) -> str:
    """Add a pooling, scaled to unit length, and return the embeddings ``(n, dim)``.

    Args:
        graph: computes the maps.
        pooling: one of :data:`POOLINGS`; or :data:`NATIVE_POOLING`, whose values are embeddings
            ``(n, dim)`` already.
        maps: values ``(n, c, h, w)``; several for :data:`MULTI_LAYER_POOLING`, the deepest last.
        sizes: of each.
    """
    if pooling == MULTI_LAYER_POOLING:
        return graph.unit_length(layers(graph, maps, sizes))
    if pooling == NATIVE_POOLING:
        return graph.unit_length(maps[-1])
    return graph.unit_length(SINGLE_LAYER[pooling](graph, maps[-1], sizes[-1]))


def gem(graph: Graph, maps: str, size: Size | None = None) -> str:
    """Generalized mean pooling with p = 3 (Radenović et al. 2018, section 3.2), ``(n, c)``.

    Negative values count as zero.
    """
    del size
    positive = graph.node("Max", maps, graph.constant(_GEM_MINIMUM))
    powers = graph.node("Pow", positive, graph.constant(_GEM_POWER))
    return graph.node("Pow", graph.reduce("ReduceMean", powers, (2, 3)), graph.constant(1 / 3))


def average(graph: Graph, maps: str, size: Size | None = None) -> str:
    """Average pooling, ``(n, c)``."""
    del size
    return graph.reduce("ReduceMean", maps, (2, 3))


def maximum(graph: Graph, maps: str, size: Size | None = None) -> str:
    """Max pooling (MAC, Tolias et al. 2016, section 3), ``(n, c)``."""
    del size
    return graph.reduce("ReduceMax", maps, (2, 3))


def rmac(graph: Graph, maps: str, size: Size) -> str:
    """R-MAC: the sum of unit-length MAC vectors of square regions at three scales, ``(n, c)``.

    Tolias et al. 2016, section 4, without the whitening of each region.
    """
    parts = [graph.unit_length(maximum(graph, part)) for part in _regions(graph, maps, size)]
    return graph.node("Sum", *parts)


def attention(graph: Graph, maps: str, size: Size) -> str:
    """R-MAC with each region weighted by its mean spatial attention, ``(n, c)``.

    Attention is the norm of the features at each position, as the spatial weights of CroW
    (Kalantidis et al. 2016, section 3.2, square root included). Regions of plain background, which
    R-MAC weights like any other, count little.
    """
    norms = graph.reduce("ReduceL2", maps, (1,), keepdims=True)
    largest = graph.reduce("ReduceMax", norms, (2, 3), keepdims=True)
    largest = graph.node("Max", largest, graph.constant(_EPSILON))
    weights = graph.node("Sqrt", graph.node("Div", norms, largest))
    parts = [
        graph.node("Mul", graph.unit_length(maximum(graph, part)), average(graph, weight))
        for part, weight in zip(
            _regions(graph, maps, size), _regions(graph, weights, size), strict=True
        )
    ]
    return graph.node("Sum", *parts)


def grid(graph: Graph, maps: str, size: Size, side: int = 3) -> str:
    """Average pooling over ``side`` x ``side`` overlapping cells, ``(n, c * side * side)``.

    Keeps the spatial layout, which helps for drawings and shop images whose item fills the image.
    Negative values count as zero. Maps of fewer positions have fewer cells.
    """
    (height, down), (width, across) = (_windows(length, side) for length in size)
    cells = graph.node(
        "AveragePool", graph.relu(maps), kernel_shape=[height, width], strides=[down, across]
    )
    return graph.node("Flatten", cells, axis=1)


def layers(graph: Graph, maps: Sequence[str], sizes: Sequence[Size]) -> str:
    """GeM and 3 x 3 grid of the deepest maps, then grids of earlier layers, ``(n, dim)``.

    Each part has unit length. Deep layers encode what is shown, earlier ones its appearance;
    whitening or a learned projection weights them.
    """
    parts = [gem(graph, maps[-1]), grid(graph, maps[-1], sizes[-1])]
    parts += [
        grid(graph, each, size, 3 if size[0] < _LARGE else 4)
        for each, size in zip(maps[:-1], sizes[:-1], strict=True)
    ]
    return graph.node("Concat", *(graph.unit_length(part) for part in parts), axis=1)


SINGLE_LAYER: dict[str, Callable[[Graph, str, Size], str]] = {
    DEFAULT_POOLING: gem,
    "avg": average,
    "max": maximum,
    "rmac": rmac,
    "attention": attention,
    "grid": grid,
}
"""What adds a pooling of the maps of one layer, by name."""

OF_ANY_SIZE = frozenset({DEFAULT_POOLING, "avg", "max"})
"""Poolings of maps whose size need not be known."""


def _windows(length: int, count: int) -> tuple[int, int]:
    """Return length and stride of ``count`` overlapping windows, evenly spread."""
    if length <= count:
        return 1, 1
    stride = max(1, int(length / (count + 0.5)))
    return length - stride * (count - 1), stride


def _regions(graph: Graph, maps: str, size: Size) -> list[str]:
    """Return the parts of maps in R-MAC's regions."""
    return [
        graph.slice(maps, (2, 3), (top, left), (top + side, left + side))
        for top, left, side in region_grid(*size)
    ]


def region_grid(height: int, width: int, scales: int = 3) -> list[tuple[int, int, int]]:
    """Return top, left and side of R-MAC's regions, in positions of the maps.

    At scale l the side is ``2 * min(height, width) / (l + 1)``; along the longer side there are
    as many more regions as make neighbors overlap by about 40 %.
    """
    shorter, longer = min(height, width), max(height, width)
    extra = 0
    if longer > shorter:
        overlaps = [(m, 1 - (longer - shorter) / (m * shorter)) for m in range(1, 7)]
        extra = min(overlaps, key=lambda pair: abs(pair[1] - 0.4))[0]
    regions = []
    for scale in range(1, scales + 1):
        side = max(1, 2 * shorter // (scale + 1))
        down = scale + (extra if height > width else 0)
        across = scale + (extra if width > height else 0)
        tops, lefts = _starts(height, side, down), _starts(width, side, across)
        regions += [(top, left, side) for top in tops for left in lefts]
    return regions


def _starts(length: int, side: int, count: int) -> list[int]:
    slack = length - side
    return [round(i * slack / (count - 1)) for i in range(count)] if count > 1 else [slack // 2]
