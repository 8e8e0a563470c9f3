"""Text queries everywhere: by content where the encoder has texts, else by names and metadata."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.errors import TEXT_COMMAND, InputError
from lookalike.gallery.gallery import Gallery
from lookalike.search.hits import Hits
from lookalike.search.request import Example
from lookalike.search.search import TEXT_NOTE
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.color_words import color_words
from tests.integration.test_cli import lookalike, run
from tests.serving import Serving, serving

COLORS = {"red": (210, 20, 20), "green": (20, 210, 20), "blue": (20, 20, 210)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images by color, whose names and captions do not say it; one says another color."""
    folder = tmp_path_factory.mktemp("text") / "photos"
    folder.mkdir()
    lines = ["path,caption"]
    for number in range(12):
        color = list(COLORS)[number % 3]
        shade = np.array(COLORS[color]) + 2 * number
        name = f"IMG_{number:04d}.png" if number else "blueBicycle.png"
        Image.fromarray(np.full((20, 30, 3), shade, np.uint8)).save(folder / name)
        lines.append(f"{name},{'a street in Nîmes' if number < 6 else 'a garden'}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def served(photos: Path) -> Iterator[Serving]:
    """A service with a gallery for each way."""
    source = open_source(photos)
    encoders = {
        "content": color_words(),
        "names": open_encoder("color", sample_images(source)),
    }
    galleries = {
        name: Gallery.create(photos.parent / f"{name}.gallery", encoder=encoder)
        for name, encoder in encoders.items()
    }
    for gallery in galleries.values():
        gallery.sync(source)
    with serving(galleries) as running:
        yield running


def gallery(served: Serving, name: str) -> Gallery:
    return served.service.handle(name).gallery


def post(served: Serving, name: str, body: dict[str, Any], path: str = "search") -> dict[str, Any]:
    response, data = served.request(
        "POST",
        f"/v1/galleries/{name}/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    return {**json.loads(data), "code": response.status}


def color_of(served: Serving, hits: Hits) -> list[str]:
    """Return the strongest channel of each hit's image."""
    images = (gallery(served, "content").image(hit.id) for hit in hits)
    return [list(COLORS)[int(np.mean(image, (0, 1)).argmax())] for image in images]


def test_a_text_is_searched_by_content(served: Serving) -> None:
    for searched in (gallery(served, "content"), served.client().gallery("content")):
        hits = searched.search(text="a red thing", k=4)
        assert (hits.ranked_by, hits.note, hits.query) == ("embedding", None, "a red thing")
        assert color_of(served, hits) == ["red"] * 4
        several = searched.search(text=["green", "blue"], k=3)
        assert [color_of(served, each) for each in several] == [["green"] * 3, ["blue"] * 3]


def test_a_text_is_searched_in_names_and_metadata(served: Serving) -> None:
    for searched in (gallery(served, "names"), served.client().gallery("names")):
        hits = searched.search(text="the bicycle")
        assert [hit.id for hit in hits] == ["photos:blueBicycle.png"]
        assert (hits.ranked_by, hits.note, hits.query) == ("keywords", TEXT_NOTE, "the bicycle")
        assert hits.as_dict()["note"] == TEXT_NOTE
        assert "keywords" in repr(hits)
        assert "similarity" not in hits.to_pandas().columns
        with pytest.raises(Exception, match="keywords have no similarities"):
            _ = hits.similarities
        several = searched.search(text=["IMG_0004", "nimes"], k=20)
        assert [len(each) for each in several] == [1, 6]
        nothing = searched.search(text="a bycicle in nimes", k=20)
        assert len(nothing) == 6
        assert nothing.note == f"{TEXT_NOTE}; no name or metadata with 'bycicle' (similar: bicycle)"


def test_keywords_say_what_matches_nothing(served: Serving) -> None:
    for name in ("content", "names"):
        for searched in (gallery(served, name), served.client().gallery(name)):
            hits = searched.search(keywords="gardn 99")
            assert (len(hits), hits.ranked_by) == (0, "keywords")
            assert hits.note == "no name or metadata with 'gardn' (similar: garden), '99'"
            both = searched.search(id="photos:IMG_0001.png", keywords="garden")
            assert (both.ranked_by, both.note) == ("embedding+keywords", None)


def test_a_text_and_an_image_are_one_query(served: Serving, photos: Path) -> None:
    image = photos / "IMG_0003.png"  # red
    for searched in (gallery(served, "content"), served.client().gallery("content")):
        hits = searched.search(like=image, text="green", k=12)
        assert hits.ranked_by == "embedding"
        assert set(color_of(served, hits)[8:]) == {"blue"}
        hits = searched.search(like=image, unlike=photos / "IMG_0004.png", text="blue", k=12)
        assert "green" not in color_of(served, hits)[:8]
        weighted = searched.search(like=image, text="blue", weights=[0.1, 1], k=4)
        assert color_of(served, weighted) == ["blue"] * 4
    for searched in (gallery(served, "names"), served.client().gallery("names")):
        hits = searched.search(like=image, text="bicycle", k=12)
        assert (hits.ranked_by, hits.note) == ("embedding+keywords", TEXT_NOTE)
        assert hits[0].id == "photos:blueBicycle.png"  # red, and named so
        assert len(hits) == 12
        ignored = searched.search(like=image, text="bicycle", weights=[1, 0])
        assert (ignored.ranked_by, ignored.note) == ("embedding", None)
        unlike = searched.search(like=image, unlike=photos / "IMG_0004.png", text="garden", k=12)
        assert {hit.metadata["caption"] for hit in unlike[:3]} == {"a garden"}


def test_a_region_and_crops_of_an_image_with_a_text(served: Serving, photos: Path) -> None:
    two = np.zeros((40, 80, 3), np.uint8)
    two[:, :40], two[:, 40:] = COLORS["red"], COLORS["blue"]
    searched = gallery(served, "content")
    left = searched.search(like=two, text="green", box=(0, 0, 40, 40), k=8)
    assert "blue" not in color_of(served, left)
    for options in ({"multi_crop": True}, {"foreground": True}):
        hits = searched.search(like=two, text="green", k=4, **options)  # type: ignore[call-overload]
        assert len(hits) == 4
    assert len(gallery(served, "names").search(like=two, text="garden", multi_crop=True)) == 7


def test_results_cannot_be_unlike_a_text_without_embeddings(served: Serving, photos: Path) -> None:
    image = photos / "IMG_0003.png"
    green = Example(text="green")
    assert gallery(served, "content").search(like=image, unlike=[green])
    for searched in (gallery(served, "names"), served.client().gallery("names")):
        with pytest.raises(InputError, match=f"unlike needs no text.*'green'.*: {TEXT_COMMAND}"):
            searched.search(like=image, unlike=[green])
        with pytest.raises(InputError, match="unlike needs an image in like"):
            searched.search(text="green", unlike=image)
        with pytest.raises(InputError, match="has no word to search for"):
            searched.search(text="?!")


def test_http_says_how_a_text_was_answered(served: Serving, photos: Path) -> None:
    content = post(served, "content", {"text": "red", "k": 2})
    assert (content["code"], content["ranked_by"], content["note"]) == (200, "embedding", None)
    names = post(served, "names", {"text": "bicycle"})
    assert (names["ranked_by"], names["note"]) == ("keywords", TEXT_NOTE)
    image = b64encode((photos / "IMG_0003.png").read_bytes()).decode()
    body = {"like": [{"image": image}, {"text": "bicycle"}]}
    assert post(served, "names", body)["ranked_by"] == "embedding+keywords"
    assert post(served, "content", body)["ranked_by"] == "embedding"
    refused = post(served, "names", {"like": [{"image": image}], "unlike": [{"text": "red"}]})
    assert refused["code"] == 422
    assert TEXT_COMMAND in refused["detail"]
    batch = post(
        served,
        "names",
        {"queries": [{"text": "bicycle"}, {"text": "!"}, {"id": "photos:IMG_0001.png"}]},
        "search/batch",
    )
    results = [each["result"] and each["result"]["ranked_by"] for each in batch["results"]]
    assert results == ["keywords", None, "embedding"]
    assert "has no word" in batch["results"][1]["problem"]["detail"]
    schemas = json.loads(served.request("GET", "/openapi.json")[1])["components"]["schemas"]
    result = schemas["SearchResult"]
    assert {"ranked_by", "note"} <= set(result["required"])
    assert result["properties"]["ranked_by"]["enum"] == [
        "embedding",
        "keywords",
        "embedding+keywords",
        "id",
    ]


def page(served: Serving, name: str, **parameters: str) -> str:
    response, data = served.request("GET", f"/g/{name}?{urlencode(parameters)}")
    assert response.status == 200
    return data.decode()


def test_the_page_has_one_text_box_and_says_what_it_searches(served: Serving) -> None:
    assert "Describe an image" in page(served, "content")
    assert "Words in captions, tags and names" in page(served, "names")
    text = page(served, "names", text="the bycicle in nimes")
    assert "No name or metadata with &#39;bycicle&#39; (similar: bicycle)." in text
    assert TEXT_COMMAND not in text.partition('id="results"')[2]
    nothing = page(served, "names", text="qqqq")
    assert "Nothing found" in nothing
    assert "<h2>This gallery is empty" not in nothing
    both = page(served, "names", id="photos:IMG_0003.png", text="bicycle")
    assert "results" in both
    assert 'value="bicycle"' in both
    assert "results" in page(served, "content", id="photos:IMG_0003.png", text="green")
    filtered = page(served, "names", text="bicycle", where="caption = 'none'")
    assert "Nothing found" in filtered
    for name in ("content", "names"):
        assert "has no word" in page(served, "names", text="?") or name == "content"


def test_the_command_line_says_how_a_text_was_answered(served: Serving) -> None:
    paths = {name: gallery(served, name).path for name in ("content", "names")}
    done = lookalike("search", paths["names"], "--text", "bicycle", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["ranked_by"] == "keywords"
    assert done.stderr.count(TEXT_NOTE) == 1
    two = lookalike("search", paths["names"], "--text", "bicycle", "--text", "garden")
    assert two.stderr.count(TEXT_NOTE) == 1
    assert "bicycle: 1 result, keywords" in two.stdout
    several = lookalike("search", paths["names"], "--text", "qqqq", "--text", "wwww")
    assert several.stdout == "qqqq: 0 results, keywords\nwwww: 0 results, keywords\n"
    assert several.stderr.splitlines() == [
        f"note: {TEXT_NOTE}",
        "note: no name or metadata with 'qqqq'",
        "note: no name or metadata with 'wwww'",
    ]
    assert (
        json.loads(run("search", str(paths["content"]), "--text", "red", "--json"))["note"] is None
    )
