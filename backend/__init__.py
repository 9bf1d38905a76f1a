"""What computes a run: base.py is the interface, each folder here implements it with one framework."""
