"""Command classes: help pages of one style, nearest names for typos, errors in options' words.

Typer's plain help writes Python types (``<list[str]>``); these classes write metavars instead. They
are built from :mod:`typer` alone, since rich takes longer to import than ``--help`` to run.
"""

from __future__ import annotations

import difflib
import inspect
import re
import shlex
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from enum import Enum
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from lookalike.errors import LookalikeError
from lookalike.process_state import default_environment

HELP_NAMES: dict[str, Any] = {"help_option_names": ["-h", "--help"]}

_NAME_WIDTH = 26
"""Columns for the names of options, at most; longer ones stand on a line of their own."""

_NO_BREAK = "\N{NO-BREAK SPACE}"
"""Stands for a space where lines must not be wrapped, until they have been."""

_running: ContextVar[typer.Context | None] = ContextVar("running", default=None)


def new_group(help_text: str, *, cls: type[TyperGroup] | None = None) -> typer.Typer:
    """Return a command with sub-commands."""
    return typer.Typer(
        cls=cls or Group,
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        context_settings=HELP_NAMES,
    )


class Command(TyperCommand):
    """A command without sub-commands."""

    related: TyperGroup | None = None
    """The group whose sub-commands are listed on this command's help page too."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command; its options are what :func:`message` writes."""
        from lookalike.config import linear_algebra_threads

        _running.set(ctx)
        with default_environment(**linear_algebra_threads()):
            return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return options, arguments by their metavars, and required options."""
        return _usage(self.get_params(ctx))

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the docstring; indented paragraphs stay as they are."""
        del ctx
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, options and, for a default command, its siblings."""
        _write_parameters(self.get_params(ctx), formatter)
        if self.related is not None:
            _write_commands(self.related.commands, formatter)


class Group(TyperGroup):
    """A command with sub-commands, listed by panel."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the group's own options; without anything, show the help page and end with 2."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the sub-command that the first argument names, or fail with the nearest one."""
        name = args[0]
        if name in self.commands or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        ctx.fail(f"{self.unknown} {name}{nearest_name(name, self.suggestions()) or self.advice}")
        raise AssertionError  # pragma: no cover - fail does not return

    unknown = "no such command"
    """Begins the message about a name that is none of its commands."""

    advice = ""
    """Ends it where no command has a similar name."""

    def suggestions(self) -> Iterable[str]:
        """Return the names that may be meant by another one."""
        return self.commands

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write what the group is for."""
        del ctx
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the group's options, then its sub-commands by panel."""
        if ctx.parent is None:
            _write_commands(self.commands, formatter)
        _write_parameters(self.get_params(ctx), formatter)
        if ctx.parent is not None:
            _write_commands(self.commands, formatter)


class DefaultGroup(Group):
    """A group that runs its command of the same name if no sub-command is named.

    An argument that is called like a sub-command is given as a path: ``./robustness``.
    """

    def __init__(self, *, name: str, commands: dict[str, Any], **attributes: Any) -> None:
        self.default: Command = commands.pop(name)
        super().__init__(name=name, commands=commands, **attributes)
        self.default.related = self

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Return the context of the default command, unless a sub-command is named first."""
        first = args[0] if args else ""
        if first in self.commands:
            return super().make_context(info_name, args, parent, **extra)
        ctx = self.default.make_context(info_name, args, parent, **extra)
        matches = difflib.get_close_matches(first, self.commands, n=1, cutoff=0.8)
        if matches and not Path(first).exists():
            ctx.fail(f"no such command {first}; did you mean {matches[0]}?")
        return ctx


def message(error: LookalikeError) -> str:
    """Return an error's message with parameters as the running command's options."""
    ctx = _running.get()
    parameters = [] if ctx is None else ctx.command.params
    return error.format_message(lambda name, value: _format_parameter(parameters, name, value))


def usage_message(error: typer.TyperException) -> str:
    """Return what is wrong with the command line, and which help page says what is right."""
    ctx: typer.Context | None = getattr(error, "ctx", None)
    return "\n".join(
        [_usage_problem(error, ctx), *([] if ctx is None else [f"Try: {ctx.command_path} --help"])]
    )


def _usage_problem(error: typer.TyperException, ctx: typer.Context | None) -> str:
    kind = type(error).__name__
    param = getattr(error, "param", None)
    if kind == "NoSuchOption":
        option: str = error.option_name  # type: ignore[attr-defined]
        names = [] if ctx is None else _option_names(ctx.command.get_params(ctx))
        place = "" if ctx is None or ctx.parent else "; options follow the command or folder"
        return f"no such option {option}{nearest_name(option, names) or place}"
    if kind == "MissingParameter" and param is not None:
        return f"missing {param.param_type_name} {_name(param)}{_folder_hint(ctx)}"
    if kind == "BadParameter" and param is not None:
        return f"{_name(param)} {_plain(error.message)}"
    return _plain(error.format_message())


def _folder_hint(ctx: typer.Context | None) -> str:
    """Return the end of a message: how to search a folder that is called like the command."""
    name = "" if ctx is None or ctx.parent is None else ctx.info_name
    is_root = ctx is not None and ctx.parent is not None and ctx.parent.parent is None
    if not (name and is_root and Path(name).is_dir()):
        return ""
    return f"; to search the folder of that name: lookalike ./{name}"


_SENTENCES = (
    (r"^Got unexpected extra arguments?(?:\(s\))? \((.*)\)\.?$", r"unexpected argument \1"),
    (r"^Option '([^']+)' requires an argument\.?$", r"\1 needs a value"),
    (r"^Option '([^']+)' does not take a value\.?$", r"\1 takes no value"),
    (r"^Input should be a valid integer.*$", "must be a whole number"),
    (r"^Input should be a valid number.*$", "must be a number"),
    (r"^Input should be greater than or equal to (.*?)\.?$", r"must be at least \1"),
    (r"^Input should be less than or equal to (.*?)\.?$", r"must be at most \1"),
    (r"^Input should be (.*?)\.?$", r"must be \1"),
)
"""Typer's sentences, and the same in lookalike's words."""


def _plain(text: str) -> str:
    """Return a sentence of Typer's as lookalike writes it."""
    for pattern, replacement in _SENTENCES:
        if re.match(pattern, text):
            return re.sub(pattern, replacement, text)
    return (text[:1].lower() + text[1:] if text[1:2].islower() else text).rstrip(".")


