"""What all sections of the configuration are made of."""

from typing import Annotated, Final, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _is_empty(value: object) -> bool:
    return not value


WHERE_USED: Final[FieldInfo] = Field(exclude_if=_is_empty)
"""Of what few configurations have: files of the others read as before, by older versions too."""
ExtensionName = Annotated[str, Field(pattern=r"^([A-Za-z_][\w.-]*(:[A-Za-z_][\w.]*)?)?$"), WHERE_USED]
"""Name of an entry point, or `module:attribute`; see `upcycle.extensions`."""
Options = dict[str, bool | int | float | str]
"""Keyword arguments of an extension."""


class Section(BaseModel):
    """Base of all sections: immutable, an unknown field is an error, and no error of pydantic's repeats a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


def section_in(annotation: object) -> type[BaseModel] | None:
    """The section that a field of this type holds, if any: itself, one that may be None, or one by the user's names."""
    options = (annotation, *get_args(annotation))
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)
