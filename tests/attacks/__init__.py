"""Attacks: kills, mutated files and options, code in data files, odd networks, disks that fill."""
