"""A TypeScript client that is generated from the OpenAPI document compiles, and searches."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from tests.conftest import Require
from tests.serving import Serving, serving

pytestmark = pytest.mark.slow

PACKAGES = {"openapi-fetch": "0.17.0", "openapi-typescript": "7.13.0", "typescript": "5.9.3"}
OPTIONS = {
    "strict": True,
    "exactOptionalPropertyTypes": True,
    "noUncheckedIndexedAccess": True,
    "target": "es2022",
    "module": "nodenext",
    "lib": ["es2022", "dom", "dom.iterable"],
    "types": [],
    "outDir": "out",
}
PROGRAM = """
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

const client = createClient<paths>({ baseUrl: BASE });
const path = { gallery: "photos" };
type Hit = components["schemas"]["Hit"];
type Search = components["schemas"]["SearchRequest"];

const { data: galleries } = await client.GET("/v1/galleries");
const names: string[] = galleries!.map((each) => each.name);

const search = "/v1/galleries/{gallery}/search" as const;
async function page(cursor: string | null) {
  const body: Search = { id: "photos:0.png", k: 4, where: { year: { gte: 2000 } }, cursor };
  const { data, error } = await client.POST(search, { params: { path }, body });
  if (data === undefined) throw new Error(error?.detail);
  return data;
}

const hits: Hit[] = [];
let next: string | null = null;
do {
  const result = await page(next);
  hits.push(...result.hits);
  next = result.next;
} while (next !== null);
const similarity: number | null = hits[0]!.similarity;

const { error: problem } = await client.POST(search, {
  params: { path },
  body: { id: "photos:0.png", k: 0 },
});
const location: string | undefined = problem?.errors?.[0]?.location;

const { data: items } = await client.GET("/v1/galleries/{gallery}/items", {
  params: { path, query: { limit: 2 } },
});

const form: paths[typeof search]["post"]["requestBody"]["content"]["multipart/form-data"] = {
  id: ["photos:0.png", "photos:1.png"],
  unlike_id: "photos:2.png",
  weights: "1,0.5,0.5",
  k: 3,
};
const { data: combined } = await client.POST(search, {
  params: { path },
  body: form as never,
  bodySerializer: () => {
    const data = new FormData();
    for (const [name, values] of Object.entries(form))
      for (const value of [values].flat()) data.append(name, String(value));
    return data;
  },
});

void ({ id: "a", k: 3 } satisfies Search);
// @ts-expect-error: k is a number
void ({ id: "a", k: "many" } satisfies Search);
// @ts-expect-error: there is no such field
void ({ id: "a", kk: 3 } satisfies Search);
// @ts-expect-error: the gallery is missing
const unsent = () => client.POST(search, { body: { id: "a" } });

const ids = hits.map((hit) => hit.id);
const query = combined!.query;
console.log(JSON.stringify({ names, ids, similarity, location, total: items!.total, query }));
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(2)
    for number in range(10):
        pixels = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    lines = ["path,year", *(f"{number}.png,{1999 + number}" for number in range(10))]
    (folder / "photos" / "metadata.csv").write_text("\n".join(lines))
    source = open_source(folder / "photos")
    encoder = open_encoder("color", sample_images(source))
    gallery = Gallery.create(folder / "photos.gallery", encoder=encoder)
    gallery.sync(source)
    with serving({"photos": gallery}) as service:
        yield service


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, require: Require) -> Path:
    """A folder with the packages that generate the client and compile it."""
    require(shutil.which("npm") and shutil.which("node"), "npm is not installed")
    folder = tmp_path_factory.mktemp("client")
    package = {"private": True, "type": "module", "dependencies": PACKAGES}
    (folder / "package.json").write_text(json.dumps(package))
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--cache", str(folder / "cache")]
    done = run(folder, "npm", "install", *options)
    require(done.returncode == 0, f"the packages could not be had from npm: {done.stderr[-500:]}")
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_generated_client_compiles_and_searches(served: Serving, project: Path) -> None:
    document = served.request("GET", "/openapi.json")[1]
    (project / "openapi.json").write_bytes(document)
    binaries = project / "node_modules" / ".bin"
    generate = ["openapi.json", "-o", "api.ts", "--default-non-nullable", "false"]
    generated = run(project, str(binaries / "openapi-typescript"), *generate)
    assert generated.returncode == 0, generated.stderr
    (project / "main.ts").write_text(PROGRAM.replace("BASE", json.dumps(served.url)))
    config = {"compilerOptions": OPTIONS, "include": ["*.ts"]}
    (project / "tsconfig.json").write_text(json.dumps(config))
    compiled = run(project, str(binaries / "tsc"))
    assert compiled.returncode == 0, compiled.stdout
    done = run(project, "node", "out/main.js")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    gallery = served.service.handle("photos").gallery
    expected = gallery.search(id="photos:0.png", where="year >= 2000", k=100)
    assert answer["ids"] == expected.ids
    assert answer["similarity"] == pytest.approx(expected.similarities[0])
    assert answer["query"] == "photos:0.png + photos:1.png - photos:2.png"
    assert (answer["names"], answer["location"], answer["total"]) == (["photos"], "body/k", 10)
