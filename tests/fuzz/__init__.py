"""Untrusted input: requests drawn at random, a hundred to a registry, and every page that comes of them read.

`python -m tests.fuzz --inputs 100000` prints what was done as figures; `test_fuzz` runs a tenth of it.
"""
