"""Manifests from a folder: `*.yaml`, `*.yml` and `*.json`, several documents to a file."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import from_json, to_json

from otaflux_operator.ports import Key, Kind
from otaflux_operator.resources import InvalidManifest, parse_group, parse_rollout
from otaflux_server.settings import NAMESPACE_PATTERN

SUFFIXES = (".yaml", ".yml", ".json")
MOST_FILES = 1000
MOST_BYTES = 4 * 1024 * 1024
_KINDS = "FirmwareRollout, DeviceGroup and Secret"
Name = tuple[str, str]
_NAMESPACE = re.compile(NAMESPACE_PATTERN)


class InvalidFile(Exception):
    """The file holds something else than manifests; each problem names document and field."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class FileContent:
    """The manifests of one file; `secrets` decoded, by namespace and name."""

    manifests: dict[Key, dict[str, Any]] = field(default_factory=dict)
    secrets: dict[Name, dict[str, bytes]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Folder:
    """What a folder holds: the content of each valid file, the problems of each other one."""

    files: dict[str, FileContent]
    problems: dict[str, tuple[str, ...]]


def read_folder(folder: Path) -> Folder:
    """Reads every manifest file directly in `folder`, in order of their names.

    Raises:
        OSError: the folder itself cannot be read.
    """
    files: dict[str, FileContent] = {}
    problems: dict[str, tuple[str, ...]] = {}
    taken: dict[Key, str] = {}
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    for name in names[MOST_FILES:]:
        problems[name] = (f"only the first {MOST_FILES} files are read: use fewer, larger ones",)
    for name in names[:MOST_FILES]:
        if name.startswith("."):
            continue
        try:
            content = read_file(folder / name)
            twice = [
                f"{key} is in {taken[key]} already: remove one of them"
                for key in content.manifests
                if key in taken
            ]
            if twice:
                raise InvalidFile(twice)
        except InvalidFile as error:
            problems[name] = error.problems
            continue
        files[name] = content
        taken.update(dict.fromkeys(content.manifests, name))
    return Folder(files, problems)


def read_file(path: Path) -> FileContent:
    """The manifests of one file.

    Raises:
        InvalidFile: it cannot be read, is not YAML, or a document in it is not valid.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidFile([f"cannot be read: {error.strerror}"]) from None
    if len(data) > MOST_BYTES:
        raise InvalidFile([f"is larger than {MOST_BYTES} bytes: split it"])
    try:
        documents = list(yaml.load_all(data, _Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InvalidFile([f"{where}{error.problem or error.context}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        raise InvalidFile(["is not YAML"]) from None
    content = FileContent()
    problems: list[str] = []
    for number, document in enumerate(documents, 1):
        if document is None:
            continue
        where = f"document {number}: " if len(documents) > 1 else ""
        try:
            _take(document, content)
        except (InvalidManifest, InvalidFile) as error:
            problems += [f"{where}{problem}" for problem in error.problems]
        except ValueError:
            problems.append(f"{where}holds a value that JSON cannot: write texts and numbers")
    if problems:
        raise InvalidFile(problems)
    return content


def _take(document: Any, content: FileContent) -> None:
    if not isinstance(document, Mapping):
        raise InvalidFile(["write an object with apiVersion, kind, metadata and spec"])
    kind = document.get("kind")
    if kind == "Secret":
        name, data = _secret(document)
        content.secrets[name] = data
        return
    if kind not in set(Kind):
        raise InvalidFile([f"kind: write one of {_KINDS}"])
    parsed = parse_rollout(document) if kind == Kind.ROLLOUT else parse_group(document)
    key = Key(Kind(kind), parsed.metadata.namespace, parsed.metadata.name)
    if not _NAMESPACE.fullmatch(key.namespace):
        raise InvalidFile(
            ["metadata.namespace: write lower case letters, digits and -, at most 63 of them"]
        )
    if key in content.manifests:
        raise InvalidFile([f"{key} is there twice: remove one of them"])
    # As JSON, because that is what is kept and compared: YAML reads some texts as dates.
    manifest: dict[str, Any] = from_json(to_json(document))
    manifest.pop("status", None)
    metadata = manifest["metadata"]
    manifest["metadata"] = {
        name: metadata[name] for name in ("labels", "annotations") if metadata.get(name)
    }
    content.manifests[key] = manifest


def _secret(document: Mapping[str, Any]) -> tuple[Name, dict[str, bytes]]:
    """The decoded data of a Secret; no message repeats any of it."""
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(metadata, Mapping) or not isinstance(name, str):
        raise InvalidFile(["metadata.name: write the name of the Secret"])
    decoded: dict[str, bytes] = {}
    for place in ("data", "stringData"):
        entries = document.get(place) or {}
        if not isinstance(entries, Mapping):
            raise InvalidFile([f"{place}: write an object of texts"])
        for key, value in entries.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise InvalidFile([f"{place}: write an object of texts"])
            try:
                decoded[key] = (
                    value.encode()
                    if place == "stringData"
                    else base64.b64decode(value, validate=True)
                )
            except (binascii.Error, ValueError):
                raise InvalidFile([f"data.{key}: write base64, or use stringData"]) from None
    return (str(metadata.get("namespace", "default")), name), decoded


class _Loader(yaml.SafeLoader):
    """YAML without what makes a small file large, and without keys that stand twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not supported: write the value out",
                problem_mark=self.get_mark(),
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value} stands twice in one object", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)
