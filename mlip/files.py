"""Small files, written so that a crash never leaves a half-written one under its final name."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any


class FileContentError(ValueError):
    """A file that exists but does not hold what it should; the message names it and the remedy."""


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write ``content`` under a temporary name in the same folder, sync it and rename it to ``path``.

    Readers see the old file or the whole new one, never a part; two writers at once leave
    one of the two contents. Text is encoded as UTF-8. Missing parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.parent / f".{path.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; file systems that cannot sync a folder are left alone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically.

    Raises:
        ValueError: when it holds NaN or infinity, which JSON cannot express.
        TypeError: when it holds a type that JSON does not know.
    """
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: when there is none.
        FileContentError: when it is not JSON, e.g. cut short.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise FileContentError(
            f"{path}: not valid JSON ({error}); it was cut short or edited:"
            " delete it and run the step that writes it again"
        ) from None


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of(value: Any) -> str:
    """SHA-256 of a JSON-like value, in hexadecimal; the order of keys does not matter, tuples equal lists.

    Raises:
        TypeError: when ``value`` holds a type that JSON does not know.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
