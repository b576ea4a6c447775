"""The settings: flags > a spec's `@set` > environment > project file > user file > defaults. A misspelt one is an error.

| from | where | written |
|---|---|---|
| flags | the command line | `--max-new-tokens 64` |
| spec | a spec that is run | `@set max_new_tokens=64` |
| environment | `CODEGEN_CHAT_*` | `CODEGEN_CHAT_MAX_NEW_TOKENS=64` |
| project file | `codegen-chat.toml` in the working directory | `max_new_tokens = 64` |
| user file | `codegen-chat/config.toml` under XDG_CONFIG_HOME | the same |

A project file and a spec may come from a stranger: they may tighten the sandbox and never loosen it.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from codegen_chat.errors import SettingsError

PREFIX = "CODEGEN_CHAT_"
PROJECT_FILE = "codegen-chat.toml"


def _setting(default: Any, wanted: str, read: Callable[[Any], Any], *, guard: bool = False) -> Any:
    """Declare a setting: `read` makes its value of a TOML value or a text, or raises ValueError; `wanted` then says what was."""
    return field(default=default, metadata={"wanted": wanted, "read": read, "guard": guard})


def _whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = int(value)
        if isinstance(value, bool | float) or number < least:
            raise ValueError
        return number

    return read


def _number(least: float, most: float, *, above: bool = False) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number) or not least <= number <= most or (above and number == least):
            raise ValueError
        return number

    return read


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return read


def _yes(value: Any) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[str(value).lower()]


def _size(value: Any) -> int:
    matched = re.fullmatch(r"([1-9]\d*)\s*([KMG]?)(?:i?B)?", str(value), re.IGNORECASE)
    if matched is None:
        raise ValueError
    return int(matched[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[matched[2].upper()]


def _folders(value: Any) -> tuple[str, ...]:
    names = value.split(os.pathsep) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise ValueError
    return tuple(str(Path(name).expanduser().absolute()) for name in names)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a person can set. None means: what the checkpoint says."""

    model: str = _setting("nano", "the name of a model, or the folder of a checkpoint", _text)
    device: str = _setting("auto", "a device such as auto, cpu or cuda", _text)
    dtype: Literal["auto", "fp32", "bf16", "fp16", "int8", "int4"] = _setting(
        "auto", "one of auto, fp32, bf16, fp16, int8, int4", _one_of("auto", "fp32", "bf16", "fp16", "int8", "int4")
    )
    draft: str = _setting("off", "off, the name of a smaller model, or the folder of its checkpoint", _text)
    samples: int = _setting(1, "a whole number from 1 on", _whole(1))
    fallback: int = _setting(8, "a whole number from 0 on", _whole(0))
    guard: bool = _setting(True, "true or false", _yes)
    temperature: float | None = _setting(None, "a number from 0 to 10", _number(0, 10))
    top_p: float | None = _setting(None, "a number above 0, up to 1", _number(0, 1, above=True))
    top_k: int | None = _setting(None, "a whole number from 0 on", _whole(0))
    max_new_tokens: int = _setting(256, "a whole number from 1 on", _whole(1))
    seed: int = _setting(0, "a whole number from 0 on", _whole(0))
    exec: Literal["auto", "ask", "off"] = _setting("auto", "auto, ask or off", _one_of("auto", "ask", "off"), guard=True)
    timeout: float = _setting(20.0, "seconds, above 0, up to 86400", _number(0, 86400, above=True), guard=True)
    memory: int = _setting(1 << 30, 'bytes, such as "512M" or "1G"', _size, guard=True)
    allow_read: tuple[str, ...] = _setting((), "a list of folders", _folders, guard=True)
    allow_write: tuple[str, ...] = _setting((), "a list of folders", _folders, guard=True)
    save: bool = _setting(True, "true or false", _yes)
    plain: bool = _setting(False, "true or false", _yes)
    keys: Literal["emacs", "vi"] = _setting("emacs", "emacs or vi", _one_of("emacs", "vi"))
    bell: float = _setting(0.0, "seconds from 0 (never) to 86400", _number(0, 86400))
    plots: Literal["auto", "kitty", "iterm", "sixel", "blocks", "off"] = _setting(
        "auto", "one of auto, kitty, iterm, sixel, blocks, off", _one_of("auto", "kitty", "iterm", "sixel", "blocks", "off")
    )

    def updated(self, values: Mapping[str, object], where: str, *, trusted: bool = True) -> Settings:
        """Return these settings with some replaced. `where` names their source in an error.

        Values from a source that is not trusted may tighten the sandbox only.

        Raises:
            SettingsError: an unknown name (with a suggestion), a value out of range, a sandbox loosened.
        """
        known = {setting.name: setting.metadata for setting in fields(self)}
        changes: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise SettingsError(f"{where}: {unknown(name)}")
            try:
                changes[name] = known[name]["read"](value)
            except (ValueError, TypeError, KeyError, OverflowError):
                raise SettingsError(f"{where}: {name} is {value!r}, wanted is {known[name]['wanted']}") from None
            if not trusted and known[name]["guard"] and _looser(changes[name], getattr(self, name)):
                raise SettingsError(
                    f"{where}: {name} = {value!r} would loosen the sandbox; "
                    f"say --{name.replace('_', '-')} yourself if you mean it"
                )
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one source, which `where` names; one that is not trusted may tighten the sandbox only."""

    values: Mapping[str, object]
    where: str
    trusted: bool = True


def layers(environment: Mapping[str, str], directory: Path) -> list[Layer]:
    """Return the user file, the project file in `directory` and the environment's variables, the weakest first.

    Raises SettingsError for a file that is not TOML.
    """
    user, project = config_file(environment), directory / PROJECT_FILE
    return [
        Layer(_toml(user), str(user)),
        Layer(_toml(project), PROJECT_FILE, trusted=False),
        *(
            Layer({name.removeprefix(PREFIX).lower(): value}, f"environment variable {name}")
            for name, value in environment.items()
            if name.startswith(PREFIX)
        ),
    ]


def read(environment: Mapping[str, str], directory: Path) -> Settings:
    """Return the settings of the user file, the project file in `directory`, and the environment; flags come on top.

    Raises:
        SettingsError: a file that is not TOML, an unknown name, a value out of range.
    """
    settings = Settings()
    for layer in layers(environment, directory):
        settings = settings.updated(layer.values, layer.where, trusted=layer.trusted)
    return settings


def is_plain(settings: Settings, environment: Mapping[str, str]) -> bool:
    """Return whether the person, or the terminal, wants words alone."""
    return settings.plain or environment.get("ACCESSIBLE", "0") not in {"", "0"} or environment.get("TERM") == "dumb"


def unknown(name: str) -> str:
    """Say that there is no such setting, and which may have been meant."""
    return f"there is no setting {name!r}{_suggestion(name, [setting.name for setting in fields(Settings)])}"


def config_file(environment: Mapping[str, str]) -> Path:
    """Return the path of the person's own settings."""
    return _xdg(environment, "XDG_CONFIG_HOME", ".config") / "config.toml"


