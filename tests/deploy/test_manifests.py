"""Every manifest is valid for Kubernetes, and references between manifests resolve."""

import copy
from pathlib import Path

import pytest

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="the extra 'test' is not installed")
yaml = pytest.importorskip("yaml", reason="the extra 'test' is not installed")

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
DOCUMENTS = {
    f"{file.stem}-{number}": document
    for file in sorted(FOLDER.glob("*.yaml"))
    for number, document in enumerate(yaml.safe_load_all(file.read_text()))
}
BY_KIND = {document["kind"]: document for document in DOCUMENTS.values()}
RELEASES = ("1.30", kubernetes_validate.latest_version())
"""The oldest with all that is used (sleep before a stop), and the newest whose schema is known."""
POD = BY_KIND["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_document_fits_the_schema(name, release):
    assert release.startswith(kubernetes_validate.validate(DOCUMENTS[name], release, strict=True))


def test_the_schema_sees_a_wrong_word_and_a_wrong_type():
    for key, value in (("readinesProbe", {}), ("args", "serve")):
        wrong = copy.deepcopy(BY_KIND["Deployment"])
        wrong["spec"]["template"]["spec"]["containers"][0][key] = value
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, RELEASES[-1], strict=True)


def test_all_kinds_are_there_once():
    kinds = ["Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PersistentVolumeClaim"]
    assert sorted(document["kind"] for document in DOCUMENTS.values()) == [*kinds, "PodDisruptionBudget", "Service"]


def test_selectors_find_the_pods():
    labels = POD["metadata"]["labels"].items()
    selectors = [
        BY_KIND["Deployment"]["spec"]["selector"]["matchLabels"],
        BY_KIND["Service"]["spec"]["selector"],
        BY_KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        BY_KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(one["labelSelector"]["matchLabels"] for one in POD["spec"]["topologySpreadConstraints"]),
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)


def test_names_lead_somewhere():
    target = BY_KIND["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    deployment = BY_KIND["Deployment"]
    assert (target["apiVersion"], target["kind"], target["name"]) == (
        deployment["apiVersion"],
        deployment["kind"],
        deployment["metadata"]["name"],
    )
    assert "replicas" not in deployment["spec"], "two would decide"
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == set(volumes)
    claim = volumes["bundle"]["persistentVolumeClaim"]["claimName"]
    assert claim == BY_KIND["PersistentVolumeClaim"]["metadata"]["name"]


def test_the_port_is_the_one_that_is_served():
    arguments = CONTAINER["args"]
    (port,) = CONTAINER["ports"]
    assert arguments[arguments.index("--port") + 1] == str(port["containerPort"])
    assert BY_KIND["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert BY_KIND["NetworkPolicy"]["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["name"]}]
    probes = {name: CONTAINER[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {one["port"] for one in probes.values()} == {port["name"]}
    assert probes["readinessProbe"]["path"] == "/health/ready"
    assert probes["livenessProbe"]["path"] == probes["startupProbe"]["path"] == "/health/live"


def test_the_probes_are_routes_of_the_server():
    from lanner.serving.http.routes import ROUTES

    assert {"/health/ready", "/health/live"} <= {route.path for route in ROUTES}


def test_a_pod_may_do_nothing_that_it_need_not():
    pod, container = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["readOnlyRootFilesystem"] is True
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert POD["spec"]["automountServiceAccountToken"] is False
    assert set(BY_KIND["NetworkPolicy"]["spec"]["policyTypes"]) == {"Ingress", "Egress"}


def test_memory_is_bounded_and_the_image_is_pinned():
    assert {"cpu", "memory"} <= CONTAINER["resources"]["requests"].keys()
    assert "memory" in CONTAINER["resources"]["limits"]
    assert CONTAINER["image"].partition(":")[2] not in ("", "latest")
    assert all("sizeLimit" in one["emptyDir"] for one in POD["spec"]["volumes"] if "emptyDir" in one)


def test_what_is_written_has_a_place():
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in CONTAINER["volumeMounts"]}
    assert mounts == {"/bundle": True, "/etc/lanner": True, "/data": False, "/tmp": False}


def test_no_secret_stands_in_the_manifests():
    assert "Secret" not in BY_KIND
    assert all("value" not in one for one in CONTAINER["env"])
    assert not any("$(" in one for one in CONTAINER["args"]), "arguments of a process are readable by others"


def test_a_pod_has_time_to_leave():
    sleep = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["spec"]["terminationGracePeriodSeconds"] >= sleep + 30
    assert BY_KIND["HorizontalPodAutoscaler"]["spec"]["minReplicas"] >= 2
