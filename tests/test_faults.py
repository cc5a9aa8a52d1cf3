"""Faults of real machines: runs that are killed or started twice, disks that are full, files that are damaged.

In short as it stands; pytest --long tests/test_faults.py does the same many more times.
"""

import hashlib
import io
import math
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import (
    Command,
    in_time,
    interruptible,
    run,
    run_as_program,
    run_with_small_files,
    train,
    train_and_be_killed,
    train_slowly,
    train_under_a_scheduler,
    wait_until,
)

from amu_experiments import files, leases, numerics, stack_files, store, training
from amu_experiments.analysis.comparison import compare
from amu_experiments.analysis.report import main as report
from amu_experiments.analysis.tables import criteria_table, metrics_table, run_table
from amu_experiments.options import ConfigurationError
from amu_experiments.overrides import load
from amu_experiments.plan import Run, prepare
from amu_experiments.stack import Stack

SETTINGS = {
    "task": "two_sequence",
    "model": "rnn",
    "task.T": 11,
    "task.test_size": 20,
    "task.validation_size": 20,
    "model.units": 3,
    "training.max_sequences": 60,
    "training.evaluate_every": 10,
    "training.stop": "null",
    "training.checkpoint_minutes": 1e-9,
    "backend": "torch",
    "threads": 1,
    "trials": 2,
}
"""Two trials that take a fraction of a second, with a checkpoint after every evaluation."""

AMU_RUN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from amu_experiments.cli import command; command()",
]
"""The console script, with Ctrl-C as on a terminal, even if the tests run in the background."""


def lines(results_dir, settings=()):
    return [f"{key}={value}" for key, value in (SETTINGS | dict(settings) | {"results_dir": results_dir}).items()]


@pytest.fixture(autouse=True)
def nothing_left_running():
    yield
    Command.kill_all()


@pytest.fixture(scope="module")
def config():
    """A configuration; tests replace its folder and its trials."""
    return prepare(load(*lines("nowhere"))).config


