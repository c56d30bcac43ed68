"""Importance matrices: files, their values, and what they say about a model's activations."""
