"""Files and folders that are written whole or not at all, and read with one sentence where they are damaged."""
