"""Galleries: images with their embeddings and metadata, kept in sync with their sources.

``gallery`` is the public class, and ``base`` the interface that it shares with galleries of a
service; below it are ``opening``, ``writing``, ``indexing`` and ``searching``. ``storage`` is its
manifest and files, ``state`` its identity and revision, ``derived`` files that are computed from
one state. ``ingest`` encodes images of sources, in threads or on a Ray cluster (``ray_runner``);
``sync`` reports changes; ``adding`` and ``uploads`` store single images; ``vectors`` takes
embeddings that were made elsewhere; ``items``, ``ids`` and ``lookup`` are about single rows.
``on_demand`` has the cached galleries of folders. ``edits`` are metadata that people change,
``archive`` keeps what was written about images whose rows are gone, ``removed`` which images a sync
leaves out; ``copy`` and ``export`` write galleries elsewhere; ``neighbors`` builds the
neighbor graph; ``recall`` measures approximate search.
"""
