"""The data sets: their files, found, checked and read; their batches."""
