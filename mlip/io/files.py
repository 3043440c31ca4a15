"""Small files, written so that a crash never leaves a half-written one under its final name."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import numbers
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

CHECKSUM = "checksum"
REBUILD = "delete it and run again to rebuild it"


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
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno is None:
            raise
        # A full disk is reported without any name, and the temporary one says nothing to anybody.
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


REMEDIES = {
    errno.ENOENT: "give the path of a file that exists",
    errno.ENOTDIR: "give another path, one of its folders is a file",
    errno.EEXIST: "give another path, a file of this name is there",
    errno.EISDIR: "give the path of a file, this is a folder",
    errno.EACCES: "allow this user to read or write there, or give another path",
    errno.EROFS: "give a path that can be written",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ENOSPC: "free some space there and run again; everything finished is kept",
    errno.EDQUOT: "free some space there or raise the quota, and run again; everything finished is kept",
    errno.EIO: "the disk or its network fails; everything finished is kept, run again when it works",
}


def explain_os_error(error: OSError) -> str:
    """File, fault and remedy of a failed access in one line."""
    place = f"{error.filename}: " if error.filename is not None else ""
    remedy = REMEDIES.get(error.errno or 0)
    return f"{place}{error.strerror or error}" + (f"; {remedy}" if remedy else "")


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


def write_json(path: str | Path, value: Any, *, checked: bool = False) -> None:
    """Write ``value`` as indented JSON, atomically; where ``checked``, a mapping carries a checksum of its content.

    Raises:
        ValueError: when it holds NaN or infinity, which JSON cannot express.
        TypeError: when it holds a type that JSON does not know.
    """
    if checked:
        value = json.loads(json.dumps(value, allow_nan=False))
        value = value | {CHECKSUM: sha256_of(value)}
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a checksum in it is verified and left out.

    Raises:
        FileNotFoundError: when there is none.
        FileContentError: when it is not JSON, e.g. cut short, or does not match its checksum.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise FileContentError(
            f"{path}: not valid JSON ({error}); it was cut short or edited: {REBUILD}, or repair it"
        ) from None
    if isinstance(value, dict) and CHECKSUM in value:
        stored = value.pop(CHECKSUM)
        if stored != sha256_of(value):
            raise FileContentError(
                f"{path}: does not match the checksum in it, so it was damaged or edited: {REBUILD}; after an edit on"
                f" purpose, remove its `{CHECKSUM}`"
            )
    return value


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write a plain CSV table with a header, atomically: floats with six digits, what a row lacks is empty.

    Args:
        path: File written.
        rows: Values by column.
        columns: Their order; without, that in which they turn up in the rows.
    """
    import pandas as pd

    names = list(columns) or list(dict.fromkeys(name for row in rows for name in row))
    table = pd.DataFrame([{name: _cell(value) for name, value in row.items()} for row in rows], columns=names)
    write_atomic(path, table.to_csv(index=False))


def _cell(value: Any) -> str:
    is_float = isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral)
    return f"{value:.6g}" if is_float else str(value)


def read_table(path: str | Path, *, as_text: bool = False) -> pd.DataFrame:
    """A CSV table with a header, as :func:`write_table` leaves it, or earlier versions did.

    A table is plain, so that a digit changed is not noticed; one that was cut short within a row or has become no
    table is. Earlier versions ended the header with a checksum, the name of a column without cells; it is left out.

    Args:
        path: The file.
        as_text: Leave all cells the text they are; else columns of numbers become numbers.

    Raises:
        FileNotFoundError: when there is none.
        FileContentError: when it is no text, has no whole header, or a row has more or fewer cells than that.
    """
    import pandas as pd

    try:
        text = Path(path).read_bytes().decode()
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError among them
        raise FileContentError(f"{path}: not a whole table ({error}); {REBUILD}") from None
    if header and header[-1].startswith(f"{CHECKSUM}="):
        header.pop()
    if not header or not text.endswith("\n"):
        raise FileContentError(f"{path}: cut short, its last line is not whole; {REBUILD}")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise FileContentError(f"{path}: row {number} has {len(row)} cells in place of {len(header)}; {REBUILD}")
    table = pd.DataFrame(rows, columns=header, dtype=object)
    if as_text or not rows:
        return table
    return pd.read_csv(io.StringIO(table.to_csv(index=False)))


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