def nearest_name(name: str, available: Iterable[str]) -> str:
    """Return the end of a message that suggests the nearest available name, if one is close."""
    names = {each.lstrip("-"): each for each in available}
    bare = name.lstrip("-")
    matches = difflib.get_close_matches(bare, names, n=1, cutoff=0.7)
    if not matches and len(bare) > 1:
        matches = [each for each in names if each.startswith(bare)][:1]
    return f"; did you mean {names[matches[0]]}?" if matches else ""


def _option_names(params: Iterable[Any]) -> list[str]:
    return [
        name
        for param in params
        if isinstance(param, TyperOption) and not param.hidden
        for name in (*param.opts, *param.secondary_opts)
    ]


def _format_parameter(params: Sequence[Any], name: str, value: object) -> str:
    """Return a parameter and its value as one types them."""
    flag = "--" + name.replace("_", "-")
    for param in params:
        if name == param.name or flag in param.opts:
            if isinstance(param, TyperArgument):
                return _name(param) if value is None else f"{_name(param)} {_format_value(value)}"
            if value is False and param.secondary_opts:
                return str(param.secondary_opts[-1])
            if value is None or isinstance(value, bool):
                return _name(param)
            return f"{_name(param)} {_format_value(value)}"
    return name if value is None else f"{name}={value}"


def _format_value(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_format_value(each) for each in value)
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, float):
        value = f"{value:g}"
    return shlex.quote(str(value))


def _name(param: Any) -> str:
    """Return an option by its long name, an argument by its metavar."""
    if isinstance(param, TyperOption):
        return max(param.opts, key=len)
    return str(param.metavar or param.name.upper())


def _usage(params: Iterable[Any]) -> list[str]:
    pieces = ["[OPTIONS]"]
    for param in params:
        if isinstance(param, TyperOption):
            if param.required:
                pieces.append(_names_column(param).split(", ")[-1])
        else:
            several = "..." if param.nargs != 1 else ""
            shown = f"{_name(param)}{several}"
            pieces.append(shown if param.required else f"[{shown}]")
    return pieces


def _names_column(param: Any) -> str:
    """Return the names of an option with its metavar: ``-o, --out FOLDER``."""
    if not isinstance(param, TyperOption):
        return _name(param)
    if param.is_flag:
        negated = param.secondary_opts and param.default is True
        return ", ".join(sorted(param.secondary_opts if negated else param.opts, key=len))
    names = ", ".join(sorted(param.opts, key=len))
    return f"{names} {param.metavar or param.name.upper()}"


def _help_column(param: Any) -> str:
    """Return a parameter's help text with its default value."""
    default = param.show_default if isinstance(param.show_default, str) else param.default
    if not param.show_default or param.required or default is None or default in ([], ()):
        return str(param.help)
    if isinstance(default, bool):
        return str(param.help)
    shown = f"{default:g}" if isinstance(default, float) else default
    return f"{param.help} " + f"[default: {shown}]".replace(" ", _NO_BREAK)


def _write_text(text: str, formatter: Any) -> None:
    """Write paragraphs; examples, which start with a command or are indented, as they are."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.splitlines()
        formatter.write_paragraph()
        if any(line.startswith(" ") for line in lines) or paragraph.startswith("lookalike "):
            margin = "  " if any(line.startswith(" ") for line in lines) else "    "
            formatter.write("".join(f"{margin}{line}\n" for line in lines))
        else:
            with formatter.indentation():
                formatter.write_text(paragraph)


def _write_parameters(params: Iterable[Any], formatter: Any) -> None:
    shown = [param for param in params if not param.hidden]
    for heading, kind in (("Arguments", TyperArgument), ("Options", TyperOption)):
        rows = [
            (_names_column(param), _help_column(param))
            for param in shown
            if isinstance(param, kind)
        ]
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows, col_max=_NAME_WIDTH)
    formatter.buffer[:] = [text.replace(_NO_BREAK, " ") for text in formatter.buffer]


def _write_commands(commands: dict[str, Any] | Any, formatter: Any) -> None:
    panels: dict[str, list[tuple[str, str]]] = {}
    width = formatter.width - 6 - max(map(len, commands))
    longest = max(map(len, commands))
    for name, command in commands.items():
        if not command.hidden:
            panel = command.rich_help_panel
            row = name.ljust(longest), command.get_short_help_str(width)
            panels.setdefault(panel if isinstance(panel, str) else "Commands", []).append(row)
    for heading, rows in panels.items():
        with formatter.section(heading):
            formatter.write_dl(rows)
