"""The jobs of a sweep: which of them are left to do, and who runs them, here or on a cluster.

A job whose trials are all finished is skipped before anything starts. The others run one after another, in processes
of this machine, in an array of Slurm, or through another launcher of Hydra.
"""

import multiprocessing
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from hydra.version import setbase

from amu_experiments import store
from amu_experiments.conf_files import conf_dir
from amu_experiments.console import SECONDS_BETWEEN_LINES, say
from amu_experiments.interrupts import SIGNALS, postponed_signals
from amu_experiments.options import ConfigurationError, format_value, one_line
from amu_experiments.override_lines import forced, quote
from amu_experiments.plan import Run, prepare

SECONDS_BETWEEN_POLLS = (2, 15)
"""The first and the longest pause between two polls of the jobs of a cluster."""

SECONDS_OF_A_FILE = (5, 60)
"""How long the result of a failed job, and of a completed one, may take to appear on a network file system."""

LARGEST_ARRAY = 1000
"""Maximum number of jobs in one array of Slurm: its default for MaxArraySize is 1001."""

ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
)
"""The states of Slurm's jobs that do not run again."""

GONE = "GONE"
"""The state of a job that Slurm does not list any more, such as one that was cancelled before it began."""


@dataclass(frozen=True)
class Job:
    """A job of a sweep: its number among all jobs of the sweep, its overrides and its run."""

    number: int
    lines: list[str]
    run: Run

    def __str__(self) -> str:
        return f"[{self.number}] {' '.join(self.lines)}"


def shard(text: str | None, count: int) -> list[int]:
    """The numbers of the jobs in shard "3/16" of a sweep: every sixteenth of `count` jobs, from the third on."""
    if text is None:
        return list(range(count))
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigurationError(f"--shard {format_value(text)}: must be NUMBER/COUNT, from 1/COUNT to COUNT/COUNT")
    return list(range(int(found[1]) - 1, count, int(found[2])))


def unfinished(jobs: Iterable[tuple[int, list[str], dict]]) -> list[Job]:
    """The jobs, given as number, overrides and configuration, that have trials to train.

    Raises ConfigurationError if data, device or RAM do not allow one of them.
    """
    finished: dict[Path, set[int]] = {}
    left = []
    for number, lines, config in jobs:
        run = prepare(config)
        if run.folder not in finished:
            finished[run.folder] = store.finished_trials(run.folder)
        if not finished[run.folder].issuperset(run.trials):
            left.append(Job(number, lines, run))
    return left


def run(
    jobs: Sequence[Job],
    config_dir: str | None,
    train: Callable[[dict], int],
    alone: Callable[[list[str], str], None],
    task: TaskFunction,
) -> dict[int, str]:
    """Run jobs as their overrides choose; returns the number of each failed job with the reason.

    train: called in this process with the configuration of a job; returns its exit status.
    alone: called in a new process of this machine with the arguments of a job and the path of its log.
    task: called by a launcher of Hydra with the configuration of a job, maybe on another machine.

    Raises ConfigurationError if the jobs do not agree on a launcher.
    """
    choices = [[line for line in job.lines if line.startswith(("launcher=", "hydra"))] for job in jobs]
    if any(choice != choices[0] for choice in choices):
        raise ConfigurationError(f"{choices[0][0]}: a sweep has one launcher for all its jobs")
    processes = jobs[0].run.config["processes"] or os.cpu_count() or 1
    if processes > 1 and set(choices[0]) <= {"launcher=local"}:
        with _logs_below(jobs) as (folder, failures):
            failures |= _in_processes(jobs, processes, folder, config_dir, alone)
    elif set(choices[0]) <= {"launcher=local"}:
        failures = _one_by_one(jobs, train)
    else:
        with _logs_below(jobs) as (folder, failures), _launcher(config_dir, choices[0], str(folder), task) as chosen:
            slurm = type(chosen).__name__ == "SlurmLauncher"
            failures |= _on_slurm(jobs, chosen) if slurm else _through(chosen, jobs)
    return failures


@contextmanager
def _logs_below(jobs: Sequence[Job]) -> Iterator[tuple[Path, dict[int, str]]]:
    """A new folder for logs, in the results folder of the first job, and a dict for failures.

    The folder stays if there is a failure or an error.
    """
    root = Path(jobs[0].run.config["results_dir"]).absolute() / ".jobs"
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=root))
    failures: dict[int, str] = {}
    yield folder, failures
    if not failures:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another sweep uses it
            root.rmdir()


