"""The embedded store: a Lance table in the gallery's folder.

``store`` is the :class:`~lookalike.stores.base.VectorStore`; ``snapshot`` reads one version of a
table; ``table`` converts between rows and Arrow; ``index`` builds and searches the approximate
index.
"""
