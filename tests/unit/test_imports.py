"""The order of imports, and what must not be loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lookalike

ROOT = Path(lookalike.__file__).parent

# From top to bottom; a module imports only from rows below its own, or from its own row.
LAYERS = (
    ("cli", "server", "photo_story", "product_story", "demo"),
    ("report", "self_report", "hit_report", "training_sections", "page", "figures"),
    ("adapting", "choosing", "asking", "judgements", "trials", "assessment", "label", "explore"),
    ("kept",),
    ("verdicts", "exporting", "checkup", "uploads", "client", "copying"),
    ("evaluation", "invariance", "training", "graph"),
    ("street_queries", "judged"),
    ("ways",),
    ("gallery",),
    ("syncing", "homes"),
    ("runners",),
    ("workers",),
    ("ingest",),
    (
        "originals",
        "keywords",
        "searching",
        "view_making",
        "reading",
        "queries",
        "rerank",
        "metrics",
        "relevance",
        "truths",
        "protocols",
        "facets",
        "hit_judgements",
        "judgement_files",
    ),
    ("encoders", "stores", "sources"),
    ("datasets",),
    ("stamps", "splits"),
    ("emoji", "fetch", "pickles"),
    ("artifacts", "distortions", "idx", "foreground", "street", "redrawing", "spatial"),
    ("images", "config", "filters"),
    ("types", "errors"),
)
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}
HEAVY = (
    "torch",
    "lance",
    "skimage",
    "sklearn",
    "fastapi",
    "starlette",
    "matplotlib",
    "onnxruntime",
    "cv2",
)


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a module imports anywhere, function bodies included, type checking excluded."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lookalike"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {parts[1] for parts in names if parts[0] == "lookalike" and len(parts) > 1}
    return found - {"__version__"}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downward_only(path: Path) -> None:
    own = room(path)
    if own in ("__init__", "__main__"):
        return
    assert own in LEVEL, f"{own} has no place in the order of imports"
    upward = {name for name in imported_rooms(path) if LEVEL[name] < LEVEL[own]}
    assert not upward, f"{path.relative_to(ROOT)} imports upward: {sorted(upward)}"


@pytest.mark.parametrize(("one", "other"), [("encoders", "stores"), ("stores", "encoders")])
def test_encoders_and_stores_never_meet(one: str, other: str) -> None:
    meeting = [p.name for p in (ROOT / one).glob("*.py") if other in imported_rooms(p)]
    assert meeting == []


def test_torch_is_imported_in_training_and_to_export_only() -> None:
    importing = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (
            isinstance(node, ast.Import)
            and any(a.name.split(".")[0] == "torch" for a in node.names)
        )
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch")
    }
    assert importing
    others = {path for path in importing if not path.startswith("training/")}
    assert others == {
        f"encoders/{name}.py" for name in ("backbones", "export", "pairs", "pooling", "pretrained")
    }


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["train", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys\nsys.argv = ['lookalike', *{arguments!r}]\n"
        "from lookalike.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "loaded = {n.split('.')[0] for n in sys.modules}\n"
        f"print('LOADED', sorted(loaded & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: lookalike" in done.stdout
    assert done.stdout.strip().endswith("LOADED []")


def test_public_names_all_resolve() -> None:
    assert [name for name in lookalike.__all__ if getattr(lookalike, name, None) is None] == []
    with pytest.raises(AttributeError, match="no_such"):
        _ = lookalike.no_such


def test_every_module_is_short_enough_to_read() -> None:
    long = {p.name: n for p in ROOT.rglob("*.py") if (n := p.read_text().count("\n")) > 350}
    assert long == {}
