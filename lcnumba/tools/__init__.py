"""The commands of ``python -m lcnumba``, and `lcnumba.tune`."""
