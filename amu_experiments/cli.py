"""The commands, amu-run first. Help and errors come at once.

Hydra composes the configurations. It starts the jobs of a sweep only for a launcher other than local, such as slurm.
Signals are handled before anything but the standard library is imported. Torch is imported when a job starts, or when
an option of a cell or a task is checked.
"""

from __future__ import annotations

import os
import sys

try:
    import argparse
    import importlib
    import re
    import traceback
    from collections.abc import Callable, Sequence
    from typing import TYPE_CHECKING

    from amu_experiments.console import complain, failed, say, unheard
    from amu_experiments.interrupts import stop_on_signals
    from amu_experiments.options import ConfigurationError, format_error, format_value
except KeyboardInterrupt:
    os.write(2, b"interrupted\n")
    os._exit(130)

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMPLETION = "(install|uninstall)=(bash|fish|zsh)"

HELP = """\
amu-run trains recurrent networks on a sequence task, many trials side by side, and stores the results.

Usage: amu-run task=TASK [model=MODEL] [training=TRAINING] [experiment=EXPERIMENT] [key=value ...]

  amu-run task=japanese_vowels model=amu           train the default number of networks, called trials
  amu-run task=adding model=lstm trials=30         30 trials; finished trials are not trained again
  amu-run task=adding model=lstm model.units=5     any key can be set, also of the model and the task
  amu-run -m task=adding model=amu,lstm,gru,rnn    a sweep: every combination, one after another
  amu-run task=adding model=lstm --cfg job         show every key of a run with its value, train nothing
  amu-run --list task=adding                       list stored runs; --remove removes them, after you confirm
  amu-report                                       compare all trained runs
  amu-export csv                                   the stored runs as tables; or parquet, tensorboard, mlflow
  amu-sample task=embedded_reber model=lstm        let a trained network generate
  amu-tune task=adding model=mgu,lstm              tune models with equal budgets, and write experiments

{groups}

Keys and their defaults; a task may have other defaults:

{keys}

Flags: -m (sweep), --shard 3/16 (the third sixteenth of a sweep), --cfg job, --config-dir DIR (a folder of your own with
task/, model/, training/ or experiment/ in it), --version, --shell-completion install=bash, --hydra-help.
"""

BASES = """\
  FOLDER/base with model=MODEL trains another model under the same protocol: experiment=adding/base model=gru"""


def command() -> None:
    """The console script amu-run. SIGTERM and a closed terminal stop it like Ctrl-C."""
    _run_as_program("amu-run", main)


def _program(name: str, module: str) -> Callable[[], None]:
    """The console script of this name: `main` of a module, which is imported when signals are handled."""

    def program() -> None:
        _run_as_program(name, lambda: importlib.import_module(f"amu_experiments.{module}").main())

    return program


report = _program("amu-report", "analysis.report")
export = _program("amu-export", "exports.command")
sample = _program("amu-sample", "sampling")


def tune() -> None:
    """The console script amu-tune. Its words are completed in the shell like those of amu-run."""
    _program("amu-tune", "cli" if {"--shell-completion", "-sc"} & set(sys.argv) else "tune")()


def _run_as_program(name: str, main: Callable[[], int]) -> None:
    # Idle threads of torch must sleep: if they spin, all processes on the machine take twice as long. Torch reads this
    # setting when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    stopped: list[int] = []
    try:
        with stop_on_signals() as stopped:
            _open_what_is_closed()
            status = main()
    except BaseException as error:
        # A module that is being imported may turn KeyboardInterrupt into another error.
        if not (stopped or isinstance(error, KeyboardInterrupt)):
            raise
        complain(f"{name}: interrupted")
        status = 130
    say("", end="")
    if unheard:
        complain(f"{name}: {format_error(unheard.pop())}")
        status = status or 1
    if status == 130:
        # Exit at once, even if a thread is still compiling.
        os._exit(status)
    sys.exit(status)


def _open_what_is_closed() -> None:
    """Open closed standard streams: otherwise another file may get the number of a stream, and then its output."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", closefd=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0, or 1 if a run failed, 2 for a wrong command, 130 if interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if {"--list", "--remove"}.intersection(arguments):
            from amu_experiments import inventory

            return inventory.main(arguments)
        flags = _flags(arguments)
        if flags.help or flags.version:
            say(_help(flags.config_dir) if flags.help else f"amu-run {_version()}")
            return 0
        from amu_experiments.override_lines import forced
        from amu_experiments.overrides import load_jobs

        if not (flags.hydra_help or flags.shell_completion):
            show = bool(flags.cfg or flags.info)
            loaded = load_jobs(flags.overrides, flags.multirun, flags.config_dir, show)
            if flags.multirun:
                return _sweep(flags, loaded)
            if launchers := [line for line in flags.overrides if line.startswith("launcher=")]:
                raise ConfigurationError(f"{launchers[0]}: starts the jobs of a sweep; add -m")
            if not show:
                return _train(loaded[0][1])
            flags.overrides = forced(flags.overrides)
        return _hand_over(flags)
    except (ConfigurationError, OSError, KeyboardInterrupt) as error:
        return failed("amu-run", error)


def _sweep(flags: argparse.Namespace, loaded: list[tuple[list[str], dict]]) -> int:
    """Run the jobs of a sweep, or of a shard, that are not finished; returns the exit status."""
    from amu_experiments import sweeps

    chosen = sweeps.shard(flags.shard, len(loaded))
    jobs = sweeps.unfinished((number, *loaded[number]) for number in chosen)
    if len(jobs) < len(chosen):
        say(f"{len(chosen) - len(jobs)} of {len(chosen)} jobs are finished already.")
    if not jobs:
        return 0
    failures = sweeps.run(jobs, flags.config_dir, _train, job_alone, _job)
    if failures:
        complain(f"amu-run: {len(failures)} of {len(jobs)} jobs failed:")
        for job in jobs:
            if job.number in failures:
                complain(f"  {job}: {failures[job.number]}")
    return 1 if failures else 0


def job_alone(lines: list[str], log: str) -> None:
    """A job of a sweep in a process of its own, which writes into a log. Its parent passes signals on."""
    os.setsid()  # otherwise the terminal also sends each signal, and a second signal ends a job without a checkpoint
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    _run_as_program("amu-run", lambda: main(lines))


def _job(composed: DictConfig) -> None:
    """A job of a sweep that a launcher of Hydra starts, maybe on another machine."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException

    from amu_experiments.config import check, plain
    from amu_experiments.overrides import Composer, check_by_class

    context = HydraConfig.get()
    overrides = [line.lstrip("+") for line in context.overrides.task if not line.startswith("~")]
    say(f"[{context.job.num}] {' '.join(overrides)}")
    try:
        choices, config = context.runtime.choices, plain(composed)
        reference = Composer().reference(choices["task"], choices.get("model"), config)
        (config,) = check_by_class([(check(config, reference), reference)])
    except Exception as error:
        status = _report(error)
    else:
        status = _train(config)
    if status:
        raise CompactHydraException(f"amu-run: job {context.job.num} of the sweep failed (error above)")


