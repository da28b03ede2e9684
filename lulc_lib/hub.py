"""Public files on the Hugging Face hub and elsewhere: found, fetched, checked by their hash."""

import hashlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock

from lulc_lib.files import one_line, open_regular, sync_folder
from lulc_lib.storage import cache_dir, sha256_file, warn_damaged

PATIENCE = 8.0  # seconds until a network that does not answer counts as dead


class DataUnavailableError(FileNotFoundError):
    """A public file is not here and cannot be downloaded; the message says what to bring."""


@dataclass(frozen=True)
class RemoteFile:
    """A public file and its hash.

    Attributes:
        name: name it gets on disk.
        algorithm: "md5" or "sha256".
        digest: hexadecimal digits of its hash.
        repo: data set on the Hugging Face hub that holds it.
        revision: commit of the data set.
        url: complete address, for files elsewhere.
    """

    name: str
    algorithm: str
    digest: str
    repo: str = ""
    revision: str = ""
    url: str = ""

    def address(self) -> str:
        """Return where it is downloaded from; `$HF_ENDPOINT` names a mirror of the hub."""
        if self.url:
            return self.url
        return hub_address(self.repo, self.name, repo_type="dataset", revision=self.revision)

    def matches(self, path: Path) -> bool:
        """Tell whether a file has the hash."""
        with open_regular(path) as file:
            return hashlib.file_digest(file, self.algorithm).hexdigest() == self.digest


def hub_address(repo: str, name: str, repo_type: str = "model", revision: str | None = None) -> str:
    """Return the address of a file on the hub; `$HF_ENDPOINT` names a mirror."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    return hf_hub_url(repo, name, repo_type=repo_type, revision=revision, endpoint=endpoint)


def is_cached(repo: str, name: str) -> bool:
    """Tell whether the hub's client has a model's file in its own cache, whole.

    A large file is kept there under its SHA-256. One that no longer has it is removed, so that the
    client downloads it again.

    Warns:
        CacheWarning: if a file was removed.
    """
    found = try_to_load_from_cache(repo, name)
    if not isinstance(found, str):
        return False
    content = Path(found).resolve()
    if re.fullmatch("[0-9a-f]{64}", content.name) and sha256_file(content) != content.name:
        Path(found).unlink()
        content.unlink(missing_ok=True)
        damage = f"{content} ({name} of {repo}) is damaged: it does not have its SHA-256"
        warn_damaged(damage, "it is removed, to be downloaded again")
        return False
    return True


def fetch(remote: RemoteFile) -> Path:
    """Download a public file unless it is already there; return its verified path.

    It is written under a temporary name, continued after an interruption, checked by its hash and
    moved into place only when whole. A file downloaded before is checked again. `HF_HUB_OFFLINE` is
    respected.

    Raises:
        DataUnavailableError: if it cannot be had; the message says which file to bring.

    Warns:
        CacheWarning: if the file downloaded before is damaged.
    """
    if (kept := _kept(remote)) is not None:
        return kept
    try:
        return _in_hub_cache(remote) or _downloaded(remote)
    except Exception as error:  # the hub's client raises those of several HTTP libraries
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataUnavailableError(
            f"{remote.name} could not be downloaded from {remote.address()}: {one_line(reason)}"
        ) from error


def downloaded_file(remote: RemoteFile) -> Path:
    """Return where a public file lies once it was downloaded."""
    return cache_dir() / "downloads" / remote.name


def _kept(remote: RemoteFile) -> Path | None:
    """Return the file downloaded before, None if there is none that has the hash."""
    try:
        path = downloaded_file(remote)
        if remote.matches(path):
            return path
    except OSError:
        return None
    damage = f"{path} is damaged: it does not have {remote.algorithm} {remote.digest}"
    warn_damaged(damage, "it is downloaded again")
    return None


def _downloaded(remote: RemoteFile) -> Path:
    path = downloaded_file(remote)
    path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(path.with_name(f".{path.name}.lock")):
        if path.is_file() and remote.matches(path):  # another process was faster
            return path
        part = path.with_name(f".{path.name}.part")
        _download(remote, part)
        if not remote.matches(part):
            size = part.stat().st_size
            part.unlink()
            raise OSError(
                f"the {size:,} bytes received do not have {remote.algorithm} "
                f"{remote.digest}; they were removed"
            )
        part.replace(path)
        sync_folder(path.parent)
    return path


def _in_hub_cache(remote: RemoteFile) -> Path | None:
    """Return the file from the hub client's own cache, if it is there and whole."""
    if not remote.revision:
        return None
    found = try_to_load_from_cache(
        remote.repo, remote.name, repo_type="dataset", revision=remote.revision
    )
    if isinstance(found, str) and remote.matches(Path(found)):
        return Path(found)
    return None


def _download(remote: RemoteFile, part: Path) -> None:
    """Download into `part`, going on where an earlier attempt stopped."""
    address = remote.address()
    size = first_contact(address)
    if size is not None and part.exists() and part.stat().st_size > size:
        part.unlink()
    with part.open("ab") as file:
        http_get(
            address,
            file,
            resume_size=file.tell(),
            expected_size=size,
            displayed_filename=remote.name,
        )


def first_contact(address: str) -> int | None:
    """Ask a server for the size of a file, giving up after `PATIENCE` seconds in all.

    A thread of its own does the asking, since looking up a name has no time-out.

    Raises:
        OSError: if there is no answer, or another error of the hub's client.
    """
    answer: dict[str, Any] = {}

    def ask() -> None:
        try:
            answer["size"] = get_hf_file_metadata(address, timeout=PATIENCE, token=False).size
        except Exception as error:
            answer["error"] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {PATIENCE:.0f} seconds")
    if "error" in answer:
        raise answer["error"]
    return answer["size"]
