from __future__ import annotations

import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

import genrank
from genrank.reranker import Reranker
from genrank.server.app import create_app
from genrank.server.config import Config
from genrank.server.gateway import Gateway
from genrank.testing import OracleEngine
from tests.deployment import DEPLOY, KEY, check_command, documents, exported

FOLDER = DEPLOY / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
OBJECTS = [one for file in FILES if file.name != "kustomization.yaml" for one in documents(file)]
YAMLS = sorted([*DEPLOY.glob("**/*.yaml"), *DEPLOY.glob("**/*.yml")])


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in OBJECTS if one["kind"] == kind}


DEPLOYMENTS = of_kind("Deployment")
each_deployment = pytest.mark.parametrize("name", sorted(DEPLOYMENTS))


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = DEPLOYMENTS[name]["spec"]["template"]["spec"]
    return spec


def containers(name: str) -> list[dict[str, Any]]:
    return [*pod(name).get("initContainers", ()), *pod(name)["containers"]]


def ports(name: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for one in pod(name)["containers"] for port in one["ports"]}


def values(found: object, key: str) -> Iterator[Any]:
    """Every value of a key, at any depth."""
    if isinstance(found, dict):
        for name, value in found.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(found, list):
        for value in found:
            yield from values(value, key)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_the_yaml_is_tidy(path: Path) -> None:
    linter = pytest.importorskip("yamllint.linter")
    config = pytest.importorskip("yamllint.config").YamlLintConfig(
        "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"
    )
    problems = [str(one) for one in linter.run(path.read_text(encoding="utf-8"), config, str(path))]
    assert problems == []


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_the_schema_of_kubernetes_accepts_every_object(one: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(one, validate.latest_version(), strict=True)


def test_all_files_are_applied_but_the_example_of_the_secret() -> None:
    (kustomization,) = documents(FOLDER / "kustomization.yaml")
    names = {file.name for file in FILES} - {"kustomization.yaml", "secret.example.yaml"}
    assert set(kustomization["resources"]) == names
    assert {one["metadata"].get("namespace", kustomization["namespace"]) for one in OBJECTS} == {"genrank"}


def test_the_images_have_the_version_of_genrank() -> None:
    (kustomization,) = documents(FOLDER / "kustomization.yaml")
    assert {image["newTag"] for image in kustomization["images"]} == {genrank.__version__}
    used = {one["image"] for name in DEPLOYMENTS for one in containers(name)}
    assert used == {"redis:8-alpine", *(image["name"] for image in kustomization["images"])}


@each_deployment
def test_no_container_has_rights(name: str) -> None:
    spec = pod(name)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in containers(name):
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@each_deployment
def test_every_container_says_what_it_needs(name: str) -> None:
    for one in containers(name):
        assert {"cpu", "memory"} <= one["resources"]["requests"].keys()
        assert "memory" in one["resources"]["limits"]


@each_deployment
def test_every_volume_that_is_mounted_is_defined(name: str) -> None:
    defined = {volume["name"] for volume in pod(name).get("volumes", ())}
    mounted = {mount["name"] for one in containers(name) for mount in one.get("volumeMounts", ())}
    assert mounted == defined
    claims = {claim["claimName"] for claim in values(pod(name), "persistentVolumeClaim")}
    assert claims <= of_kind("PersistentVolumeClaim").keys()


def test_the_probes_ask_what_the_app_answers_without_a_key() -> None:
    (gateway,) = pod("gateway")["containers"]
    probes = {kind: gateway[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/health",
        "liveness": "/health",
        "readiness": "/ready",
    }
    app = create_app(Gateway(Reranker(engine=OracleEngine({})), Config()), [KEY])
    with TestClient(app) as client:
        assert client.get("/info").status_code == 401
        for probe in probes.values():
            assert client.get(probe["path"]).status_code == 200


@each_deployment
def test_probes_and_services_use_ports_that_there_are(name: str) -> None:
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        for one in pod(name)["containers"]:
            assert set(values(one.get(probe, {}), "port")) <= ports(name).keys()
    service = of_kind("Service")[name]["spec"]
    assert service["selector"] == DEPLOYMENTS[name]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"] == DEPLOYMENTS[name]["spec"]["selector"]["matchLabels"]
    assert {port["targetPort"] for port in service["ports"]} <= ports(name).keys()


def test_the_commands_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    for name in ("gateway", "vllm"):
        for one in containers(name):
            variables = {variable["name"]: variable.get("value", KEY) for variable in one.get("env", ())}
            if "args" in one:
                check_command(one["args"], variables, monkeypatch)
                checked.append(one["args"][0])
                for word in one["args"]:
                    if word.startswith("--port="):
                        assert int(word.removeprefix("--port=")) == ports(name)["http"]
    assert sorted(checked) == ["models", "serve", "vllm"]


def test_the_gateway_waits_for_the_server_that_it_will_use(monkeypatch: pytest.MonkeyPatch) -> None:
    wait, gateway = containers("gateway")
    loop = wait["command"][-1]
    (engine,) = [word.removeprefix("--engine=") for word in gateway["args"] if word.startswith("--engine=")]
    assert loop.startswith(f"until genrank doctor --engine {engine}; do ")
    check_command(["doctor", "--engine", engine], {}, monkeypatch)


def test_addresses_lead_to_services() -> None:
    _, gateway = containers("gateway")
    variables = {variable["name"]: variable.get("value", "") for variable in gateway["env"]}
    engine = next(word.removeprefix("--engine=") for word in gateway["args"] if word.startswith("--engine="))
    for address in (engine, variables["GENRANK_REDIS_URL"]):
        parts = urllib.parse.urlsplit(address)
        service = of_kind("Service")[str(parts.hostname)]["spec"]
        assert parts.port in [port["port"] for port in service["ports"]]


def test_one_model_is_fetched_served_and_asked_for() -> None:
    words = [word for name in ("gateway", "vllm") for one in containers(name) for word in one.get("args", ())]
    assert (
        len({word.removeprefix("--model=") for word in words if word.removeprefix("--model=").startswith("qwen")}) == 1
    )


def test_keys_come_from_the_secret_and_the_example_holds_none() -> None:
    (secret,) = of_kind("Secret").values()
    for name in DEPLOYMENTS:
        for reference in values(pod(name), "secretKeyRef"):
            assert reference["name"] == secret["metadata"]["name"]
            assert reference["key"] in secret["stringData"]
    assert set(secret["stringData"].values()) == {""}  # applied as it is, the gateway refuses to start
    variables = {v["name"]: v for one in containers("gateway") for v in one.get("env", ())}
    assert "valueFrom" in variables["GENRANK_API_KEYS"]
    assert "valueFrom" in variables["GENRANK_API_KEY"]


def test_the_autoscaler_follows_a_metric_that_is_exported() -> None:
    scalers = of_kind("HorizontalPodAutoscaler")
    for scaler in scalers.values():
        assert scaler["spec"]["scaleTargetRef"]["name"] in DEPLOYMENTS
        assert "replicas" not in DEPLOYMENTS[scaler["spec"]["scaleTargetRef"]["name"]]["spec"]  # it would be reset
    (metric,) = scalers["vllm"]["spec"]["metrics"]
    name = metric["external"]["metric"]["name"]
    assert name == "genrank_queue_requests"
    assert name in exported()
    (adapter,) = documents(DEPLOY / "prometheus/adapter.yaml")
    assert name in [rule["name"]["as"] for rule in adapter["rules"]["external"]]


def test_running_requests_may_finish() -> None:
    spec = pod("gateway")
    (gateway,) = spec["containers"]
    program, seconds = gateway["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert spec["terminationGracePeriodSeconds"] > float(seconds) + Config().server.shutdown


def test_only_the_gateway_reaches_the_others() -> None:
    policies = of_kind("NetworkPolicy")
    assert policies.keys() == {"vllm", "redis"}
    for name, policy in policies.items():
        assert policy["spec"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": name}}
        (rule,) = policy["spec"]["ingress"]
        assert rule["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "gateway"}}}]
        assert {port["port"] for port in rule["ports"]} <= ports(name).keys()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_everything() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = [one for one in yaml.safe_load_all(done.stdout) if one]
    assert len(built) == len(OBJECTS) - 1  # without the secret
