"""What is shipped: the wheel, its names, and the files that put a hub in its place.

The wheel itself is built where the build's own requirement (hatchling) is at hand; nothing here
asks a registry. docs/install.md says what was tried by hand.
"""

import importlib.metadata
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import clawnet
from tests.cli.program import Program

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMES = sorted(PROJECT["scripts"])
DOCKERFILE = ROOT / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: name and text, with lines joined."""
    lines = [
        line for line in DOCKERFILE.read_text().splitlines() if not re.match(r"\s*(#|$)", line)
    ]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(name.upper(), text.strip()) for name, _, text in
            (line.strip().partition(" ") for line in whole.splitlines())]  # fmt: skip


def last_stage() -> list[tuple[str, str]]:
    every = instructions()
    begins = [at for at, (name, _) in enumerate(every) if name == "FROM"]
    return every[begins[-1] :]


# --- the program under its names ----------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_the_program_and_says_its_own(name: str, tmp_path: Path) -> None:
    script = tmp_path / name
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom clawnet.cli.main import main\n"
                      "sys.exit(main())\n")  # fmt: skip
    script.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    version = subprocess.run([script, "version"], capture_output=True, check=True, env=environment)
    assert clawnet.__version__.encode() in version.stdout
    usage = subprocess.run([script, "pub"], capture_output=True, check=False, env=environment)
    assert usage.returncode == 2
    assert usage.stderr.startswith(f"Usage: {name} pub".encode())


def test_the_package_runs_by_its_own_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clawnet", "version"], capture_output=True, check=True,
        env=Program(tmp_path / "home").environment,
    )  # fmt: skip
    assert clawnet.__version__.encode() in done.stdout


def test_the_installed_metadata_names_the_same_programs() -> None:
    found = importlib.metadata.distribution("clawnet").entry_points
    scripts = {entry.name: entry.value for entry in found if entry.group == "console_scripts"}
    assert scripts == PROJECT["scripts"]


def test_the_wheel_holds_the_package_and_no_tests(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
         "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "clawnet/py.typed" in names
    assert "clawnet/cli/probe.py" in names
    assert all(re.match(r"clawnet(-[^/]+\.dist-info)?/", name) for name in names)


def test_what_ships_is_marked_as_typed_and_the_source_holds_what_the_build_reads() -> None:
    assert (ROOT / "src" / "clawnet" / "py.typed").exists()
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["packages"] == ["src/clawnet"]
    for pattern in build["targets"]["sdist"]["include"]:
        assert list(ROOT.glob(pattern)), pattern


# --- the Dockerfile -----------------------------------------------------------


def test_every_base_is_a_fixed_line_of_versions() -> None:
    bases = [text.split()[0] for name, text in instructions() if name == "FROM"]
    assert bases
    for base in bases:
        image, _, tag = base.partition(":")
        assert image == "python"
        assert re.fullmatch(r"3\.\d+-slim", tag), base


def test_nothing_is_fetched_past_the_locks() -> None:
    every = instructions()
    assert not [text for name, text in every if name == "ADD"]
    runs = " ".join(text for name, text in every if name == "RUN")
    assert "curl" not in runs
    assert "wget" not in runs
    for command in re.findall(r"pip .*?install(.*?)(?:&&|$)", runs):
        assert "--require-hashes" in command or "--no-deps" in command, command


def test_every_copied_file_exists_and_is_let_through() -> None:
    admitted = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied: set[str] = set()
    for name, text in instructions():
        if name == "COPY" and not text.startswith("--from"):
            *sources, _ = shlex.split(text)
            copied |= set(sources)
    assert copied == admitted
    for source in copied:
        assert (ROOT / source.removeprefix("./")).exists(), source
    readme = PROJECT["readme"]
    assert {readme, *PROJECT["license-files"], "pyproject.toml"} <= copied, "the build reads these"


def test_it_runs_as_nobody_and_is_asked_how_it_is() -> None:
    stage = dict(last_stage())
    user, _, group = stage["USER"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert stage["VOLUME"] == "/data"
    assert stage["ENTRYPOINT"] == '["claw"]'
    assert "--bind" in stage["CMD"], "reaching beyond loopback is an explicit choice"
    assert stage["EXPOSE"] in stage["CMD"]
    module = re.search(r'"-m", "([\w.]+)"', stage["HEALTHCHECK"])
    assert module is not None
    assert importlib.util.find_spec(module[1]) is not None
    environment = stage["ENV"]
    assert "PYTHONDONTWRITEBYTECODE=1" in environment
    assert "CLAWNET_DATA_DIR=/data" in environment


def test_the_last_stage_brings_no_pip_of_its_own() -> None:
    runs = " ".join(text for name, text in last_stage() if name == "RUN")
    assert "pip" not in runs
    assert "--without-pip" in DOCKERFILE.read_text()
