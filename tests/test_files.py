"""Files: whole or not at all, damage noticed, reading bounded, a folder for one process."""

import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import damaged

from lulc_lib import files
from lulc_lib.files import (
    DamagedFileError,
    FolderLockedError,
    atomic_write,
    lock_folder,
    one_line,
    open_checked,
    open_regular,
    read_checked,
    read_checked_array,
    read_json,
    seal,
    write_checked,
)

FLOCK = pytest.mark.skipif(files.fcntl is None, reason="a lock that needs fcntl")


# --- written whole -------------------------------------------------------------------------------


def test_atomic_write_moves_into_place(tmp_path):
    """The file appears when the block ends, with the permissions of an ordinary new file."""
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "whole"
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("x")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
    assert list(path.parent.iterdir()) == [path]


def test_atomic_write_keeps_the_old_file_after_an_error(tmp_path):
    """A block that fails changes nothing and leaves nothing."""
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic_write(str(path)) as temporary:
            temporary.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_from_many_threads(tmp_path):
    """Writers at the same time each write whole files; the last one stays."""
    path = tmp_path / "a.txt"

    def write(word):
        for _ in range(20):
            with atomic_write(path) as temporary:
                temporary.write_text(word * 1000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in {letter * 1000 for letter in "abc"}
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_swept(tmp_path):
    """A temporary file is removed when it is an hour old; a new one, and any other file, stays."""
    code = (
        "import os, signal, sys\n"
        "from lulc_lib.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for name in ("old", "new"):
        run = subprocess.run([sys.executable, "-c", code, tmp_path / name], check=False)
        assert run.returncode == -signal.SIGKILL
    old, new = sorted(tmp_path.iterdir(), key=lambda path: ".old" not in path.name)
    other = tmp_path / ".somebody.abcdef.tmp"
    other.write_text("x")
    for path in (old, other):
        os.utime(path, (time.time() - 4000,) * 2)
    with atomic_write(tmp_path / "third") as temporary:
        temporary.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([new, other, tmp_path / "third"])


def test_a_long_name_can_be_written(tmp_path):
    """The temporary name is no longer than a file system takes, whatever the file's own name."""
    path = tmp_path / ("ü" * 120)
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"


# --- sealed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{}", bytes(range(256)) * 50])
def test_a_sealed_file_gives_back_its_content(tmp_path, content):
    """Both ways of reading give the bytes that were written."""
    write_checked(tmp_path / "a", content)
    assert read_checked(tmp_path / "a") == content
    array = read_checked_array(tmp_path / "a")
    assert array.tobytes() == content
    assert array.flags.writeable
    with open_checked(tmp_path / "a") as file:
        assert file.read() == content
        assert file.seek(-len(content), os.SEEK_END) == 0
        assert file.read(3) == content[:3]


def test_large_content_is_read_in_pieces(tmp_path, monkeypatch):
    """Pieces read by several threads make up the content; a file without content has none."""
    monkeypatch.setattr(files, "_PIECE", 7)
    for content in (bytes(range(256)), b""):
        write_checked(tmp_path / "a", content)
        assert read_checked_array(tmp_path / "a").tobytes() == content


@pytest.mark.parametrize("seed", range(30))
def test_any_damage_is_noticed(tmp_path, seed):
    """A flipped bit, a cut, bytes added: an error that names the file, in both ways of reading."""
    path = tmp_path / "a.npz"
    with atomic_write(path) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, a=np.arange(40))
        seal(temporary)
    path.write_bytes(damaged(path.read_bytes(), seed))
    with pytest.raises(DamagedFileError, match=r"a\.npz is damaged: "):
        read_checked(path)
    with pytest.raises(DamagedFileError, match=r"a\.npz is damaged: "):
        read_checked_array(path)
    with pytest.raises(DamagedFileError, match=r"a\.npz is damaged: "), open_checked(path):
        pass


def test_others_formats_can_be_sealed(tmp_path):
    """What torch and NumPy write is read through the check, and without it too."""
    state, array = {"a": torch.arange(1000), "b": [1, "x"]}, np.arange(5)
    with atomic_write(tmp_path / "state.pt") as temporary:
        torch.save(state, temporary)
        seal(temporary)
    with atomic_write(tmp_path / "a.npz") as temporary:
        with temporary.open("wb") as file:
            np.savez(file, array=array)
        seal(temporary)
    with open_checked(tmp_path / "state.pt") as file:
        found = torch.load(file, weights_only=True)
    assert torch.equal(found["a"], state["a"])
    assert torch.load(tmp_path / "state.pt", weights_only=True)["b"] == [1, "x"]
    with open_checked(tmp_path / "a.npz") as file, np.load(file) as stored:
        assert np.array_equal(stored["array"], array)
    with np.load(io.BytesIO(read_checked(tmp_path / "a.npz"))) as stored:
        assert np.array_equal(stored["array"], array)


def test_a_file_that_is_too_long_is_not_read(tmp_path):
    """A content longer than the caller allows is refused, by its length."""
    write_checked(tmp_path / "a", b"12345")
    assert read_checked(tmp_path / "a", most_bytes=5) == b"12345"
    with pytest.raises(DamagedFileError, match="has 5 bytes, and at most 4 are read"):
        read_checked(tmp_path / "a", most_bytes=4)


@pytest.mark.timeout(120)
def test_regular_files_alone_are_opened(tmp_path):
    """A pipe, a device and a folder, also behind a link, are refused at once, by name."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/zero", tmp_path):
        for read in (open_regular, read_checked):
            with pytest.raises(OSError, match=f"{path} is a .*, not a regular file"):
                read(path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")


# --- JSON ----------------------------------------------------------------------------------------


def test_json_is_read_from_a_file_and_from_text(tmp_path):
    """Within the bounds it is what the json module reads."""
    values = {"a": [1, -2.5e-7, None, True], "b": {"c": 'x [{"\\'}, "d": 2**70}
    text = json.dumps(values)
    (tmp_path / "a.json").write_text(text)
    for source in (tmp_path / "a.json", text, text.encode()):
        assert read_json(source, "the card") == values


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        (b"\xff\xfe", "'utf-8' codec"),
        ("[" * 100_000, "is nested more than 32 deep"),
        ('{"a":' * 100_000, "is nested more than 32 deep"),
        ("[" * 33 + "]" * 33, "is nested more than 32 deep"),
        ("1" * 5000, "a number of 5,000 digits"),
        ("1e" + "1" * 100, "a number of 102 digits"),
        ('"' + "x" * 2000 + '"', "longer than 2,000 bytes"),
        ('"a\nb"', "Invalid control character"),
    ],
)
def test_json_out_of_bounds_is_one_line(tmp_path, text, finding):
    """Every failure is a ValueError of one line that names the source."""
    most = 2000 if "2,000" in finding else 10**6
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for source, name in ((path, "the card .*a.json"), (text, "the card")):
        with pytest.raises(
            ValueError, match=rf"^{name} cannot be read as JSON.*{finding}"
        ) as caught:
            read_json(source, "the card", most_bytes=most)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) <= 300


def test_one_line():
    """Line breaks become spaces, what a terminal obeys is escaped, and long text is cut."""
    assert one_line("a\n  b\r\nc") == "a b c"
    assert one_line("\x1b[2J \udcff") == r"\x1b[2J \udcff"
    assert one_line(ValueError("x" * 400)) == "x" * 297 + "..."
    assert one_line("München") == "München"


# --- a folder for one process --------------------------------------------------------------------


def test_a_folder_is_locked_once(tmp_path):
    """While a block holds a folder another is refused, in the same process too; then it is free."""
    with lock_folder(tmp_path / "run"):
        with pytest.raises(FolderLockedError, match="run is in use"), lock_folder(tmp_path / "run"):
            pass
        with lock_folder(tmp_path / "other"):
            pass
    with lock_folder(tmp_path / "run"):
        pass


@FLOCK
def test_a_lock_dies_with_its_process(tmp_path):
    """Another process's lock is met while it lives, and is gone when it was killed."""
    code = (
        "import sys, time\n"
        "from lulc_lib.files import lock_folder\n"
        "with lock_folder(sys.argv[1]):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "locked\n"
            with pytest.raises(FolderLockedError, match="another process"), lock_folder(tmp_path):
                pass
        finally:
            other.kill()
    with lock_folder(tmp_path):
        pass


def test_the_lock_file_of_another_user_can_be_locked(tmp_path, monkeypatch):
    """A run folder that a group shares keeps a lock file that only its first user may write."""
    with lock_folder(tmp_path):
        pass
    lock, opened = tmp_path / ".lock", Path.open

    def refuse(path, mode="r", *rest, **more):
        if path == lock and mode == "a+b":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with lock_folder(tmp_path), pytest.raises(FolderLockedError), lock_folder(tmp_path):
        pass
