"""The axes on which a model is tuned: learning rate, one setting of the model, and largest norm of the gradient.

Learning rates and norms are the same for all models. The setting of the model is in tuning/<model>.yaml, in conf/ or
in the user's folder:

    key: model.beta
    values: [0.03, 0.1, 0.3, 1.0, 3.0]  # from the smallest to the largest
    start: [0.3, 1.0]  # the search begins with these; without this key, with all values

Without this file, the setting is initial_range; a model that has no initial_range, either, has two axes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from amu_experiments.conf_files import choices
from amu_experiments.options import ConfigurationError, format_value, one_line

PARTS = ("learning_rate", "initial_range", "clip_norm")
"""The parts of a plan that state axes."""


def axes_of(plan: Mapping, model: str, default: Any, config_dir: str | Path | None = None) -> list[dict]:
    """The axes of a model: each has a key, its values from the smallest to the largest, and its starting values.

    Args:
        plan: a plan like conf/tuning.yaml. learning_rate is the first axis, clip_norm the last. Between them, a model
            without a file has the axis initial_range, in multiples of its default.
        model: the name of the model's file.
        default: the default of model.initial_range; anything but a number above 0 means that the model has none.
        config_dir: the user's folder, like conf/.

    Raises ConfigurationError if the model's file in tuning/ is not an axis.
    """
    file = choices("tuning", None if config_dir is None else str(config_dir)).get(model)
    own = [read_axis(file)] if file else []
    if not file and isinstance(default, int | float) and default > 0:
        # Six digits, as tables have.
        axis = plan["initial_range"]
        scaled = {name: [float(f"{each * default:.6g}") for each in axis[name]] for name in ("values", "start")}
        own = [{"key": axis["key"]} | scaled]
    return [plan["learning_rate"], *own, plan["clip_norm"]]


def read_axis(file: Path) -> dict:
    """The axis in a file of tuning/; ConfigurationError, with the file and the key, if it is not one."""
    try:
        axis = yaml.safe_load(file.read_bytes())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{file}: cannot be read ({one_line(str(error))})") from None
    if not isinstance(axis, dict) or not {"key", "values"} <= axis.keys() <= {"key", "values", "start"}:
        raise ConfigurationError(f"{file}: must have key and values, and may have start")
    key, values = axis["key"], axis["values"]
    start = axis.get("start", values)
    if not (isinstance(key, str) and key.startswith("model.")):
        raise ConfigurationError(f"{file}: key={format_value(key)}: must be a key of the model, such as model.beta")
    if not (isinstance(values, list) and len(values) > 1 and _differ(values)):
        raise ConfigurationError(
            f"{file}: values={format_value(values)}: must be a list of two or more different values"
        )
    if not (isinstance(start, list) and start and _differ(start) and all(each in values for each in start)):
        raise ConfigurationError(f"{file}: start={format_value(start)}: must be a list of some of the values")
    return {"key": key, "values": values, "start": start}


def _differ(values: list) -> bool:
    return all(value not in values[:place] for place, value in enumerate(values))
