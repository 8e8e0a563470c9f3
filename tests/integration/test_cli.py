"""The command line as scripts use it: real processes, exit codes, one clear line for mistakes."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike as la
from lookalike.cli import main
from tests.unit.test_idx import IMAGES, idx_bytes

FULL_DISK = (
    "import resource, signal, sys\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    "sys.argv = ['lookalike', *sys.argv[1:]]\n"
    "from lookalike.cli import main\nmain()"
)


@dataclass
class CommandResult:
    """Exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


def lookalike(*arguments: object, cwd: Path | None = None) -> CommandResult:
    """Run the command line in this process, as its own process would run it in ``cwd``."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["lookalike", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            code = end.code
    return CommandResult(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def process(*arguments: object, cwd: Path, file_limit: int | None = None) -> CommandResult:
    """Run the command line as a process, with a limit on the size of files if one is given."""
    start = (
        ["-m", "lookalike"] if file_limit is None else ["-c", FULL_DISK.format(limit=file_limit)]
    )
    done = subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        check=False,
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


def run(*arguments: object, cwd: Path | None = None) -> str:
    """Run the command line, check that it succeeds, and return its stdout."""
    done = lookalike(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained encoder and a gallery of digits, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    run("train", "dataset:digits/train", "-o", "e.encoder", "--recipe", "fast-conv", cwd=folder)
    run("index", "d.gallery", "dataset:digits/train", "--encoder", "e.encoder", cwd=folder)
    return folder


def test_version_and_help() -> None:
    assert run("--version").strip().count(".") == 2
    shown = run("--help")
    for verb in ("demo", "train", "index", "search", "evaluate", "info", "encoders", "recipes"):
        assert f" {verb} " in shown
        assert "Usage: lookalike" in run(verb, "--help")


def test_it_runs_as_a_process(work: Path) -> None:
    for start in (["-m", "lookalike"], ["-c", "from lookalike.cli import main; main()"]):
        command = [sys.executable, *start, "search", "d.gallery", "dataset:digits/test#3", "--json"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=True)
        assert len(json.loads(done.stdout)["hits"]) == 7
    mistake = process("search", "none.gallery", "a.png", cwd=work)
    assert mistake.returncode == 2
    assert (
        mistake.stderr
        == "lookalike: error: none.gallery: not a gallery (there is no such folder); create one: "
        "lookalike index none.gallery FOLDER\n"
    )


def test_index_prints_the_promised_keys(work: Path) -> None:
    again = json.loads(run("index", "d.gallery", "dataset:digits/train", "--json", cwd=work))
    assert again.pop("seconds") >= 0
    assert again == {
        "added": 0,
        "updated": 0,
        "moved": 0,
        "removed": 0,
        "unchanged": 1437,
        "kept": 0,
        "failed": [],
        "skipped": {},
        "skipped_examples": [],
        "notes": {},
    }


def test_search_prints_json_lines(work: Path) -> None:
    uris = ["dataset:digits/test#3", "dataset:digits/test#8"]
    shown = run("search", "d.gallery", *uris, "--id", "digits/train:5", "-k", 3, "--json", cwd=work)
    lines = [json.loads(line) for line in shown.splitlines()]
    assert [line["query"] for line in lines] == [*uris, "digits/train:5"]
    for line in lines:
        assert [hit["rank"] for hit in line["hits"]] == [1, 2, 3]
        names = {"rank", "id", "uri", "distance", "similarity", "metadata"}
        assert set(line["hits"][0]) == names
        assert line["hits"][0]["similarity"] == pytest.approx(1 - line["hits"][0]["distance"])
    assert "digits/train:5" not in [hit["id"] for hit in lines[2]["hits"]]


def test_search_shows_a_table_and_draws(work: Path) -> None:
    query = "dataset:digits/test#3"
    shown = run("search", "d.gallery", query, "--metric", "l2", "--image", "h.png", cwd=work)
    assert f"{query}: 7 results, l2" in shown
    assert "distance" in shown
    with Image.open(work / "h.png") as image:
        assert image.width > 500


def test_evaluate_prints_the_promised_keys(work: Path) -> None:
    result = json.loads(
        run("evaluate", "d.gallery", "dataset:digits/test", "--baselines", "--json", cwd=work)
    )
    scores = {"encoder", "metric", "precision", "precision_interval", "map", "map_interval"}
    scores |= {"map_retrieved", "map_retrieved_interval", "recall_at_1", "recall_at_1_interval"}
    scores |= {"recall", "recall_interval", "first", "per_label"}
    others = {"k", "queries", "skipped", "gallery", "baselines", "variants", "latency_ms"}
    others |= {
        "baselines_left_out",
        "baselines_unread",
        "leakage",
        "without_relevant",
        "zero_embeddings",
    }
    assert set(result) == scores | others | {"protocol", "relevance", "precision_ceiling"}
    assert result["relevance"] == {"by": "label", "column": "label"}
    assert (result["protocol"], result["precision_ceiling"]) == (None, 1)
    assert result["queries"] == 360
    assert result["k"] == 7
    assert (result["without_relevant"], result["zero_embeddings"]) == (0, 0)
    assert set(result["leakage"]) == {
        *("queries", "leaked", "exact", "near", "near_unknown", "threshold", "excluded"),
        "examples",
    }
    assert (result["leakage"]["queries"], result["leakage"]["exact"]) == (360, 0)
    assert set(result["baselines"]) == {"chance", "pixels", "pca", "hog", "hog-fine", "untrained"}
    for baseline in result["baselines"].values():
        assert set(baseline) == scores | {"difference", "difference_interval"}
        assert baseline["precision_interval"][0] <= baseline["precision"]
    assert result["first"]["queries"] == 100
    assert set(result["first"]) == {"queries", "precision", "precision_interval", "map"}
    assert set(result["per_label"]) == set("0123456789")
    assert result["baselines"]["chance"]["precision"] == pytest.approx(0.1, abs=0.01)
    assert 0.8 < result["precision"] < 1
    assert result["latency_ms"]["p50"] <= result["latency_ms"]["p95"]


def test_evaluate_without_queries_uses_every_row_as_a_query(work: Path) -> None:
    shown = run("evaluate", "d.gallery", "--report", "r.html", cwd=work)
    assert "1,437 queries" in shown
    assert (work / "r.html").stat().st_size > 50_000


def test_info_and_registries(work: Path) -> None:
    facts = json.loads(run("info", "d.gallery", "--json", cwd=work))
    keys = {"format", "identity", "revision", "rows", "encoder", "fingerprint", "dim", "metric"}
    assert set(facts) == keys | {"sources", "bytes"}
    assert facts["rows"] == 1437
    assert facts["bytes"] > 100_000
    encoder = json.loads(run("info", "e.encoder", "--json", cwd=work))
    assert encoder["fingerprint"] == facts["fingerprint"]
    assert f"size                     {facts['bytes'] / 1e6:.1f} MB\n" in run(
        "info", "d.gallery", cwd=work
    )


def test_listings_have_typed_json_details_and_fit_80_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for verb, name in (("recipes", "report-conv"), ("datasets", "digits"), ("encoders", "hog")):
        table = run(verb)
        assert name in table
        assert max(map(len, table.splitlines())) <= 80
        rows = {row["name"]: row for row in json.loads(run(verb, "--json"))}
        assert json.loads(run(verb, name, "--json")) == rows[name]
        assert rows[name]["summary"] in run(verb, name)
    hog = json.loads(run("encoders", "hog", "--json"))
    assert (hog["baseline"], hog["dim"], hog["cached"], hog["bytes"]) == (True, None, None, None)
    typo = lookalike("datasets", "digit")
    assert typo.returncode == 2
    assert "unknown data set 'digit': did you mean 'digits'?" in typo.stderr


def test_a_broken_image_is_listed_and_the_rest_is_indexed(folder: Path, tmp_path: Path) -> None:
    (folder / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    done = lookalike("index", tmp_path / "s.gallery", folder)
    assert done.returncode == 1
    assert "12 added" in done.stdout
    assert (
        "red/broken.jpg: broken image" in done.stderr or "unsupported image format" in done.stderr
    )
    result = lookalike(
        "search", tmp_path / "s.gallery", folder / "red" / "0.png", tmp_path / "no.png"
    )
    assert result.returncode == 1
    assert "no.png: there is no such file" in result.stderr


def test_search_combines_examples(folder: Path, tmp_path: Path) -> None:
    """Files, and IDs of indexed images, which are not among the results."""
    gallery = tmp_path / "s.gallery"
    run("index", gallery, folder)
    name = f"{folder.name}:red/0.png"
    files = [folder / label / "1.png" for label in ("red", "green")]
    examples = ("--like", name, "--like", files[0], "--unlike", files[1])
    [line] = run("search", gallery, *examples, "-k", 50, "--include-self", "--json").splitlines()
    shown = json.loads(line)
    assert shown["query"].startswith(f"{name} + {files[0]} - ")  # long paths are shortened
    opened = la.Gallery.open(gallery)
    expected = opened.search(like=[opened[name], files[0]], unlike=files[1], k=50)
    assert [hit["id"] for hit in shown["hits"]] == expected.ids
    assert name not in expected.ids
    others = json.loads(run("search", gallery, *examples, "-k", 50, "--json"))["hits"]
    own = {f"{folder.name}:{label}/1.png" for label in ("red", "green")}
    assert [hit["id"] for hit in others] == [each for each in expected.ids if each not in own]
    assert expected[0].id.startswith(f"{folder.name}:red/")
    several = run(
        *("search", gallery, *files, "--min-similarity", "0.5", "--include-self", "--json")
    ).splitlines()
    found = opened.search(files, min_similarity=0.5)
    assert [json.loads(each)["query"] for each in several] == [str(file) for file in files]
    assert [[hit["id"] for hit in json.loads(each)["hits"]] for each in several] == [
        hits.ids for hits in found
    ]
    for arguments, message in (
        (("--unlike", files[0]), "--like or --text is missing"),
        ((files[0], "--like", files[1]), "QUERY excludes --like and --unlike"),
        (("--id", name, "--like", files[1]), "--id excludes --like and --unlike"),
        (("--like", tmp_path / "no.png"), "no.png: there is no such file"),
        (("--like", name, "--text", "a", "--text", "b"), "must be one string"),
    ):
        done = lookalike("search", gallery, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr


@pytest.fixture(scope="module")
def years(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of twelve images with a year and a label."""
    home = tmp_path_factory.mktemp("years")
    rows = ["path,label,year"]
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(pixels).save(home / f"{number}.png")
        rows.append(f"{number}.png,{'odd' if number % 2 else 'even'},{2000 + number // 2}")
    (home / "list.csv").write_text("\n".join(rows))
    run("index", "g.gallery", "list.csv", "--encoder", "color", cwd=home)
    return home