@pytest.fixture(scope="module")
def endless(config):
    return config | {"training": config["training"] | {"max_sequences": 10**6}}


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The results of an uninterrupted run of trials 0 to 9: tables as text, and weights."""
    config = config | {"results_dir": str(tmp_path_factory.mktemp("whole"))}
    for first in range(0, 10, 2):
        training.run(config | {"seed": first})
    return kept(config)


def kept(config):
    """All results of a configuration except seconds, by trial, for comparison to the bit."""
    found = {}
    stacks = sorted(store.folder_of(config).glob("trials-*/trials.csv"))
    for stack in (path.parent for path in stacks):
        tables = [
            pd.read_csv(stack / name, dtype=str).drop(columns="seconds") for name in ("trials.csv", "history.csv")
        ]
        with np.load(stack / "weights.npz") as weights:
            for trial, parameters in zip(weights["trial"].tolist(), weights["parameters"], strict=True):
                rows = [table[table["trial"] == str(trial)].to_csv(index=False) for table in tables]
                assert trial not in found
                found[trial] = (*rows, parameters.tobytes())
    return found


def only(whole, trials):
    return {trial: whole[trial] for trial in trials}


def left_behind(results_dir):
    return [path.name for path in results_dir.rglob("*") if path.name == "checkpoint.pt" or path.suffix == ".part"]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def checkpoints(results_dir):
    return list(results_dir.rglob("checkpoint.pt"))


# Killed -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "fused"])
def test_a_run_killed_at_any_moment_has_the_results_of_an_uninterrupted_run(config, tmp_path, number, backend):
    config = config | {"backend": backend}
    wanted, kills, lost, moments = number(5, 50), 0, 0, random.Random(3)
    for first in range(0, 10, 2):
        training.run(config | {"results_dir": str(tmp_path / "whole"), "seed": first})
    whole = kept(config | {"results_dir": str(tmp_path / "whole")})
    for attempt in count():
        place = tmp_path / str(attempt)
        here = config | {"results_dir": str(place), "seed": 2 * (attempt % 5)}
        while True:
            command = Command(place.with_suffix(".out"), train, here)
            if kills < wanted:
                # Half of the kills wait for a checkpoint.
                if kills % 2:
                    wait_until(lambda place=place, command=command: checkpoints(place) or command.ended)
                time.sleep(moments.uniform(0, 0.2))
                command.signal(signal.SIGKILL)
            status = command.end()
            if status == 0:
                break
            assert status == -signal.SIGKILL
            kills += 1
            lost += "trains" in command.told
        assert kept(here) == only(whole, [here["seed"], here["seed"] + 1])
        assert left_behind(place) == []
        if kills == wanted:
            assert lost >= kills // 2
            return


def test_a_run_killed_between_any_two_writes_has_the_results_of_an_uninterrupted_run(config, whole, tmp_path, number):
    for calls in count(0, number(9, 1)):
        here = config | {"results_dir": str(tmp_path / str(calls)), "trials": 1}
        killed = Command(tmp_path / "out", train_and_be_killed, here, calls).end()
        assert Command(tmp_path / "out", train, here).end() == 0
        assert kept(here) == only(whole, [0])
        assert left_behind(tmp_path) == []
        if killed == 0:
            return
        assert killed == -signal.SIGKILL


def test_the_command_is_killed_then_stopped_then_resumed_to_the_end(tmp_path, number):
    folders = [tmp_path / name for name in ("whole", "parts")]
    signals = [signal.SIGKILL, signal.SIGINT, *number([], [signal.SIGTERM, signal.SIGKILL] * 5)]
    settings = {"training.max_sequences": 200 * len(signals)}
    for number_of_signal, which in enumerate(signals):
        seen = {path.stat().st_mtime_ns for path in checkpoints(folders[1])}
        command = Command(tmp_path / f"out {number_of_signal}", run_as_program, None, *lines(folders[1], settings))
        wait_until(lambda seen=seen: {path.stat().st_mtime_ns for path in checkpoints(folders[1])} - seen)
        with in_time():
            command.signal(which)
            status = command.end()
        assert status == (-which if which == signal.SIGKILL else 130)
        if which != signal.SIGKILL:
            assert "sequences; run the same command to resume." in command.told
            assert command.told.splitlines()[-1] == "amu-run: interrupted"
    here = prepare(load(*lines(tmp_path, settings))).config
    whole, parts = (here | {"results_dir": str(folder)} for folder in folders)
    training.run(whole)
    last = Command(tmp_path / "out", train, parts)
    assert last.end() == 0
    assert "Resuming from the checkpoint at" in last.told
    assert kept(whole) == kept(parts)


@pytest.mark.parametrize("number_of_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stops_in_the_middle_of_a_long_step(endless, tmp_path, number_of_signal):
    command = Command(tmp_path / "out", train_slowly, endless | {"results_dir": str(tmp_path)})
    wait_until(lambda: "evaluates" in command.told)
    with in_time():
        command.signal(number_of_signal)
        assert command.end() == 130
    assert "run the same command to resume from the last checkpoint" in command.told


def test_a_run_with_time_to_stop_ends_a_long_step_and_writes_its_checkpoint(endless, tmp_path):
    here = endless | {"results_dir": str(tmp_path), "stop_seconds": 100.0}
    command = Command(tmp_path / "out", train_slowly, here, 3)
    wait_until(lambda: "evaluates" in command.told)
    command.signal(signal.SIGUSR2)
    assert command.end() == 130
    assert "Stopped at 10 sequences; run the same command to resume." in command.told
    assert checkpoints(tmp_path)


def test_a_run_stops_at_the_signals_that_are_configured(endless, tmp_path):
    here = endless | {"results_dir": str(tmp_path), "stop_signals": ["USR1"]}
    command = Command(tmp_path / "out", interruptible, here)
    wait_until(lambda: checkpoints(tmp_path))
    command.signal(signal.SIGUSR1)
    assert command.end() == 130
    assert "run the same command to resume." in command.told


def test_a_signal_reaches_the_program_around_a_run_after_the_checkpoint(endless, tmp_path):
    command = Command(tmp_path / "out", train_under_a_scheduler, endless | {"results_dir": str(tmp_path)})
    wait_until(lambda: checkpoints(tmp_path))
    command.signal(signal.SIGUSR2)
    assert command.end() == 7
    assert [line.partition(" at ")[0] for line in command.told.splitlines()[-2:]] == ["Stopped", "starts again"]


def test_the_first_checkpoint_follows_the_first_evaluation(endless, tmp_path):
    training = endless["training"] | {"checkpoint_minutes": 5}
    command = Command(tmp_path / "out", train, endless | {"results_dir": str(tmp_path), "training": training})
    wait_until(lambda: checkpoints(tmp_path) or command.ended)
    command.signal(signal.SIGKILL)
    command.end()
    assert checkpoints(tmp_path)


@pytest.mark.parametrize("number_of_signal", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_stops_while_its_cell_is_being_compiled(tmp_path, number_of_signal):
    """With an empty cache of compiled code. Compiling may end within the grace period, or else is abandoned."""
    settings = lines(tmp_path / "runs", {"model": "lstm", "backend": "fused"})
    command = Command(tmp_path / "out", run_as_program, str(tmp_path / "compiled"), *settings)
    wait_until(lambda: command.told.startswith("Compiling the lstm cell ("))
    with in_time():
        command.signal(number_of_signal)
        assert command.end() == 130
    told = [line for line in command.told.splitlines()[1:] if not line.startswith("Compiled the lstm cell (")]
    assert told[0].startswith(("Stopped in the middle of a step", "Stopped at 0 sequences"))
    assert told[-1] == "amu-run: interrupted"


def test_a_run_whose_reader_ends_with_it_stops_and_does_not_start_again(tmp_path):
    """Ctrl-C stops both processes of `amu-run ... | tee`."""
    command = [*AMU_RUN, *lines(tmp_path / "runs", {"training.max_sequences": 10**6})]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        wait_until(lambda: checkpoints(tmp_path))
        process.stdout.close()
        with in_time():
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        assert process.stderr.read() == b"amu-run: interrupted\n"


def test_a_checkpoint_resumes_only_with_the_backend_that_made_it(endless, tmp_path, capsys):
    here = endless | {"results_dir": str(tmp_path), "backend": "torch"}
    command = Command(tmp_path / "out", interruptible, here)
    wait_until(lambda: checkpoints(tmp_path))
    command.signal(signal.SIGINT)
    assert command.end() == 130
    before = contents(tmp_path)
    other = here | {"backend": "fused"}
    with pytest.raises(
        ConfigurationError,
        match=r"backend=fused: this is fused here, and .* was computed with torch; resume with backend=torch",
    ):
        training.run(other)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("choice", "made_with", "remedy"),
    [
        ("portable", "AVX512, products as MKL chooses", "resume with instructions=native"),
        ("portable", "znver4", "resume with instructions=native"),
        ("native", "generic", "resume with instructions=portable"),
        ("portable", "generic", "resume on a machine of that kind"),
        ("native", "znver4", "resume on a machine of that kind"),
        ("portable", "AVX2, products COMPATIBLE, of another maker", "resume on a machine of that kind"),
        ("portable", "cuda: NVIDIA H100", "resume with device=cuda"),
    ],
)
def test_a_checkpoint_resumes_only_with_the_instructions_that_made_it(pristine, tmp_path, choice, made_with, remedy):
    here = pristine | {"results_dir": str(tmp_path / "runs"), "seed": 2, "instructions": choice}
    path = rewritten(here, pristine, instructions=made_with)
    before = contents(tmp_path)
    used = numerics.used("torch")["instructions"]
    option = "device=cpu" if "cuda" in made_with else f"instructions={choice}"
    refused = (
        f"{option}: this is {used} here, and {path} was computed with {made_with}; {remedy}, or "
        "delete the checkpoint to start again"
    )
    with pytest.raises(ConfigurationError, match=f"^{re.escape(refused)}$"):
        training.run(here)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_checkpoint_of_a_gpu_resumes_on_a_gpu_of_that_kind(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    made = numerics.used("torch", device) | {"backend": "torch"}
    config = {"device": device, "backend": "auto", "instructions": "portable"}
    assert numerics.named_in_full(Path("one.pt"), config, "torch", made)
    refused = f"^device={device}: this is cuda: NVIDIA A100 here, and one.pt .* NVIDIA H100; resume on a machine"
    with pytest.raises(ConfigurationError, match=refused):
        numerics.named_in_full(Path("one.pt"), config, "torch", made | {"instructions": "cuda: NVIDIA H100"})


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_instructions_belong_to_the_choice_that_gives_them(backend):
    """The tests use portable instructions."""
    assert numerics.choice_of(numerics.used(backend)["instructions"]) == "portable"


@pytest.mark.parametrize("named", ["nothing", "all but the maker"])
def test_a_checkpoint_without_its_instructions_or_their_maker_is_read(pristine, whole, tmp_path, capsys, named):
    here = pristine | {"results_dir": str(tmp_path / "runs"), "seed": 2}
    older = numerics.used("torch")["instructions"].removesuffix(f", {numerics.maker_name()}")
    rewritten(here, pristine, instructions=None if named == "nothing" else older)
    training.run(here)
    said = capsys.readouterr().out
    assert "does not fully name its instructions" in said
    assert "Resuming from the checkpoint at 35 sequences." in said
    assert kept(here) == only(whole, [0, 1, 2, 3])


def test_a_checkpoint_of_another_version_of_the_arithmetic_is_refused(pristine, tmp_path):
    here = pristine | {"results_dir": str(tmp_path / "runs"), "seed": 2}
    rewritten(here, pristine, numerics.used("torch")["instructions"], numerics.VERSION - 1)
    before = contents(tmp_path)
    with pytest.raises(ConfigurationError, match=f"version {numerics.VERSION - 1} of the arithmetic"):
        training.run(here)
    assert contents(tmp_path) == before


def rewritten(here, pristine, instructions, version=None):
    """Copy `pristine`, with a checkpoint that names these numerics, or none; returns the path of the checkpoint."""
    shutil.copytree(pristine["results_dir"], here["results_dir"])
    path = stack_files.stack_folder(store.folder_of(here), [2, 3])
    checkpoint = torch.load(io.BytesIO(stack_files.read_checkpoint(path)), weights_only=True)
    del checkpoint["version"], checkpoint["instructions"]
    made = {"version": version or numerics.VERSION, "instructions": instructions} if instructions else {}
    file = io.BytesIO()
    torch.save(checkpoint | made, file)
    stack_files.write_checkpoint(path, file.getvalue())
    return path / "checkpoint.pt"


# Many processes -----------------------------------------------------------------------------------------------------


def trained(command):
    """The stacks that a command trains, from its output."""
    return [line.removeprefix("trains ") for line in command.told.splitlines() if line.startswith("trains ")]


def test_the_same_command_twice_at_once_trains_every_trial_once(config, whole, tmp_path, number):
    for attempt in range(number(1, 20)):
        here = config | {"results_dir": str(tmp_path / str(attempt))}
        commands = [Command(tmp_path / f"{attempt}{name}", train, here) for name in "ab"]
        assert [command.end() for command in commands] == [0, 0]
        assert sorted(map(trained, commands)) == [[], ["[0, 1]"]]
        assert kept(here) == only(whole, [0, 1])


def test_a_process_trains_all_other_trials_and_then_waits_for_another_process(config, endless, tmp_path):
    def command(name, trials):
        here = endless | {"results_dir": str(tmp_path), "seed": trials[0], "trials": len(trials)}
        return Command(tmp_path / name, interruptible, here)

    first = command("first", [0, 1])
    wait_until(lambda: checkpoints(tmp_path))
    # SIGSTOP: the process does nothing from now on, and its lock remains.
    first.signal(signal.SIGSTOP)
    aside = command("aside", [7, 8])
    wait_until(lambda: len(checkpoints(tmp_path)) == 2)
    aside.signal(signal.SIGINT)
    assert aside.end() == 130

    waiting = command("waiting", [0, 1])
    wait_until(lambda: "Another process is training trials-0-1; waiting for it." in waiting.told)
    with in_time():
        waiting.signal(signal.SIGINT)
        assert waiting.end() == 130

    overlapping = command("overlapping", [1, 2, 3])
    wait_until(lambda: trained(overlapping) == ["[2, 3]"])
    overlapping.signal(signal.SIGKILL)
    overlapping.end()

    # Its lock ends with it: the waiting process resumes from its checkpoint.
    heir = command("heir", [0, 1])
    wait_until(lambda: "waiting for it" in heir.told)
    first.signal(signal.SIGKILL)
    wait_until(lambda: "Resuming from the checkpoint" in heir.told)
    heir.signal(signal.SIGTERM)
    assert heir.end() == 130


def test_processes_that_sweep_the_same_grid_write_the_store_of_one_process(tmp_path, number):
    def sweep(name, place):
        settings = {"training.learning_rate": "0.01,0.03", "training.checkpoint_minutes": 5}
        return Command(tmp_path / name, run, "-m", *lines(tmp_path / place, settings))

    assert sweep("one", "of_one").end() == 0
    commands = [sweep(f"process {n}", "of_many") for n in range(number(2, 8))]
    assert [command.end() for command in commands] == [0] * len(commands)
    one, many = (
        {
            stack.relative_to(tmp_path / place): (
                pd.read_csv(stack, dtype=str).drop(columns="seconds").to_csv(),
                hashlib.sha256((stack.parent / "weights.npz").read_bytes()).hexdigest(),
            )
            for stack in (tmp_path / place).rglob("trials.csv")
        }
        for place in ("of_one", "of_many")
    )
    assert len(one) == 2
    assert one == many
    assert left_behind(tmp_path) == []


# No place to write --------------------------------------------------------------------------------------------------


def mount(folder, options, *arguments):
    """Mount a file system in RAM; whether this machine permits it."""
    command = ["mount", "-t", "tmpfs", "-o", options, *arguments, "tmpfs", str(folder)]
    return shutil.which("mount") and subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A folder, and whether it is a separate disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    own = mount(folder, "size=256k")
    yield folder, own
    if own:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder, pages):
    """Fill a disk, except this many pages of 4096 bytes."""
    with open(folder / "filler", "wb", buffering=0) as filler:
        with suppress(OSError):
            while True:
                filler.write(bytes(4096))
        filler.truncate(filler.tell() - 4096 * pages)


def refused(command, place, causes):
    """Assert that a command ends with one line that names a path in the store and a cause."""
    assert command.end() in (1, 2)  # during training, or before it
    told = [line for line in command.told.splitlines() if line.startswith("amu-run: ")]
    assert len(told) == 1
    assert any(cause in told[0] for cause in causes), told
    assert str(place) in told[0]
    assert "Traceback" not in command.told


@pytest.mark.parametrize("pages", [0, 2])
def test_a_full_disk_is_an_error_and_earlier_results_stay(disk, config, whole, tmp_path, pages):
    """With no free page nothing can be written; with two, no checkpoint. If no disk can be mounted, files are limited
    to 2000 bytes, which is too little for a checkpoint."""
    (folder, own), out = disk, tmp_path / "out"
    here = config | {"results_dir": str(folder)}
    training.run(here)
    before = contents(folder)
    if own:
        fill(folder, pages)
    command = Command(tmp_path / "told", run if own else run_with_small_files, *lines(folder, {"seed": 2}))
    refused(command, folder, ["No space left on device", "File too large"])
    assert before.items() <= contents(folder).items()
    assert kept(here) == only(whole, [0, 1])
    assert report(["--results-dir", str(folder), "--out", str(out), "--only", "tables"]) == 0
    if own:
        assert report(["--results-dir", str(folder), "--out", str(folder / "report")]) == 1
        (folder / "filler").unlink()
    training.run(here | {"seed": 2})
    assert kept(here) == only(whole, [0, 1, 2, 3])


def test_a_read_only_store_can_be_read(disk, config, tmp_path):
    """If no disk can be mounted, its folders are made read-only; for root, file sizes are limited instead."""
    (folder, own), command = disk, run
    here = config | {"results_dir": str(folder)}
    training.run(here)
    before = contents(folder)
    if own:
        assert mount(folder, "remount,ro")
    elif os.geteuid() != 0:
        for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            place.chmod(0o555)
    else:
        command = run_with_small_files
    assert report(["--results-dir", str(folder), "--out", str(tmp_path / "out"), "--only", "tables"]) == 0
    again = Command(tmp_path / "again", run, *lines(folder))
    assert again.end() == 0
    assert "All 2 requested trials already exist: nothing to train." in again.told
    more = Command(tmp_path / "more", command, *lines(folder, {"seed": 2}))
    refused(more, folder, ["Read-only file system", "Permission denied", "File too large", "cannot be written to"])
    assert before.items() <= contents(folder).items()
    if not own and os.geteuid() != 0:
        for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            place.chmod(0o755)


def test_a_folder_that_vanishes_ends_the_run_with_its_name(tmp_path):
    runs = tmp_path / "runs"
    command = Command(tmp_path / "out", run, *lines(runs, {"training.max_sequences": 10**6}))
    wait_until(lambda: checkpoints(runs))
    runs.rename(tmp_path / "elsewhere")
    refused(command, runs, ["No such file or directory"])


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "runs").write_text("")
    refused(
        Command(tmp_path / "out", run, *lines(tmp_path / "runs")), tmp_path / "runs", ["Not a directory", "is a file"]
    )


def test_a_run_without_output_trains_and_writes_its_results(whole, config, tmp_path):
    """Output to a full disk, to a closed pipe, or to a closed file; and a machine without git."""
    command = shlex.join([*AMU_RUN, *lines("{}")])
    ends = {"> /dev/full": 1, "| true": 0, "2>&- >&-": 0}
    for number, (end, status) in enumerate(ends.items()):
        place = tmp_path / str(number)
        environment = os.environ | {"PATH": "/nowhere"} if end == "| true" else None
        shell = ["/bin/bash", "-c", f"set -o pipefail; {command.format(place)} {end}"]
        done = subprocess.run(shell, capture_output=True, text=True, env=environment)
        assert done.returncode == status
        assert done.stderr == ("amu-run: standard output: No space left on device\n" if status else "")
        assert kept(config | {"results_dir": str(place)}) == only(whole, [0, 1])


# Damaged files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pristine(config, tmp_path_factory):
    """A store where trials 0 and 1 are finished, and trials 2 and 3 have a checkpoint."""
    here = config | {"results_dir": str(tmp_path_factory.mktemp("pristine"))}
    training.run(here)
    folder = store.folder_of(here)
    with leases.acquire(folder, here, [2, 3]) as lease:
        stack = Stack(Run(here, folder, lease.trials))
        while stack.sequences < 35:
            stack.learn(5)
            if stack.evaluation_is_due():
                stack.evaluate()
        stack_files.write_checkpoint(stack_files.stack_folder(folder, [2, 3]), stack.dump())
    return here


def harmed(data, text, chance):
    """The data without the last quarter or more, or with one byte changed; in text, a digit."""
    if chance.random() < 0.4:
        return data[: chance.randrange(3 * len(data) // 4)]
    places = [place for place, byte in enumerate(data) if not text or chr(byte).isdigit()]
    place = chance.choice(places)
    byte = ord("0") + (data[place] - ord("0") + 1) % 10 if text else data[place] ^ chance.randrange(1, 256)
    return data[:place] + bytes([byte]) + data[place + 1 :]


@pytest.mark.parametrize("name", ["trials.csv", "history.csv", "weights.npz", "config.yaml", "checkpoint.pt"])
def test_a_damaged_file_is_set_aside_and_its_trials_are_trained_again(pristine, whole, tmp_path, capsys, number, name):
    chance = random.Random(name)
    for attempt in range(number(2, 40)):
        place = tmp_path / str(attempt)
        shutil.copytree(pristine["results_dir"], place)
        here = pristine | {"results_dir": str(place), "trials": 4}
        (path,) = place.rglob(name)
        path.write_bytes(harmed(path.read_bytes(), name == "config.yaml", chance))
        before = contents(place)
        found = report(["--results-dir", str(place), "--out", str(tmp_path / "out"), "--only", "tables"])
        told = capsys.readouterr()
        assert contents(place) == before
        if name == "checkpoint.pt":
            assert found == 0
        else:
            assert found == 1
            assert f"Left out: {path.parent}" in told.err
            assert name in told.err
        training.run(here)
        out = capsys.readouterr().out
        assert f"Damaged: {path.parent}" in out
        assert name in out
        assert kept(here) == only(whole, [0, 1, 2, 3])
        aside = {path.read_bytes() for path in place.rglob("*") if "damaged-" in str(path) and path.is_file()}
        assert before[path] in aside
        assert report(["--results-dir", str(place), "--out", str(tmp_path / "out"), "--only", "tables"]) == 0
        assert "Left out" not in capsys.readouterr().out


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["zip", "pickle", "sealed"])
def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_not_run(pristine, whole, tmp_path, capsys, kind):
    here = pristine | {"results_dir": str(tmp_path / "runs"), "seed": 2}
    shutil.copytree(pristine["results_dir"], tmp_path / "runs")
    mark = tmp_path / "done"
    file = io.BytesIO()
    torch.save({"flat": Payload(mark)}, file)
    data = pickle.dumps(Payload(mark)) if kind == "pickle" else file.getvalue()
    (path,) = (tmp_path / "runs").rglob("checkpoint.pt")
    if kind == "sealed":
        stack_files.write_checkpoint(path.parent, data)
    else:
        path.write_bytes(data)
    training.run(here)
    assert f"Damaged: {path}: cannot be read as a checkpoint" in capsys.readouterr().out
    assert not mark.exists()
    assert (path.parent / "damaged-checkpoint.pt").exists()
    assert kept(here) == only(whole, [0, 1, 2, 3])
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # the payload works


def unsealed(here):
    """A new stack of trials 2 and 3 of `pristine`, and the contents of their checkpoint."""
    path = stack_files.stack_folder(store.folder_of(here), [2, 3])
    kept = torch.load(io.BytesIO(stack_files.read_checkpoint(path)), weights_only=True)
    return Stack(Run(here, store.folder_of(here), [2, 3])), kept


def loaded(stack, kept):
    file = io.BytesIO()
    torch.save(kept, file)
    stack.load(file.getvalue())


def altered(value, sequences):
    """Values that are not allowed in place of a checkpoint's value."""
    if not isinstance(value, torch.Tensor):
        return [None, -1, True, math.nan, -1.0, "none", [value], torch.tensor(0), 10**30, sequences - 1000]
    rows, *width = value.shape
    strange = [None, value.tolist(), value.to(torch.complex64), value.to(torch.float16), value[None], value.to_sparse()]
    strange += [
        value.new_zeros(1, 1),
        value.new_zeros(rows + 1, *width),
        value.new_zeros(rows, *(n + 1 for n in width or [0])),
    ]
    strange += [value.new_zeros(1, *width).expand(10**12, *width)] if 0 not in width else []
    return [*strange, torch.empty(value.shape, dtype=value.dtype, device="meta")]


