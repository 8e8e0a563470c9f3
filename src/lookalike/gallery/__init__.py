"""Galleries: images with their embeddings and metadata, kept in sync with their sources.

``gallery`` is the public class; ``storage`` its manifest and files; ``state`` its identity and
revision; ``derived`` files that are computed from one state; ``ingest`` encodes images, in threads
or on a Ray cluster (``ray_runner``); ``sync`` reports changes; ``archive`` keeps what was written
about images whose rows are gone; ``copy`` and ``export`` write galleries elsewhere; ``uploads``
manages single images; ``neighbors`` builds the neighbor graph; ``recall`` measures approximate
search.
"""
