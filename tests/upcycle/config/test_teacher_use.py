from upcycle.config.io import parse_config
from upcycle.config.run import EnvConfig
from upcycle.config.teacher_use import with_protocol_of

TEACHER = EnvConfig(
    task="Breakout-v5",
    frame_size=42,
    sticky_actions=0.25,
    stack_fill="zeros",
    fire_reset=False,
    resize_order="resize_first",
    interpolation="bilinear",
    full_action_space=True,
)


def test_what_a_preset_leaves_out_of_the_environment_is_its_teachers():
    config = parse_config({"teacher": {}, "env": {"frame_size": 84, "fire_reset": True}})
    env = with_protocol_of(config, TEACHER).env
    assert (env.task, env.sticky_actions, env.stack_fill) == ("Breakout-v5", 0.25, "zeros")
    assert (env.resize_order, env.interpolation, env.full_action_space) == ("resize_first", "bilinear", True)
    assert (env.frame_size, env.fire_reset) == (84, True)


def test_a_preset_without_the_section_takes_all_of_it():
    assert with_protocol_of(parse_config({"teacher": {}}), TEACHER).env == TEACHER
