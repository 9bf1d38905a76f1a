"""The data sets: their files are found, checked and read, and made into batches."""
