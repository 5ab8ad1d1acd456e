"""The texts that manifests hold: their lengths, their formats, and what to write instead."""

from typing import Annotated

from pydantic import Field

from otaflux_operator.resources.rules import text_format

_DNS_WORD = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_HOST_LABEL = r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_REPOSITORY_SEGMENT = r"[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*"
_MEDIA_TYPE_PART = r"[A-Za-z0-9][-A-Za-z0-9!#$&^_.+]{0,126}"
_SEMVER_NUMBER = r"(0|[1-9][0-9]{0,17})"
_SEMVER_WORD = r"[-0-9A-Za-z]+"
_LABEL_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"

LABEL_KEY_LENGTH = 317
LABEL_KEY_PATTERN = rf"^({_DNS_LABEL}([.]{_DNS_LABEL})*/)?{_LABEL_NAME}$"
LABEL_KEY_MESSAGE = (
    "write a label key as Kubernetes has them: at most 63 letters, digits, - _ . that begin and "
    "end with a letter or digit, after an optional DNS name and a slash: ring or example.com/site"
)

ObjectName = Annotated[
    str,
    Field(max_length=253),
    text_format(
        rf"^{_DNS_WORD}([.]{_DNS_WORD})*$",
        "write the name of a Kubernetes object: lower case letters, digits, - and . between them",
    ),
]
Repository = Annotated[
    str,
    Field(max_length=255),
    text_format(
        rf"^((({_HOST_LABEL}([.]{_HOST_LABEL})+|localhost)(:[0-9]{{1,5}})?)"
        rf"|{_HOST_LABEL}:[0-9]{{1,5}}|\[[0-9A-Fa-f:.]{{2,45}}\](:[0-9]{{1,5}})?)"
        rf"(/{_REPOSITORY_SEGMENT})+$",
        "write host[:port]/path, the path in lower case, without https:// in front and without a "
        "tag or digest at the end: registry.example.com/firmware/thermostat",
    ),
]
Tag = Annotated[
    str,
    Field(max_length=128),
    text_format(
        r"^[A-Za-z0-9_][-A-Za-z0-9._]*$",
        "write a tag as registries have them: letters, digits, _ . - and no . or - in front: 1.4.0",
    ),
]
SemverRange = Annotated[
    str,
    Field(max_length=128),
    text_format(
        r"^[0-9A-Za-z<>=~^*][-0-9A-Za-z.+<>=~^*| ]*$",
        "write a range of semantic versions: '>=1.4.0 <2.0.0', ~1.4.0 or ^1.4.0",
    ),
]
Digest = Annotated[
    str,
    Field(max_length=71),
    text_format(
        r"^sha256:[0-9a-f]{64}$",
        "write the manifest's digest: sha256: and 64 hexadecimal digits in lower case",
    ),
]
MediaType = Annotated[
    str,
    Field(max_length=255),
    text_format(
        rf"^({_MEDIA_TYPE_PART}/{_MEDIA_TYPE_PART})?$",
        "write a media type as the layer has it: application/octet-stream",
    ),
]
PrintableText = Annotated[
    str,
    Field(max_length=255),
    text_format(r"^[^\x00-\x1f\x7f]*$", "write a text without line breaks and control characters"),
]
ReleaseVersion = Annotated[
    str,
    Field(max_length=128),
    text_format(
        r"^([A-Za-z0-9][-A-Za-z0-9._+~]*)?$",
        "write a version of letters, digits and . _ + ~ - with a letter or digit in front: 1.4.0",
    ),
]
SemanticVersion = Annotated[
    str,
    Field(max_length=128),
    text_format(
        rf"^v?{_SEMVER_NUMBER}([.]{_SEMVER_NUMBER}){{2}}"
        rf"(-{_SEMVER_WORD}([.]{_SEMVER_WORD})*)?([+]{_SEMVER_WORD}([.]{_SEMVER_WORD})*)?$",
        "write a semantic version with all three numbers: 1.2.0",
    ),
]
ReleaseReference = Annotated[
    str,
    Field(max_length=256),
    text_format(
        r"^[A-Za-z0-9][-A-Za-z0-9._+~:]*$",
        "write the version of the release or its manifest digest: 1.4.0 or sha256:<64 hex digits>",
    ),
]
RingName = Annotated[
    str,
    Field(max_length=63),
    text_format(
        rf"^{_DNS_LABEL}$",
        "write a ring's name in lower case letters, digits and -: canary",
    ),
]
DeviceName = Annotated[
    str,
    Field(max_length=128),
    text_format(
        r"^[A-Za-z0-9*?][-A-Za-z0-9._:*?]*$",
        "write a device id (letters, digits and . _ : -, a letter or digit first), or a glob with "
        '* and ?: kitchen-1 or "lab-*"',
    ),
]
Model = Annotated[
    str,
    Field(max_length=128),
    text_format(
        r"^[!-~]([ -~]*[!-~])?$",
        "write the model as devices report it: printable ASCII, no space at either end",
    ),
]
LabelKey = Annotated[
    str,
    Field(max_length=LABEL_KEY_LENGTH),
    text_format(LABEL_KEY_PATTERN, LABEL_KEY_MESSAGE),
]
LabelValue = Annotated[
    str,
    Field(max_length=128),
    text_format(
        r"^[A-Za-z0-9][-A-Za-z0-9._:]*$",
        "write a label value of letters, digits and . _ : - that begins with a letter or digit; "
        'it may not be empty: "true"',
    ),
]
Token = Annotated[
    str,
    Field(max_length=64),
    text_format(
        r"^[-A-Za-z0-9._:+]*$",
        "write a token of letters, digits and . _ : + -: 2 or 2026-01-31",
    ),
]
TimeZone = Annotated[
    str,
    Field(max_length=64),
    text_format(
        r"^[A-Za-z][-A-Za-z0-9_+]*(/[A-Za-z0-9][-A-Za-z0-9_+]*){0,2}$",
        "write a time zone of the IANA database: Europe/Berlin or UTC",
    ),
]


def _cron_field(value: str) -> str:
    entry = rf"([*]|{value}(-{value})?)(/[1-9][0-9]?)?"
    return rf"{entry}(,{entry})*"


_MONTHS = "(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_WEEKDAYS = "(?i:sun|mon|tue|wed|thu|fri|sat)"
_CRON_FIELDS = (
    _cron_field(r"[0-5]?[0-9]"),
    _cron_field(r"([01]?[0-9]|2[0-3])"),
    _cron_field(r"(0?[1-9]|[12][0-9]|3[01])"),
    _cron_field(rf"(0?[1-9]|1[0-2]|{_MONTHS})"),
    _cron_field(rf"([0-7]|{_WEEKDAYS})"),
)
Schedule = Annotated[
    str,
    Field(max_length=100),
    text_format(
        rf"^{' +'.join(_CRON_FIELDS)}$",
        'write five cron fields (minute, hour, day of month, month, day of week): "0 2 * * 1-5"',
    ),
]