def test_search_without_a_query_lists_images(years: Path) -> None:
    def names(*arguments: object) -> list[str]:
        shown = run("search", "g.gallery", *arguments, "--paths", cwd=years)
        return [Path(line).stem for line in shown.splitlines()]

    assert names("--where", "label = 'odd'") == ["1", "11", "3", "5", "7", "9"]  # by ID
    assert names("--where", "label = 'odd'", "--sort", "-name", "-k", 2) == ["11", "9"]
    pages = [names("--sort", "-year", "--sort", "-name", "--offset", n) for n in (0, 7, 14)]
    assert pages == [
        ["11", "10", "9", "8", "7", "6", "5"],
        ["4", "3", "2", "1", "0"],
        [],
    ]
    assert names("--keywords", "odd", "--sort", "year", "-k", 2) == ["1", "3"]
    assert names("--keywords", "odd", "-k", 5, "--offset", 4) == ["7", "9"]
    assert names("--where", '{"year": {"gte": 2005}}', "--sort", "date") == ["10", "11"]

    table = lookalike("search", "g.gallery", "--sort", "-year", "-k", 2, "--offset", 2, cwd=years)
    title, head, _, first, second = table.stdout.splitlines()
    assert title == "all images: results 3 to 4 of 12, by -year"
    assert head.split() == ["rank", "year", "label", "id"]
    assert [row.split() for row in (first, second)] == [
        ["3", "2004", "even", "list:8.png"],
        ["4", "2004", "odd", "list:9.png"],
    ]
    assert table.stderr == "more: --offset 4\n"
    last = lookalike("search", "g.gallery", "--where", "year = 2004", cwd=years)
    assert last.stdout.startswith("year = 2004: 2 results, id\n")
    assert last.stderr == ""

    listed = json.loads(run("search", "g.gallery", "--sort", "-name", "--json", cwd=years))
    assert (listed["query"], listed["ranked_by"], listed["total"]) == ("all images", "sort", 12)
    assert [hit["rank"] for hit in listed["hits"]] == list(range(1, 8))
    assert {hit["distance"] for hit in listed["hits"]} == {None}
    assert listed["hits"][0]["metadata"] == {"label": "odd", "year": 2005}
    csv = run("search", "g.gallery", "--where", "year = 2000", "--sort", "-id", "--csv", cwd=years)
    assert [line.split(",")[:3] for line in csv.splitlines()[1:]] == [
        ["year = 2000", "1", "list:1.png"],
        ["year = 2000", "2", "list:0.png"],
    ]
    run("search", "g.gallery", "--sort", "name", *("--image", "h.png"), "--copy-to", "c", cwd=years)
    assert sorted(path.name for path in (years / "c").iterdir())[0] == "01-0.png"
    with Image.open(years / "h.png") as image:
        assert image.width > 500


