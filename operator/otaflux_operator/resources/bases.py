"""What every object of a manifest has in common, and the part of its metadata that is read."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, PlainSerializer
from pydantic.alias_generators import to_camel

from otaflux_operator.resources.formats import ObjectName

API_GROUP = "otaflux.io"
API_VERSION: Literal["otaflux.io/v1alpha1"] = "otaflux.io/v1alpha1"
VERSION = "v1alpha1"


class ResourceModel(BaseModel):
    """The base of all that stands in a custom resource: camelCase, immutable, no conversions."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="ignore",
        frozen=True,
        strict=True,
    )

    def manifest(self) -> dict[str, Any]:
        """As JSON in a manifest, without what is absent."""
        return self.model_dump(mode="json", exclude_none=True)


def timestamp(time: datetime) -> str:
    """`time` as status holds it: RFC 3339, UTC, whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[AwareDatetime, PlainSerializer(timestamp, when_used="json")]


class Metadata(ResourceModel):
    """The part of an object's metadata that anything here reads."""

    name: ObjectName
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
