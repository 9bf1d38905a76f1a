"""Data, recipes, the training loop and its files. It imports no net and no framework: the programs pass them in."""
