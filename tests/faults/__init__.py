"""Faults by the hundred: what users, networks and strangers do to the project, in seeded rounds.

    python -m tests.faults                                        # every theme at its full length
    python -m tests.faults --only files --rounds 400 --seed 7     # one of them, shorter, other faults
    python -m tests.faults --json results/faults/files.json --only files    # keep the tally
    python -m tests.faults.report                                 # render docs/RELIABILITY.md from what is kept

A round is a function of the theme, the seed and its number. tests/test_faults_*.py run a short part of every theme.
"""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = ROOT / "tests"
for folder in (ROOT, TESTS):  # as pytest has them: the project, and the helpers of its tests
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