def test_a_checkpoint_with_a_field_of_another_type_or_shape_is_refused_with_its_name(pristine):
    stack, kept = unsealed(pristine)
    for name, value in kept.items():
        for strange in altered(value, kept["sequences"]):
            if (name == "instructions" and isinstance(strange, str)) or (
                name in ("version", "instructions") and strange is None
            ):
                continue  # any text may name instructions; older checkpoints name neither
            with pytest.raises(ValueError, match=rf"not a checkpoint of these trials \(.*{name}.*\)"):
                loaded(stack, kept | {name: strange})
        if name not in ("version", "instructions"):
            with pytest.raises(ValueError, match="not a checkpoint of this version"):
                loaded(stack, {other: kept[other] for other in kept.keys() - {name}})
    with pytest.raises(ValueError, match="not a checkpoint of this version"):
        loaded(stack, kept | {"more": 1})
    assert stack.sequences == 0
    loaded(stack, kept)
    assert stack.sequences == 35


def test_a_checkpoint_with_an_impossible_value_is_refused_with_its_name(pristine):
    stack, kept = unsealed(pristine)

    def changed(name, place, value):
        array = kept[name].clone()
        array[place] = value
        return {name: array}

    wrong = [
        changed("trial", 0, 4),
        changed("trial", 0, 3),
        {"trial": kept["trial"].flip(0)},
        changed("met", (0, 0), -2),
        changed("met", (0, 0), 36),
        changed("losses", (1, 2), math.nan),
        changed("norms", (1, 2), math.inf),
        changed("history", (0, 0), 4),
        changed("history", (0, 1), 20),
        changed("history", (5, 1), math.nan),
        {"history": kept["history"][:-1]},
        {"sequences": 34},
        {"sequences": 60},
    ]
    for change in wrong:
        (name,) = change
        expected = {"sequences": "losses|sequences"}.get(name, name)
        with pytest.raises(ValueError, match=rf"not a checkpoint of these trials \(.*({expected}).*\)"):
            loaded(stack, kept | change)


