"""Bytes: what a file says, validated once at the door; how a file appears whole or not at all."""
