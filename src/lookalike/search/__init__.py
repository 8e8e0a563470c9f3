"""Search: from queries to ranked hits.

``request`` is what is asked for, ``searchable`` the public call that builds it. ``region`` crops
query images, ``query`` turns queries into vectors, ``search`` finds the nearest rows. ``rerank``
has the re-ranking methods, ``keywords`` is full-text search in metadata. ``hits`` are the results
of one query, ``contact_sheet`` draws them.
"""

from typing import TYPE_CHECKING

from lookalike.lazy_names import lazy_names

if TYPE_CHECKING:
    from lookalike.search.query import QueryVectors
    from lookalike.search.region import QueryRegion
    from lookalike.search.request import RERANKINGS, Example, Query, SearchRequest
    from lookalike.search.searchable import Searchable

__all__ = [
    "RERANKINGS",
    "Example",
    "Query",
    "QueryRegion",
    "QueryVectors",
    "SearchRequest",
    "Searchable",
]

if not TYPE_CHECKING:  # so that type checkers refuse names that do not exist
    __getattr__ = lazy_names(
        __name__,
        {
            "RERANKINGS": "lookalike.search.request",
            "Example": "lookalike.search.request",
            "Query": "lookalike.search.request",
            "QueryRegion": "lookalike.search.region",
            "QueryVectors": "lookalike.search.query",
            "SearchRequest": "lookalike.search.request",
            "Searchable": "lookalike.search.searchable",
        },
    )
