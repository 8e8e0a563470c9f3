"""The distributed store: a collection on a Milvus server.

``store`` is the :class:`~lookalike.stores.base.VectorStore`; ``address`` parses milvus://
addresses; ``client`` is the only module that uses pymilvus; ``collection`` creates collections and
converts rows; ``filters`` translates filters to Milvus expressions; ``sidecar`` stores the
manifest, the encoder and the column types beside the rows.
"""