def test_further_results_follow_those_before(years: Path) -> None:
    def results(*arguments: object) -> list[tuple[int, str]]:
        line = json.loads(run("search", "g.gallery", *arguments, "--json", cwd=years))
        return [(hit["rank"], hit["id"]) for hit in line["hits"]]

    for query in (
        ("4.png",),
        ("4.png", "--include-self"),
        ("--id", "list:4.png"),
        ("--like", "4.png", "--like", "5.png", "--unlike", "6.png"),
        ("4.png", "--keywords", "odd"),
    ):
        whole = results(*query, "-k", 8)
        assert [rank for rank, _ in whole] == list(range(1, 9))
        parts = [results(*query, "-k", 3, "--offset", start) for start in (0, 3, 6)]
        assert [hit for part in parts for hit in part][:8] == whole
    beyond = lookalike("search", "g.gallery", "4.png", "--offset", 50, cwd=years)
    assert (beyond.stdout, beyond.stderr) == ("4.png: 0 results, cosine\n", "")


MISTAKES = {
    "missing source": (["index", "x.gallery", "nowhere"], "nowhere: there is no such file"),
    "empty folder": (["index", "x.gallery", "empty"], "empty: the folder has no image files"),
    "no images": (["index", "x.gallery", "text"], "text: the folder has no image files"),
    "text file": (["index", "x.gallery", "text/a.txt"], "a.txt: is neither a folder nor an IDX"),
    "only broken": (["index", "x.gallery", "bad"], "no image can be read; the first, "),
    "corrupt idx": (
        ["index", "x.gallery", "cut-images-idx3-ubyte"],
        "cut-images-idx3-ubyte: corrupt",
    ),
    "unknown set": (["index", "x.gallery", "dataset:mnits/train"], "did you mean 'mnist'"),
    "unknown split": (["index", "x.gallery", "dataset:digits/tset"], "did you mean 'test'"),
    "bad set": (["index", "x.gallery", "dataset:digits"], "expected dataset:NAME/SPLIT"),
    "empty slice": (["index", "x.gallery", "dataset:digits/test[900:]"], "the slice is empty"),
    "unknown encoder": (
        ["index", "x.gallery", "dataset:digits/test", "--encoder", "hgo"],
        "did you mean 'hog'",
    ),
    "no encoder folder": (
        ["index", "x.gallery", "dataset:digits/test", "--encoder", "empty"],
        "empty: not an encoder (has no encoder.json)",
    ),
    "wrong size": (
        ["index", "x.gallery", "photos", "--encoder", "exact.encoder"],
        "0.png: the image is 40x30 pixels, but the encoder accepts only 28x28",
    ),
    "bad metric": (
        ["index", "x.gallery", "dataset:digits/test", "--metric", "l1"],
        "--metric l1 must be l2 or cosine",
    ),
    "other encoder": (
        ["index", "d.gallery", "dataset:digits/test", "--encoder", "hog"],
        "d.gallery: made with encoder 'fast-conv', not 'hog'",
    ),
    "not a gallery": (["search", "text", "text/a.txt"], "text: the folder has no image files"),
    "no gallery": (["search", "none.gallery", "a.png"], "there is no such folder"),
    "newer gallery": (["search", "new.gallery", "a.png"], "written in format 99"),
    "missing query": (["search", "d.gallery", "none.png"], "none.png: there is no such file"),
    "query is text": (["search", "d.gallery", "text/a.txt"], "a.txt: unsupported image format"),
    "query size": (["search", "exact.gallery", "photos/0.png"], "0.png: the image is 40x30"),
    "no query": (["search", "d.gallery"], "no query: pass an image"),
    "no such id": (["search", "d.gallery", "--id", "x"], "no row with the id 'x'"),
    "n of zero": (
        ["search", "d.gallery", "--id", "digits/train:1", "-k", "0"],
        "-k 0 must be at least 1",
    ),
    "index outside": (["search", "d.gallery", "dataset:digits/test#999"], "has images 0 to 359"),
    "set without index": (["search", "d.gallery", "dataset:digits/test"], "NAME/SPLIT#INDEX"),
    "unlabeled": (["evaluate", "d.gallery", "photos"], "no labeled query among 1 image"),
    "eval n": (
        ["evaluate", "d.gallery", "dataset:digits/test", "-k", "-2"],
        "-k -2 must be at least 1",
    ),
    "unknown recipe": (
        ["train", "dataset:digits/train", "-o", "x.encoder", "--recipe", "report-con"],
        "did you mean 'report-conv'",
    ),
    "train on nothing": (["train", "empty", "-o", "x.encoder"], "has no image files"),
    "nothing to resume": (
        ["train", "dataset:digits/train", "-o", "x.encoder", "--resume"],
        "has no checkpoint to resume; leave out --resume",
    ),
    "no device": (
        ["train", "dataset:digits/train", "-o", "x.encoder", "--device", "warp"],
        "--device warp is not available",
    ),
    "unknown story": (["demo", "mnits", "-o", "x.demo"], "did you mean 'mnist'"),
    "info on nothing": (["info", "empty"], "empty: not a gallery"),
    "unknown verb": (["serach"], "no such command or folder serach; did you mean search?"),
    "unknown option": (["search", "d.gallery", "--nn", "3"], "no such option --nn"),
}


