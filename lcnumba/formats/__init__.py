"""The library's own file formats: models, weights and checkpoints."""
