"""Which extensions a configuration names, and the record of where they are from."""

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from upcycle.config.design import EnvConfig, NetworkConfig
from upcycle.config.run import RunConfig
from upcycle.errors import UserError
from upcycle.extensions import ExtensionKind, load_extension


class ExtensionUse(NamedTuple):
    """A field that names an extension."""

    field: str
    kind: ExtensionKind
    reference: str


def extensions_of_policy(env: EnvConfig, network: NetworkConfig | None) -> list[ExtensionUse]:
    """Those that it takes to act: of the environment and the network."""
    uses = [ExtensionUse("env.factory", "environment", env.factory)]
    if network is not None:
        uses.append(ExtensionUse("network.custom_torso", "torso", network.custom_torso))
        uses.append(ExtensionUse("network.custom_head", "head", network.custom_head))
    return [use for use in uses if use.reference]


def extensions_of_run(config: RunConfig) -> list[ExtensionUse]:
    """Those that a run needs."""
    uses = extensions_of_policy(config.env, config.network)
    if config.actors.exploration:
        uses.append(ExtensionUse("actors.exploration", "exploration", config.actors.exploration))
    return uses + [
        ExtensionUse(f"loss_terms.{name}.use", "loss_term", term.use) for name, term in config.loss_terms.items()
    ]


class RecordedExtension(BaseModel):
    """An extension that a run or a teacher needs, as it was when it was recorded."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    field: str
    """Field of the configuration that names it."""
    kind: ExtensionKind
    """What it is."""
    reference: str
    """Name of its entry point, or `module:attribute`."""
    distribution: str
    """The installed distribution that it is from; empty for a module of none."""
    version: str
    """Of that distribution."""


def record_extensions(uses: Sequence[ExtensionUse]) -> tuple[RecordedExtension, ...]:
    """Loads extensions and says where they are from. Raises: UserError if one cannot be loaded."""
    found = [(use.field, load_extension(use.kind, use.reference, field=use.field)) for use in uses]
    return tuple(
        RecordedExtension(
            field=field,
            kind=extension.kind,
            reference=extension.reference,
            distribution=extension.distribution,
            version=extension.version,
        )
        for field, extension in found
    )


def need_extensions(recorded: Sequence[RecordedExtension], *, owner: str, name: str) -> None:
    """Raises UserError, saying where to get it, if an extension cannot be loaded.

    Args:
      owner: "teacher" or "run".
      name: of the owner.
    """
    for known in recorded:
        try:
            load_extension(known.kind, known.reference, field=known.field)
        except UserError as error:
            origin = (
                f"{known.distribution} {known.version}" if known.distribution else "a module outside any distribution"
            )
            problem = f"needs {known.field} = {known.reference} of {origin}, and {error.problem}"
            remedy = f"install {known.distribution}=={known.version}" if known.distribution else error.remedy
            raise UserError(owner, name, problem, remedy) from error
