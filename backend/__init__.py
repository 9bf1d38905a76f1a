"""What computes a run: base.py is the interface, and each folder implements it with one framework."""
