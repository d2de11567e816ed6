"""Whether a student can begin as its teacher."""

from teacher_store.records.record import OptimizerKind, TeacherRecord
from upcycle.config.run import NetworkConfig
from upcycle.errors import UserError


def check_reload(record: TeacherRecord, network: NetworkConfig, optimizer: OptimizerKind | None) -> None:
    """Raises UserError if a student of `network` cannot begin as this teacher.

    Args:
      record: the teacher's.
      network: the student's.
      optimizer: of the student, where it is to go on with the teacher's optimizer state; None where it is not.
    """
    if record.network is None or record.kind != "q_values":
        remedy = "set teacher.reload=nothing, or choose a teacher that is a Q network"
        raise UserError("teacher.reload", record.id, f"is no Q network but {record.describe_policy()}", remedy)
    for name in _parameters_depend_on(record.network):
        mine, theirs = getattr(record.network, name), getattr(network, name)
        if mine != theirs:
            problem = f"teacher.reload begins with the weights of {record.id}, whose network has {mine!r}"
            raise UserError(f"network.{name}", theirs, problem, f"set network.{name}={mine}")
    if optimizer is None:
        return
    known = None if record.training_state is None else record.training_state.optimizer
    if known != optimizer:
        problem = f"teacher {record.id} was published " + (
            "without its optimizer" if known is None else f"with the state of {known}, the student has {optimizer}"
        )
        remedy = "set teacher.optimizer=fresh" + ("" if known is None else f" or learner.optimizer={known}")
        raise UserError("teacher.optimizer", "restored", problem, remedy)


def _parameters_depend_on(network: NetworkConfig) -> list[str]:
    """The fields that decide which parameters a network has and what they mean."""
    unused = {"noisy_sigma"}  # of the first draw alone
    if network.head == "q":
        unused |= {"atoms", "support_limit"}
    if network.kind == "mlp":
        unused |= {"width", "padding"}
    return [name for name in NetworkConfig.model_fields if name not in unused]