def _train(config: dict) -> int:
    """Train a run, and print its table or its error; returns the exit status."""
    try:
        from amu_experiments.training import run

        result = run(config)
        from amu_experiments.analysis.tables import run_table

        say(run_table(result))
        say(f"Results are in {result.folder}")
        if unheard:
            raise unheard.pop()
    except Exception as error:
        return _report(error)
    return 0


def _report(error: Exception) -> int:
    """Print an error, in one line or with its traceback; returns the exit status."""
    if _expected(error):
        return failed("amu-run", error)
    complain("".join(traceback.format_exception(error)).rstrip())
    return 1


def _expected(error: Exception) -> bool:
    """Whether the user can correct this error. Any other error is a fault of the code; its traceback is shown."""
    own = type(error).__module__.startswith("amu_experiments.")
    return isinstance(error, OSError | MemoryError) or (isinstance(error, ValueError) and own)


def _hand_over(flags: argparse.Namespace) -> int:
    """Let Hydra handle one of its own flags, such as --cfg, as hydra.main does; returns the exit status."""
    from hydra._internal.utils import _run_hydra, get_args_parser
    from hydra.version import setbase

    from amu_experiments.conf_files import conf_dir

    setbase("1.3")
    try:
        _run_hydra(flags, get_args_parser(), _job, str(conf_dir()), "config")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ConfigurationError(f"{message}; keys are written key=value; amu-run --help lists them")


def _flags(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse Hydra's flags. Raises ConfigurationError for other flags, and for flags that would bypass the checks."""
    from hydra._internal.utils import get_args_parser

    parser = _Parser("amu-run", parents=[get_args_parser()], add_help=False, conflict_handler="resolve")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--shard")
    flags = parser.parse_intermixed_args(arguments)
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ConfigurationError("the current folder does not exist any more") from None
    for name in ("config_path", "config_name", "experimental_rerun"):
        if getattr(flags, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigurationError(f"{flag}: does not work here; use --config-dir for your own files")
    actions = {"--cfg": flags.cfg, "--info": flags.info, "--multirun": flags.multirun, "--run": flags.run}
    actions |= {"--hydra-help": flags.hydra_help, "--shell-completion": flags.shell_completion}
    asked = [flag for flag, value in actions.items() if value]
    if len(asked) > 1:
        raise ConfigurationError(f"{' and '.join(asked)}: give only one of them")
    for name in ("resolve", "package"):
        if getattr(flags, name) and not flags.cfg:
            raise ConfigurationError(f"--{name}: works only with --cfg")
    if flags.shard and not flags.multirun:
        raise ConfigurationError("--shard: works only with -m")
    asked_by_shell = "COMP_LINE" in os.environ or "COMP_WORDS" in os.environ
    wanted = " ".join(flags.overrides)
    if flags.shell_completion and not (asked_by_shell or re.fullmatch(COMPLETION, wanted)):
        raise ConfigurationError("--shell-completion: needs install=SHELL or uninstall=SHELL, bash, fish or zsh")
    if flags.config_dir is not None and not os.path.isdir(flags.config_dir):
        raise ConfigurationError(f"--config-dir {format_value(flags.config_dir)}: no such folder")
    return flags


def _version() -> str:
    from importlib.metadata import version

    return version("amu-experiments")


def _help(config_dir: str | None) -> str:
    from amu_experiments.conf_files import GROUPS, choices, conf_dir, description, experiments

    groups = []
    for group in GROUPS[:3]:
        files = choices(group, config_dir)
        width = max(map(len, files), default=0)
        lines = [f"  {name:{width}}  {description(file)}".rstrip() for name, file in files.items()]
        groups.append("\n".join([f"{group}=", *lines]))
    # There is a file for every experiment and model: too many for one line each.
    folders: dict[str, list[str]] = {}
    for name in experiments(config_dir):
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, []).append(file)
    lines = [f"  {folder}/  {', '.join(files)}" for folder, files in folders.items()]
    groups.append("\n".join(["experiment=", *lines, BASES]))
    text = (conf_dir() / "config.yaml").read_text()
    keys = re.search(r"^trials:.*?(?=^task:)", text, re.MULTILINE | re.DOTALL).group()
    return HELP.format(groups="\n\n".join(groups), keys=keys.strip())
