"""EuroSAT's files in a folder or zip: listed, checked, read."""

import contextlib
import io
import itertools
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from lulc_lib.files import one_line, open_regular
from lulc_lib.images import looks_like_web_page
from lulc_lib.tiles import CLASSES

# Where the ten class folders lie in the copies that people have.
LAYOUTS = ("", "2750", "EuroSAT_RGB", "eurosat/2750", "EuroSAT/2750", "EuroSAT", "eurosat")
MAX_TILE_BYTES = 1_000_000  # the largest original has 5,229
MAX_TILES = 100_000  # the original has 27,000; decoded, these take 1.2 GB
_MAX_READ = 2**24  # bytes of a zip read at once: the original's list of members has 2.2 million
_IGNORED_FOLDERS = ("splits", "__MACOSX")
_IGNORED_FILES = ("thumbs.db", "desktop.ini")
# What zipfile raises on damage; NotImplementedError is a RuntimeError.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError
)  # fmt: skip


class DataError(ValueError):
    """The data met are damaged or not EuroSAT; the message is one line and names the file."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, most=1000))


class Member(NamedTuple):
    """One tile in a folder or zip, not read yet."""

    name: str  # "River/River_12.jpg"
    key: str  # path of the file, or name inside the zip
    size: int  # bytes


def _list_folder(folder: Path) -> list[Member]:
    """List the tiles of a folder of class folders, sorted by name."""
    members, seen = [], set()
    for inside in scan(folder, folders=True):
        if ignored(inside.name):
            continue
        seen.add(inside.name)
        for entry in scan(inside.path) if inside.name in CLASSES else ():
            if _is_tile(entry.name, entry.path, entry.is_dir()):
                name = f"{inside.name}/{entry.name}"
                members.append(Member(name, entry.path, _regular_size(entry)))
    return _checked(members, seen, str(folder))


def _regular_size(entry: os.DirEntry) -> int:
    """Return the bytes of a file; one without an end, or a link that leads nowhere, is refused."""
    try:
        found = entry.stat()
    except OSError as error:
        raise DataError(f"{entry.path} cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{entry.path} is a pipe, a device or a socket, not a tile")
    return found.st_size


def _list_zip(archive: zipfile.ZipFile, path: Path) -> list[Member]:
    """List the tiles of a zip, sorted by name."""
    infos = archive.infolist()
    for info in infos:
        _refuse_unsafe(info, path)
    tops = {tuple(info.filename.split("/")[:3]) for info in infos}
    layout = next((x for x in LAYOUTS if _zip_has_classes(tops, x)), None)
    if layout is None:
        raise DataError(
            f"{path} holds no EuroSAT: there is none of the folders {', '.join(CLASSES)}, neither "
            f"at its root nor in {', '.join(f'{p}/' for p in LAYOUTS if p)}"
        )
    prefix = f"{layout}/" if layout else ""
    members, seen = [], set()
    for info in infos:
        class_name, _, name = info.filename.removeprefix(prefix).partition("/")
        outside = not info.filename.startswith(prefix) or "/" not in info.filename[len(prefix) :]
        if outside or ignored(class_name):
            continue
        seen.add(class_name)
        where = f"{path}: {info.filename}"
        if name and class_name in CLASSES and _is_tile(name, where, "/" in name):
            members.append(Member(f"{class_name}/{name}", info.filename, info.file_size))
    return _checked(members, seen, f"{path}: {prefix}" if prefix else str(path))


def _zip_has_classes(tops: set[tuple[str, ...]], layout: str) -> bool:
    prefix = tuple(layout.split("/")) if layout else ()
    depth = len(prefix)
    return any(top[:depth] == prefix and len(top) > depth and top[depth] in CLASSES for top in tops)


def _refuse_unsafe(info: zipfile.ZipInfo, path: Path) -> None:
    name = info.orig_filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or name[1:2] == ":":
        raise DataError(
            f"{path} holds a member with the unsafe name {info.orig_filename!r} (absolute, or "
            "leading out of its folder); this is not EuroSAT's archive"
        )
    if info.file_size > MAX_TILE_BYTES and name.lower().endswith((".jpg", ".jpeg")):
        raise DataError(_too_large(f"{path}: {info.filename}", info.file_size))
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{path}: {info.filename} is compressed in another way than EuroSAT's archive "
            f"(type {info.compress_type}); unpack it, and name the folder"
        )
    if info.flag_bits & 0x1:
        raise DataError(f"{path}: {info.filename} is encrypted; EuroSAT's archive is not")


def _too_large(where: str, size: int) -> str:
    return f"{where} has {size:,} bytes; a tile has a few thousand, at most {MAX_TILE_BYTES:,} here"


def ignored(folder: str) -> bool:
    """Tell whether a folder holds no class of tiles and may lie there."""
    return folder.startswith(".") or folder in _IGNORED_FOLDERS


def _is_tile(name: str, where: str, is_folder: bool) -> bool:
    """Tell a tile from the files that operating systems strew; refuse anything else."""
    if name.startswith(".") or name.lower() in _IGNORED_FILES:
        return False
    if not name.isprintable():
        raise DataError(
            f"{where}: the file name {name!r} is not UTF-8, or holds a line break or another "
            "character that cannot be printed; rename it"
        )
    if is_folder or not name.lower().endswith((".jpg", ".jpeg")):
        hint = "; this is the 13-band version" if name.lower().endswith((".tif", ".tiff")) else ""
        raise DataError(f"{where} is not a JPEG tile of EuroSAT's RGB version{hint}")
    return True


def _checked(members: list[Member], folders: set[str], where: str) -> list[Member]:
    """Return members sorted as text, sure that there are exactly the ten classes, none empty."""
    if unknown := sorted(folders - set(CLASSES)):
        raise DataError(
            f"{where} holds the unknown class folder {unknown[0]!r}; the classes are "
            f"{', '.join(CLASSES)}"
        )
    if missing := [name for name in CLASSES if name not in folders]:
        raise DataError(f"{where} lacks the class folder {missing[0]!r} ({len(missing)} missing)")
    if len(members) > MAX_TILES:
        raise DataError(f"{where} holds more than {MAX_TILES:,} tiles; the original has 27,000")
    members.sort()
    filled = {member.name.partition("/")[0] for member in members}
    if empty := [name for name in CLASSES if name not in filled]:
        raise DataError(f"{where} has the empty class folder {empty[0]!r}")
    if twice := [a.name for a, b in itertools.pairwise(members) if a.name == b.name]:
        raise DataError(f"{where} holds {twice[0]} twice")
    return members


@contextlib.contextmanager
def opened(source: Path) -> Iterator[tuple[list[Member], Callable[[Member], bytes]]]:
    """Open a source: its tiles sorted by name, and a function that reads one."""
    if source.is_dir():
        yield _list_folder(source), lambda member: _read_bounded(open_regular(member.key))
        return
    with _Bounded(open_regular(source).detach()) as file:
        start = file.read(512)
        try:
            archive = zipfile.ZipFile(file)
        except (*_ZIP_ERRORS, OSError) as error:
            what = "a web page" if looks_like_web_page(start) else "not a whole zip"
            raise DataError(f"{source} is {what}: {error}; download it again") from error
        with archive:
            yield _list_zip(archive, source), lambda member: _read_bounded(archive.open(member.key))


class _Bounded(io.BufferedReader):
    """A zip of which no more is read at once than an honest one needs, whatever its header says."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _MAX_READ:
            raise zipfile.BadZipFile(f"it has a record of {size:,} bytes")
        return super().read(size)


