"""What the queries of a request cost."""

from __future__ import annotations

from lookalike.search.request import Query, SearchRequest

_RERANKING_COST = 2
_GEOMETRIC_COST = 8
_MULTI_CROP_COST = 3
_PER_HITS = 100


def cost_of(request: SearchRequest) -> int:
    """Return what a request costs; a plain search for one query of one example costs 1.

    Results that are left out cost as much as others, where they are ranked by distance.
    """
    has_distances = not all(query.is_empty for query in request.queries)
    cost = (request.k + request.offset * has_distances) // _PER_HITS
    cost += _MULTI_CROP_COST * request.region.multi_crop
    cost += _RERANKING_COST * len(request.rerankings)
    cost += _GEOMETRIC_COST * request.needs_image
    return sum(cost + _example_cost(query) for query in request.queries)


def _example_cost(query: Query) -> int:
    """Return 1, and 1 for each further example that has to be decoded or encoded."""
    return max(1, sum(each.id is None and each.vector is None for each in query.examples))


def is_long(request: SearchRequest) -> bool:
    """Return whether the search for one query may take much longer than a plain one."""
    options = (request.rerankings, request.keywords, request.filter)
    return any(map(bool, (*options, request.region.multi_crop, request.offset)))
