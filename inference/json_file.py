"""JSON files that are replaced in one go."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, all of it or nothing; infinities and NaN are refused.

    Raises:
        ValueError: If a number is not finite.
        OSError: If it cannot be written.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    handle, staged = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(staged, 0o644)
        os.replace(staged, file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)
        raise
