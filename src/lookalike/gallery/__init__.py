"""A gallery binds one encoder to one store and its sources.

``gallery`` is the facade; ``storage`` finds where a gallery is kept; ``sync`` compares sources with
rows and ``ingest`` encodes what is new (``ray_runner`` and ``ray_worker`` do so on a Ray cluster).
``uploads`` adds and removes single images; ``copy`` and ``export`` take a gallery elsewhere;
``facets``, ``neighbors`` and ``recall`` count values, find nearest neighbors and measure recall.
"""
