"""What deploy/ ships is rendered by kubectl, checked against the API's schemas, and names only metrics that exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".venv" / "tools" / "usr" / "bin"
KUBERNETES = "1.34"
KEDA = "keda.sh/v1alpha1"  # its types are a custom resource, which the API's schemas do not know


def tool(name: str) -> str:
    """The system's program, or the one tests/deploy/install.sh unpacked."""
    found = shutil.which(name) or shutil.which(name, path=str(TOOLS))
    assert found, f"{name} is missing: run tests/deploy/install.sh .venv/tools, or install it"
    return found


def rendered(folder: str) -> list[dict]:
    text = subprocess.run([tool("kubectl"), "kustomize", str(ROOT / "deploy" / "kubernetes" / folder)], check=True, capture_output=True, text=True, timeout=60).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(documents: list[dict], kind: str) -> dict[str, dict]:
    return {d["metadata"]["name"]: d for d in documents if d["kind"] == kind}


@pytest.mark.parametrize("folder", ["base", "gpu"])
def test_manifests_match_the_schemas(folder):
    documents = rendered(folder)
    for document in documents:
        if document["apiVersion"] != KEDA:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    deployments, budgets, scaled = (of_kind(documents, kind) for kind in ("Deployment", "PodDisruptionBudget", "ScaledObject"))
    assert set(deployments) == {"gateway", "portal", "worker-stt", "worker-llm", "worker-tts", "worker-default", "beat"}
    assert set(budgets) == set(deployments) - {"beat"}  # there is one beat, ever
    assert set(scaled) == {"gateway", "worker-stt", "worker-llm", "worker-tts"}
    for name, document in scaled.items():
        assert document["spec"]["scaleTargetRef"]["name"] == name
        assert 1 < document["spec"]["minReplicaCount"] < document["spec"]["maxReplicaCount"]
        assert all(t["type"] == "prometheus" and {"serverAddress", "query", "threshold"} <= set(t["metadata"]) for t in document["spec"]["triggers"])


def test_every_pod_is_probed_confined_and_knows_the_settings():
    documents = rendered("base")
    [settings] = of_kind(documents, "ConfigMap")
    for name, deployment in of_kind(documents, "Deployment").items():
        pod = deployment["spec"]["template"]["spec"]
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
        assert [list(source.values())[0]["name"] for source in container["envFrom"]] == [settings, "vivavoce"]
        assert container["resources"]["requests"]
        if name in ("gateway", "portal"):
            assert container["readinessProbe"]["httpGet"]["path"] == "/ready" and container["livenessProbe"]["httpGet"]["path"] == "/health"
        elif name.removeprefix("worker-") in ("stt", "llm", "tts"):
            assert container["livenessProbe"]["exec"]["command"][:3] == ["python", "-m", "config.alive"]
    assert of_kind(documents, "Deployment")["gateway"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 30  # the drain


def test_gpu_workers_get_a_gpu_and_the_models():
    for name, deployment in of_kind(rendered("gpu"), "Deployment").items():
        pod = deployment["spec"]["template"]["spec"]
        [container] = pod["containers"]
        if name in ("worker-stt", "worker-llm", "worker-tts"):
            assert container["resources"]["limits"]["nvidia.com/gpu"] == "1" and container["image"].startswith("vivavoce/worker-gpu:")
            assert {"mountPath": "/models", "name": "models", "readOnly": True} in container["volumeMounts"]
            assert {"mountPath": "/tmp", "name": "tmp"} in container["volumeMounts"]
        else:
            assert "nvidia.com/gpu" not in container["resources"].get("limits", {})


def test_alert_rules_hold():
    for command in (["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]):
        result = subprocess.run([tool("promtool"), *command], cwd=ROOT / "deploy" / "prometheus", capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr


def test_rules_board_and_scaling_name_metrics_that_exist(stack):
    with urllib.request.urlopen(f"{stack.base_url}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    known = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    board = json.loads((ROOT / "deploy/grafana/board.json").read_text())
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    queries += [t["metadata"]["query"] for d in of_kind(rendered("base"), "ScaledObject").values() for t in d["spec"]["triggers"]]
    for query in queries:
        for name in re.findall(r"\bvoice_\w+", query):
            assert name in known or re.sub(r"_(bucket|sum|count)$", "", name) in known, f"{name} in {query}"


REALM = ROOT / "deploy" / "keycloak" / "realm.json"
TYPES = "@keycloak/keycloak-admin-client/lib/defs/realmRepresentation.js"
SCOPES = {"basic", "profile", "email", "roles", "web-origins", "offline_access"}  # those of Keycloak's own that we name
MAPPERS = {"oidc-group-membership-mapper", "oidc-audience-mapper"}


def misfits(text: str) -> str:
    """What Keycloak's own types (of its admin client) say against a realm file; "" = nothing."""
    subprocess.run(["sh", str(ROOT / "tests" / "deploy" / "types.sh")], check=True, timeout=150)
    folder = ROOT / "build" / "types"
    source = folder / "realm.ts"
    source.write_text(f'import type RealmRepresentation from "{TYPES}";\nexport const realm: RealmRepresentation = {text};\n')
    path = f"{os.environ['PATH']}:{ROOT / '.venv-clients' / 'bin'}"
    command = [str(folder / "node_modules" / ".bin" / "tsc"), "--strict", "--noEmit", "--skipLibCheck", "--module", "nodenext", "--target", "es2022", source.name]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": path}).stdout


def test_the_realm_file_has_the_types_of_keycloak():
    """Without Keycloak: its shape, by the types its maker ships. What types cannot say (names of scopes and mappers) is asked below."""
    text = REALM.read_text()
    assert misfits(text) == ""
    assert "redirectUrls" in misfits(text.replace("redirectUris", "redirectUrls")) and "TS2322" in misfits(text.replace('"enabled": true', '"enabled": "yes"'))


def test_the_realm_file_holds_what_the_portal_needs():
    realm = json.loads(REALM.read_text())
    [client] = realm["clients"]
    assert client["serviceAccountsEnabled"] and client["standardFlowEnabled"] and not client["implicitFlowEnabled"] and not client["publicClient"]
    assert client["attributes"]["pkce.code.challenge.method"] == "S256" and client["redirectUris"] == ["http://localhost:28000/oidc/callback/"]
    assert set(client["defaultClientScopes"]) | set(client["optionalClientScopes"]) == SCOPES and {m["protocolMapper"] for m in client["protocolMappers"]} == MAPPERS
    [service] = [u for u in realm["users"] if "serviceAccountClientId" in u]  # looks accounts up
    assert service["serviceAccountClientId"] == client["clientId"] and service["clientRoles"] == {"realm-management": ["view-users"]}
    groups = {f"/{g['name']}/{sub['name']}" for g in realm["groups"] for sub in g["subGroups"]}
    roles = {"owner", "admin", "developer", "billing", "viewer"}
    assert roles <= {r["name"] for r in realm["roles"]["realm"]} and groups == {f"/demo/{role}" for role in roles}
    assert {g for u in realm["users"] for g in u.get("groups", ())} == groups