def _read_bounded(opening: IO[bytes]) -> bytes:
    """Return a file's bytes, and of one that is too large no more than shows it."""
    with opening as file:
        return file.read(MAX_TILE_BYTES + 1)


def read_tile(read: Callable[[Member], bytes], member: Member, where: str) -> bytes:
    """Return the bytes of one tile; `where` names it in errors."""
    if member.size > MAX_TILE_BYTES:
        raise DataError(_too_large(where, member.size))
    try:
        data = read(member)
    except _ZIP_ERRORS as error:
        raise DataError(f"{where} cannot be read from its zip: {error}") from error
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_TILE_BYTES:
        raise DataError(_too_large(where, len(data)))
    return data


def scan(folder: str | Path, folders: bool = False) -> list[os.DirEntry]:
    """Return the entries of a folder, or its folders alone, sorted by name.

    Raises:
        DataError: if there are more than a data set has.
    """
    with os.scandir(folder) as found:
        entries = list(itertools.islice(found, MAX_TILES + 1))
    if len(entries) > MAX_TILES:
        raise DataError(f"{folder} holds more than {MAX_TILES:,} files; EuroSAT has 27,000")
    if not folders:
        return entries
    return sorted((entry for entry in entries if entry.is_dir()), key=lambda e: e.name)
