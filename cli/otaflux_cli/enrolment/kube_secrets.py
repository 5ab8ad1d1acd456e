"""A Secret as a store, with the permissions that kubectl has: get, create, patch."""

import base64
import http.client
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config

from otaflux_cli.enrolment.stores import Contents, Edit
from otaflux_cli.errors import UserError

MOST_BYTES = 1024 * 1024
"""The sum of a Secret's values (Kubernetes, `MaxSecretSize`)."""

_ATTEMPTS = 20
_TIMEOUT = 30.0
_LABELS = {"app.kubernetes.io/part-of": "otaflux"}


class Secret:
    """The Secret `namespace/name` of the cluster that kubectl would talk to.

    `kind` is the type of one that has to be made; `when_full` says what to do when what is to be
    written is too much for a Secret.
    """

    def __init__(
        self,
        namespace: str,
        name: str,
        *,
        kubeconfig: Path | None,
        kind: str = "Opaque",
        when_full: str,
    ) -> None:
        self._namespace, self._name, self._kind = namespace, name, kind
        self._when_full = when_full
        configuration = client.Configuration()
        configuration.retries = 0  # a person waits, and sees what is wrong
        try:
            config.load_kube_config(
                config_file=None if kubeconfig is None else str(kubeconfig),
                client_configuration=configuration,
                persist_config=False,
            )
        except Exception as error:  # the library's, or whatever its parsers raise
            # Its text is left out: it may quote the file.
            raise UserError(
                f"there is no usable kubeconfig ({type(error).__name__})",
                hint="Set KUBECONFIG, give --kubeconfig FILE, or keep it in files instead.",
            ) from None
        self._api = client.CoreV1Api(client.ApiClient(configuration))

    def __str__(self) -> str:
        return f"the Secret {self._namespace}/{self._name}"

    def read(self) -> dict[str, bytes]:
        """See `Store`."""
        return self._get()[0]

    def change(self, edit: Edit) -> None:
        """See `Store`. Where another was faster, the edit is made anew on what that one wrote."""
        for _ in range(_ATTEMPTS):
            before, version = self._get()
            changed = edit(before)
            if not changed:
                return
            if sum(map(len, {**before, **changed}.values())) > MOST_BYTES:
                raise UserError(f"{self} would be larger than 1 MiB", hint=self._when_full)
            if self._write(changed, version):
                return
        raise UserError(f"{self} is changed by others all the time: try again")

    def _get(self) -> tuple[dict[str, bytes], str | None]:
        try:
            found: Any = self._api.read_namespaced_secret(
                self._name, self._namespace, _request_timeout=_TIMEOUT
            )
        except client.ApiException as error:
            if error.status == http.client.NOT_FOUND:
                return {}, None
            raise self._refused("read", error) from None
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from None
        data = {key: base64.b64decode(value) for key, value in (found.data or {}).items()}
        return data, found.metadata.resource_version

    def _write(self, changed: Contents, version: str | None) -> bool:
        """Whether it was written; False where somebody else wrote since `version`."""
        body: Any = {
            "metadata": {"resourceVersion": version},
            "data": {key: base64.b64encode(value).decode() for key, value in changed.items()},
        }
        try:
            if version is None:
                body["metadata"] = {"name": self._name, "labels": _LABELS}
                self._api.create_namespaced_secret(
                    self._namespace, body | {"type": self._kind}, _request_timeout=_TIMEOUT
                )
            else:
                self._api.patch_namespaced_secret(
                    self._name, self._namespace, body, _request_timeout=_TIMEOUT
                )
        except client.ApiException as error:
            if error.status == http.client.CONFLICT:
                return False
            if version is None and error.status == http.client.NOT_FOUND:
                raise UserError(
                    f"there is no namespace {self._namespace}",
                    hint="Name the Secret as NAMESPACE/NAME: the update server's namespace.",
                ) from None
            raise self._refused("written", error) from None
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from None
        return True

    def _refused(self, what: str, error: client.ApiException) -> UserError:
        # Not its body: it may repeat what is in the Secret.
        hint = ""
        if error.status == http.client.FORBIDDEN:
            hint = "You need get, create and patch on it: `kubectl auth can-i patch secrets`."
        elif error.status == http.client.UNAUTHORIZED:
            hint = "Your kubeconfig's credentials are not accepted: try `kubectl auth whoami`."
        return UserError(f"{self} cannot be {what}: {error.status} {error.reason}", hint=hint)

    def _unreachable(self, error: Exception) -> UserError:
        return UserError(
            f"the API server cannot be reached ({type(error).__name__})",
            hint="Try `kubectl version`; another cluster: --kubeconfig FILE, or KUBECONFIG.",
        )
