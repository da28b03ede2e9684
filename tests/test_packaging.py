"""pyproject.toml, the lock and environment.yml agree, and no file names a package index.

The Makefile passes a user's settings on as they are.
"""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lulc_lib

REPO = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
LOCK = (REPO / "requirements.lock").read_text()
PLATFORMS = [
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
    {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"},
]
PYTHONS = ["3.11", "3.12", "3.13"]


def direct_requirements() -> list[Requirement]:
    """Return what pyproject.toml asks for, over all extras, without the extras that name us."""
    lines = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        lines += extra
    requirements = [Requirement(line) for line in lines]
    return [one for one in requirements if one.name != PROJECT["name"]]


def locked() -> list[Requirement]:
    """Return the lock's lines."""
    lines = LOCK.replace(" \\\n    --hash=", " --hash=").splitlines()
    pinned = [line.partition(" --hash=")[0] for line in lines]
    return [Requirement(line) for line in pinned if not line.lstrip().startswith("#")]


def tracked_files() -> list[Path]:
    """Return the text files of the repository: what git tracks or would, else what lies here."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO, capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    paths = [REPO / name for name in names if name] or [
        path for path in REPO.rglob("*") if ".venv" not in path.parts and ".git" not in path.parts
    ]
    binary = {".safetensors", ".npz", ".png", ".pyc"}
    return [path for path in paths if path.is_file() and path.suffix not in binary]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda one: one["sys_platform"])
def test_lock_satisfies_the_project(platform: dict[str, str], python: str):
    """On each system, each direct dependency has exactly one locked version that satisfies it."""
    machine = {"platform_machine": "arm64" if platform["sys_platform"] == "darwin" else "x86_64"}
    versions = {"python_version": python, "python_full_version": f"{python}.7"}
    here = {**platform, **machine, **versions, "implementation_name": "cpython"}
    pins: dict[str, list[str]] = {}
    for line in locked():
        if line.marker is None or line.marker.evaluate(here):
            pins.setdefault(canonicalize_name(line.name), []).append(str(line.specifier))
    for wanted in direct_requirements():
        pin = pins.get(canonicalize_name(wanted.name), [])
        assert len(pin) == 1, f"{wanted} is locked {len(pin)} times"
        assert wanted.specifier.contains(pin[0].removeprefix("=="), prereleases=True), wanted


def test_lock_was_made_from_this_project():
    """The lock's notes name as asked for by us what pyproject.toml asks for, no more, no less."""
    text = re.sub(r"^ {4}--hash=.*\n", "", LOCK, flags=re.MULTILINE)
    blocks = re.findall(r"^(\S+?)==\S+.*\n((?: {4}#.*\n)+)", text, flags=re.MULTILINE)
    ours = {canonicalize_name(name) for name, notes in blocks if "(pyproject.toml)" in notes}
    assert ours == {canonicalize_name(one.name) for one in direct_requirements()}


def test_lock_holds_exact_versions_alone():
    """Every line pins one version; none is an option, an address or a path."""
    for line in locked():
        assert line.url is None
        assert re.fullmatch(r"==[\w.]+", str(line.specifier)), line


def test_lock_holds_a_hash_of_every_package():
    """Each pin is followed by the SHA-256 of its files, so that no other file is installed."""
    blocks = re.split(r"^(?=\S)", LOCK, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(locked())
    for block in blocks:
        assert re.search(r"^ {4}--hash=sha256:[0-9a-f]{64}( \\)?$", block, re.MULTILINE), block


def test_floors_are_tested_by_a_workflow():
    """A weekly workflow installs the lowest versions; the tests that it names are there."""
    text = (REPO / ".github/workflows/floors.yml").read_text()
    (job,) = yaml.safe_load(text)["jobs"].values()
    lines = [step.get("run", "") for step in job["steps"]]
    assert any("--resolution lowest-direct" in line and '".[all]"' in line for line in lines)
    tests = re.findall(r"tests/\S+", text)
    assert tests
    assert all((REPO / name).is_file() for name in tests)


def test_conda_environment_uses_the_lock():
    """Conda brings Python and pip; everything else comes from the lock, with our Python range."""
    environment = yaml.safe_load((REPO / "environment.yml").read_text())
    python, pip, rest = environment["dependencies"]
    assert python.startswith("python")
    assert python.removeprefix("python").startswith(PROJECT["requires-python"])
    assert pip == "pip"
    assert rest == {"pip": ["-r requirements.lock"]}  # pip refuses "-e ." beside hashes


def test_version_is_the_same_everywhere():
    """The package, pyproject.toml, CITATION.cff and the newest version in CHANGELOG.md agree."""
    text = (REPO / "CHANGELOG.md").read_text().replace("## Unreleased\n", "")
    changes = re.findall(r"^## (\S+)", text, flags=re.MULTILINE)
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert lulc_lib.__version__ == PROJECT["version"] == changes[0] == citation["version"]


def test_console_script_is_declared():
    """`lulc` runs the command line's main."""
    assert PROJECT["scripts"] == {"lulc": "lulc_lib.cli:main"}


def index_addresses(text: str) -> list[str]:
    """Return the places in a text that name a package index or an option that takes one."""
    words = ("index" + "-url", "find" + "-links", "python" + "hosted", "pypi" + ".org/simple")
    words += ("download." + "pytorch.org", "extra" + "-index", "trusted" + "-host")
    text = text.replace("--no-emit-index" + "-url", "")  # the option that keeps them out
    return [word for word in words if word in text]


def test_no_file_names_a_package_index():
    """Nothing in the repository ties a user to somebody's package index."""
    files = tracked_files()
    assert REPO / "requirements.lock" in files
    named = {
        path.relative_to(REPO).as_posix(): found
        for path in files
        if (found := index_addresses(path.read_text(errors="ignore")))
    }
    assert named == {}


def test_index_addresses_are_found():
    """The search can fail: it finds an address where there is one."""
    assert index_addresses("--" + "index" + "-url https://example.org/simple") != []


def made(folder: Path, target: str, *words: str, **settings: str) -> str:
    """Run a target of our Makefile in a folder whose tools print their words and settings."""
    bin_ = folder / ".venv" / "bin"
    bin_.mkdir(parents=True, exist_ok=True)
    for name in ("lulc", "jupyter", "voila", "python"):
        tool = bin_ / name
        tool.write_text('#!/bin/sh\nprintf "%s|" "$LULC_EUROSAT" "$LULC_CACHE" "$@"\n')
        tool.chmod(0o755)
    for name in ("requirements.lock", "pyproject.toml", ".venv/.ready"):
        (folder / name).touch()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LULC_", "MAKE"))}
    done = subprocess.run(
        ["make", "--silent", "--file", REPO / "Makefile", target, *words],
        cwd=folder, env=kept | settings, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


@needs_make
@pytest.mark.parametrize("value", ["$(shell touch trace)", "a $$ b $x $(HOME)", "`touch trace`"])
def test_make_expands_no_value(value: str, tmp_path: Path):
    """A setting reaches the tools as it was typed, from the environment or the command line."""
    expected = f"{tmp_path}/{value}|/cache {value}|demo|"
    settings = {"LULC_EUROSAT": value, "LULC_CACHE": f"/cache {value}"}
    assert made(tmp_path, "demo", **settings) == expected
    assert made(tmp_path, "demo", *(f"{k}={v}" for k, v in settings.items())) == expected
    for target, name, shown in (("app", "PORT", f"--port={value}"), ("notebooks", "ONLY", value)):
        wanted = shown if name == "PORT" else "|".join(shown.split())
        assert wanted in made(tmp_path, target, **{name: value})
        assert wanted in made(tmp_path, target, f"{name}={value}")
    assert not (tmp_path / "trace").exists()


@needs_make
def test_a_step_of_a_workflow_runs_in_a_shell_that_is_found():
    """GitHub looks a shell up in PATH, never in the checkout."""
    for file in (REPO / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            for step in job["steps"]:
                assert "/" not in step.get("shell", "bash").split()[0], (file.name, step["name"])


def test_make_hands_on_defaults(tmp_path: Path):
    """What is not set stays unset, and absolute paths stay as they are."""
    assert made(tmp_path, "demo") == "||demo|"
    assert made(tmp_path, "demo", LULC_CACHE="/tmp/c") == "|/tmp/c|demo|"
    assert made(tmp_path, "demo", LULC_CACHE="~/c") == "|~/c|demo|"  # which the library expands
    assert "--port=8866|" in made(tmp_path, "app")
    assert "|00|02|" in made(tmp_path, "notebooks", ONLY="00 02")
