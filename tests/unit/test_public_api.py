"""The names of ``import lookalike as la``: which there are, and what loading them costs."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import lookalike as la
from lookalike import errors


def python(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_completion_lists_exactly_the_public_names() -> None:
    assert dir(la) == la.__all__ == sorted(set(la.__all__))
    assert python("import lookalike as la; print(dir(la) == la.__all__)") == "True\n"


@pytest.mark.parametrize("name", la.__all__)
def test_each_name_resolves_to_something_documented(name: str) -> None:
    value = getattr(la, name)
    assert getattr(la, name) is value
    if name != "__version__":
        assert inspect.getdoc(value)


def test_every_error_is_public() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert classes <= set(la.__all__)
    assert all(issubclass(getattr(la, name), la.LookalikeError) for name in classes)


def test_type_checkers_see_the_names_that_load_at_run_time() -> None:
    """Each name is imported for type checkers from where it is loaded, under the same name."""
    tree = ast.parse(Path(str(la.__file__)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module != "typing"
        for alias in node.names
    }
    loaded = {}
    for name, origin in la._ORIGINS.items():
        module, colon, attribute = origin.partition(":")
        loaded[name] = module if colon and not attribute else f"{module}.{attribute or name}"
    assert typed == loaded
    assert {*typed, "__version__"} == set(la.__all__)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("Galery", "Gallery"), ("evalute", "evaluate"), ("duplicate", "duplicates")],
)
def test_a_misspelt_name_suggests_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; did you mean '{nearest}'"):
        getattr(la, name)
    assert not hasattr(la, "zzzzzz")
    with pytest.raises(AttributeError, match=r"no attribute 'zzzzzz'$"):
        _ = la.zzzzzz  # type: ignore[attr-defined]


def test_a_traceback_has_one_suggestion() -> None:
    code = "import lookalike as la\nla.Galery"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.lower().count("did you mean") == 1


def test_importing_lookalike_loads_none_of_its_modules() -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nimport lookalike\n"
        "print(sorted(set(sys.modules) - before - {'__future__'}))"
    )
    assert python(code) == "['lookalike', 'lookalike._version']\n"


def test_a_gallery_loads_what_only_some_of_its_methods_need_later() -> None:
    late = (
        *("IPython", "lance", "matplotlib", "onnxruntime", "pandas", "pyarrow", "pymilvus"),
        *("ray", "rich", "scipy", "sklearn", "torch", "urllib.request"),
    )
    code = (
        "import sys\nimport lookalike as la\nla.Gallery\n"
        f"print([name for name in {late!r} if name in sys.modules])"
    )
    assert python(code) == "[]\n"


def test_names_resolve_without_optional_packages() -> None:
    optional = ("cv2", "fastapi", "onnx", "openTSNE", "pandas", "pymilvus", "ray", "torch")
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({optional!r}))\n"
        "import lookalike as la\nprint([name for name in dir(la) if getattr(la, name) is None])"
    )
    assert python(code) == "[]\n"
