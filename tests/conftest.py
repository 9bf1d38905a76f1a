"""Prepares the process before any test module imports MXNet, as the scripts do: equal threads here and in them."""
from support import runtime

runtime.prepare()
