"""Whether a manifest digest is signed by one of some public keys, as cosign signs.

    keys = public_keys({"release.pub": pem})
    proof = await verify(source, repository, digest, keys)   # or a SignatureError

Two forms are read: signatures under the tag `sha256-<hex>.sig` (cosign up to 2), and Sigstore
bundles that refer to the manifest (cosign 3). Verification by key alone: the transparency log is
not looked at.
"""

from .keys import PublicKey, public_keys
from .verifying import Proof, verify

__all__ = ["Proof", "PublicKey", "public_keys", "verify"]
