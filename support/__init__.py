"""Used by every part: the process before MXNet loads, files, locks, errors, argument checks."""
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the folder of this project
