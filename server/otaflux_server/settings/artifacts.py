"""Settings of the artifact store."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class ArtifactSettings(BaseModel):
    """The store of artifacts on disk."""

    model_config = ConfigDict(extra="forbid")

    max_bytes: Annotated[int, Field(ge=0)] = Field(
        10 * 1024**3,
        description="Beyond this many bytes, artifacts that no policy lists are removed, the one "
        "longest unused first. What a policy lists always stays.",
    )
    max_artifact_bytes: Annotated[int, Field(ge=1)] = Field(
        1024**3, description="A larger artifact is refused (`ArtifactTooLarge`)."
    )
    free_bytes: Annotated[int, Field(ge=0)] = Field(
        64 * 1024**2,
        description="Nothing is fetched that would leave less than this free on the disk "
        "(`StorageFull`).",
    )
    concurrent_pulls: Annotated[int, Field(ge=1)] = Field(
        4, description="Pulls that run at one time."
    )
    retry_seconds: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Longest wait before the first retry of a pull; it doubles each time."
    )
    max_retry_seconds: Annotated[float, Field(gt=0)] = Field(
        300.0, description="Longest wait between two tries of a pull."
    )
