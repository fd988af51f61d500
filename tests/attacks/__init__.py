"""Attacks: kills, damaged files and impossible options, code in data files, odd networks, disks that fill.

Damaged files and impossible options are numbered, and each is judged by the same rules: `python -m tests.attacks
NUMBER` repeats one and prints what it did; `python -m tests.attacks` runs all of them.
"""
