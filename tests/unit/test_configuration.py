"""Options of ``lookalike serve`` in a file and in variables: which comes first, what is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from lookalike.cli import app
from lookalike.cli.configuration import Setting
from tests.integration.test_cli import lookalike

SERVE: Any = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
SETTINGS: list[Setting] = SERVE._settings()

Parse = Callable[..., dict[str, Any]]


@pytest.fixture
def parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Return the parameters of a command line, with a file and variables."""
    monkeypatch.chdir(tmp_path)

    def parameters(*words: str, file: str | None = None, **variables: str) -> dict[str, Any]:
        if file is not None:
            (tmp_path / "lookalike.toml").write_text(file, encoding="utf-8")
            words = (*words, "--config", "lookalike.toml")
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(f"LOOKALIKE_SERVE_{name}", value)
            params: dict[str, Any] = SERVE.make_context("serve", list(words)).params
            return params

    return parameters


def error(*words: object) -> str:
    """Return the one line of an error."""
    done = lookalike("serve", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Try: ")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("lookalike: error: ")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "a.toml"


def test_every_option_is_a_setting() -> None:
    flags = {name for param in SERVE.params for name in param.opts if name.startswith("--")}
    own = {f"--{setting.key}" for setting in SETTINGS}
    assert flags == own - {"--galleries"} | {"--config", "--print-config"}


def example(setting: Setting) -> tuple[str, str, Any]:
    """Return a value in TOML, in a variable, and as a parameter, other than the default."""
    if setting.by_name:
        return '{a = "b"}', "a=b", ["a=b"]
    if setting.several:
        return '["a", "b c"]', "a, 'b c'", ["a", "b c"]
    if setting.kind is bool:
        return "true", "yes", True
    if setting.kind in (int, float):
        return "77", "77", 77
    if setting.kind is Path:
        return '"a.json"', "a.json", Path("a.json")
    choice = {"log_format": "json", "log_level": "error"}.get(setting.param, "a")
    return f'"{choice}"', choice, choice


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_variables_come_before_the_file_and_the_file_before_defaults(
    setting: Setting, parse: Parse, tmp_path: Path
) -> None:
    text, variable, value = example(setting)
    expected = value
    if setting.by_name:
        expected = [f"a={tmp_path / 'b'}"]
    elif setting.kind is Path:
        expected = tmp_path / value
    words = () if setting.by_name else ("x",)
    default = parse("x")[setting.param]
    assert parse(*words, file=f"{setting.key} = {text}")[setting.param] == expected != default
    name = setting.param.upper()
    assert parse(*words, **{name: variable})[setting.param] == value
    assert parse("x", **{name: ""})[setting.param] == default
    if setting.kind is bool:
        off = parse("x", file=f"{setting.key} = true", **{name: "0"})
        assert off[setting.param] is False


def test_the_command_line_comes_first(parse: Parse) -> None:
    text = 'port = 1\nhost = "a"\nallow-host = ["a"]\n[galleries]\na = "x"'
    params = parse("y", "--port", "3", file=text, PORT="2", HOST="b", ALLOW_HOST="b c")
    assert (params["galleries"], params["port"], params["host"]) == (["y"], 3, "b")
    assert params["allow_host"] == ["b", "c"]
    assert parse(file=text, PORT="2")["port"] == 2
    assert parse("y", "--allow-host", "z", file=text)["allow_host"] == ["z"]


def test_the_file_can_be_in_a_variable(parse: Parse, tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text("port = 5")
    assert parse("x", CONFIG="b.toml")["port"] == 5
    assert parse("x", file="port = 6", CONFIG="b.toml")["port"] == 6


def test_paths_in_a_file_are_beside_it(parse: Parse, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "c.toml").write_text(
        'keys = "keys.json"\naudit-log = "/var/a.log"\n[galleries]\na = "../a.gallery"\n'
        'b = "milvus://h:1/b"'
    )
    params = parse("--config", "etc/c.toml")
    assert params["keys"] == tmp_path / "etc" / "keys.json"
    assert params["audit_log"] == Path("/var/a.log")
    assert params["galleries"] == [f"a={tmp_path / 'etc' / '..' / 'a.gallery'}", "b=milvus://h:1/b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "unknown key prot; did you mean port?"),
        ("allow_host = []", "unknown key allow_host; did you mean allow-host?"),
        ("[gallery]\na = 'b'", "unknown key gallery; did you mean galleries?"),
        ("config = 'b'", "unknown key config; available: galleries, host, "),
        ("zzz = 1", "unknown key zzz; available: galleries, host, port, "),
        ('"a\\nb" = 1', "unknown key a\\nb"),
        ("port = '1'", 'port must be a whole number from 0 to 65535, not "1"'),
        ("port = true", "port must be a whole number from 0 to 65535, not true"),
        ("port = 1.5", "port must be a whole number from 0 to 65535, not 1.5"),
        ("port = 65536", "port must be a whole number from 0 to 65535, not 65536"),
        ("port = -1", "port must be a whole number from 0 to 65535, not -1"),
        ("write = 1", "write must be true or false, not 1"),
        ("host = ''", 'host must be a text, not ""'),
        ("host = 1979-05-27", 'host must be a text, not "1979-05-27"'),
        ("keys = ['a']", 'keys must be a text: a file, not ["a"]'),
        ("allow-host = 'a'", 'allow-host must be a list of texts, such as ["a", "b"], not "a"'),
        ("allow-host = [1]", 'allow-host must be a list of texts, such as ["a", "b"], not [1]'),
        ("log-format = 'xml'", 'log-format must be "text" or "json", not "xml"'),
        ("log-level = 'x\\n'", 'log-level must be "debug" or "info" or "warning" or "error"'),
        ("galleries = ['a']", "galleries must be a table of names and folders, such as photos = "),
        ("[galleries]\na = 1", 'photos = "photos.gallery", not {"a": 1}'),
        ("[galleries]\na = 'b'\na = 'c'", "not valid TOML (Cannot overwrite a value"),
        ("port = ", "not valid TOML (Invalid value (at end of document))"),
        ("a = " + "[" * 5_000, "not valid TOML"),
        (b"\xff", "not valid TOML ('utf-8' codec"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(file: Path, text: str | bytes, message: str) -> None:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = error("x", "--config", "a.toml")
    assert line.startswith("a.toml: ")
    assert message in line
    assert len(line) < 300


def test_a_file_that_is_missing_or_huge_is_one_line(file: Path) -> None:
    assert error("x", "--config", "none.toml") == (
        "none.toml: cannot be read (No such file or directory)"
    )
    assert error("--config", file.parent).endswith("cannot be read (is a folder)")
    file.write_text("#" * 1_000_001)
    assert "larger than" in error("--config", file)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PORT", "x", "LOOKALIKE_SERVE_PORT='x': must be a whole number from 0 to 65535"),
        ("PORT", "99999", "must be a whole number from 0 to 65535"),
        ("PORT", "9" * 5_000, "must be a whole number from 0 to 65535"),
        ("WRITE", "maybe", "LOOKALIKE_SERVE_WRITE='maybe': must be 1 or 0"),
        ("LOG_LEVEL", "loud", 'must be "debug" or "info" or "warning" or "error"'),
        ("ALLOW_HOST", "'a", "must be texts separated by spaces or commas, quoted as in a shell"),
        ("PROT", "1", "no option of serve has this variable; did you mean LOOKALIKE_SERVE_PORT?"),
    ],
)
def test_what_is_wrong_in_a_variable_is_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"LOOKALIKE_SERVE_{variable}", value)
    line = error("x")
    assert line.startswith(f"LOOKALIKE_SERVE_{variable}")
    assert message in line
    assert len(line) < 300


def test_a_gallery_must_be_somewhere(file: Path) -> None:
    file.write_text("port = 1")
    for words in ((), ("--config", "a.toml")):
        assert error(*words) == (
            "missing argument GALLERY; or list it in a file: lookalike serve --config FILE"
        )


def test_help_does_not_read_the_file(file: Path) -> None:
    assert lookalike("serve", "--config", "none.toml", "--help").returncode == 0


def test_the_printed_configuration_has_the_same_effect(
    parse: Parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["x", "b-1=o d.gallery", "--port", "1", "--allow-host", 'a"\\', "--keys", "k.json"]
    monkeypatch.setenv("LOOKALIKE_SERVE_HOST", "b")
    (tmp_path / "c.toml").write_text('write = true\nallow-origin = ["https://ü"]')
    printed = lookalike("serve", *words, "--config", "c.toml", "--print-config").stdout
    assert "port = 1  # command line\n" in printed
    assert 'host = "b"  # LOOKALIKE_SERVE_HOST\n' in printed
    assert "write = true  # c.toml\n" in printed
    assert 'log-format = "text"\n' in printed
    document = tomllib.loads(printed)
    assert document["galleries"] == {
        "x": str(tmp_path / "x"),
        "b-1": str(tmp_path / "o d.gallery"),
    }
    monkeypatch.delenv("LOOKALIKE_SERVE_HOST")
    params = parse(file=printed)
    expected = parse(*words, "--config", "c.toml", HOST="b")
    assert params["galleries"] == [f"{name}={path}" for name, path in document["galleries"].items()]
    for params_of in (params, expected):
        del params_of["galleries"], params_of["config"]
        params_of["keys"] = params_of["keys"].absolute()
    assert {k: v or None for k, v in params.items()} == {k: v or None for k, v in expected.items()}


def test_a_configuration_without_galleries_can_be_printed(file: Path) -> None:
    assert tomllib.loads(lookalike("serve", "--print-config").stdout)["galleries"] == {}
