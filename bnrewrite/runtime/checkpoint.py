"""What a long computation has found so far, in one SQLite file that survives being killed at any moment.

Every step of a task stores its arrays under (task, step) in a transaction of its own. A run that is started again finds
them there instead of computing them, and so ends with the same numbers. The file remembers which exported file and
which data it belongs to, and is refused with others.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FileError, InputError

VERSION = 1
_MARK = 0x62_6E_72_77
"""What says in the header of the database that it is one of ours."""
_PIECE = 1 << 28
"""Bytes of one stored piece: SQLite takes no blob past a billion bytes."""
_BUSY = 5.0
"""Seconds to wait for another process that has the file open."""

_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS steps (
    task TEXT, step INTEGER, name TEXT, piece INTEGER, dtype TEXT, shape TEXT, bytes BLOB,
    PRIMARY KEY (task, step, name, piece)
);
"""


class Checkpoint:
    """Steps of tasks, stored as they are found.

    `identity` names what the numbers belong to (digests of file and data). Raises InputError where `path` holds a run
    on something else, FileError where it is no checkpoint or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, str]) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise FileError(f"'{path}' cannot be written: there is no directory '{self.path.parent}'.")
        if self.path.is_dir():
            raise FileError(f"'{path}' is a directory: give the name of a file.")
        try:
            self._database = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None)
            self._check_own()
            self._database.executescript(_TABLES)
            known = dict(self._database.execute("SELECT key, value FROM about"))
            self._claim(known, {"version": str(VERSION), **identity})
        except sqlite3.OperationalError as error:  # locked, read-only, on a full disk
            raise FileError(f"the checkpoint '{path}' cannot be used: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise FileError(
                f"'{path}' is no checkpoint of bnrewrite, or is damaged ({error}): delete it or give another name."
            ) from error

    def _check_own(self) -> None:
        """Raise DatabaseError for the database of another program."""
        (mark,), (changes,) = (
            self._database.execute(f"PRAGMA {name}").fetchone()
            for name in ("application_id", "schema_version")
        )
        if changes and mark != _MARK:
            raise sqlite3.DatabaseError("a database of another program")
        self._database.execute(f"PRAGMA application_id = {_MARK}")

    def _claim(self, known: Mapping[str, str], identity: Mapping[str, str]) -> None:
        if not known:
            self._database.executemany("INSERT INTO about VALUES (?, ?)", list(identity.items()))
            return
        for key, value in identity.items():
            if known.get(key) != value:
                what = {"version": "another version of bnrewrite"}.get(key, f"another {key}")
                raise InputError(
                    f"the checkpoint '{self.path}' belongs to {what}: give the name of a new file, or delete it."
                )

    def load(self, task: str, step: int) -> dict[str, NDArray[Any]] | None:
        """The arrays of a step; None where it has not been done."""
        rows = self._database.execute(
            "SELECT name, dtype, shape, bytes FROM steps WHERE task = ? AND step = ? ORDER BY name, piece",
            (task, step),
        )
        pieces: dict[str, tuple[str, str, list[bytes]]] = {}
        for name, dtype, shape, data in rows:
            pieces.setdefault(name, (dtype, shape, []))[2].append(data)
        if not pieces:
            return None
        return {
            name: np.frombuffer(b"".join(data), dtype).reshape(json.loads(shape)).copy()
            for name, (dtype, shape, data) in pieces.items()
        }

    def save(self, task: str, step: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store a step: all its arrays, or none if this process ends meanwhile."""
        rows = []
        for name, array in arrays.items():
            data = np.ascontiguousarray(array).tobytes()
            about = (array.dtype.str, json.dumps(array.shape))
            for piece in range(max(1, -(-len(data) // _PIECE))):
                rows.append((task, step, name, piece, *about, data[piece * _PIECE : (piece + 1) * _PIECE]))
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany("INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise FileError(f"the checkpoint '{self.path}' cannot be written: {error}.") from error

    def forget(self, task: str) -> None:
        """Drop the steps of a task whose result is known."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("DELETE FROM steps WHERE task = ?", (task,))

    def close(self) -> None:
        """Close the file; everything in it is safe already."""
        self._database.close()


def digest_of(files: Sequence[str]) -> str:
    """A SHA-256 over the bytes of files."""
    found = hashlib.sha256()
    for name in files:
        with open(name, "rb") as file:
            while chunk := file.read(1 << 24):
                found.update(chunk)
    return found.hexdigest()
