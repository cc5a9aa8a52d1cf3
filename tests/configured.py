"""The tasks of conf/task, by the names of their files, and their sequences."""

import functools

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from amu_experiments.conf_files import conf_dir
from amu_experiments.tasks import make_task


@functools.cache
def configuration(name):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("config", [f"task={name}"]))


def task(name, trials=(0,), **changes):
    return make_task({**configuration(name)["task"], **changes}, trials)


def rows(sequences, trial=0):
    """The sequences of one trial of a stack, each as the bytes of its steps and its targets."""
    one = sequences.take(trial)
    return [
        (x[:length].tobytes(), y[:length].tobytes())
        for x, y, length in zip(one.inputs, one.targets, one.lengths, strict=True)
    ]
