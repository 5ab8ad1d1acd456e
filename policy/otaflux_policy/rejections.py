"""Why a server does not use something that is published: one word in metrics, logs and answers."""

from enum import StrEnum


class RejectionReason(StrEnum):
    """`MEANINGS` says what each tells a person."""

    INVALID = "Invalid"
    OTHER_OBJECT = "OtherObject"
    NO_KEYS = "NoKeys"
    UNSIGNED = "Unsigned"
    UNKNOWN_KEY = "UnknownKey"
    BAD_SIGNATURE = "BadSignature"
    REPLAYED = "Replayed"


MEANINGS: dict[RejectionReason, str] = {
    RejectionReason.INVALID: "It cannot be read.",
    RejectionReason.OTHER_OBJECT: "It is that of another object, copied or renamed.",
    RejectionReason.NO_KEYS: "No key is known (yet) that it could be signed with.",
    RejectionReason.UNSIGNED: "It is not signed.",
    RejectionReason.UNKNOWN_KEY: "It is signed with a key that is not known.",
    RejectionReason.BAD_SIGNATURE: "Its signature is not that of its content.",
    RejectionReason.REPLAYED: "It is not newer than one that was in use.",
}
