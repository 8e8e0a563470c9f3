"""Encoders: images in, embeddings out.

``base`` is the protocol and the preprocessing; ``registry`` names every encoder and opens it;
``persistence`` saves and loads encoder folders; ``batching`` encodes whole sources. ``handcrafted``
and ``hog`` need no network; ``onnx`` runs networks, ``backbones`` and ``pretrained`` know the
pretrained ones, ``image_text`` adds text queries. ``composite``, ``whitening``, ``pooling`` and
``options`` wrap and combine; ``export`` and ``image_text_export`` write ONNX, with torch.
"""
