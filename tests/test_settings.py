from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat import settings
from codegen_chat.errors import SettingsError
from codegen_chat.settings import Settings


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home)}


def write_user_file(home: Path, text: str) -> None:
    path = home / ".config" / "codegen-chat" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_nothing_set(environment: dict[str, str], tmp_path: Path) -> None:
    assert settings.read(environment, tmp_path) == Settings()


def test_environment_beats_project_file_beats_user_file(environment: dict[str, str], home: Path, tmp_path: Path) -> None:
    write_user_file(home, "seed = 1\ntop_k = 1\nsamples = 1\n")
    (tmp_path / "codegen-chat.toml").write_text("seed = 2\nsamples = 2\n")
    read = settings.read({**environment, "CODEGEN_CHAT_SAMPLES": "3"}, tmp_path)
    assert (read.top_k, read.seed, read.samples) == (1, 2, 3)


def test_xdg_config_home_is_honoured_unless_relative(environment: dict[str, str], home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    assert settings.config_file({**environment, "XDG_CONFIG_HOME": str(elsewhere)}) == elsewhere / "codegen-chat" / "config.toml"
    assert settings.config_file({**environment, "XDG_CONFIG_HOME": "relative"}) == home / ".config/codegen-chat/config.toml"


@pytest.mark.parametrize("misspelt", ["temprature", "temp", "max-new-tokens", "Temperature"])
def test_a_misspelt_key_is_an_error_with_a_suggestion(environment: dict[str, str], tmp_path: Path, misspelt: str) -> None:
    (tmp_path / "codegen-chat.toml").write_text(f'"{misspelt}" = 1\n')
    wanted = "max_new_tokens" if "max" in misspelt else "temperature"
    with pytest.raises(SettingsError, match=rf"codegen-chat\.toml: there is no setting '{misspelt}'; did you mean '{wanted}'\?"):
        settings.read(environment, tmp_path)


def test_a_misspelt_variable_is_an_error_that_names_it(environment: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"environment variable CODEGEN_CHAT_SEEDS: .*did you mean 'seed'"):
        settings.read({**environment, "CODEGEN_CHAT_SEEDS": "1"}, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", 1.5),
        ("seed", True),
        ("samples", 0),
        ("samples", "many"),
        ("temperature", "hot"),
        ("temperature", -0.1),
        ("temperature", "nan"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("dtype", "int3"),
        ("exec", "maybe"),
        ("memory", "much"),
        ("memory", "0"),
        ("memory", True),
        ("timeout", 0),
        ("timeout", "inf"),
        ("save", "perhaps"),
        ("model", ""),
        ("model", 3),
        ("draft", ""),
        ("top_k", []),
        ("temperature", {}),
    ],
)
def test_a_value_out_of_range_is_an_error_that_says_what_is_wanted(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"here: {name} is .*, wanted is ") as caught:
        Settings().updated({name: value}, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("memory", "512M", 512 << 20),
        ("memory", "1GiB", 1 << 30),
        ("memory", 1024, 1024),
        ("temperature", 0, 0.0),
        ("temperature", "0.5", 0.5),
        ("seed", "7", 7),
        ("save", "no", False),
        ("save", True, True),
        ("timeout", 3, 3.0),
    ],
)
def test_values_are_read(name: str, written: object, meant: object) -> None:
    read = getattr(Settings().updated({name: written}, "here"), name)
    assert read == meant
    assert type(read) is type(meant)


@pytest.mark.parametrize("text", ["seed = ", "\xff", "[model]\nname = 1"])
def test_a_file_that_is_not_settings(environment: dict[str, str], tmp_path: Path, text: str) -> None:
    (tmp_path / "codegen-chat.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"codegen-chat\.toml") as caught:
        settings.read(environment, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["timeout = 21", "memory = '2G'"])
def test_a_project_file_cannot_loosen_the_sandbox(environment: dict[str, str], tmp_path: Path, line: str) -> None:
    (tmp_path / "codegen-chat.toml").write_text(line)
    with pytest.raises(SettingsError, match="would loosen the sandbox"):
        settings.read(environment, tmp_path)


def test_a_project_file_cannot_turn_execution_on_again(environment: dict[str, str], home: Path, tmp_path: Path) -> None:
    write_user_file(home, 'exec = "off"')
    (tmp_path / "codegen-chat.toml").write_text('exec = "auto"')
    with pytest.raises(SettingsError, match="would loosen the sandbox"):
        settings.read(environment, tmp_path)


def test_a_project_file_may_tighten_it(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "codegen-chat.toml").write_text('timeout = 5\nmemory = "100M"\nexec = "off"\n')
    read = settings.read(environment, tmp_path)
    assert (read.timeout, read.memory, read.exec) == (5.0, 100 << 20, "off")


def test_the_person_may_loosen_it(environment: dict[str, str], home: Path, tmp_path: Path) -> None:
    write_user_file(home, "timeout = 100")
    (tmp_path / "codegen-chat.toml").write_text("timeout = 90")
    assert settings.read(environment, tmp_path).timeout == 90


@given(
    name=st.sampled_from([setting.name for setting in fields(Settings)]),
    value=st.text() | st.integers() | st.floats() | st.booleans(),
)
def test_any_value_is_read_or_refused_in_one_line(name: str, value: object) -> None:
    try:
        again = Settings().updated({name: value}, "here")
    except SettingsError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017  only some values are refused
    else:
        kept = getattr(again, name)
        assert Settings().updated({name: kept}, "here") == again


def test_who_asks_may_be_made_to_run_nothing_and_not_to_run_unasked() -> None:
    asking = Settings().updated({"exec": "ask"}, "codegen-chat.toml", trusted=False)
    assert asking.updated({"exec": "off"}, "codegen-chat.toml", trusted=False).exec == "off"
    with pytest.raises(SettingsError, match="would loosen the sandbox"):
        asking.updated({"exec": "auto"}, "codegen-chat.toml", trusted=False)
