"""Untrusted input: requests drawn at random, a hundred to a registry, and every page that comes of them read.

`python -m tests.fuzz` prints what was done as figures, those of one run are in `summary.txt`; `test_fuzz` runs a tenth.
"""
