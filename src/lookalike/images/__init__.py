"""Images as arrays: decoding, foreground, local features, and derived images.

``decode`` turns files and bytes into upright gray or RGB arrays and resizes them; ``foreground``
finds the main object and crops boxes; ``local_features`` verifies matches geometrically; ``idx``
reads MNIST's files. ``corruptions`` derive images for robustness tests; ``compositing`` and
``stylization`` synthesize query photographs and drawings for training and evaluation.
"""

from lookalike.images.decode import ImageInput, decode
from lookalike.images.foreground import Box

__all__ = ["Box", "ImageInput", "decode"]
