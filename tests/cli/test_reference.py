"""Every setting documents itself: the example file and the page are made from the types."""

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from clawnet.app import reference
from clawnet.app.config import Setting, Settings, catalogue, is_struct, load, plain
from clawnet.cli.commands.up import up
from clawnet.core.errors import BadConfiguration

ROOT = Path(__file__).resolve().parents[2]
EVERY = list(catalogue().values())


def members(kind: Any) -> list[Setting]:
    """A setting's own, and those of the tables it may hold."""
    found: list[Setting] = []
    for setting in catalogue(kind).values():
        found.append(setting)
        for part in getattr(plain(setting.type), "__args__", ()):
            if is_struct(part):
                found += members(plain(part))
    return found


def test_every_setting_says_in_one_sentence_what_it_is() -> None:
    settings = members(Settings)
    assert settings
    wrong = {
        setting.name: setting.description
        for setting in settings
        if not is_one_sentence(setting.description)
    }
    assert wrong == {}


def is_one_sentence(text: str) -> bool:
    begins = text[:1].isupper() or text.startswith("sqlite")
    ends = text.endswith(".") and ". " not in text.replace(": or . (", "")
    return begins and ends and "\n" not in text


def uncommented(text: str) -> str:
    return re.sub(r"^#([a-z_]+ = )", r"\1", text, flags=re.MULTILINE)


def loaded(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load(flags={}, environment={}, file=path, is_file_required=True)


def test_the_printed_file_loads_as_it_stands(tmp_path: Path) -> None:
    assert loaded(tmp_path, reference.toml()) == Settings()


def test_every_line_of_it_loads_when_it_is_taken_in(tmp_path: Path) -> None:
    text = uncommented(reference.toml())
    # What is unset has no value to write; its line shows the form.
    for setting in EVERY:
        if setting.default is None:
            name = setting.name.rpartition(".")[2]
            text = re.sub(rf"^{name} = .*\n", "", text, flags=re.MULTILINE)
    assert loaded(tmp_path, text) == Settings()


def test_every_setting_stands_in_it_with_its_variable() -> None:
    text = reference.toml()
    for setting in EVERY:
        assert re.search(rf"; {setting.variable}(;|$)", text, re.MULTILINE), setting.name


def test_the_files_in_the_repository_are_the_printed_ones() -> None:
    for path, text in (
        ("deploy/config.toml", reference.toml()),
        ("docs/configuration.md", reference.markdown()),
    ):
        assert (ROOT / path).read_text() == text, f"make docs writes {path} anew"


def test_every_flag_of_up_is_a_setting() -> None:
    flags = {str(option.name) for option in up.params} - {"config", "server", "token", "json"}
    assert flags <= set(catalogue())
    assert {"tls_cert", "tls_key", "behind_proxy", "bind", "port"} <= flags


class _Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of many."""

    channel: Annotated[str, msgspec.Meta(description="Where.")]
    days: Annotated[float, msgspec.Meta(gt=0, description="How long.")] = 1.0


def test_lists_of_tables_are_json_in_the_environment() -> None:
    setting = Setting("retention.rules", Annotated[list[_Rule], msgspec.Meta(description="x")], [])
    assert setting.is_table
    assert reference.kind_of(setting.type) == "a list of tables"
    assert not Setting("a", tuple[str, ...], ()).is_table


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_is_finite(value: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="offline_after_s"):
        loaded(tmp_path, f"[presence]\noffline_after_s = {value}\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [("limits.publish_per_s", "0"), ("connections.connections_max", "0"), ("port", "70000"),
     ("retention.age_max_days", "-1"), ("limits.data_max_bytes", "0")],
)  # fmt: skip
def test_bounds_hold(name: str, value: str) -> None:
    variable = catalogue()[name].variable
    with pytest.raises(BadConfiguration, match=variable):
        load(flags={}, environment={variable: value}, file=None)


def test_values_are_written_as_toml_reads_them() -> None:
    import tomllib

    for value in ('a"b\\c\n\x7f\u2028é', 1, 1.5, True, ["a", "b"], {"a": {"b": [1]}, "c d": "x"}):
        assert tomllib.loads(f"x = {reference.toml_value(value)}")["x"] == value
