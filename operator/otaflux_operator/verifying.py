"""Whether a release may go out by `spec.verify`: who signed it, and for what."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from otaflux_oci import Resolved, SignatureError, Source
from otaflux_oci.manifests import PRODUCT_ANNOTATION, VERSION_ANNOTATION
from otaflux_oci.signatures import PublicKey, public_keys, verify
from otaflux_oci.versions import semantic_version
from otaflux_operator.accesses import SecretProblem
from otaflux_operator.engine import Proof
from otaflux_operator.ports import Secrets
from otaflux_operator.reasons import Reason, registry_reason
from otaflux_operator.resources import Verify


class NotVerified(Exception):
    """The release may not go out; a person is needed."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Signers:
    """The keys that may sign, and the product they have to sign for (empty: any)."""

    keys: tuple[PublicKey, ...]
    product: str

    @property
    def mark(self) -> str:
        """Changes with the keys, their names and the product."""
        parts = [self.product.encode()]
        parts += [part for key in self.keys for part in (key.name.encode(), key.der)]
        return sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).hexdigest()


async def signers(secrets: Secrets, namespace: str, spec: Verify) -> Signers:
    """From the Secret that `spec.verify` names, in the rollout's own namespace.

    Raises:
        SecretProblem: it is missing, or a key in it cannot be used.
        Unavailable: it cannot be read now.
    """
    name = spec.secret_ref.name
    data = await secrets.secret(namespace, name)
    if data is None:
        raise SecretProblem(
            Reason.KEY_SECRET_NOT_FOUND,
            f"spec.verify.secretRef names the Secret {name}, which does not exist in the "
            f"namespace {namespace}: create it with the public keys, `kubectl create secret "
            f"generic {name} --from-file=cosign.pub`.",
        )
    return Signers(_keys(data, name), spec.product)


def _keys(data: Mapping[str, bytes], name: str) -> tuple[PublicKey, ...]:
    try:
        return public_keys(data)
    except SignatureError as error:
        problem = SecretProblem(
            registry_reason(error.reason),
            f"The Secret {name} of spec.verify is not usable: {error}",
        )
    raise problem


class Verifier:
    """Checks releases by the keys as they are now; none where they are not usable.

    `known`: by digest, what verified before and by which keys; it is added to, so that nothing is
    verified twice by the same ones.
    """

    def __init__(
        self, signers: Signers | SecretProblem, known: dict[str, tuple[str, Proof]]
    ) -> None:
        self._signers = signers
        self._known = known

    def proof(self, digest: str) -> Proof | None:
        """What is known by now to verify."""
        if isinstance(self._signers, SecretProblem):
            return None
        mark, proof = self._known.get(digest, ("", None))
        return proof if mark == self._signers.mark else None

    async def verify(self, source: Source, resolved: Resolved) -> Proof:
        """The proof that the release may go out.

        Raises:
            NotVerified: it may not.
            OciError: that is not known, as the registry gives no answer.
        """
        if isinstance(self._signers, SecretProblem):
            raise NotVerified(self._signers.reason, str(self._signers))
        if (proof := self.proof(resolved.digest)) is not None:
            return proof
        try:
            signed = await verify(source, resolved.repository, resolved.digest, self._signers.keys)
        except SignatureError as error:
            raise NotVerified(registry_reason(error.reason), str(error)) from None
        require_identity(resolved, self._signers.product)
        proof = Proof(signed.key, datetime.now(UTC).replace(microsecond=0))
        self._known[resolved.digest] = self._signers.mark, proof
        return proof


def require_identity(resolved: Resolved, product: str) -> None:
    """What a signed manifest has to say of itself, so that it cannot go by another name.

    A tag that is a semantic version has to be the annotated one to the letter: what
    `otaflux_oci.resolve` overlooks in any release, the build, is another release when it is signed.

    Raises:
        NotVerified: it does not say its version, or says another than the tag, or another product.
    """
    said = resolved.annotations
    where = f"The manifest {resolved.digest}"
    if VERSION_ANNOTATION not in said:
        raise NotVerified(
            Reason.VERSION_ANNOTATION_MISSING,
            f"{where} is signed, but does not say its version, so it could go by any tag: push it "
            f"with the annotation {VERSION_ANNOTATION} and sign that.",
        )
    tagged = semantic_version(resolved.reference)
    if tagged is not None and tagged != semantic_version(said[VERSION_ANNOTATION]):
        raise NotVerified(
            Reason.VERSION_MISMATCH,
            f"{where} is signed as {said[VERSION_ANNOTATION]} ({VERSION_ANNOTATION}), not as the "
            f"{resolved.reference} of its tag: push and sign it as that, or name it by its digest.",
        )
    if product and said.get(PRODUCT_ANNOTATION) != product:
        names = (
            f"names {said[PRODUCT_ANNOTATION][:128]!r}"
            if PRODUCT_ANNOTATION in said
            else ("names none")
        )
        raise NotVerified(
            Reason.PRODUCT_MISMATCH,
            f"{where} is signed, but its annotation {PRODUCT_ANNOTATION} {names} instead of "
            f"{product!r} (spec.verify.product): push it with that annotation and sign that.",
        )
