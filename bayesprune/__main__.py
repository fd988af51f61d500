"""Runs the command line: `python -m bayesprune` is the same as `bayesprune`."""

from __future__ import annotations

from bayesprune.cli.app import main

if __name__ == "__main__":
    main()
