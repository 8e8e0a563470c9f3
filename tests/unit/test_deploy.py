"""Manifests in deploy/: valid, consistent with each other and with the command line."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from typer.exceptions import TyperException

from lookalike.cli import app
from lookalike.errors import LookalikeError
from lookalike.server.limits import Limits
from lookalike.server.settings import accepted_hosts
from lookalike.stores.milvus.address import Address
from tests.conftest import Require

Document = dict[str, Any]
Documents = list[Document]
Pod = tuple[str, Document]
Files = dict[str, Documents]
Change = Callable[[Files], None]

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = ("1.30", "1.37")
"""The oldest version with all fields that are used, and the newest with a schema."""

STOPPING_SECONDS = 25
"""Maximum time of the service from SIGTERM to its end; systemd and Docker allow the same."""

_FIELDS = {
    "RayJob": "apiVersion kind metadata spec",
    "RayJobSpec": "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint "
    "entrypointNumCpus entrypointNumGpus entrypointResources jobId managedBy metadata "
    "rayClusterSpec runtimeEnvYAML shutdownAfterJobFinishes submissionMode submitterConfig "
    "submitterPodTemplate suspend ttlSecondsAfterFinished",
    "RayClusterSpec": "autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions "
    "headGroupSpec headServiceAnnotations managedBy rayVersion suspend workerGroupSpecs",
    "HeadGroupSpec": "enableIngress headService rayStartParams serviceType template",
    "WorkerGroupSpec": "groupName idleTimeoutSeconds maxReplicas minReplicas numOfHosts "
    "rayStartParams replicas scaleStrategy suspend template",
}
KUBERAY = {kind: set(fields.split()) for kind, fields in _FIELDS.items()}
"""Fields of ray.io/v1 by type, from KubeRay's API reference; its schema is in no package."""

_VALUES = {
    "": "cluster dataNode etcd externalS3 extraConfigFiles indexNode kafka metrics minio "
    "mixCoordinator proxy pulsar pulsarv3 queryNode service serviceAccount streaming "
    "streamingNode woodpecker",
    "proxy": "enabled replicas resources",
    "mixCoordinator": "enabled replicas resources activeStandby",
    "queryNode": "enabled replicas resources disk",
    "dataNode": "enabled replicas resources",
    "indexNode": "enabled",
    "streaming": "enabled woodpecker",
    "streamingNode": "replicas resources",
    "etcd": "enabled replicaCount persistence",
    "serviceAccount": "create name annotations labels",
    "minio": "enabled mode",
    "externalS3": "bucketName cloudProvider enabled host iamEndpoint port region rootPath useIAM "
    "useSSL useVirtualHost",
}
MILVUS = {path: set(values.split()) for path, values in _VALUES.items()}
"""Values of Milvus' chart by path, from its README, without those for credentials."""


