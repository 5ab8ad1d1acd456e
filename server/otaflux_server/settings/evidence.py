"""Settings of the record of what devices did."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from otaflux_server.evidence.databases import database_url


class EvidenceSettings(BaseModel):
    """The record of what devices did, and the spans by which it is judged."""

    model_config = ConfigDict(extra="forbid")

    database_url: SecretStr = Field(
        SecretStr(""),
        description="`postgresql://USER:PASSWORD@HOST/NAME`, which several servers may share, or "
        "`sqlite:///FILE`. Empty: `evidence.db` in the data directory.",
    )
    batch_seconds: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Facts are written to the database at least this often."
    )
    batch_rows: Annotated[int, Field(ge=1)] = Field(
        1000, description="Rows that are written in one transaction; so many do not wait."
    )
    buffer_rows: Annotated[int, Field(ge=1)] = Field(
        100_000,
        description="Attempts, and as many devices, whose facts are kept in memory while the "
        "database cannot be used.",
    )
    contact_seconds: Annotated[float, Field(ge=0)] = Field(
        60.0,
        description="That a device was there, and nothing else, is written at most this often.",
    )
    install_grace_seconds: Annotated[int, Field(ge=0)] = Field(
        3600,
        description="A device that reports its old version so long after a complete download "
        "has failed (`RevertedAfterInstall`).",
    )
    poll_gap_seconds: Annotated[int, Field(ge=0)] = Field(
        60,
        description="A device that never reports a version counts as updated at its second poll "
        "after a complete download, at least so long after it.",
    )
    request_within_seconds: Annotated[int, Field(ge=1)] = Field(
        600,
        description="A device that never reports, and polls again so long after its offer without "
        "having fetched a byte, frees its slot (`NotRequested`).",
    )
    scan_seconds: Annotated[int, Field(ge=0)] = Field(
        600,
        description="With identity `Open`, a device that no DeviceGroup names exactly counts once "
        "two of its polls lie so far apart: scanners do not.",
    )
    retention_days: Annotated[int, Field(ge=1)] = Field(
        90, description="Ended runs, and devices unseen for so long, are deleted."
    )
    heartbeat_seconds: Annotated[float, Field(gt=0)] = Field(
        2.0, description="How often servers that share a database tell each other what they serve."
    )
    refresh_seconds: Annotated[float, Field(gt=0)] = Field(
        2.0, description="How often they read what the others recorded."
    )

    @field_validator("database_url")
    @classmethod
    def _valid_database_url(cls, text: SecretStr) -> SecretStr:
        if text.get_secret_value():
            database_url(text.get_secret_value())
        return text
