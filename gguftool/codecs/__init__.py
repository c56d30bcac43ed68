"""Floor 2, numbers: rows of weights to blocks and back. ``dispatch`` is its face."""
