"""The yaml files that a command can choose: the files in conf/, and those in a folder of the user."""

import re
from pathlib import Path, PurePosixPath

import yaml

from amu_experiments.options import ConfigurationError

GROUPS = ("task", "model", "training", "experiment", "launcher")

MOST_VALUES = 100_000
"""Maximum number of values in a yaml file after its anchors are expanded."""


def conf_dir() -> Path:
    """The folder of the yaml files: inside the package if installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def choices(group: str, config_dir: str | None = None) -> dict[str, Path]:
    """The files of a group by name, in conf/ and in config_dir, a folder of the same layout."""
    folders = [Path(folder) / group for folder in (conf_dir(), config_dir) if folder is not None]
    files = [(folder, file) for folder in folders for file in sorted(folder.rglob("*.yaml")) if file.is_file()]
    return {file.relative_to(folder).with_suffix("").as_posix(): file for folder, file in files}


def experiments(config_dir: str | None = None) -> list[str]:
    """The names of all experiments. base.yaml is not one: it holds the common part of the experiments in its folder."""
    return [name for name in choices("experiment", config_dir) if PurePosixPath(name).name != "base"]


def description(file: Path) -> str:
    """The first sentence of a yaml file's comments."""
    text = file.read_text(encoding="utf-8", errors="replace")
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    text = " ".join(comment for comment in comments if not comment.startswith("@package"))
    return re.split(r"[.:] (?=[A-Z])|:? {3,}|:? (?=task=)", text)[0].rstrip(".:")


def check_anchors(file: Path) -> None:
    """Raise ConfigurationError if a yaml file, after its anchors are expanded, has too many values to read quickly."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        root = yaml.compose(text) if "&" in text and "*" in text else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return  # Hydra reports the error if the file is chosen
    sizes: dict[int, int] = {}

    def size(node: yaml.Node | None) -> int:
        if node is None or isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = 0  # Hydra reports an anchor that contains itself
            inner = [each for pair in node.value for each in (pair if isinstance(pair, tuple) else (pair,))]
            sizes[id(node)] = 1 + sum(map(size, inner))
        return sizes[id(node)]

    if size(root) > MOST_VALUES:
        raise ConfigurationError(f"{file}: its anchors stand for more than {MOST_VALUES:,} values")


def named_readings(config_dir: str | Path | None = None) -> dict[str, dict]:
    """The AMU's options in each named or chosen reading of readings.yaml, by the name of the reading.

    A reading is one choice of everything that the paper's abstract leaves open.
    """
    plan = yaml.safe_load((Path(config_dir or conf_dir()) / "readings.yaml").read_text(encoding="utf-8"))
    return plan["named"] | plan.get("chosen", {})
