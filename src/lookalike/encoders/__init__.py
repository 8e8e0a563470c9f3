"""Encoders: images in, embeddings out."""
