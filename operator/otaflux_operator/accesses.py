"""From the Secrets that a rollout refers to, to what its registry needs."""

from collections.abc import Mapping

from otaflux_oci import Basic, Credentials, IdentityToken, InvalidCredentials, Repository
from otaflux_operator.ports import Secrets
from otaflux_operator.reasons import Reason
from otaflux_operator.resources import Artifact
from otaflux_policy.credentials import RegistryAccess

DOCKER_CONFIG = ".dockerconfigjson"
CA = "ca.crt"
CERTIFICATE = "tls.crt"
KEY = "tls.key"


class SecretProblem(Exception):
    """A Secret is missing or cannot be used; the message names it, and holds nothing of it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


async def registry_access(
    secrets: Secrets, namespace: str, artifact: Artifact, repository: Repository
) -> RegistryAccess:
    """What the artifact's Secrets hold for its registry; empty where it names none.

    Raises:
        SecretProblem: one of them is missing or malformed.
        Unavailable: they cannot be read now.
    """
    fields: dict[str, str] = {}
    if artifact.secret_ref is not None:
        name = artifact.secret_ref.name
        data = await _secret(secrets, namespace, name, "secretRef")
        fields |= _credentials(data, name, repository)
    if artifact.cert_secret_ref is not None:
        name = artifact.cert_secret_ref.name
        fields |= _certificates(await _secret(secrets, namespace, name, "certSecretRef"), name)
    return RegistryAccess(**fields)


async def _secret(secrets: Secrets, namespace: str, name: str, field: str) -> Mapping[str, bytes]:
    data = await secrets.secret(namespace, name)
    if data is None:
        raise SecretProblem(
            Reason.SECRET_NOT_FOUND,
            f"spec.artifact.{field} names the Secret {name}, which does not exist in the "
            f"namespace {namespace}: create it.",
        )
    return data


def _credentials(data: Mapping[str, bytes], name: str, repository: Repository) -> dict[str, str]:
    document = data.get(DOCKER_CONFIG)
    if document is None:
        raise _invalid(
            name,
            f"has no {DOCKER_CONFIG}: create it with `kubectl create secret docker-registry`",
        )
    problem = ""
    try:
        known = Credentials.from_dockerconfigjson(document)
    except InvalidCredentials as error:
        problem = str(error)
    if problem:
        raise _invalid(name, f"cannot be used: {problem}")
    match known.for_repository(repository):
        case Basic(username, password):
            return {"username": username, "password": password}
        case IdentityToken(token):
            return {"identity_token": token}
    listed = ", ".join(known.registries) or "none"
    raise _invalid(name, f"has no credentials for {repository}; it has them for: {listed}")


def _certificates(data: Mapping[str, bytes], name: str) -> dict[str, str]:
    fields = {"ca": CA, "cert": CERTIFICATE, "key": KEY}
    texts = {field: _pem(data[key], name, key) for field, key in fields.items() if key in data}
    if not texts:
        raise _invalid(name, f"has no {CA}")
    if ("cert" in texts) != ("key" in texts):
        raise _invalid(name, f"needs both {CERTIFICATE} and {KEY} for a client certificate")
    return texts


def _pem(value: bytes, name: str, key: str) -> str:
    text = value.decode(errors="replace")
    if "-----BEGIN " not in text or "\ufffd" in text:
        raise _invalid(name, f"has a {key} that is not PEM")
    return text


def _invalid(name: str, problem: str) -> SecretProblem:
    return SecretProblem(Reason.SECRET_INVALID, f"The Secret {name} {problem}.")
