"""Pixels: decode images, find the foreground, match local features, corrupt and compose images.

``decode`` turns bytes into upright RGB or gray arrays; ``foreground`` finds the main object;
``local_features`` verifies matches geometrically; ``corruptions``, ``compositing`` and
``stylization`` derive images for robustness tests and training.
"""
