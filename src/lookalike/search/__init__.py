"""Search: from a query to ranked hits.

``query`` turns images, regions and crops into query vectors; ``search`` asks the store and
re-ranks; ``rerank`` has the re-ranking methods; ``keywords`` is full-text search in metadata.
"""
