"""`examples/enrolment/`: what Kubernetes can check it checks; cert-manager's fields are listed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from otaflux_cli.control_plane.api_servers import ControlPlane
from otaflux_cli.enrolment.tokens import DEFAULT_SECRET
from otaflux_server.settings import Settings
from otaflux_server.settings.identities import DEVICE_PATTERN

FOLDER = Path(__file__).parents[3] / "examples" / "enrolment"

ISSUER = {"ca": {"secretName": str}}
CERTIFICATE = {
    "secretName": str,
    "uris": [str],
    "usages": ["digital signature", "client auth"],
    "privateKey": {"algorithm": ("RSA", "ECDSA"), "size": int, "encoding": ("PKCS1", "PKCS8")},
    "duration": str,
    "renewBefore": str,
    "issuerRef": {"name": str, "kind": ("Issuer", "ClusterIssuer"), "group": ("cert-manager.io",)},
}
"""Fields of cert-manager.io/v1, from its CustomResourceDefinitions (v1.19)."""

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "otaflux-server"},
    "spec": {
        "selector": {"matchLabels": {"app": "server"}},
        "template": {
            "metadata": {"labels": {"app": "server"}},
            "spec": {"containers": [{"name": "server", "image": "example.com/otaflux"}]},
        },
    },
}


def check(value: Any, schema: Any, where: str) -> None:
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        assert set(value) <= set(schema), where
        for key, inner in value.items():
            check(inner, schema[key], f"{where}.{key}")
    elif isinstance(schema, list):
        assert value, where
        if schema[0] is str:
            assert all(isinstance(item, str) for item in value), where
        else:
            assert set(value) <= set(schema), where
    elif isinstance(schema, tuple):
        assert value in schema, where
    else:
        assert isinstance(value, schema), where


def test_cert_manager_knows_the_fields_and_the_server_the_name() -> None:
    issuer, certificate = yaml.safe_load_all((FOLDER / "cert-manager.yaml").read_text())
    for found, kind, schema in (
        (issuer, "Issuer", ISSUER),
        (certificate, "Certificate", CERTIFICATE),
    ):
        assert (found["apiVersion"], found["kind"]) == ("cert-manager.io/v1", kind)
        check(found["spec"], schema, kind)
    spec = certificate["spec"]
    assert {"secretName", "issuerRef", "uris", "usages"} <= set(spec)
    assert [re.fullmatch(DEVICE_PATTERN, uri) is not None for uri in spec["uris"]] == [True]
    assert spec["issuerRef"]["name"] == issuer["metadata"]["name"]
    assert certificate["metadata"]["namespace"] == issuer["metadata"]["namespace"]
    assert all(re.fullmatch(r"\d+h", spec[key]) for key in ("duration", "renewBefore"))


def test_the_schema_refuses_a_field_that_is_misspelt() -> None:
    with pytest.raises(AssertionError):
        check({"uriSans": ["otaflux://a/b"]}, CERTIFICATE, "")


@pytest.mark.parametrize("name", ["server-tokens.yaml", "server-certificates.yaml"])
async def test_the_patches_fit_a_deployment_and_the_servers_settings(
    control_plane: ControlPlane, namespace: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = control_plane
    await plane.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(DEPLOYMENT))
    await plane.kubectl(
        *("patch", "deployment", "otaflux-server", "-n", namespace),
        *("--patch-file", str(FOLDER / name)),
    )
    found = await plane.kubectl_json("get", "deployment", "otaflux-server", "-n", namespace)
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    settings = Settings()  # an unknown name below a section is refused
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    if name == "server-tokens.yaml":
        assert str(settings.identity.tokens) == mounts["device-tokens"]
        (source,) = pod["volumes"][0]["projected"]["sources"]
        assert source["secret"]["name"] == DEFAULT_SECRET
        return
    given = {item["path"] for item in pod["volumes"][1]["secret"]["items"]}
    assert given == {"ca.crt", "crl.pem"}, "and never the authority's key"
    files = (settings.tls.client_ca, settings.tls.crl)
    assert {str(file) for file in files} == {f"{mounts['device-ca']}/{path}" for path in given}
