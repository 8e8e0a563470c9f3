"""The manifests in deploy/: well-formed, of one piece, and asking for what the command line has."""

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
from lookalike.server.settings import hosts_of
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
"""The oldest version that has all fields that are used, and the newest with a schema."""

STOPPING_SECONDS = 25
"""What the service takes at most to end after SIGTERM, as systemd and Docker allow it too."""

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
"""The fields of ray.io/v1, from KubeRay's API reference; its schema was not at hand."""

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
MILVUS = {place: set(values.split()) for place, values in _VALUES.items()}
"""Values of Milvus' chart by their place, from its README; without those for credentials, none of
which are to be written here."""


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which PyYAML would take the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(None, None, "a key twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read(name: str) -> Documents:
    return list(yaml.load_all((FOLDER / name).read_text(), _Strict))


def everything() -> Files:
    """All manifests by file name, without the values of Milvus' chart and kustomize's list."""
    names = ("collection.yaml", "ray.yaml", "secrets.example.yaml", "service.yaml")
    return {name: read(name) for name in names}


MANIFESTS = everything()


def of_kind(files: Files, kind: str) -> Documents:
    return [each for file in files.values() for each in file if each["kind"] == kind]


def one(files: Files, kind: str) -> Document:
    (found,) = of_kind(files, kind)
    return found


def pods(files: Files) -> Iterator[Pod]:
    """All pod templates, with what they are of."""
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
    """Return bytes or cores."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]


def check_names(files: Files) -> None:
    """What objects name of each other is there."""
    there = {
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
                    assert secret["key"] in there["Secret", secret["name"]]["stringData"]
        for volume in volumes.values():
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in there
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]
                assert ("PersistentVolumeClaim", claim["claimName"]) in there
                assert claim["readOnly"]
        policies = [
            each["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
            for each in of_kind(files, "NetworkPolicy")
        ]
        assert policies.count(True) == 1
    claim, volume = one(files, "PersistentVolumeClaim"), one(files, "PersistentVolume")
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert claim["spec"]["accessModes"] == volume["spec"]["accessModes"] == ["ReadOnlyMany"]
    namespaced = [each for (kind, _), each in there.items() if kind not in _OF_THE_CLUSTER]
    namespace = one(files, "Namespace")["metadata"]["name"]
    assert {each["metadata"]["namespace"] for each in namespaced} == {namespace}


_OF_THE_CLUSTER = ("Namespace", "PersistentVolume")


def check_ways_in(files: Files) -> None:
    """The Ingress leads to the Service, that to the pods, by names that the service answers to."""
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
    (opened,) = serving(files)["ports"]
    assert port["targetPort"] == opened["name"]
    assert opened["containerPort"] == parsed(files, "serve")["port"]
    scaled = one(files, "HorizontalPodAutoscaler")["spec"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert 2 <= scaled["minReplicas"] < scaled["maxReplicas"]
    assert "replicas" not in deployment["spec"]  # applying it would undo what was scaled
    way = one(files, "Ingress")["spec"]
    (rule,) = way["rules"]
    (path,) = rule["http"]["paths"]
    backend = path["backend"]["service"]
    assert backend == {"name": service["metadata"]["name"], "port": {"name": port["name"]}}
    name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert {rule["host"], name, "$(POD_IP)"} <= set(parsed(files, "serve")["allow_host"])
    assert way["tls"][0]["hosts"] == [rule["host"]]


def command_of(files: Files, verb: str) -> list[str]:
    """Return the words that follow ``lookalike`` in the manifest that runs a verb."""
    if verb == "serve":
        container = serving(files)
        words = [*container["command"], *container["args"]]
    else:
        words = one(files, "RayJob")["spec"]["entrypoint"].split()
    assert Path(words[0]).name == "lookalike"
    assert words[1] == verb
    return words[2:]


def parsed(files: Files, verb: str) -> dict[str, Any]:
    """Return the parameters that the command line makes of a manifest's words."""
    return COMMANDS[verb].make_context(verb, command_of(files, verb)).params


def check_commands(files: Files) -> None:
    """The command line takes them, and both mean one collection, at the port the network lets."""
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
        out = policy["spec"]["egress"][-1]
        namespace = out["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        assert host.split(".")[1] == namespace
        assert out["ports"] == [{"protocol": "TCP", "port": port}]


def check_probes(files: Files) -> None:
    """Probes ask what is open without a key, by a name that the service answers to."""
    serve, container = parsed(files, "serve"), serving(files)
    hosts = hosts_of(serve["host"], serve["allow_host"])
    for name, path in {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }.items():
        asked = container[f"{name}Probe"]["httpGet"]
        assert asked["path"] == path
        assert asked["port"] == container["ports"][0]["name"]
        headers = {each["name"].lower(): each["value"] for each in asked["httpHeaders"]}
        assert hosts  # otherwise it would answer to any
        assert headers["host"] in hosts


def check_confined(files: Files) -> None:
    """All pods keep to the restricted standard, which the namespace asks for, and to more."""
    labels = one(files, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for _, pod in pods(files):
        spec = pod["spec"]
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["fsGroup"] == user_of_the_image()
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
    """All are of one version, which is named."""
    versions = set()
    for _, container in containers(files):
        _, mark, version = container["image"].rpartition(":")
        assert mark
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        versions.add(version)
    assert len(versions) == 1


def check_sizes(files: Files) -> None:
    """All pods say what they need and may take, and that is enough."""
    for _, container in containers(files):
        asked, most = (container["resources"][each] for each in ("requests", "limits"))
        for each in ("cpu", "memory"):
            assert 0 < quantity(asked[each]) <= quantity(most[each])
    service = serving(files)
    limits = Limits()
    most = service["resources"]["limits"]
    variables = {each["name"]: each for each in service["env"]}
    threads = variables["LOOKALIKE_THREADS"]["valueFrom"]["resourceFieldRef"]
    assert threads == {"resource": "limits.cpu"}
    worst = quantity(most["cpu"]) * limits.decode_memory + limits.held_bytes
    assert quantity(most["memory"]) >= worst + 1e9
    spec = one(files, "Deployment")["spec"]["template"]["spec"]
    waits = service["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= waits + STOPPING_SECONDS


def check_kuberay(files: Files) -> None:
    """Around the pod templates are KubeRay's fields only, with what they take."""
    job = one(files, "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert job["apiVersion"] == "ray.io/v1"
    for kind, found in (
        ("RayJob", job),
        ("RayJobSpec", spec),
        ("RayClusterSpec", cluster),
        ("HeadGroupSpec", head),
        *(("WorkerGroupSpec", group) for group in groups),
    ):
        assert not found.keys() - KUBERAY[kind]
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
    check_names,
    check_ways_in,
    check_commands,
    check_probes,
    check_confined,
    check_images,
    check_sizes,
    check_kuberay,
)


def user_of_the_image() -> int:
    return int(re.findall(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1])


def objects(files: Files) -> Documents:
    """Return all objects of Kubernetes itself, and the pod templates in those of KubeRay."""
    found = [each for file in files.values() for each in file if each["kind"] != "RayJob"]
    for name, pod in pods(files):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}}
        found.append({**template, "template": pod})
    return found


def validate(found: Documents, version: str) -> None:
    """Validate objects against the schemas of a version, with no field that is not in them."""
    import kubernetes_validate

    assert found
    for each in found:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("check", CHECKS)
def test_manifests_are_of_one_piece(check: Change) -> None:
    check(MANIFESTS)


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_them(version: str, require: Require) -> None:
    require(find_spec("kubernetes_validate"), "kubernetes-validate is not installed")
    validate(objects(MANIFESTS), version)


def test_every_file_is_looked_at() -> None:
    apart = {"kustomization.yaml", "milvus-values.yaml"}
    assert {path.name for path in FOLDER.iterdir()} == set(MANIFESTS) | apart
    (kustomization,) = read("kustomization.yaml")
    assert kustomization["resources"] == ["collection.yaml", "service.yaml"]
    (image,) = kustomization["images"]
    assert f"{image['name']}:{image['newTag']}" == serving(MANIFESTS)["image"]


def test_ray_reads_the_groups_as_they_are_meant(require: Require) -> None:
    """By the function with which Ray's autoscaler reads a RayCluster."""
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


def test_images_run_as_the_user_of_the_manifests() -> None:
    _, *targets = (ROOT / "deploy" / "ray.Dockerfile").read_text().split("\nFROM ")
    assert [target.split()[0] for target in targets] == ["python:3.11-slim", "cpu"]
    for target in targets:
        assert re.findall(r"^USER (\d+)$", target, re.MULTILINE)[-1] == str(user_of_the_image())
    assert f"--uid {user_of_the_image()} " in targets[0]


def test_milvus_values_are_those_of_the_chart() -> None:
    (values,) = read("milvus-values.yaml")
    for place, known in MILVUS.items():
        assert not (values[place] if place else values).keys() - known
    config = yaml.safe_load(values["extraConfigFiles"]["user.yaml"])
    assert config == {"common": {"security": {"authorizationEnabled": True}}}
    logs = [values[name]["enabled"] for name in ("woodpecker", "pulsarv3", "pulsar", "kafka")]
    assert logs.count(True) == 1
    assert values["minio"]["enabled"] != values["externalS3"]["enabled"]
    for name in ("proxy", "mixCoordinator", "queryNode", "dataNode", "streamingNode"):
        assert values[name]["replicas"] >= 2
        asked, most = (values[name]["resources"][each] for each in ("requests", "limits"))
        assert all(quantity(asked[each]) <= quantity(most[each]) for each in ("cpu", "memory"))


def test_examples_of_secrets_hold_none() -> None:
    for secret in of_kind(MANIFESTS, "Secret"):
        (text,) = secret["stringData"].values()
        assert "REPLACE-ME" in text
        assert not re.search(r"[0-9a-f]{32}", text)


def _set(*place: str | int, to: object) -> Change:
    """Return a change of one value, in the object of the kind that comes first."""

    def change(files: Files) -> None:
        kind, *path, last = place
        found: Any = one(files, str(kind))
        for each in path:
            found = found[each]
        if to is _GONE:
            del found[last]
        else:
            found[last] = to

    return change


_GONE = object()
_SERVED = ("Deployment", "spec", "template", "spec")
_CONTAINER = (*_SERVED, "containers", 0)
_CLUSTER = ("RayJob", "spec", "rayClusterSpec")
_HEAD = (*_CLUSTER, "headGroupSpec", "template", "spec", "containers", 0)
_WORKER = (*_CLUSTER, "workerGroupSpecs", 0)
_WORKER_CONTAINER = (*_WORKER, "template", "spec", "containers", 0)

BROKEN: tuple[tuple[Change, str, Change], ...] = (
    (
        check_images,
        "a tag that moves",
        _set(*_CONTAINER, "image", to="registry.example.org/lookalike:latest"),
    ),
    (check_images, "no tag", _set(*_CONTAINER, "image", to="registry.example.org/lookalike")),
    (check_images, "two versions", _set(*_HEAD, "image", to="registry.example.org/ray:0.0.9")),
    (check_sizes, "no limits", _set(*_CONTAINER, "resources", "limits", to=_GONE)),
    (
        check_sizes,
        "a worker without requests",
        _set(*_WORKER_CONTAINER, "resources", "requests", to=_GONE),
    ),
    (
        check_sizes,
        "too little memory",
        _set(*_CONTAINER, "resources", "limits", "memory", to="3Gi"),
    ),
    (check_sizes, "too many cores for it", _set(*_CONTAINER, "resources", "limits", "cpu", to="8")),
    (check_sizes, "no time to end", _set(*_SERVED, "terminationGracePeriodSeconds", to=20)),
    (check_confined, "root", _set(*_SERVED, "securityContext", "runAsUser", to=0)),
    (check_confined, "perhaps root", _set(*_SERVED, "securityContext", "runAsNonRoot", to=_GONE)),
    (
        check_confined,
        "a writable root",
        _set(*_CONTAINER, "securityContext", "readOnlyRootFilesystem", to=False),
    ),
    (
        check_confined,
        "escalation",
        _set(*_HEAD, "securityContext", "allowPrivilegeEscalation", to=True),
    ),
    (check_confined, "a free worker", _set(*_WORKER_CONTAINER, "securityContext", to={})),
    (
        check_confined,
        "images that can be written",
        _set(*_CONTAINER, "volumeMounts", 1, "readOnly", to=_GONE),
    ),
    (
        check_probes,
        "a probe without Host",
        _set(*_CONTAINER, "readinessProbe", "httpGet", "httpHeaders", to=[]),
    ),
    (
        check_probes,
        "a probe by another name",
        _set(*_CONTAINER, "livenessProbe", "httpGet", "httpHeaders", 0, "value", to="lookalike"),
    ),
    (
        check_probes,
        "a probe that needs a key",
        _set(*_CONTAINER, "readinessProbe", "httpGet", "path", to="/metrics"),
    ),
    (check_probes, "an option that is not", _set(*_CONTAINER, "args", 4, to="--key")),
    (check_probes, "a verb that is not", _set(*_CONTAINER, "args", 0, to="server")),
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
        "indexing here",
        _set("RayJob", "spec", "entrypoint", to="lookalike index milvus://m/photos /images"),
    ),
    (
        check_commands,
        "images elsewhere",
        _set(*_WORKER_CONTAINER, "volumeMounts", 0, "mountPath", to="/photos"),
    ),
    (
        check_names,
        "a Secret that is not",
        _set(*_SERVED, "volumes", 0, "secret", "secretName", to="keys"),
    ),
    (
        check_names,
        "a volume that is not",
        _set(*_CONTAINER, "volumeMounts", 1, "name", to="pictures"),
    ),
    (
        check_names,
        "pods without a policy",
        _set(*_CLUSTER, "headGroupSpec", "template", "metadata", "labels", to={"app": "ray"}),
    ),
    (check_ways_in, "a lost Service", _set("Service", "spec", "selector", to={"app": "x"})),
    (
        check_ways_in,
        "a port that is not",
        _set("Service", "spec", "ports", 0, "targetPort", to="web"),
    ),
    (
        check_ways_in,
        "a host that is refused",
        _set("Ingress", "spec", "rules", 0, "host", to="photos.example.org"),
    ),
    (
        check_ways_in,
        "an autoscaler of another",
        _set("HorizontalPodAutoscaler", "spec", "scaleTargetRef", "name", to="index"),
    ),
    (check_kuberay, "a field that KubeRay has not", _set(*_WORKER, "replica", to=4)),
    (
        check_kuberay,
        "a number for ray start",
        _set(*_WORKER, "rayStartParams", to={"num-cpus": 8}),
    ),
    (check_kuberay, "more replicas than the most", _set(*_WORKER, "replicas", to=9)),
)

WRONG: dict[str, Change] = {
    "a field that is not": _set(*_CONTAINER, "resource", to={}),
    "a text for a number": _set(*_SERVED, "terminationGracePeriodSeconds", to="45s"),
    "no selector": _set("Deployment", "spec", "selector", to=_GONE),
    "a worker's field that is not": _set(*_WORKER, "template", "spec", "volume", to=[]),
    "a worker without containers": _set(*_WORKER, "template", "spec", "containers", to=_GONE),
    "an old kind of object": _set("PodDisruptionBudget", "apiVersion", to="policy/v1beta1"),
}


@pytest.mark.parametrize(
    ("check", "change"),
    [(check, change) for check, _, change in BROKEN],
    ids=[name for _, name, _ in BROKEN],
)
def test_a_broken_manifest_is_noticed(check: Change, change: Change) -> None:
    files = copy.deepcopy(MANIFESTS)
    check(files)
    change(files)
    with pytest.raises((AssertionError, KeyError, TyperException, LookalikeError)):
        check(files)


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_the_schemas_notice_what_is_wrong(change: Change, require: Require) -> None:
    require(find_spec("kubernetes_validate"), "kubernetes-validate is not installed")
    from kubernetes_validate import SchemaNotFoundError, ValidationError

    files, right = copy.deepcopy(MANIFESTS), objects(MANIFESTS)
    change(files)
    with pytest.raises((SchemaNotFoundError, ValidationError)):
        validate([each for each in objects(files) if each not in right], KUBERNETES[-1])
