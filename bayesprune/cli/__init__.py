"""The command line: options, exit codes, and one entry a command."""
