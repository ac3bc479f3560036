"""The library's own files: models, weights and checkpoints."""
