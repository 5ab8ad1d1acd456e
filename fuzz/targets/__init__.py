"""The targets by name. A new one: a function in a module beside this, an entry here, and seeds."""

from collections.abc import Callable, Mapping

from fuzz.targets import device_port, headers, images, policies

Target = Callable[[bytes], None]

TARGETS: Mapping[str, Target] = {
    "manifests": images.manifests,
    "signatures": images.signatures,
    "archives": images.archives,
    "references": images.references,
    "pull-secrets": images.pull_secrets,
    "challenges": headers.challenges,
    "ranges": headers.ranges,
    "forwarded-certificates": headers.forwarded_certificates,
    "policies": policies.policies,
    "groups": policies.groups,
    "policy-signatures": policies.policy_signatures,
    "tokens": policies.tokens,
    "device-port": device_port.device_port,
}
