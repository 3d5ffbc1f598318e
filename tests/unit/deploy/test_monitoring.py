from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.deployment import DEPLOY, documents, exported, metric_names

ADDED = {"job", "instance", "namespace", "pod"}
"""Labels that Prometheus adds."""


@pytest.fixture(scope="module")
def board() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DEPLOY / "grafana/genrank.json").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="module")
def expressions(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count|created|total)$", "", name)


def test_the_dashboard_shows_every_metric_and_no_other(expressions: list[str]) -> None:
    shown = set().union(*(metric_names(text) for text in expressions))
    assert shown <= exported().keys()
    assert {family(name) for name in shown} == {family(name) for name in exported()}


def test_the_dashboard_names_labels_that_the_metrics_have(expressions: list[str]) -> None:
    there = exported()
    named = set()
    for text in expressions:
        labels = set().union(*(there[name] for name in metric_names(text))) | ADDED
        used = {label for inside in re.findall(r"\{(.*?)\}", text) for label in re.findall(r"(\w+)=", inside)}
        used |= {label for inside in re.findall(r"by \((.*?)\)", text) for label in inside.split(", ")}
        assert used <= labels, text
        named |= used
    assert {"outcome", "tier", "status", "kind", "result", "le"} <= named


def test_the_dashboard_names_tiers_that_there_are(expressions: list[str]) -> None:
    from genrank.server.answers import Tier

    named = {tier for text in expressions for match in re.findall(r'tier=~?"(.*?)"', text) for tier in match.split("|")}
    assert named == {"baseline", "first-stage"}, "those without the model's whole order"
    assert named < set(get_args(Tier))


def test_the_panels_do_not_overlap_and_explain_themselves(board: dict[str, Any]) -> None:
    places: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["description"]
        at = panel["gridPos"]
        squares = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not squares & places
        assert at["x"] + at["w"] <= 24
        places |= squares
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_variables_of_the_dashboard_are_those_that_it_uses(board: dict[str, Any]) -> None:
    defined = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(board["panels"]) + json.dumps(board["templating"])))
    assert used == defined
    for variable in board["templating"]["list"]:
        assert metric_names(json.dumps(variable)) <= exported().keys()


def test_the_adapter_reads_a_metric_that_is_exported() -> None:
    (values,) = documents(DEPLOY / "prometheus/adapter.yaml")
    (rule,) = values["rules"]["external"]
    assert metric_names(rule["seriesQuery"]) == {"genrank_queue_requests"} == {rule["name"]["as"]}
    assert "genrank_queue_requests" in exported()


def test_prometheus_scrapes_the_gateways_port_with_a_key() -> None:
    from genrank.server.config import Config

    (scrape,) = documents(DEPLOY / "prometheus/scrape.yaml")
    fixed, found = scrape["scrape_configs"]
    assert fixed["static_configs"][0]["targets"] == [f"127.0.0.1:{Config().server.port}"]
    (kept,) = [one for one in found["relabel_configs"] if one.get("action") == "keep"]
    name, port = kept["regex"].split(";")
    gateway = documents(DEPLOY / "kubernetes/gateway.yaml")[0]["spec"]["template"]
    assert gateway["metadata"]["labels"] == {"app.kubernetes.io/name": name}
    assert port in [one["name"] for one in gateway["spec"]["containers"][0]["ports"]]
    for job in (fixed, found):  # /metrics is not open
        assert job["authorization"] == {"type": "Bearer", "credentials_file": "/etc/prometheus/genrank.key"}
        assert job.get("metrics_path", "/metrics") == "/metrics"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_scrape_configuration(tmp_path: Path) -> None:
    text = (DEPLOY / "prometheus/scrape.yaml").read_text(encoding="utf-8")
    key = tmp_path / "key"
    key.write_text("key-of-prometheus")
    file = tmp_path / "prometheus.yml"
    file.write_text(text.replace("/etc/prometheus/genrank.key", str(key)))
    done = subprocess.run(["promtool", "check", "config", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
