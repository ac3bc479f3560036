"""Three ways to compute the layer, behind one Protocol (`base.py`), and what each costs."""
