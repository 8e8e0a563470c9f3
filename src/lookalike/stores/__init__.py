"""Vector stores: rows with an embedding and metadata; they know nothing of images."""
