"""Utilities used by all rooms, one concept a file."""