def test_a_checkpoint_in_the_first_layout_is_resumed(config, tmp_path, capsys):
    """One trial has diverged. The first layout has results in dictionaries, and lists with a piece for each end."""
    settings = {"task.T": 11, "training.learning_rate": 0.6, "training.optimizer": "sgd", "training.clip_norm": "null"}
    here = prepare(load(*lines(tmp_path, settings | {"seed": 2}))).config
    training.run(here | {"results_dir": str(tmp_path / "whole")})
    folder = store.folder_of(here)
    with leases.acquire(folder, here, [2, 3]) as lease:
        stack = Stack(Run(here, folder, lease.trials))
        while len(stack.active) == 2:
            stack.learn(10)
            if stack.evaluation_is_due():
                stack.evaluate()
        before, results = vars(stack.state).copy(), stack.trials_table().drop(columns="status")
        trials, weights = stack.weights_table()
        before |= {"active": before.pop("trial").tolist(), "memory": before.pop("moments")}
        before |= {"results": [{**row, "status": "diverged"} for row in results.astype(float).to_dict("records")]}
        before |= {"ended": [torch.from_numpy(trials)], "weights": [torch.from_numpy(weights)], "solved": 0}
        before |= {"history": stack.history_table().to_numpy(float), "updates": stack.sequences}
        before |= {"sequences": stack.sequences, "seconds": stack.seconds, "backend": "torch"}
        before = {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in before.items()}
        file = io.BytesIO()
        torch.save(before, file)
        stack_files.write_checkpoint(stack_files.stack_folder(folder, [2, 3]), file.getvalue())
    training.run(here)
    assert "Resuming from the checkpoint" in capsys.readouterr().out
    assert kept(here) == kept(here | {"results_dir": str(tmp_path / "whole")})


