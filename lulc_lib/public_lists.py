"""Published lists of tile names, found beside the data or downloaded."""

import contextlib
from pathlib import Path

from lulc_lib.archive import DataError
from lulc_lib.decoded import noted_sources
from lulc_lib.eurosat import HUB, MANIFEST_DIGEST, find_source, usual_places
from lulc_lib.hub import DataUnavailableError, RemoteFile, fetch

_ARENA = "https://raw.githubusercontent.com/biasvariancelabs/aitlas-arena"
_SPATIAL = {
    "train": "2db7d455afb8dcbca898ea19a00f1f90c091734efdbba89e22aaf24056da243f",
    "val": "6c758477604b7057a0fd990d7f6327b63b99a6725aac11a6a9d0174a7fdd8f0b",
    "test": "de22dec83d350cac3b3e4ca8e285cb6733c81ab94bf5bcf9213a567993402452",
}
_AITLAS = {
    "train": "fd6bc70339acc1f6907980bb517ee4bfbf236b5810a957ef244e0b3760f47dfc",
    "val": "dffbba49c29be8544dd47b92deaba69e294ca7941dff9129388b5c367c97425b",
    "test": "dcd05dc9eade5ab5ec2577f06067f0ffb1699507d7ad2dc55dfb694e9c50a9dd",
}
PUBLIC_LISTS = {
    f"eurosat-spatial-{part}.txt": RemoteFile(
        f"eurosat-spatial-{part}.txt",
        "sha256",
        digest,
        repo=HUB,
        revision="1ce6f1bfb56db63fd91b6ecc466ea67f2509774c",
    )
    for part, digest in _SPATIAL.items()
} | {
    f"aitlas-{part}.csv": RemoteFile(
        f"aitlas-{part}.csv",
        "sha256",
        digest,
        url=f"{_ARENA}/b640d13cd645e72d6017223ec584a3e30095fdf8/splits/eurosat_{part}.csv",
    )
    for part, digest in _AITLAS.items()
}


def read_public_list(name: str, digest: str = MANIFEST_DIGEST) -> str:
    """Read a published list of tile names, from the data root's `splits/` or downloaded.

    Args:
        name: a key of `PUBLIC_LISTS`.
        digest: digest of the tiles, to look beside the source they were loaded from.

    Raises:
        DataError: if the list found has another hash.
        DataUnavailableError: if it was neither found nor downloaded.
    """
    remote = PUBLIC_LISTS[name]
    near = [folder / "splits" / name for folder in _list_folders(digest)]
    near = [path for path in near if path.is_file()]
    for path in near:
        if remote.matches(path):
            return path.read_text(encoding="utf-8")
    if near:
        raise DataError(
            f"{near[0]} is not the published list: its {remote.algorithm} is not "
            f"{remote.digest}; remove it to have it downloaded"
        )
    try:
        return fetch(remote).read_text(encoding="utf-8")
    except DataUnavailableError as error:
        raise DataUnavailableError(
            f"{error}. Bring it and put it into splits/ beside the data set's zip or folder"
        ) from error


def _list_folders(digest: str) -> list[Path]:
    """Return folders beside which `splits/` may lie: of the sources known, and the usual ones."""
    sources = list(noted_sources(digest))
    with contextlib.suppress(DataError, FileNotFoundError):  # it is one place of several
        sources += filter(None, [find_source()])
    folders = [folder for source in sources for folder in (source, *list(source.parents)[:2])]
    return list(dict.fromkeys(folders + usual_places()))
