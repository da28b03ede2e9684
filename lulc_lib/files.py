"""Files: written whole, sealed against damage, read within bounds, folders kept to one process."""

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

_TEMPORARY = ".lulc-tmp"  # ends the names of files in the making
_LEFT_OVER = 3600  # seconds after which such a file belongs to a killed process
_SEAL = b"\nlulc-seal %016x %s\n"
_SEAL_PATTERN = re.compile(rb"\nlulc-seal ([0-9a-f]{16}) ([0-9a-f]{64})\n")
_SEAL_BYTES = len(_SEAL % (0, b"0" * 64))
_PIECE = 2**24  # bytes that one thread reads at a time
_MOST_DIGITS = 40  # a float's 17 digits, sign and exponent take 24
# A string, which ends with the text if nothing else ends it, or a bracket.
_JSON_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{\]}]', re.DOTALL)


class DamagedFileError(ValueError):
    """A file of ours is not as it was written; the message names it."""


class FolderLockedError(RuntimeError):
    """Another process, or another call in this one, works in the folder."""


def home_expanded(path: str | Path) -> Path:
    """Return a path whose ~ is the home folder; a name that only begins so stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user
        return Path(path)


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place when the block succeeds.

    A reader sees the old file or the whole new one, never half of it, also after a kill or a power
    cut. What killed processes left in the folder more than an hour ago is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}{_TEMPORARY}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield temporary
        with temporary.open("r+b") as written:  # Windows syncs what may be written alone
            os.fsync(written.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk, where the system can do that."""
    with contextlib.suppress(OSError):  # Windows, and some network drives
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@functools.lru_cache(maxsize=1024)
def _sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder; once for each folder and process."""
    for left in folder.glob(f".*{_TEMPORARY}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_OVER:
                left.unlink()


@contextlib.contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Keep a folder to this block: the lock ends with the block, or with its process.

    The lock is the system's own, on a file `.lock` that stays in the folder. A process forked
    inside the block holds it too. Where the file system has no locks, such as some network drives,
    there is none.

    Raises:
        FolderLockedError: if another process holds the lock, or another block of this process.
        OSError: if the folder cannot be made or written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _lock_file(folder / ".lock") as file:
        if not _locked(file):
            raise FolderLockedError(
                f"{folder} is in use: another process works in it. Wait until it has ended, or "
                "choose another folder"
            )
        yield


def _lock_file(path: Path) -> IO[bytes]:
    """Open a file to be locked; another user's, which may not be written, can be locked as well."""
    try:
        return path.open("a+b")
    except PermissionError:
        return path.open("rb")


