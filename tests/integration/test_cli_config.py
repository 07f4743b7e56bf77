"""claw config and claw completion, as a shell calls them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawnet.cli.main import COMMANDS, NAMES
from tests.cli.program import Program


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path / "home")
    yield made
    made.end()


def config_file(program: Program, text: str) -> Path:
    path = program.home / "config" / "clawnet" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def shown(program: Program, **environment: str) -> dict[str, tuple[Any, str]]:
    answer = json.loads(program.ok("config", "--show", "--json", env=environment))
    return {one["name"]: (one["value"], one["from"]) for one in answer["settings"]}


def test_it_says_where_each_value_comes_from(program: Program) -> None:
    path = config_file(program, "port = 1\n[limits]\npublish_per_s = 5\n")
    found = shown(program, CLAWNET_PORT="2", DATA_DIR="/d")
    assert found["port"] == (2, "CLAWNET_PORT")
    assert found["data_dir"] == ("/d", "DATA_DIR")
    assert found["limits.publish_per_s"] == (5.0, str(path))
    assert found["bind"] == ("127.0.0.1", "default")
    text = program.ok("config", env={"CLAWNET_PORT": "2"})
    assert "port = 2" in text
    assert "# CLAWNET_PORT" in text


def test_lists_of_tables_come_from_the_file_and_from_the_environment(program: Program) -> None:
    config_file(program, '[[retention.rules]]\nchannels = "room.>"\nage_max_days = 3\n')
    (rule,) = shown(program)["retention.rules"][0]
    assert (rule["channels"], rule["age_max_days"]) == ("room.>", 3.0)
    assert 'channels" = "room.>"' in program.ok("config")
    rules = '[{"channels": "public.>", "events_max": 5}]'
    found, source = shown(program, CLAWNET_RETENTION_RULES=rules)["retention.rules"]
    assert source == "CLAWNET_RETENTION_RULES"
    (rule,) = found
    assert rule["events_max"] == 5


def test_secrets_are_never_shown(program: Program, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("very-secret-2")
    for environment in (
        {"CLAWNET_SECRET_KEY": "very-secret-1"},
        {"CLAWNET_SECRET_KEY_FILE": str(tmp_path / "key")},
    ):
        for arguments in (["config"], ["config", "--json"], ["config", "--check"]):
            done = program.run(*arguments, env=environment)
            assert done.returncode == 0
            assert b"very-secret" not in done.stdout + done.stderr
        assert "secret_key = (set)" in program.ok("config", env=environment)
    assert "secret_key = (not set)" in program.ok("config")


def test_the_printed_file_is_good(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "printed.toml"
    path.write_text(program.ok("config", "--show", "--defaults"))
    assert "a hub would start with" in program.ok("config", "--check", str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", "Did you mean port?"),
        ("port = 'x'", "port in"),
        ("port = ", "not valid TOML"),
        ("allowed_origins = ['chat.example']", "is not an origin"),
        ("behind_proxy = ['nowhere']", "is not a network"),
        ("dev = true\nbind = '0.0.0.0'", "--dev"),
        ("tls_cert = '/nowhere'", "without --tls-key"),
        ("tls_cert = '/nowhere'\ntls_key = '/nowhere'", "cannot be read"),
    ],
)
def test_what_a_hub_would_refuse_is_told(
    text: str, words: str, program: Program, tmp_path: Path
) -> None:
    path = tmp_path / "tried.toml"
    path.write_text(text)
    done = program.run("config", "--check", str(path))
    assert done.returncode == 78, done
    assert words in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_told(program: Program, tmp_path: Path) -> None:
    assert program.run("config", "--check", str(tmp_path / "none")).returncode == 78
    assert program.run("config", "extra").returncode == 2


def test_the_server_is_kept_with_its_tokens(program: Program) -> None:
    program.ok("config", "--server", "hub.example:81")
    path = program.home / "config" / "clawnet" / "credentials.json"
    assert json.loads(path.read_text()) == {"server": "http://hub.example:81", "tokens": {}}
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(json.dumps({"server": "http://a:1", "tokens": {"http://a:1": "t"}}))
    answer = json.loads(program.ok("--server", "https://b", "config", "--json"))
    assert answer == {"server": "https://b:443"}
    assert json.loads(path.read_text())["tokens"] == {"http://a:1": "t"}
    assert program.run("config", "--server", "ftp://x").returncode == 78


# --- completion ---------------------------------------------------------------

BASH = """
set -eu
PATH="$BIN:$PATH"
eval "$(NAME completion bash)"
complete -p NAME >/dev/null
try() {
  COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
  FUNCTION "$1" || true
  printf '%s\\n' "${COMPREPLY[*]}"
}
try NAME ''
try NAME su
try NAME token ''
try NAME up --tls
try NAME up --engine ''
try NAME -j hist
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("name", ["claw", "claw.events"])
def test_bash_completes_commands_and_options(name: str, program: Program, tmp_path: Path) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    script = binaries / name
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom clawnet.cli.main import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    function = f"_{name.replace('.', '')}_completion"
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH.replace("NAME", name).replace("FUNCTION", function)],
        env={**program.environment, "BIN": str(binaries)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    commands, some, nested, options, choices, behind = done.stdout.splitlines()
    assert set(commands.split()) == set(COMMANDS)
    assert "sub" in some.split()
    assert set(some.split()) < set(COMMANDS)
    assert {"create", "list", "revoke"} <= set(nested.split())
    assert set(options.split()) == {"--tls-cert", "--tls-key"}
    assert set(choices.split()) == {"sqlite", "memory"}
    assert behind.split() == ["history"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(shell: str, program: Program) -> None:
    text = program.ok("completion", shell)
    assert "_CLAW_COMPLETE" in text
    assert f"{shell}_complete" in text


def test_another_shell_is_a_usage_error(program: Program) -> None:
    assert program.run("completion", "tcsh").returncode == 2


def test_the_names_are_the_installed_ones() -> None:
    import tomllib

    root = Path(__file__).resolve().parents[2]
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == set(NAMES)
    assert set(scripts.values()) == {"clawnet.cli.main:main"}


def test_it_says_where_the_data_lie_if_nobody_said(tmp_path: Path) -> None:
    program = Program(tmp_path / "me")
    shown = program.ok("config", "--show")
    assert f'data_dir = "{tmp_path / "me" / "share" / "clawnet"}"' in shown