@contextmanager
def _launcher(config_dir: str | None, lines: Sequence[str], folder: str, task: TaskFunction) -> Iterator[Launcher]:
    """Hydra's launcher that these overrides choose, while Hydra can compose. The folder is for the launcher's files."""
    setbase("1.3")
    path = create_config_search_path(str(conf_dir()))
    if config_dir is not None:
        own = f"file://{os.path.abspath(config_dir)}"
        path.prepend(provider="command-line", path=own, anchor=SearchPathQuery(provider="schema"))
    hydra = Hydra.create_main_hydra2(task_name="amu-run", config_search_path=path)
    try:
        overrides = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={quote(folder)}", *lines]
        config = hydra.compose_config("config", overrides, RunMode.MULTIRUN, with_log_configuration=False)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        yield Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    finally:
        GlobalHydra.instance().clear()


def _hydra_lines(job: Job) -> list[str]:
    """The overrides of a job as Hydra reads them; those of the launcher itself belong to the whole sweep."""
    return forced([line for line in job.lines if not line.startswith("hydra")])


def _through(launcher: Launcher, jobs: Sequence[Job]) -> dict[int, str]:
    """Run jobs through a launcher of Hydra: the basic one in this process, one after another, and any other at once."""
    if type(launcher).__name__ == "BasicLauncher":
        returned = [launcher.launch([_hydra_lines(job)], initial_job_idx=job.number)[0] for job in jobs]
    else:
        returned = launcher.launch([_hydra_lines(job) for job in jobs], initial_job_idx=0)
    pairs = zip(jobs, returned, strict=True)
    return {job.number: "error above" for job, each in pairs if each.status != JobStatus.COMPLETED}


class _Progress:
    """Tells how many jobs are done, at the first and the last change, and at other changes now and then."""

    def __init__(self, jobs: int):
        self.jobs, self.text, self.told = jobs, "", 0.0

    def report(self, states: Counter) -> None:
        text = ", ".join(f"{states[name]} {name}" for name in ("done", "failed", "running", "waiting") if states[name])
        last = states["done"] + states["failed"] == self.jobs
        if text != self.text and (last or time.monotonic() - self.told > SECONDS_BETWEEN_LINES):
            self.text, self.told = text, time.monotonic()
            say(f"{self.jobs} jobs: {text}")


def _one_by_one(jobs: Sequence[Job], train: Callable[[dict], int]) -> dict[int, str]:
    failures = {}
    for job in jobs:
        say(str(job))
        if train(job.run.config):
            failures[job.number] = "error above"
    return failures


# Processes of this machine ----------------------------------------------------------------------------------------


def _in_processes(
    jobs: Sequence[Job], processes: int, folder: Path, config_dir: str | None, alone: Callable[[list[str], str], None]
) -> dict[int, str]:
    """Run jobs in this many processes at once, which share the threads of the machine unless a key gives their number.

    After a signal the jobs end with a checkpoint, and KeyboardInterrupt is raised.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["amu_experiments.cli", "amu_experiments.training"])
    threads = max((os.cpu_count() or 1) // processes, 1)
    waiting, running, failures, progress = list(reversed(jobs)), {}, {}, _Progress(len(jobs))
    say(f"{len(jobs)} jobs in {min(processes, len(jobs))} processes; logs in {folder}")
    grace = max(job.run.config["stop_seconds"] for job in jobs) + 10
    with postponed_signals(SIGNALS, grace) as stopped:
        try:
            while (waiting or running) and not stopped:
                while waiting and len(running) < processes:
                    job = waiting.pop()
                    lines = [f"--config-dir={config_dir}"] * (config_dir is not None)
                    lines += [line for line in job.lines if not line.startswith(("launcher=", "processes="))]
                    lines += [f"threads={threads}"] * (job.run.config["threads"] is None)
                    log = str(folder / f"{job.number}.log")
                    process = context.Process(target=alone, args=(lines, log), daemon=True)
                    process.start()
                    running[process.sentinel] = job, process
                for ended in connection.wait(list(running), timeout=0.5):
                    job, process = running.pop(ended)
                    process.join()
                    if process.exitcode != 0:
                        how = f"signal {-process.exitcode}" if process.exitcode < 0 else f"status {process.exitcode}"
                        failures[job.number] = f"ended with {how}, {folder / f'{job.number}.log'}"
                done = len(jobs) - len(waiting) - len(running) - len(failures)
                progress.report(Counter(done=done, failed=len(failures), running=len(running), waiting=len(waiting)))
        finally:
            _end([process for _, process in running.values()])
    if stopped:
        raise KeyboardInterrupt
    return failures


def _end(processes: Sequence[BaseProcess]) -> None:
    """Let processes end with a checkpoint, or at once if a further signal comes."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:
            process.terminate()
        raise