def _locked(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed; False if it is locked already."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading; a pipe, a device or a socket, which may never end, is refused.

    Raises:
        OSError: if there is no such file, or if it is not a regular one; the message names it.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
        raise OSError(f"{path} is {kind}, not a regular file")
    return os.fdopen(handle, "rb")


def write_checked(path: str | Path, content: bytes) -> None:
    """Write a file, whole or not at all, with a seal by which `read_checked` notices damage."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
        seal(temporary)


def seal(path: str | Path) -> None:
    """Append a line with length and SHA-256 to a file that was just written.

    This is for large files, written by others' functions inside an `atomic_write`. Zip files, those
    of `np.savez` and `torch.save` among them, can still be read by anything that reads zips.
    """
    with Path(path).open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        length = file.seek(0, os.SEEK_END)
        file.write(_SEAL % (length, digest.encode()))


def read_checked(path: str | Path, most_bytes: int = 2**30) -> bytes:
    """Return the content of a sealed file, just as it was written.

    Args:
        path: of a file written by `write_checked`, or sealed by `seal`.
        most_bytes: a longer content is refused before it is read.

    Raises:
        DamagedFileError: if anything differs from what was written, if it is too long, or if it
            has no seal.
        OSError: if the file is missing, cannot be read, or is not a regular file.
    """
    with open_regular(path) as file:
        length, digest = _sealed(file, path, most_bytes)
        content = file.read(length)
    if len(content) != length or hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(path, "its content is not what its checksum says")
    return content


def read_checked_array(path: str | Path) -> "np.ndarray":
    """Return the content of a large sealed file as a writable array, uint8 (bytes,).

    It is read once, by two threads, into memory that numpy asks the system for in large pages: most
    of the time is the first touch of that memory.

    Raises:
        DamagedFileError: as `read_checked`.
        OSError: as `read_checked`.
    """
    import numpy as np  # here, since the command line's help imports this module

    with open_regular(path) as file:
        length, digest = _sealed(file, path)
        content = np.empty(length, dtype=np.uint8)
        read = _fill(file, content)
    if read != length or hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(path, "its content is not what its checksum says")
    return content


@contextlib.contextmanager
def open_checked(path: str | Path) -> Iterator[BinaryIO]:
    """Yield the content of a sealed file as a file that can be read and sought, checked before.

    It is read twice, a piece at a time: for files too large to be held in memory beside what is
    made of them.

    Raises:
        DamagedFileError: as `read_checked`.
        OSError: as `read_checked`.
    """
    with open_regular(path) as file:
        length, digest = _sealed(file, path)
        content = io.BufferedReader(_Content(file, length))
        if hashlib.file_digest(content, "sha256").hexdigest() != digest:
            raise _damaged(path, "its content is not what its checksum says")
        content.seek(0)
        yield content


def _fill(file: BinaryIO, content: "np.ndarray") -> int:
    """Read the start of a file into an array; return how many bytes there were."""
    if not hasattr(os, "preadv"):  # Windows
        return file.readinto(content)

    def read(start: int) -> int:
        piece, done = content[start : start + _PIECE], 0
        while done < len(piece):
            count = os.preadv(file.fileno(), [piece[done:]], start + done)
            if count == 0:  # the file was cut
                break
            done += count
        return done

    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(read, range(0, len(content), _PIECE)))


class _Content(io.RawIOBase):
    """The first bytes of a file, as a file of its own."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file, self._length = file, length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            offset, whence = offset + self._length, os.SEEK_SET
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        left = max(0, self._length - self._file.tell())
        return self._file.readinto(memoryview(buffer)[:left])


def _sealed(file: BinaryIO, path: str | Path, most_bytes: int | None = None) -> tuple[int, str]:
    """Return length and SHA-256 of the content, as the seal at the end of the file says."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - _SEAL_BYTES))
    found = _SEAL_PATTERN.fullmatch(file.read(_SEAL_BYTES))
    file.seek(0)
    if found is None:
        raise _damaged(path, "its end is missing, or an earlier version wrote it")
    length = int(found[1], 16)
    if length != size - _SEAL_BYTES:
        raise _damaged(path, f"it has {size - _SEAL_BYTES:,} bytes instead of {length:,}")
    if most_bytes is not None and length > most_bytes:
        raise _damaged(path, f"it has {length:,} bytes, and at most {most_bytes:,} are read")
    return length, found[2].decode()


def _damaged(path: str | Path, why: str) -> DamagedFileError:
    return DamagedFileError(one_line(f"{path} is damaged: {why}"))


def read_json(
    source: Path | bytes | str, what: str, most_bytes: int = 2**24, most_depth: int = 32
) -> Any:
    """Return what a JSON text says, read within bounds.

    Args:
        source: path of a file, or the text itself.
        what: what it is called in messages, such as "the card".
        most_bytes: a longer text is refused before it is read.
        most_depth: how many lists and objects may lie one inside the other.

    Raises:
        ValueError: if it is no JSON in UTF-8, or is longer, deeper or holds longer numbers than
            allowed; one line that names the source.
        OSError: if the file is missing, cannot be read, or is not a regular file.
    """
    where = f"{what} {source}" if isinstance(source, Path) else what
    try:
        text = _bounded_text(source, most_bytes)
        _check_depth(text, most_depth)
        return json.loads(text, parse_int=_short(int), parse_float=_short(float))
    except ValueError as error:
        raise ValueError(one_line(f"{where} cannot be read as JSON: {error}")) from error


def _bounded_text(source: Path | bytes | str, most_bytes: int) -> str:
    if isinstance(source, Path):
        with open_regular(source) as file:
            source = file.read(most_bytes + 1)
    if len(source) > most_bytes:
        raise ValueError(f"it is longer than {most_bytes:,} bytes")
    return source if isinstance(source, str) else source.decode("utf-8")


def _check_depth(text: str, most: int) -> None:
    depth = 0
    for token in _JSON_TOKEN.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > most:
            raise ValueError(f"it is nested more than {most} deep")


def _short(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(digits: str) -> Any:
        if len(digits) > _MOST_DIGITS:
            raise ValueError(f"it holds a number of {len(digits):,} digits")
        return convert(digits)

    return number


def one_line(text: object, most: int = 300) -> str:
    """Return a message as one line that any terminal can print, cut where it is too long."""
    words = " ".join(str(text).split())
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in words
    )
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."