@pytest.fixture(scope="module")
def mistakes(work: Path) -> Path:
    for name in ("empty", "text", "bad", "photos", "small"):
        (work / name).mkdir()
    (work / "text" / "a.txt").write_text("hello")
    (work / "bad" / "a.png").write_bytes(b"x")
    (work / "cut-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES)[:-3])
    Image.new("RGB", (40, 30)).save(work / "photos" / "0.png")
    for i in range(3):
        Image.new("L", (28, 28), 80 * i).save(work / "small" / f"{i}.png")
    run("train", "small", "-o", "exact.encoder", "--recipe", "fast-linear", cwd=work)
    run("index", "exact.gallery", "small", "--encoder", "exact.encoder", cwd=work)
    shutil.copytree(work / "d.gallery", work / "new.gallery")
    manifest = work / "new.gallery" / "gallery.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    return work


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(name: str, mistakes: Path) -> None:
    arguments, message = MISTAKES[name]
    before = sorted(path.name for path in mistakes.iterdir())
    done = lookalike(*arguments, cwd=mistakes)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert message in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Try: ")]
    assert [line for line in lines if "error:" in line] == lines[-1:]
    assert done.stdout == ""
    assert sorted(path.name for path in mistakes.iterdir()) == before


def test_a_full_disk_leaves_the_gallery_as_it_was(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "d.gallery", tmp_path / "d.gallery")
    before = json.loads(run("info", "d.gallery", "--json", cwd=tmp_path))
    arguments = ("index", "d.gallery", "dataset:digits/test")
    done = process(*arguments, cwd=tmp_path, file_limit=20_000)
    assert done.returncode == 2
    assert "the rows cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    after = json.loads(run("info", "d.gallery", "--json", cwd=tmp_path))
    assert after["rows"] == before["rows"]
    assert json.loads(run("search", "d.gallery", "--id", "digits/train:3", "--json", cwd=tmp_path))
    assert run("index", "d.gallery", "dataset:digits/test", cwd=tmp_path).startswith(
        "d.gallery: 1,797 rows; 360 added"
    )


def test_a_full_disk_leaves_no_partial_files(work: Path, tmp_path: Path) -> None:
    index = process("index", "n.gallery", "dataset:digits/test", cwd=tmp_path, file_limit=500)
    assert index.returncode == 2
    assert "n.gallery" in index.stderr
    assert "cannot be written" in index.stderr
    assert list(tmp_path.iterdir()) == []
    report = process(
        *("evaluate", work / "d.gallery", "dataset:digits/test", "--report", "r.html"),
        cwd=tmp_path,
        file_limit=10_000,
    )
    assert report.returncode == 2
    assert "r.html: cannot be written" in report.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_a_checkpoint_to_resume(tmp_path: Path) -> None:
    arguments = ["train", "dataset:digits/train", "-o", "e", "--recipe", "report-conv"]
    training = subprocess.Popen(
        [sys.executable, "-m", "lookalike", *arguments, "--epochs", "100000"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    manifest = tmp_path / "e" / "checkpoint" / "checkpoint.json"
    deadline = time.monotonic() + 120
    while not manifest.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    training.send_signal(signal.SIGINT)
    _, errors = training.communicate(timeout=120)
    assert training.returncode == 130, errors
    assert "interrupted; resume with the same command and --resume" in errors
    assert "Traceback" not in errors
    epoch = json.loads(manifest.read_text())["epoch"]
    shown = run(*arguments, "--epochs", epoch + 2, "--resume", "--json", cwd=tmp_path)
    assert len(json.loads(shown)["history"]) == epoch + 2