def test_weights_with_code_in_them_are_refused_and_the_code_not_run(pristine, tmp_path):
    shutil.copytree(pristine["results_dir"], tmp_path / "runs")
    (path,) = (tmp_path / "runs").rglob("weights.npz")
    (path.parent / "sums.json").unlink()
    np.savez(path, trial=np.array([0, 1]), parameters=np.array([Payload(tmp_path / "done")] * 2, object))
    with pytest.raises(files.UnusableError, match="weights.npz cannot be read"):
        stack_files.read_stack(path.parent)
    assert store.read_weights(path.parents[1]) == {}
    assert not (tmp_path / "done").exists()


# Diverged -----------------------------------------------------------------------------------------------------------


def test_a_diverged_trial_changes_no_other_trial_and_counts_as_unsolved(tmp_path, monkeypatch):
    """The second of three trials gets nan weights after it has met its first criterion."""
    settings = {"backend": "fused", "trials": 3, "task.criteria.noise_free.st1.wrong": "'< 100'"}
    results = []
    for name in ("healthy", "ill"):
        here = prepare(load(*lines(tmp_path / name, settings))).config
        training.run(here)
        results.append(store.read_result(store.folder_of(here)))
        learn = Stack.learn

        def infected(self, most, learn=learn):
            if self.sequences >= 30 and len(self.active) == 3:
                self.network.flat[1] = math.nan
            return learn(self, most)

        monkeypatch.setattr(Stack, "learn", infected)
    healthy, ill = results
    assert ill.trials["status"].tolist() == ["finished", "diverged", "finished"]
    for table, other in ((healthy.trials, ill.trials), (healthy.history, ill.history)):
        pd.testing.assert_frame_equal(
            *(t[t["trial"] != 1].drop(columns="seconds").reset_index(drop=True) for t in (table, other)),
            check_exact=True,
            check_dtype=False,
        )
    (comparison,) = compare([ill])
    numbers = criteria_table(comparison).numbers.set_index("criterion")
    assert numbers[["trials", "solved", "diverged"]].to_numpy().tolist() == [[3, 2, 1], [3, 0, 1]]
    assert "3 trials (1 diverged)" in run_table(ill)
    assert ["st1", "2/3"] in [line.split()[:2] for line in run_table(ill).splitlines()]
    metrics = metrics_table(comparison).text
    assert metrics["median"].str.contains("diverged").all()
