"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import FileError


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise FileError where `path` could not be written, before the work that leads to it is done."""
    file = Path(path)
    if file.is_dir():
        raise FileError(f"'{file}' is a directory: give the name of a file to write.")
    if not file.parent.is_dir():
        raise FileError(f"'{file}' cannot be written: there is no directory '{file.parent}'.")
    if not os.access(file.parent, os.W_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise FileError(f"'{file}' cannot be written: permission denied.")


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to; it becomes `path` when the block ends well, and vanishes when it does not.

    The temporary file has the suffix of `path`, for writers that go by it.
    """
    file = Path(path)
    check_writable(file)
    handle, name = tempfile.mkstemp(prefix=f".{file.stem}-", suffix=file.suffix, dir=file.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only the owner can read
        temporary.replace(file)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"'{file}' cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
