"""What a run needs of its teachers: questions to its configuration alone."""

from upcycle.config.run import EnvConfig, RunConfig


def has_teacher(config: RunConfig) -> bool:
    """Whether the run has a teacher: one that teaches, or one that it begins as."""
    return config.teacher is not None and (_is_taught(config) or config.teacher.reload != "nothing")


def wants_teacher_values(config: RunConfig) -> bool:
    """Whether some loss term is made of the teachers' action values."""
    return _is_taught(config) and (config.distillation.coefficient > 0 or config.margin.coefficient > 0)


def wants_teacher_table(config: RunConfig) -> bool:
    """Whether batches, or parts of them, come from the teachers' buffers: the table `teacher`."""
    return "offline" in config.phases or ("online" in config.phases and config.online.teacher_fraction > 0)


def begins_with_teacher_replay(config: RunConfig) -> bool:
    """Whether the table `online` begins as the teacher's buffer."""
    return config.teacher is not None and config.teacher.reload == "weights_and_replay"


def wants_teacher_log(config: RunConfig) -> bool:
    """Whether the teachers must have left experience."""
    return wants_teacher_table(config) or begins_with_teacher_replay(config)


def with_protocol_of(config: RunConfig, teacher: EnvConfig) -> RunConfig:
    """The configuration with a teacher's environment and protocol in all fields of `env` that it leaves out.

    What the preset or `--set` says stays as it is said; whether it agrees with the teacher is checked later.
    """
    left_out = EnvConfig.model_fields.keys() - config.env.model_fields_set
    env = config.env.model_copy(update={name: getattr(teacher, name) for name in left_out})
    return config.model_copy(update={"env": env})


def _is_taught(config: RunConfig) -> bool:
    return bool({"offline", "online"} & set(config.phases))
