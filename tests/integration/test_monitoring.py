"""deploy/prometheus and deploy/grafana: each metric and label that they use is exported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lookalike.gallery.gallery import Gallery
from lookalike.server.api_keys import KeyFile, add_key
from lookalike.server.settings import ServeSettings
from tests.conftest import Require
from tests.integration.test_audit import gallery as gallery_path
from tests.integration.test_running import png
from tests.serving import serving

__all__ = ["gallery_path"]  # a fixture

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"

_OF_PROMETHEUS = {"up": {"job", "instance"}}
"""Metrics that Prometheus itself has of each service that it scrapes."""

_SCRAPED = {"job", "instance", "le"}
"""Labels that Prometheus adds, and that of buckets."""

_FUNCTIONS = (
    *("sum", "min", "max", "count", "avg", "by", "rate", "increase", "delta"),
    *("histogram_quantile", "vector", "or", "and", "on"),
)

Labels = dict[str, set[str]]


@pytest.fixture(scope="module")
def exported(gallery_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """Labels of all metrics of a service that was used and misused, by their names."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    secret = add_key(keys, "prometheus", write=False)
    settings = ServeSettings(keys=KeyFile(keys))
    with serving({"a": Gallery.open(gallery_path)}, settings) as served:
        headers = {"x-api-key": secret}
        for key in (headers, {}):
            served.request("POST", "/v1/galleries/a/search/image", png(), key)
        served.request("GET", "/readyz")
        served.service.metrics.cancelled.labels("disconnected").inc(0)
        text = served.request("GET", "/metrics", headers=headers)[1].decode()
    labels: Labels = {}
    for name, of_it in re.findall(r"^(\w+)(?:\{(.*)\})? [\d.e+-]+$", text, re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', of_it))
    return labels


def used(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield metrics of a PromQL expression with the labels that their selectors name."""
    plain = re.sub(r'"[^"]*"|\bby \([^)]*\)|\[[^\]]*\]', "", expression)
    for name, selector in re.findall(r"\b([a-z]\w*)(?:\{([^}]*)\})?", plain):
        if name not in _FUNCTIONS:
            yield name, set(re.findall(r"(\w+)[=!]", selector))


def problems(expression: str, exported: Labels) -> list[str]:
    """Return what an expression uses that is not exported."""
    known = exported | _OF_PROMETHEUS
    metrics = dict(used(expression))
    unknown = [name for name in metrics if name not in known]
    available = set().union(*(known.get(name, set()) for name in metrics)) | _SCRAPED
    for name, labels in metrics.items():
        unknown += [f"{name}.{label}" for label in labels - known.get(name, set()) - _SCRAPED]
    for group in re.findall(r"\bby \(([\w, ]*)\)", expression):
        unknown += [label for label in re.findall(r"\w+", group) if label not in available]
    return [*unknown, *([] if metrics else ["no metric"])]


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(ALERTS.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Yield titles and expressions of the dashboard's panels."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alerts_use_what_is_exported(rule: dict[str, Any], exported: Labels) -> None:
    assert problems(rule["expr"], exported) == []
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description"}
    named = re.findall(r"\b(?:lookalike|process)_\w+", rule["annotations"]["description"])
    assert {name for name in named if name not in exported} <= {"lookalike_stage_seconds"}


@pytest.mark.parametrize(("title", "expression"), list(queries()))
def test_panels_use_what_is_exported(title: str, expression: str, exported: Labels) -> None:
    assert problems(expression, exported) == [], title


def test_what_is_not_exported_is_noticed(exported: Labels) -> None:
    for expression in (
        "sum(rate(lookalike_request_total[5m]))",
        'lookalike_gallery_ready{name="a"} == 0',
        "sum by (rout) (rate(lookalike_requests_total[5m]))",
        "vector(0)",
    ):
        assert problems(expression, exported), expression


def test_every_metric_of_the_service_is_in_the_dashboard(exported: Labels) -> None:
    text = DASHBOARD.read_text()
    names = {name for name in exported if name.startswith("lookalike_")}
    shown = {re.sub(r"_(created|bucket|sum|count)$", "", name) for name in names}
    assert [name for name in sorted(shown) if name.removesuffix("_total") not in text] == []


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    ids = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        ids.add(panel["id"])
    assert len(ids) == len(json.loads(DASHBOARD.read_text())["panels"])


@pytest.fixture
def promtool(require: Require) -> str:
    path = shutil.which("promtool")
    require(path, "promtool (Debian's package prometheus) is not installed")
    assert path is not None
    return path


def test_promtool_accepts_all_expressions(promtool: str, tmp_path: Path) -> None:
    panels = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, (_, expression) in enumerate(queries())
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": panels}]}))
    for path in (ALERTS, file):
        done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr


FIRES = {
    "LookalikeDown": {'up{job="lookalike", instance="a"}': "0x30"},
    "LookalikeGalleryNotReady": {'lookalike_gallery_ready{instance="a", gallery="g"}': "0x30"},
    "LookalikeErrors": {
        'lookalike_requests_total{instance="a", status="500"}': "0+6x30",
        'lookalike_requests_total{instance="a", status="200"}': "0+54x30",
    },
    "LookalikeSlow": {
        'lookalike_request_seconds_bucket{instance="a", route="/s/search", le="1"}': "0+9x30",
        'lookalike_request_seconds_bucket{instance="a", route="/s/search", le="5"}': "0+90x30",
        'lookalike_request_seconds_bucket{instance="a", route="/s/search", le="+Inf"}': "0+90x30",
    },
    "LookalikeAtItsLimits": {
        'lookalike_failures_total{instance="a", reason="too-many-requests"}': "0+90x30"
    },
    "LookalikeTimeLimit": {
        'lookalike_cancelled_requests_total{instance="a", reason="time-limit"}': "0+1x30"
    },
    "LookalikeDecodersCrash": {'lookalike_decoder_restarts{instance="a"}': "0+2x30"},
    "LookalikeKeyFileBroken": {'lookalike_key_file_valid{instance="a"}': "0x30"},
    "LookalikeInvalidKeys": {
        'lookalike_failures_total{instance="a", reason="api-key-required"}': "0+90x30"
    },
}
"""Series a minute of which an alert must tell; none of the others may."""


@pytest.mark.parametrize("name", FIRES)
def test_an_alert_fires_and_no_other(name: str, promtool: str, tmp_path: Path) -> None:
    """promtool reports each alert that fires, since the test expects none."""
    assert FIRES.keys() == {rule["alert"] for rule in rules()}
    series = [{"series": each, "values": values} for each, values in FIRES[name].items()]
    none = [{"eval_time": "25m", "alertname": each, "exp_alerts": []} for each in FIRES]
    test = {"interval": "1m", "input_series": series, "alert_rule_test": none}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [test]}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True)
    assert set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr)) == {name}