class _Strict(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no type hints
    """A loader that refuses duplicate keys in a mapping; PyYAML would take the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(None, None, "duplicate key", node.start_mark)
        return super().construct_mapping(node, deep)


def read(name: str) -> Documents:
    return list(yaml.load_all((FOLDER / name).read_text(), _Strict))


def read_manifests() -> Files:
    """Return all manifests by file name; Milvus' values and kustomize's list are read apart."""
    names = ("collection.yaml", "ray.yaml", "secrets.example.yaml", "service.yaml")
    return {name: read(name) for name in names}


MANIFESTS = read_manifests()


def of_kind(files: Files, kind: str) -> Documents:
    return [each for file in files.values() for each in file if each["kind"] == kind]


def one(files: Files, kind: str) -> Document:
    (document,) = of_kind(files, kind)
    return document


def pods(files: Files) -> Iterator[Pod]:
    """Yield all pod templates with the names of their workloads."""
    yield "service", one(files, "Deployment")["spec"]["template"]
    job = one(files, "RayJob")["spec"]
    yield "submitter", job["submitterPodTemplate"]
    cluster = job["rayClusterSpec"]
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


def containers(files: Files) -> Iterator[Pod]:
    for name, pod in pods(files):
        for container in pod["spec"]["containers"]:
            yield name, container


def serving(files: Files) -> Document:
    return dict(containers(files))["service"]


def quantity(text: str) -> float:
    """Return a quantity in bytes or cores."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]


def check_references(files: Files) -> None:
    """Check that objects reference objects that exist."""
    existing = {
        (each["kind"], each["metadata"]["name"]): each for file in files.values() for each in file
    }
    for _, pod in pods(files):
        labels, spec = pod["metadata"]["labels"], pod["spec"]
        volumes = {each["name"]: each for each in spec["volumes"]}
        for container in spec["containers"]:
            assert {each["name"] for each in container["volumeMounts"]} == set(volumes)
            for variable in container.get("env", ()):
                secret = variable.get("valueFrom", {}).get("secretKeyRef")
                if secret:
                    assert secret["key"] in existing["Secret", secret["name"]]["stringData"]
        for volume in volumes.values():
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in existing
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]
                assert ("PersistentVolumeClaim", claim["claimName"]) in existing
                assert claim["readOnly"]
        policies = [
            each["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
            for each in of_kind(files, "NetworkPolicy")
        ]
        assert policies.count(True) == 1
    claim, volume = one(files, "PersistentVolumeClaim"), one(files, "PersistentVolume")
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert claim["spec"]["accessModes"] == volume["spec"]["accessModes"] == ["ReadOnlyMany"]
    namespaced = [each for (kind, _), each in existing.items() if kind not in _CLUSTER_SCOPED]
    namespace = one(files, "Namespace")["metadata"]["name"]
    assert {each["metadata"]["namespace"] for each in namespaced} == {namespace}


_CLUSTER_SCOPED = ("Namespace", "PersistentVolume")


def check_routing(files: Files) -> None:
    """Check the route from Ingress to Service to pods, and that the service allows its hosts."""
    deployment = one(files, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    service = one(files, "Service")
    budget = one(files, "PodDisruptionBudget")
    for selected in (
        service["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
        deployment["spec"]["selector"]["matchLabels"],
    ):
        assert selected
        assert selected.items() <= labels.items()
    (port,) = service["spec"]["ports"]
    (container_port,) = serving(files)["ports"]
    assert port["targetPort"] == container_port["name"]
    assert container_port["containerPort"] == parsed(files, "serve")["port"]
    autoscaler = one(files, "HorizontalPodAutoscaler")["spec"]
    assert autoscaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert 2 <= autoscaler["minReplicas"] < autoscaler["maxReplicas"]
    assert "replicas" not in deployment["spec"]  # applying the file would undo the autoscaler
    ingress = one(files, "Ingress")["spec"]
    (rule,) = ingress["rules"]
    (path,) = rule["http"]["paths"]
    backend = path["backend"]["service"]
    assert backend == {"name": service["metadata"]["name"], "port": {"name": port["name"]}}
    name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert {rule["host"], name, "$(POD_IP)"} <= set(parsed(files, "serve")["allow_host"])
    assert ingress["tls"][0]["hosts"] == [rule["host"]]


def command_of(files: Files, verb: str) -> list[str]:
    """Return the arguments after ``lookalike VERB`` in the manifest that runs a verb."""
    if verb == "serve":
        container = serving(files)
        words = [*container["command"], *container["args"]]
    else:
        words = one(files, "RayJob")["spec"]["entrypoint"].split()
    assert Path(words[0]).name == "lookalike"
    assert words[1] == verb
    return words[2:]


def parsed(files: Files, verb: str) -> dict[str, Any]:
    """Return the parameters that the command line parses from a manifest's command."""
    return COMMANDS[verb].make_context(verb, command_of(files, verb)).params


def check_commands(files: Files) -> None:
    """Check that the commands parse, name one collection, and the network policy opens its port."""
    serve, index = parsed(files, "serve"), parsed(files, "index")
    (address,) = serve["galleries"]
    assert Address.parse(address) == Address.parse(str(index["gallery"]))
    assert (index["runner"], index["address"]) == ("ray", "auto")
    keys = next(each for each in serving(files)["volumeMounts"] if each["name"] == "keys")
    secret = next(
        each for each in of_kind(files, "Secret") if each["metadata"]["name"] == "lookalike-keys"
    )
    assert serve["keys"].parent == Path(keys["mountPath"])
    assert serve["keys"].name in secret["stringData"]
    mounted = [
        each["mountPath"]
        for name, container in containers(files)
        for each in container["volumeMounts"]
        if each["name"] == "images"
    ]
    assert len(mounted) == 4  # all but the submitter
    assert set(mounted) == {index["source"]}
    host, port = Address.parse(address).host, Address.parse(address).port
    for policy in of_kind(files, "NetworkPolicy"):
        egress = policy["spec"]["egress"][-1]
        namespace = egress["to"][0]["namespaceSelector"]["matchLabels"][
            "kubernetes.io/metadata.name"
        ]
        assert host.split(".")[1] == namespace
        assert egress["ports"] == [{"protocol": "TCP", "port": port}]


def check_probes(files: Files) -> None:
    """Check that probes use paths that need no key, and a host that the service allows."""
    serve, container = parsed(files, "serve"), serving(files)
    hosts = accepted_hosts(serve["host"], serve["allow_host"])
    for name, path in {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }.items():
        request = container[f"{name}Probe"]["httpGet"]
        assert request["path"] == path
        assert request["port"] == container["ports"][0]["name"]
        headers = {each["name"].lower(): each["value"] for each in request["httpHeaders"]}
        assert hosts  # without names, any host would be allowed
        assert headers["host"] in hosts


def check_security(files: Files) -> None:
    """Check that all pods meet the restricted Pod Security Standard, and more."""
    labels = one(files, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for _, pod in pods(files):
        spec = pod["spec"]
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["fsGroup"] == image_user()
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all("hostPath" not in each for each in spec["volumes"])
    for _, container in containers(files):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = {
            each["mountPath"] for each in container["volumeMounts"] if "readOnly" not in each
        }
        assert writable <= {"/data", "/tmp"}


def check_images(files: Files) -> None:
    """Check that all images have one explicit version."""
    versions = set()
    for _, container in containers(files):
        _, separator, version = container["image"].rpartition(":")
        assert separator
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        versions.add(version)
    assert len(versions) == 1


def check_resources(files: Files) -> None:
    """Check that all pods have requests and limits, and that these suffice."""
    for _, container in containers(files):
        requests, max_resources = (container["resources"][each] for each in ("requests", "limits"))
        for each in ("cpu", "memory"):
            assert 0 < quantity(requests[each]) <= quantity(max_resources[each])
    service = serving(files)
    limits = Limits()
    max_resources = service["resources"]["limits"]
    variables = {each["name"]: each for each in service["env"]}
    threads = variables["LOOKALIKE_THREADS"]["valueFrom"]["resourceFieldRef"]
    assert threads == {"resource": "limits.cpu"}
    peak = quantity(max_resources["cpu"]) * limits.decode_memory + limits.buffered_bytes
    assert quantity(max_resources["memory"]) >= peak + 1e9
    spec = one(files, "Deployment")["spec"]["template"]["spec"]
    drain_seconds = service["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= drain_seconds + STOPPING_SECONDS


def check_kuberay(files: Files) -> None:
    """Check that all fields around the pod templates are KubeRay's, with valid values."""
    job = one(files, "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert job["apiVersion"] == "ray.io/v1"
    for kind, fields in (
        ("RayJob", job),
        ("RayJobSpec", spec),
        ("RayClusterSpec", cluster),
        ("HeadGroupSpec", head),
        *(("WorkerGroupSpec", group) for group in groups),
    ):
        assert not fields.keys() - KUBERAY[kind]
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["submitterConfig"].keys() == {"backoffLimit"}
    for each in (spec["backoffLimit"], spec["ttlSecondsAfterFinished"]):
        assert isinstance(each, int)
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] in ("Never", "OnFailure")
    for each in (head, *groups):
        assert all(isinstance(value, str) for value in each["rayStartParams"].values())
    for group in groups:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert len({group["groupName"] for group in groups}) == len(groups)


CHECKS: tuple[Change, ...] = (
    check_references,
    check_routing,
    check_commands,
    check_probes,
    check_security,
    check_images,
    check_resources,
    check_kuberay,
)


def image_user() -> int:
    return int(re.findall(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1])


def objects(files: Files) -> Documents:
    """Return all objects of Kubernetes itself, and the pod templates in KubeRay's objects."""
    documents = [each for file in files.values() for each in file if each["kind"] != "RayJob"]
    for name, pod in pods(files):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}}
        documents.append({**template, "template": pod})
    return documents


def validate(documents: Documents, version: str) -> None:
    """Validate objects strictly against the schemas of a version: no unknown fields."""
    import kubernetes_validate

    assert documents
    for each in documents:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("check", CHECKS)
def test_manifests_are_consistent(check: Change) -> None:
    check(MANIFESTS)


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_match_the_kubernetes_schemas(version: str, require: Require) -> None:
    require(find_spec("kubernetes_validate"), "kubernetes-validate is not installed")
    validate(objects(MANIFESTS), version)


def test_every_manifest_is_tested() -> None:
    untested = {"kustomization.yaml", "milvus-values.yaml"}
    assert {path.name for path in FOLDER.iterdir()} == set(MANIFESTS) | untested
    (kustomization,) = read("kustomization.yaml")
    assert kustomization["resources"] == ["collection.yaml", "service.yaml"]
    (image,) = kustomization["images"]
    assert f"{image['name']}:{image['newTag']}" == serving(MANIFESTS)["image"]


def test_ray_reads_the_resources_of_worker_groups(require: Require) -> None:
    """Read by the function of Ray's own autoscaler."""
    require(find_spec("ray"), "ray is not installed")
    from ray.autoscaler._private.kuberay import autoscaling_config

    cluster = one(copy.deepcopy(MANIFESTS), "RayJob")["spec"]["rayClusterSpec"]
    groups = autoscaling_config._generate_available_node_types_from_ray_cr_spec(cluster)
    cores = {
        name: (each["resources"]["CPU"], each["resources"].get("GPU"))
        for name, each in groups.items()
    }
    assert cores == {"headgroup": (0, None), "cpu": (8, None), "gpu": (8, 1)}
    assert groups["cpu"]["min_workers"] == groups["cpu"]["max_workers"] > 1
    assert groups["cpu"]["resources"]["memory"] == 16 * 2**30


def test_all_nodes_have_the_pinned_ray() -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned, "constraints.txt does not pin ray"
    assert one(MANIFESTS, "RayJob")["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]
    dockerfile = (ROOT / "deploy" / "ray.Dockerfile").read_text()
    assert re.findall(r"ray\[default\]==([0-9.]+)", dockerfile) == [pinned[1]]


def test_images_and_manifests_have_the_same_user() -> None:
    _, *targets = (ROOT / "deploy" / "ray.Dockerfile").read_text().split("\nFROM ")
    assert [target.split()[0] for target in targets] == ["python:3.11-slim", "cpu"]
    for target in targets:
        assert re.findall(r"^USER (\d+)$", target, re.MULTILINE)[-1] == str(image_user())
    assert f"--uid {image_user()} " in targets[0]


def test_milvus_values_exist_in_the_chart() -> None:
    (values,) = read("milvus-values.yaml")
    for path, fields in MILVUS.items():
        assert not (values[path] if path else values).keys() - fields
    config = yaml.safe_load(values["extraConfigFiles"]["user.yaml"])
    assert config == {"common": {"security": {"authorizationEnabled": True}}}
    logs = [values[name]["enabled"] for name in ("woodpecker", "pulsarv3", "pulsar", "kafka")]
    assert logs.count(True) == 1
    assert values["minio"]["enabled"] != values["externalS3"]["enabled"]
    for name in ("proxy", "mixCoordinator", "queryNode", "dataNode", "streamingNode"):
        assert values[name]["replicas"] >= 2
        requests, limits = (values[name]["resources"][each] for each in ("requests", "limits"))
        assert all(quantity(requests[each]) <= quantity(limits[each]) for each in ("cpu", "memory"))


def test_example_secrets_are_placeholders() -> None:
    for secret in of_kind(MANIFESTS, "Secret"):
        (text,) = secret["stringData"].values()
        assert "REPLACE-ME" in text
        assert not re.search(r"[0-9a-f]{32}", text)


def _set(*path: str | int, to: object) -> Change:
    """Return a change of one value: the path begins with the kind of the object."""

    def change(files: Files) -> None:
        kind, *parents, last = path
        parent: Any = one(files, str(kind))
        for each in parents:
            parent = parent[each]
        if to is _REMOVED:
            del parent[last]
        else:
            parent[last] = to

    return change


_REMOVED = object()
_POD = ("Deployment", "spec", "template", "spec")
_CONTAINER = (*_POD, "containers", 0)
_CLUSTER = ("RayJob", "spec", "rayClusterSpec")
_HEAD = (*_CLUSTER, "headGroupSpec", "template", "spec", "containers", 0)
_WORKER = (*_CLUSTER, "workerGroupSpecs", 0)
_WORKER_CONTAINER = (*_WORKER, "template", "spec", "containers", 0)

BROKEN: tuple[tuple[Change, str, Change], ...] = (
    (
        check_images,
        "a moving tag",
        _set(*_CONTAINER, "image", to="registry.example.org/lookalike:latest"),
    ),
    (check_images, "no tag", _set(*_CONTAINER, "image", to="registry.example.org/lookalike")),
    (check_images, "two versions", _set(*_HEAD, "image", to="registry.example.org/ray:0.0.9")),
    (check_resources, "no limits", _set(*_CONTAINER, "resources", "limits", to=_REMOVED)),
    (
        check_resources,
        "a worker without requests",
        _set(*_WORKER_CONTAINER, "resources", "requests", to=_REMOVED),
    ),
    (
        check_resources,
        "too little memory",
        _set(*_CONTAINER, "resources", "limits", "memory", to="3Gi"),
    ),
    (
        check_resources,
        "too little memory for the cores",
        _set(*_CONTAINER, "resources", "limits", "cpu", to="8"),
    ),
    (
        check_resources,
        "too short a grace period",
        _set(*_POD, "terminationGracePeriodSeconds", to=20),
    ),
    (check_security, "root", _set(*_POD, "securityContext", "runAsUser", to=0)),
    (
        check_security,
        "root not excluded",
        _set(*_POD, "securityContext", "runAsNonRoot", to=_REMOVED),
    ),
    (
        check_security,
        "a writable root",
        _set(*_CONTAINER, "securityContext", "readOnlyRootFilesystem", to=False),
    ),
    (
        check_security,
        "escalation",
        _set(*_HEAD, "securityContext", "allowPrivilegeEscalation", to=True),
    ),
    (
        check_security,
        "a worker without a security context",
        _set(*_WORKER_CONTAINER, "securityContext", to={}),
    ),
    (
        check_security,
        "a writable image volume",
        _set(*_CONTAINER, "volumeMounts", 1, "readOnly", to=_REMOVED),
    ),
    (
        check_probes,
        "a probe without a host",
        _set(*_CONTAINER, "readinessProbe", "httpGet", "httpHeaders", to=[]),
    ),
    (
        check_probes,
        "a probe with another host",
        _set(*_CONTAINER, "livenessProbe", "httpGet", "httpHeaders", 0, "value", to="lookalike"),
    ),
    (
        check_probes,
        "a probe that needs a key",
        _set(*_CONTAINER, "readinessProbe", "httpGet", "path", to="/metrics"),
    ),
    (check_probes, "an unknown option", _set(*_CONTAINER, "args", 4, to="--key")),
    (check_probes, "an unknown verb", _set(*_CONTAINER, "args", 0, to="server")),
    (
        check_commands,
        "another collection",
        _set(*_CONTAINER, "args", 1, to="milvus://milvus.milvus.svc/shoes"),
    ),
    (
        check_commands,
        "a password in the address",
        _set(*_CONTAINER, "args", 1, to="milvus://a:b@milvus.milvus.svc/photos"),
    ),
    (
        check_commands,
        "indexing without Ray",
        _set("RayJob", "spec", "entrypoint", to="lookalike index milvus://m/photos /images"),
    ),
    (
        check_commands,
        "another image path",
        _set(*_WORKER_CONTAINER, "volumeMounts", 0, "mountPath", to="/photos"),
    ),
    (
        check_references,
        "an unknown Secret",
        _set(*_POD, "volumes", 0, "secret", "secretName", to="keys"),
    ),
    (
        check_references,
        "an unknown volume",
        _set(*_CONTAINER, "volumeMounts", 1, "name", to="pictures"),
    ),
    (
        check_references,
        "pods without a network policy",
        _set(*_CLUSTER, "headGroupSpec", "template", "metadata", "labels", to={"app": "ray"}),
    ),
    (check_routing, "a Service without pods", _set("Service", "spec", "selector", to={"app": "x"})),
    (
        check_routing,
        "an unknown port",
        _set("Service", "spec", "ports", 0, "targetPort", to="web"),
    ),
    (
        check_routing,
        "a host not allowed",
        _set("Ingress", "spec", "rules", 0, "host", to="photos.example.org"),
    ),
    (
        check_routing,
        "an autoscaler of another workload",
        _set("HorizontalPodAutoscaler", "spec", "scaleTargetRef", "name", to="index"),
    ),
    (check_kuberay, "an unknown KubeRay field", _set(*_WORKER, "replica", to=4)),
    (
        check_kuberay,
        "a number for ray start",
        _set(*_WORKER, "rayStartParams", to={"num-cpus": 8}),
    ),
    (check_kuberay, "more replicas than the maximum", _set(*_WORKER, "replicas", to=9)),
)

INVALID: dict[str, Change] = {
    "an unknown field": _set(*_CONTAINER, "resource", to={}),
    "a text for a number": _set(*_POD, "terminationGracePeriodSeconds", to="45s"),
    "no selector": _set("Deployment", "spec", "selector", to=_REMOVED),
    "an unknown field of a worker": _set(*_WORKER, "template", "spec", "volume", to=[]),
    "a worker without containers": _set(*_WORKER, "template", "spec", "containers", to=_REMOVED),
    "a removed API version": _set("PodDisruptionBudget", "apiVersion", to="policy/v1beta1"),
}


@pytest.mark.parametrize(
    ("check", "change"),
    [(check, change) for check, _, change in BROKEN],
    ids=[name for _, name, _ in BROKEN],
)
def test_checks_find_a_broken_manifest(check: Change, change: Change) -> None:
    files = copy.deepcopy(MANIFESTS)
    check(files)
    change(files)
    with pytest.raises((AssertionError, KeyError, TyperException, LookalikeError)):
        check(files)


@pytest.mark.parametrize("change", INVALID.values(), ids=INVALID.keys())
def test_schemas_refuse_invalid_manifests(change: Change, require: Require) -> None:
    require(find_spec("kubernetes_validate"), "kubernetes-validate is not installed")
    from kubernetes_validate import SchemaNotFoundError, ValidationError

    files, valid = copy.deepcopy(MANIFESTS), objects(MANIFESTS)
    change(files)
    with pytest.raises((SchemaNotFoundError, ValidationError)):
        validate([each for each in objects(files) if each not in valid], KUBERNETES[-1])
