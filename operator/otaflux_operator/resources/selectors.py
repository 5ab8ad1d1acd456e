"""Device selectors in manifests; what they mean is `otaflux_policy.selectors`."""

import re
from typing import Annotated

from pydantic import Field

from otaflux_operator.resources.bases import ResourceModel
from otaflux_operator.resources.formats import (
    LABEL_KEY_LENGTH,
    LABEL_KEY_MESSAGE,
    LABEL_KEY_PATTERN,
    DeviceName,
    LabelKey,
    LabelValue,
)
from otaflux_operator.resources.rules import Checked, Rule
from otaflux_policy import selectors
from otaflux_policy.selectors import Operator

_LABEL_KEY = re.compile(LABEL_KEY_PATTERN)
LABEL_KEYS = Rule(
    cel=f"self.all(key, key.size() <= {LABEL_KEY_LENGTH} && key.matches(r'{LABEL_KEY_PATTERN}'))",
    message=LABEL_KEY_MESSAGE,
    holds=lambda labels: all(
        len(key) <= LABEL_KEY_LENGTH and _LABEL_KEY.fullmatch(key) for key in labels
    ),
)
VALUES_REQUIRED = Rule(
    cel="!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)",
    message="write at least one value: In and NotIn compare with the entries of values",
    holds=lambda entry: entry.operator not in (Operator.IN, Operator.NOT_IN) or bool(entry.values),
    field="values",
)
VALUES_FORBIDDEN = Rule(
    cel="!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) "
    "|| self.values.size() == 0",
    message="remove the values: Exists and DoesNotExist look only at the key",
    holds=lambda entry: (
        entry.operator not in (Operator.EXISTS, Operator.DOES_NOT_EXIST) or not entry.values
    ),
    field="values",
)


class LabelRequirement(ResourceModel):
    """A condition on one label of a device."""

    key: LabelKey = Field(description="Key of the label.")
    operator: Operator = Field(
        description="How the label is compared: In and NotIn with values, Exists and "
        "DoesNotExist by the key alone. NotIn also holds for devices without the label."
    )
    values: Annotated[tuple[LabelValue, ...], Field(max_length=50)] = Field(
        default=(), description="Values that In and NotIn compare with."
    )


class DeviceSelector(ResourceModel):
    """Selects devices: all parts given must hold; without parts it selects every device."""

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=16), Checked(LABEL_KEYS)] = (
        Field(
            default={},
            description="Labels that the device must have with these values. Labels come from "
            "DeviceGroups; every device also has otaflux.io/device, its id.",
        )
    )
    match_expressions: Annotated[
        tuple[Annotated[LabelRequirement, Checked(VALUES_REQUIRED, VALUES_FORBIDDEN)], ...],
        Field(max_length=10),
    ] = Field(default=(), description="Conditions on labels, all of which must hold.")
    names: Annotated[tuple[DeviceName, ...], Field(max_length=100)] = Field(
        default=(),
        description="Device ids and globs (* and ?, case-sensitive), one of which must match.",
    )

    @property
    def selects_all(self) -> bool:
        """Whether it has no part, and so selects every device."""
        return not (self.match_labels or self.match_expressions or self.names)

    def contract(self) -> selectors.DeviceSelector:
        """The same as the policy carries it."""
        return selectors.DeviceSelector.model_validate(self.model_dump())
