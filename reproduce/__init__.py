"""The paper's experiments: what to train, training it, the ledger of runs, and what the repository shows of it."""
