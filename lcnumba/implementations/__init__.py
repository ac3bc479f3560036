"""Three implementations of the layer behind one Protocol (`base.py`), and their estimated costs."""
