"""The texts of the page: complete in every language, and used."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from lookalike.languages import TEXTS, Text, choose_language, translate

_PLACE = re.compile(r"\{(\w+)\}")


def forms(text: Text) -> dict[str, str]:
    return {"": text} if isinstance(text, str) else dict(text)


@pytest.mark.parametrize("language", sorted(TEXTS))
def test_each_text_is_in_each_language_with_the_same_places(language: str) -> None:
    english = TEXTS["en"]
    assert TEXTS[language].keys() == english.keys()
    for key, text in TEXTS[language].items():
        original = forms(english[key])
        assert forms(text).keys() == original.keys(), key
        for form, value in forms(text).items():
            assert set(_PLACE.findall(value)) == set(_PLACE.findall(original[form])), key


def test_each_text_is_used_and_each_used_text_exists() -> None:
    sources = []
    for package, folder in (("server", "static"), ("server", "templates"), ("explore", "static")):
        every = (files(f"lookalike.{package}") / folder).iterdir()
        sources += [file.read_text(encoding="utf-8") for file in every]
    sources.append((files("lookalike.server") / "pages.py").read_text(encoding="utf-8"))
    code = "\n".join(sources)
    called = set(re.findall(r"""\bt\(\s*["']([\w-]+)["']""", code))
    assert called <= TEXTS["en"].keys()
    keys = {key for key in TEXTS["en"] if not key.startswith("problem-")}  # see test_problems.py
    unused = {key for key in keys if not re.search(rf"""["']{re.escape(key)}["']""", code)}
    assert unused == set()


def test_the_language_that_a_browser_prefers() -> None:
    for accept, language in (
        ("", "en"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("fr,en;q=0.5,de;q=0.7", "de"),
        ("fr", "en"),
        ("de;q=x, ,;q=1,*", "en"),
        ("DE", "de"),
        ("de;q=0", "en"),
    ):
        assert choose_language(accept) == language, accept


def test_numbers_of_things() -> None:
    assert translate("en")("items-count", n=1) == "1 image"
    assert translate("en")("items-count", n=60_000) == "60,000 images"
    assert translate("de")("items-count", n=60_000) == "60.000 Bilder"
