"""Data, recipes, the training loop and its files. Knows no net: it is handed one."""
