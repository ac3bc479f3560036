"""What the command line runs, and `lcnumba.tune`."""
