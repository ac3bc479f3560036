"""Single concepts that every room uses, each in a file of its name."""
