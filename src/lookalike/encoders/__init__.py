"""Encoders: images in, embeddings out.

``base`` has the protocol and the preprocessing, ``registry`` opens encoders by name, ``options``
parses the options after a name, ``persistence`` saves and loads encoder folders, ``batching``
encodes the images of a source.

Implementations: ``handcrafted`` and ``hog`` need no network, ``onnx`` runs one in ONNX Runtime,
``image_text`` adds text queries. ``composite`` concatenates, averages or projects embeddings, with
the projections of ``whitening``; ``weights`` stores learned arrays.

Exporting pretrained networks needs torch: ``backbones`` loads them, ``pooling`` pools their feature
maps, ``pretrained`` and ``image_text_export`` export them into the cache with ``export``.
"""

from lookalike.encoders.base import Encoder, Preprocessing

__all__ = ["Encoder", "Preprocessing"]
