"""The Kubernetes manifests: confinement, probes, network, and settings that there are."""

import ipaddress
from typing import Any

import pytest

from server.settings import GatewaySettings, parse_models
from tests.deploy.project import ROOT, USER_ID, assert_are_settings, assert_is_command, read, read_yaml
from tests.deploy.test_image import parse_stages
from workers.media.guard import is_public_address

BASE, CHECKPOINT = "deploy/kubernetes/base", "deploy/kubernetes/checkpoint"
NAME = {"app.kubernetes.io/name": "glimpsed"}


@pytest.fixture(scope="module")
def deployment() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(f"{BASE}/deployment.yaml")["spec"]
    return found


@pytest.fixture(scope="module")
def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = deployment["template"]["spec"]
    return found


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("folder", [BASE, CHECKPOINT])
def test_a_kustomization_names_files_that_are_there(folder: str) -> None:
    kustomization = read_yaml(f"{folder}/kustomization.yaml")
    named = [*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", []))]
    assert named and all((ROOT / folder / path).exists() for path in named)


def test_the_pod_has_no_privileges(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(pod)
    user = pod["securityContext"]
    assert user["runAsNonRoot"] is True
    assert user["runAsUser"] == user["runAsGroup"] == user["fsGroup"] == USER_ID
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    labels = read_yaml(f"{BASE}/namespace.yaml")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_only_tmp_can_be_written_and_its_size_is_bounded(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    (volume,) = pod["volumes"]
    assert volume["emptyDir"]["sizeLimit"]


def test_the_services_own_variables_do_not_become_settings(pod: dict[str, Any]) -> None:
    # A service called glimpsed would set GLIMPSED_PORT=tcp://..., which is a setting's name.
    assert "port" in GatewaySettings.model_fields
    assert read_yaml(f"{BASE}/service.yaml")["metadata"]["name"] == "glimpsed"
    assert pod["enableServiceLinks"] is False


def test_the_command_and_its_variables_are_real(container: dict[str, Any]) -> None:
    assert_is_command(container["args"])
    assert "command" not in container
    assert_are_settings([variable["name"] for variable in container["env"]])


def test_probes_ask_paths_that_need_no_key(container: dict[str, Any]) -> None:
    from server.auth import OPEN_PATHS

    asked = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert set(asked.values()) <= OPEN_PATHS
    (port,) = container["ports"]
    assert port == {"name": "http", "containerPort": GatewaySettings.model_fields["port"].default}
    assert parse_stages()["runtime"].all("EXPOSE") == [str(port["containerPort"])]


def test_the_pod_outlives_the_drain(pod: dict[str, Any], container: dict[str, Any]) -> None:
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain_s = GatewaySettings.model_fields["shutdown_timeout"].default
    assert pod["terminationGracePeriodSeconds"] >= pause_s + drain_s + 10


def test_the_container_has_requests_and_limits(container: dict[str, Any]) -> None:
    for part in ("requests", "limits"):
        assert {"cpu", "memory"} <= set(container["resources"][part])


def test_selectors_match_the_pod(deployment: dict[str, Any]) -> None:
    assert deployment["template"]["metadata"]["labels"] == NAME
    assert deployment["selector"]["matchLabels"] == NAME
    assert read_yaml(f"{BASE}/service.yaml")["spec"]["selector"] == NAME
    assert read_yaml(f"{BASE}/networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"] == NAME


def test_kustomize_leaves_the_policys_peers_alone() -> None:
    # includeSelectors and commonLabels would add our label to them, and DNS would be cut off.
    kustomization = read_yaml(f"{BASE}/kustomization.yaml")
    assert "commonLabels" not in kustomization
    assert not any(entry.get("includeSelectors") for entry in kustomization["labels"])


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "10.96.0.1", "172.20.3.4", "192.168.1.1", "169.254.169.254", "127.0.0.1", "100.64.0.1",
     "168.63.129.16", "0.0.0.0", "224.0.0.1", "fd00::1", "fe80::1", "::1", "93.184.216.34", "2606:4700::1111"],
)  # fmt: skip
def test_the_network_policy_lets_out_what_the_media_guard_lets_out(address: str) -> None:
    policy = read_yaml(f"{BASE}/networkpolicy.yaml")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    web = [rule for rule in policy["egress"] if any("ipBlock" in peer for peer in rule["to"])]
    assert len(web) == 1 and {port["port"] for port in web[0]["ports"]} == {80, 443}
    assert any(_holds(peer["ipBlock"], address) for peer in web[0]["to"]) == is_public_address(address)


def test_the_checkpoint_overlay_patches_the_same_container(container: dict[str, Any]) -> None:
    patch = read_yaml(f"{CHECKPOINT}/deployment.yaml")
    base = read_yaml(f"{BASE}/deployment.yaml")
    assert (patch["kind"], patch["metadata"]["name"]) == (base["kind"], base["metadata"]["name"])
    (patched,) = patch["spec"]["template"]["spec"]["containers"]
    assert patched["name"] == container["name"]
    assert_is_command(patched["args"])
    assert_are_settings([variable["name"] for variable in patched["env"]])
    (spec,) = parse_models(patched["args"][1:])
    mounts = {mount["mountPath"]: mount for mount in patched["volumeMounts"]}
    assert spec.model.startswith("/models/") and mounts["/models"]["readOnly"] is True


def test_the_secret_that_the_page_creates_is_the_one_that_the_pod_reads(container: dict[str, Any]) -> None:
    (key,) = [variable for variable in container["env"] if variable["name"] == "GLIMPSED_API_KEY"]
    secret = key["valueFrom"]["secretKeyRef"]
    assert f"create secret generic {secret['name']} --from-literal={secret['key']}=" in read("deploy/README.md")
    assert not secret.get("optional")


def _holds(block: dict[str, Any], text: str) -> bool:
    address = ipaddress.ip_address(text)
    excluded = [ipaddress.ip_network(network) for network in block.get("except", [])]
    return address in ipaddress.ip_network(block["cidr"]) and not any(address in network for network in excluded)
