"""The paper's experiments: the list of trainings, their runner, the ledger of runs, and the report."""