def sessions_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder that sessions are saved in."""
    return _xdg(environment, "XDG_DATA_HOME", ".local/share") / "sessions"


def models_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of the models that were added or converted; those of the hub stay in its own cache."""
    return _xdg(environment, "XDG_DATA_HOME", ".local/share") / "models"


def packed_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of weights that were made small for a dtype. It may be deleted at any time."""
    return _xdg(environment, "XDG_CACHE_HOME", ".cache") / "packed"


def history_file(environment: Mapping[str, str]) -> Path:
    """Return the path of what was typed in the REPL."""
    return _xdg(environment, "XDG_STATE_HOME", ".local/state") / "history"


def training_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder that a training run keeps its state in."""
    return _xdg(environment, "XDG_STATE_HOME", ".local/state") / "train"


def _xdg(environment: Mapping[str, str], variable: str, default: str) -> Path:
    base = Path(environment.get(variable, ""))
    # The specification: a relative path there is invalid and ignored.
    return (base if base.is_absolute() else Path(environment.get("HOME") or Path.home()) / default) / "codegen-chat"


def _toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None


_EXEC = ("auto", "ask", "off")  # from loose to tight


def _suggestion(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1, cutoff=0.5)
    near = near or [candidate for candidate in known if candidate.startswith(name.lower()[:4])][:1]
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def _looser(value: Any, than: Any) -> bool:
    if isinstance(value, tuple):
        return not set(value) <= set(than)
    if isinstance(value, str):
        return _EXEC.index(value) < _EXEC.index(than)
    return bool(value > than)
