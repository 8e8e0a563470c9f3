"""The distributed store: a collection on a Milvus server.

``store`` is the :class:`~lookalike.stores.base.VectorStore`; ``address`` parses milvus://
addresses; ``client`` is the only module that uses pymilvus; ``collection`` creates collections and
converts rows; ``filters`` translates filters; ``sidecar`` keeps manifest, encoder and columns
beside the rows.
"""
