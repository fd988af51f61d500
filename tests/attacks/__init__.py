"""Attacks on the command line: damaged files and impossible options, numbered, each judged by the same rules.

`python -m tests.attacks NUMBER` repeats one and prints what it did; `python -m tests.attacks` runs all of them.
"""
