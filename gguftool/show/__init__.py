"""Faces: what people and programs see of a result."""
