"""What goes wrong where workers share their numbers, done to real servers under load, and what must hold all the same.

`python -m tests.faults` does it at length and prints figures, those of one run are in `summary.txt`; `test_campaign`
does it in short.
"""
