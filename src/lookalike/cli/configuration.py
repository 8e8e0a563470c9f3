"""Options of a command in a TOML file and in environment variables, which follow from its options.

``--allow-host HOST`` is ``allow-host = ["HOST"]`` in the file and ``LOOKALIKE_SERVE_ALLOW_HOST`` in
the environment. What is on the command line comes before variables, these before the file.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer
from typer.core import TyperArgument
from typer.models import ParameterInfo

from lookalike.cli.commands import Command, nearest_name
from lookalike.config import command_variables
from lookalike.errors import SettingError
from lookalike.files import read_regular
from lookalike.formatting import printable, shorten

_MAX_FILE_BYTES = 1_000_000
_NOT_CONFIGURED = ("config", "print_config", "help")
_NUMBER = r"-?[0-9]{1,18}(\.[0-9]{1,18})?"
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Setting:
    """One option of a command, as files and variables name it.

    Attributes:
        param: its name in the command's function.
        key: its name in files.
        variable: its name in the environment.
        kind: of its values: bool, int, float, str or Path, or a ``Literal``.
        several: whether it has a list of them.
        low: the least number.
        high: the largest number.
        by_name: whether the values have names, as galleries have.
    """

    param: str
    key: str
    variable: str
    kind: Any
    several: bool
    low: float | None = None
    high: float | None = None
    by_name: bool = False

    @property
    def accepts(self) -> str:
        """What a file may have as its value, in words."""
        if self.by_name:
            return 'a table of names and folders, such as photos = "photos.gallery"'
        if self.several:
            return 'a list of texts, such as ["a", "b"]'
        if typing.get_origin(self.kind) is Literal:
            return " or ".join(map(json.dumps, typing.get_args(self.kind)))
        if self.kind in (int, float):
            noun = "a whole number" if self.kind is int else "a number"
            low = "" if self.low is None else f" from {self.low:g}"
            return noun + low + ("" if self.high is None else f" to {self.high:.15g}")
        return {bool: "true or false", Path: "a text: a file"}.get(self.kind, "a text")

    def from_file(self, value: object, folder: Path) -> object:
        """Return a value of a file, as the command's function takes it; paths are below ``folder``.

        Raises:
            ValueError: it is no such value.
        """
        if self.by_name:
            return [f"{name}={_below(folder, each)}" for name, each in _texts_by_name(value)]
        if self.several:
            if not isinstance(value, list):
                raise ValueError
            return [_text(each) for each in value]
        return self._single(value, folder)

    def _single(self, value: object, folder: Path) -> object:
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError
            return value
        if self.kind in (int, float):
            if not isinstance(value, int | self.kind) or isinstance(value, bool):
                raise ValueError
            return self._in_range(value)
        text = _text(value)
        if typing.get_origin(self.kind) is Literal and text not in typing.get_args(self.kind):
            raise ValueError
        return str(_below(folder, text)) if self.kind is Path else text

    def from_variable(self, text: str) -> object:
        """Return the value of a variable, as the command's function takes it.

        Raises:
            ValueError: it is no such value.
        """
        if self.several:
            words = shlex.shlex(text, posix=True)
            words.whitespace += ","
            words.whitespace_split, words.commenters = True, ""
            return list(words)
        if self.kind is bool:
            if text.lower() not in _TRUE + _FALSE:
                raise ValueError
            return text.lower() in _TRUE
        if self.kind in (int, float):
            if not re.fullmatch(_NUMBER, text):
                raise ValueError
            return self._in_range(self.kind(text))
        return self._single(text, Path())

    def _in_range(self, number: float) -> float:
        low = -math.inf if self.low is None else self.low
        if not low <= number <= (math.inf if self.high is None else self.high):
            raise ValueError
        return number


class ConfiguredCommand(Command):
    """A command that has an option ``--config FILE``, and one ``--print-config``.

    The table of its settings is made of the options of its function, so that every option can be
    in the file and in the environment.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line, with files and variables for what is not on it."""
        settings = self._settings()
        typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        values: dict[str, object] = {}
        sources: dict[str, str] = {}
        if not (typed.get("help") or ctx.resilient_parsing):
            variables = command_variables(f"{self._prefix}_")
            values, sources = self._configured(settings, typed.get("config"), variables)
            ctx.default_map = values
        rest = super().parse_args(ctx, args)
        if ctx.params.get("print_config") and not ctx.resilient_parsing:
            typed_names = {name for name, value in typed.items() if value not in (None, (), [])}
            sources |= dict.fromkeys(typed_names, "command line")
            print(_as_toml(settings, ctx.params, sources), end="")
            raise typer.Exit
        self._require_arguments(ctx)
        return rest

    @property
    def _prefix(self) -> str:
        return f"LOOKALIKE_{self.name or ''}".upper()

    def _settings(self) -> list[Setting]:
        assert self.callback is not None
        hints = typing.get_type_hints(self.callback, include_extras=True)
        return [
            _setting(param, hints[param.name], self._prefix)
            for param in self.params
            if param.name not in _NOT_CONFIGURED
        ]

    def _configured(
        self, settings: list[Setting], typed: object, variables: Mapping[str, str]
    ) -> tuple[dict[str, object], dict[str, str]]:
        """Return values by parameter, and where each is from."""
        by_variable = {each.variable: each for each in settings}
        config_variable = f"{self._prefix}_CONFIG"
        config = typed or variables.get(config_variable)
        values: dict[str, object] = {}
        sources: dict[str, str] = {}
        if config:
            values = _read_file(Path(str(config)), settings)
            sources = dict.fromkeys(values, str(config))
        for name, text in variables.items():
            if name == config_variable:
                continue
            if name not in by_variable:
                hint = nearest_name(name, [*by_variable, config_variable])
                raise SettingError(f"{name}: no option of {self.name} has this variable{hint}")
            setting = by_variable[name]
            try:
                values[setting.param] = setting.from_variable(text)
            except ValueError:
                accepted = _accepted_in_variable(setting)
                shown = repr(shorten(text))
                raise SettingError(f"{name}={shown}: must be {accepted}") from None
            sources[setting.param] = name
        return values, sources

    def _require_arguments(self, ctx: Any) -> None:
        """Report an argument that is nowhere, as the parser does for one that must be typed."""
        for param in self.params:
            if isinstance(param, TyperArgument) and not ctx.params[param.name]:
                ctx.fail(
                    f"missing argument {param.metavar}; or list it in a file: "
                    f"lookalike {self.name} --config FILE"
                )


def _setting(param: Any, hint: Any, prefix: str) -> Setting:
    """Return what the annotation of a parameter, ``Annotated[KIND, INFO]``, says of its values."""
    annotated, *metadata = typing.get_args(hint)
    info = next(each for each in metadata if isinstance(each, ParameterInfo))
    kinds: list[Any] = [annotated]
    if typing.get_origin(annotated) in (types.UnionType, typing.Union):
        kinds = [each for each in typing.get_args(annotated) if each is not types.NoneType]
    several = typing.get_origin(kinds[0]) is list
    return Setting(
        param=param.name,
        key=param.name.replace("_", "-"),
        variable=f"{prefix}_{param.name.upper()}",
        kind=typing.get_args(kinds[0])[0] if several else kinds[0],
        several=several,
        low=info.min,
        high=info.max,
        by_name=isinstance(param, TyperArgument),
    )


def _read_file(path: Path, settings: Iterable[Setting]) -> dict[str, object]:
    """Return the values of a file by parameter.

    Raises:
        SettingError: it cannot be read, is no TOML, or has an unknown key or a value of another
            type.
    """
    import tomllib

    shown = printable(str(path))
    try:
        document = tomllib.loads(read_regular(path, limit=_MAX_FILE_BYTES).decode())
    except OSError as error:
        raise SettingError(f"{shown}: cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingError(f"{shown}: not valid TOML ({error or 'too many levels'})") from error
    by_key = {each.key: each for each in settings}
    values: dict[str, object] = {}
    for key, value in document.items():
        name = printable(shorten(key))
        if key not in by_key:
            hint = nearest_name(key, by_key) or f"; available: {', '.join(by_key)}"
            raise SettingError(f"{shown}: unknown key {name}{hint}")
        setting = by_key[key]
        try:
            values[setting.param] = setting.from_file(value, path.resolve().parent)
        except ValueError:
            got = printable(shorten(json.dumps(value, default=str, ensure_ascii=False)))
            raise SettingError(f"{shown}: {name} must be {setting.accepts}, not {got}") from None
    return values


def _accepted_in_variable(setting: Setting) -> str:
    if setting.several:
        return "texts separated by spaces or commas, quoted as in a shell"
    if setting.kind is bool:
        return "1 or 0"
    return setting.accepts


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return value


def _texts_by_name(value: object) -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        raise ValueError
    return [(name, _text(each)) for name, each in value.items()]


def _below(folder: Path, text: str) -> str:
    """Return a path relative to a folder as an absolute one; addresses as they are."""
    return text if "://" in text else str(folder / Path(text).expanduser())


def _as_toml(
    settings: Iterable[Setting], params: Mapping[str, object], sources: Mapping[str, str]
) -> str:
    """Return the effective values as a file, each with where it is from unless it is a default."""
    lines: list[str] = []
    table: list[str] = []
    for setting in settings:
        value = params[setting.param]
        source = sources.get(setting.param)
        comment = f"  # {printable(source)}" if source else ""
        if setting.by_name:
            pairs = _named(value)
            table = [f"{_key(name)} = {_toml(path)}{comment}" for name, path in pairs]
            table.insert(0, f"\n[{setting.key}]")
        elif value is None:
            lines.append(f"# {setting.key} =")
        else:
            lines.append(f"{setting.key} = {_toml(value)}{comment}")
    return "\n".join([*lines, *table]) + "\n"


def _named(galleries: object) -> Iterable[tuple[str, str]]:
    from lookalike.server.settings import gallery_paths

    assert isinstance(galleries, list | tuple | None)
    paths = gallery_paths(galleries or ())
    return [(name, _below(Path.cwd(), path)) for name, path in paths.items()]


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Path):
        value = str(value.absolute())
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
