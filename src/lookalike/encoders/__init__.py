"""Encoders: images in, embeddings out.

``base`` has the interface and the preprocessing, ``registry`` opens encoders by name, ``specs``
describes them and those of other packages, ``options`` parses the options after a name,
``persistence`` saves and loads encoder folders, ``batching`` encodes images in batches.

Implementations: ``handcrafted`` and ``hog`` need no network, ``onnx`` runs one in ONNX Runtime,
``image_text`` adds text queries, ``external`` wraps functions and models of users. ``composite``
concatenates, averages or projects embeddings, with the projections of ``whitening``; ``weights``
stores learned arrays.

Pretrained networks: ``lite0`` is built without torch; ``timm_export`` and ``image_text_export``
load others in torch and export them with ``export``. ``pretrained`` adds the nodes of ``pooling``
behind their feature maps and keeps the result in the cache; ``backbones`` describes them.
"""

from lookalike.encoders.base import Encoder, Preprocessing
from lookalike.encoders.external import ExternalEncoder, from_callable
from lookalike.encoders.specs import EncoderSpec

__all__ = ["Encoder", "EncoderSpec", "ExternalEncoder", "Preprocessing", "from_callable"]
