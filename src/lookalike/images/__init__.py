"""Images as arrays: decoding, foreground, local features, and derived images.

``decode`` turns files and bytes into upright gray or RGB arrays and resizes them, by the rules of
``options`` and ``intensity``; ``formats`` says which formats are read, ``header`` what a file says
of itself. ``decoders`` chooses between ``pillow``, ``tiff`` and ``other_formats``; ``repair`` saves
what is left of damaged files; ``memory`` bounds what large ones take.

``foreground`` finds the main object and crops boxes; ``local_features`` verifies matches
geometrically; ``idx`` reads MNIST's files. ``corruptions`` derive images for robustness tests;
``compositing`` and ``stylization`` synthesize query photographs and drawings for training and
evaluation. ``inline`` shows images in notebooks.
"""

from lookalike.images.decode import DecodedImage, ImageInput, decode, decode_with_notes
from lookalike.images.foreground import Box
from lookalike.images.header import ImageHeader, read_header
from lookalike.images.options import DecodeOptions

__all__ = [
    "Box",
    "DecodeOptions",
    "DecodedImage",
    "ImageHeader",
    "ImageInput",
    "decode",
    "decode_with_notes",
    "read_header",
]