# Slurm ------------------------------------------------------------------------------------------------------------


def _on_slurm(jobs: Sequence[Job], launcher: Launcher) -> dict[int, str]:
    """Submit jobs to Slurm, and wait until all have ended.

    launcher: the SlurmLauncher of hydra-submitit-launcher. It runs a job on its node, and asks Slurm to start it again
        at its time limit. Its own `launch` does not notice that a job was cancelled, unless Slurm keeps accounts.
    """
    import submitit

    parameters = dict(launcher.params)
    folder = parameters.pop("submitit_folder")
    executor = submitit.AutoExecutor(
        cluster="slurm", folder=folder, slurm_max_num_timeout=parameters.pop("max_num_timeout")
    )
    general = ("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name")
    general += ("stderr_to_stdout",)
    executor.update_parameters(
        **{name if name in general else f"slurm_{name}": value for name, value in parameters.items()}
    )
    submitted = []
    for first in range(0, len(jobs), LARGEST_ARRAY):
        part = jobs[first : first + LARGEST_ARRAY]
        columns = [(_hydra_lines(job), "hydra.sweep.dir", job.number, f"job_{job.number}") for job in part]
        submitted += executor.map_array(launcher, *zip(*columns, strict=True), [Singleton.get_state()] * len(part))
    arrays = sorted({task.job_id.partition("_")[0] for task in submitted})
    say(f"{len(jobs)} jobs submitted to Slurm as {', '.join(arrays)}; logs in {folder}")
    try:
        return _watch(jobs, submitted, arrays)
    except KeyboardInterrupt:
        say(f"The jobs go on without this command; scancel {' '.join(arrays)} ends them.")
        raise


def _watch(jobs: Sequence[Job], submitted: Sequence[Any], arrays: Sequence[str]) -> dict[int, str]:
    """Wait until all submitted jobs have ended; returns the number of each failed job with the reason."""
    left, failures, progress = dict(enumerate(submitted)), {}, _Progress(len(jobs))
    pause, ended = SECONDS_BETWEEN_POLLS[0], {}
    while True:
        states = _states(arrays)
        for place, task in list(left.items()):
            reason = None
            if task.paths.result_pickle.exists():
                reason = _failure(task)
            elif states is None or not (state := _ended(states.get(task.job_id, GONE))):
                ended.pop(place, None)
                continue
            # The job may have written its result on another machine just now.
            elif time.monotonic() - ended.setdefault(place, time.monotonic()) < SECONDS_OF_A_FILE[state == "COMPLETED"]:
                continue
            else:
                reason = "it is gone from Slurm's queue" if state == GONE else f"Slurm says {state}"
            del left[place]
            if reason:
                failures[jobs[place].number] = f"job {task.job_id}: {reason}, {task.paths.stderr}"
        running = sum((states or {}).get(task.job_id) in ("RUNNING", "COMPLETING") for task in left.values())
        done = len(jobs) - len(left) - len(failures)
        progress.report(Counter(done=done, failed=len(failures), running=running, waiting=len(left) - running))
        if not left:
            return failures
        time.sleep(pause)
        pause = min(1.3 * pause, SECONDS_BETWEEN_POLLS[1])


def _states(arrays: Sequence[str]) -> dict[str, str] | None:
    """The state of each job that Slurm still knows, by its number; None if Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={','.join(arrays)}"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode != 0 and "Invalid job id" not in answer.stderr:
        return None
    return dict(line.split()[:2] for line in answer.stdout.splitlines() if line.strip())


def _ended(state: str) -> str | None:
    """The state if it is the last of a job; a job that Slurm has forgotten has ended, too."""
    return state if state in (*ENDED, GONE) else None


def _failure(task: Any) -> str | None:
    """Why a job that wrote its result has failed, in some words; None if it has not."""
    import submitit

    try:
        returned = task.results()[0]
    except submitit.core.utils.UncompletedJobError as error:
        parts = str(error).split("-" * 22)  # a traceback is between two lines of dashes
        return one_line(parts[len(parts) > 2].strip().splitlines()[-1])
    return None if returned.status == JobStatus.COMPLETED else "it ended with an error"
