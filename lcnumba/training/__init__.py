"""The training loop of `Sequential.fit`, and what it consists of."""
