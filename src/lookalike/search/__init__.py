"""Search: from a query to ranked hits.

``query`` turns images, rows and texts into query vectors; ``search`` runs a search with its
options; ``rerank`` has the re-ranking methods; ``keywords`` is full-text search in metadata.
``hits`` are the results of one query, ``contact_sheet`` draws them.
"""

from lookalike.search.query import Query, QueryRegion, QueryVectors
from lookalike.search.search import RERANKINGS, SearchOptions

__all__ = ["RERANKINGS", "Query", "QueryRegion", "QueryVectors", "SearchOptions"]
