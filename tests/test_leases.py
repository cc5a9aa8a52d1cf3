"""Leases between machines: two mounts of one folder, whose locks do not meet, stand for a store on two machines.

In short as it stands; pytest --long tests/test_leases.py has twelve and eight processes, ten times.
"""

import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster import bind_mounts
from commands import Command, train, wait_until

from amu_experiments import files, leases, stack_files, store, training
from amu_experiments.overrides import load
from amu_experiments.plan import Run, prepare
from amu_experiments.stack import Stack

SETTINGS = (
    *("task=two_sequence", "model=rnn", "task.T=11", "task.test_size=20", "task.validation_size=20", "model.units=3"),
    *("training.max_sequences=60", "training.evaluate_every=10", "training.stop=null", "backend=torch", "threads=1"),
    *("training.checkpoint_minutes=1e-9", "trials=2", "results_dir=nowhere"),
)
"""Two trials that take a fraction of a second, with a checkpoint after every evaluation."""


@pytest.fixture(scope="module")
def config():
    return prepare(load(*SETTINGS)).config


@pytest.fixture(autouse=True)
def nothing_left_running():
    yield
    Command.kill_all()


@pytest.fixture
def mounts(tmp_path):
    """A folder, and two mounts of it: what is locked in one is not locked in the other."""
    places = [tmp_path / name for name in ("store", "first", "second")]
    with bind_mounts(places[0], places[1:]):
        yield places
        Command.kill_all()


def tables(results_dir):
    """All results of a store except seconds, and the bytes of the weights, by the path of their stack."""
    found = {}
    for path in results_dir.rglob("trials.csv"):
        trials, history = (table.drop(columns="seconds").to_csv() for table in stack_files.read_stack(path.parent))
        found[path.parent.relative_to(results_dir)] = trials, history, (path.parent / "weights.npz").read_bytes()
    return found


def left_behind(results_dir):
    names = ("checkpoint.pt", leases.LEASE)
    return [path for path in results_dir.rglob("*") if path.name in names or path.suffix == ".part"]


def lease_of(folder, trials=(0, 1)):
    return stack_files.stack_folder(folder, list(trials)) / leases.LEASE


def acquired(folder, config, trials):
    with leases.acquire(folder, config, trials) as lease:
        return lease.trials, [path.name for path in lease.elsewhere]


def foreign(path, **owner):
    """Make a lease of a process on another machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": "other-0123abcd", "host": "other", "process": os.getpid()} | owner))


def silent(path, seconds_left):
    """Date a lease as if its owner had given no sign of life for long: it is over after so many seconds."""
    os.utime(path, (time.time() - leases.SECONDS_OF_SILENCE + seconds_left,) * 2)


def no_links(*arguments):
    raise PermissionError(1, "Operation not permitted")


# The lease --------------------------------------------------------------------------------------------------------


def test_a_lease_names_host_process_job_and_time_and_goes_with_its_process(config, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with leases.acquire(tmp_path / "a", config, [0, 1]) as lease:
        owner = json.loads(lease_of(tmp_path / "a").read_text())
        lease.verify()
    assert (owner["host"], owner["process"], owner["job"]) == (os.uname().nodename, os.getpid(), "17")
    assert owner["time"].startswith(time.strftime("%Y-%m-%dT"))
    assert left_behind(tmp_path) == []


def test_a_lease_of_another_machine_holds_until_it_has_been_silent_for_too_long(config, tmp_path):
    """Its process has the number of one that runs here, and of one that does not: neither matters."""
    for place, process in (("a", os.getpid()), ("b", 10**9)):
        path = lease_of(tmp_path / place)
        foreign(path, process=process)
        assert acquired(tmp_path / place, config, range(3)) == ([2], ["trials-0-1"])
        os.utime(path, (time.time() - leases.SECONDS_OF_SILENCE + 60,) * 2)
        assert acquired(tmp_path / place, config, [0, 1]) == ([], ["trials-0-1"])
        os.utime(path, (time.time() - leases.SECONDS_OF_SILENCE - 1,) * 2)
        assert acquired(tmp_path / place, config, [0, 1]) == ([0, 1], [])


def test_a_lease_of_this_machine_ends_with_its_process(config, tmp_path):
    ended = subprocess.Popen(["true"])
    wait_until(lambda: not files.is_running(ended.pid))  # a zombie: its parent has not waited for it yet
    for number, (process, free) in enumerate(((ended.pid, True), (os.getpid(), False))):
        folder = tmp_path / str(number)
        foreign(lease_of(folder), machine=files.machine(), process=process)
        assert acquired(folder, config, [0, 1]) == (([0, 1], []) if free else ([], ["trials-0-1"]))
    ended.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"machine": 1, "process": "x"}', "[" * 100_000])
def test_a_lease_that_cannot_be_read_holds_until_it_is_old(config, tmp_path, text):
    """It may be one that is just being written."""
    path = lease_of(tmp_path)
    path.parent.mkdir()
    path.write_text(text)
    assert acquired(tmp_path, config, [0, 1]) == ([], ["trials-0-1"])
    os.utime(path, (0, 0))
    assert acquired(tmp_path, config, [0, 1]) == ([0, 1], [])


def test_a_process_that_died_while_it_chose_a_stack_blocks_no_other(config, tmp_path):
    foreign(tmp_path / leases.LEASE, machine=files.machine(), process=10**9)
    assert acquired(tmp_path, config, [0, 1]) == ([0, 1], [])
    foreign(tmp_path / leases.LEASE)
    os.utime(tmp_path / leases.LEASE, (0, 0))
    assert acquired(tmp_path, config, [0, 1]) == ([0, 1], [])
    assert left_behind(tmp_path) == []


def test_a_stack_that_ends_while_another_process_looks_for_work_is_not_trained_again(config, tmp_path, monkeypatch):
    read = store.finished_stacks
    with ExitStack() as training_it:
        lease = training_it.enter_context(leases.acquire(tmp_path, config, [0, 1]))

        def ends_after_the_look(*arguments, **options):
            found = read(*arguments, **options)
            if not found:
                training.train_stack(Run(config, tmp_path, lease.trials), lease)
                training_it.close()
            return found

        monkeypatch.setattr(store, "finished_stacks", ends_after_the_look)
        assert acquired(tmp_path, config, [0, 1])[0] == []
    assert acquired(tmp_path, config, [0, 1]) == ([], [])


@pytest.mark.parametrize("links", [True, False])
def test_a_process_waits_while_another_one_chooses(config, tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    foreign(tmp_path / leases.LEASE)
    silent(tmp_path / leases.LEASE, 0.5)
    began = time.monotonic()
    assert acquired(tmp_path, config, [0, 1]) == ([0, 1], [])
    assert time.monotonic() - began > 0.3


def test_a_lease_is_dated_anew_while_it_is_held_also_after_an_error_of_the_file_server(config, tmp_path, monkeypatch):
    errors, utime = [OSError(errno.ESTALE, "Stale file handle")] * 2, os.utime

    def sometimes(*arguments):
        if errors:
            raise errors.pop()
        utime(*arguments)

    monkeypatch.setattr(leases, "SECONDS_OF_A_BEAT", 0.02)
    with leases.acquire(tmp_path, config, [0, 1]):
        utime(lease_of(tmp_path), (0, 0))
        monkeypatch.setattr(os, "utime", sometimes)
        wait_until(lambda: lease_of(tmp_path).stat().st_mtime > time.time() - 60)
    assert errors == []


def test_the_age_of_a_lease_is_that_of_the_file_servers_clock(config, tmp_path, monkeypatch):
    """The clock of this machine is an hour fast, or slow."""
    now, path = time.time, lease_of(tmp_path)
    for hour in (3600, -3600):
        monkeypatch.setattr(time, "time", lambda hour=hour: now() + hour)
        foreign(path)
        assert acquired(tmp_path, config, [0, 1]) == ([], ["trials-0-1"])
        os.utime(path, (now() - leases.SECONDS_OF_SILENCE - 1,) * 2)
        assert acquired(tmp_path, config, [0, 1]) == ([0, 1], [])


def test_a_lease_that_another_process_took_over_is_lost_and_left_to_it(config, tmp_path):
    with leases.acquire(tmp_path, config, [0, 1]) as lease:
        lease_of(tmp_path).unlink()
        with pytest.raises(leases.LeaseLostError):
            lease.verify()
        foreign(lease_of(tmp_path))
        with pytest.raises(leases.LeaseLostError):
            lease.verify()
    assert json.loads(lease_of(tmp_path).read_text())["host"] == "other"


def test_a_process_waits_for_another_machine_by_name(config, tmp_path):
    here = config | {"results_dir": str(tmp_path)}
    path = lease_of(store.folder_of(here))
    foreign(path, job="42", process=7)
    waiting = Command(tmp_path / "out", train, here)
    wait_until(lambda: "A process on other (7, job 42) is training trials-0-1; waiting for it." in waiting.told)
    path.unlink()
    assert waiting.end() == 0


@pytest.mark.parametrize(
    ("lines", "type_of_runs"),
    [
        ("1 0 8:1 / / rw - ext4 /dev/sda rw", None),
        ("1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / /data rw shared:1 - nfs4 server:/x rw", "nfs4"),
        ("1 0 8:1 / / rw - nfs server:/ rw\n2 1 0:9 / /data/runs rw - xfs /dev/sdb rw", None),
        ("1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / /data/run rw - lustre mgs:/x rw", None),
        ("1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / /data rw - fuse.sshfs me@host: rw", "fuse.sshfs"),
        (r"2 1 0:9 / /data/my\040runs rw - nfs server:/x rw", None),
    ],
)
def test_a_network_file_system_is_recognised_by_its_mount(monkeypatch, lines, type_of_runs):
    monkeypatch.setattr(Path, "read_text", lambda path: lines)
    assert leases.network_type(Path("/data/runs/adding")) == type_of_runs
    assert leases.network_type(Path("/data/my runs/adding")) == (
        "nfs" if "040" in lines else leases.network_type("/data")
    )


# A machine that dies ----------------------------------------------------------------------------------------------


def test_a_stack_whose_machine_died_is_taken_over_in_time_with_the_same_end(config, tmp_path, capsys):
    whole, parts = (config | {"results_dir": str(tmp_path / name)} for name in ("whole", "parts"))
    training.run(whole)
    folder = store.folder_of(parts)
    with leases.acquire(folder, parts, [0, 1]) as lease:
        stack = Stack(Run(parts, folder, lease.trials))
        while stack.sequences < 30:
            stack.learn(10)
            stack.evaluate()
        stack_files.write_checkpoint(lease_of(folder).parent, stack.dump())
    foreign(lease_of(folder))
    silent(lease_of(folder), 1)
    capsys.readouterr()
    began = time.monotonic()
    training.run(parts)
    took, told = time.monotonic() - began, capsys.readouterr().out
    assert 0.5 < took < 1 + leases.LONGEST_PAUSE + 10
    assert "waiting for it" in told
    assert "Resuming from the checkpoint at 30 sequences" in told
    assert tables(tmp_path / "whole") == tables(tmp_path / "parts")
    assert left_behind(tmp_path) == []


def test_a_process_that_slept_through_its_lease_leaves_the_stack_to_the_other(config, tmp_path, capsys, monkeypatch):
    """The other machine takes over at 30 sequences, as after minutes of silence, and then dies, too."""
    whole, slept = (config | {"results_dir": str(tmp_path / name)} for name in ("whole", "slept"))
    training.run(whole)
    path, evaluate, before = lease_of(store.folder_of(slept)), Stack.evaluate, []

    def sleep(stack):
        evaluate(stack)
        if stack.sequences == 30 and not before:
            before.append((path.parent / "checkpoint.pt").read_bytes())
            foreign(path)
            silent(path, 2)

    def wait(stack, wait_for=leases.wait_for):
        before.append((stack / "checkpoint.pt").read_bytes())
        wait_for(stack)

    monkeypatch.setattr(Stack, "evaluate", sleep)
    monkeypatch.setattr(leases, "wait_for", wait)
    capsys.readouterr()
    training.run(slept)
    told = capsys.readouterr().out
    assert "Another process took over trials-0-1" in told
    assert "A process on other" in told
    assert before[0] == before[1]
    assert "Resuming from the checkpoint at 20 sequences" in told
    assert tables(tmp_path / "whole") == tables(tmp_path / "slept")


def test_a_run_whose_lease_is_lost_when_a_signal_comes_stops_all_the_same(config, tmp_path, monkeypatch):
    """It finds that out when it writes its last checkpoint."""
    here = config | {"results_dir": str(tmp_path), "training": config["training"] | {"checkpoint_minutes": 5}}
    path, evaluate, times = lease_of(store.folder_of(here)), Stack.evaluate, []

    def interrupted(stack):
        evaluate(stack)
        times.append(stack.sequences)
        if times == [10, 20, 30]:
            foreign(path)
            silent(path, 1)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Stack, "evaluate", interrupted)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            training.run(here)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert json.loads(path.read_text())["host"] == "other"


def test_a_lease_that_two_processes_find_to_be_over_is_taken_over_by_one(config, tmp_path, monkeypatch):
    """The other process is faster: it takes over after this one has read the old lease, and before it removes it."""
    path, rename = lease_of(tmp_path), Path.rename

    def late(old, new):
        if old == path and not others:
            others.append(new)
            foreign(path, host="faster")
        return rename(old, new)

    for links in (True, False):
        others = []
        foreign(path)
        silent(path, -1)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", late)
            if not links:
                patch.setattr(os, "link", no_links)
            assert acquired(tmp_path, config, [0, 1]) == ([], ["trials-0-1"])
        assert len(others) == 1
        assert json.loads(path.read_text())["host"] == "faster"
        assert left_behind(tmp_path) == [path]


def test_a_lease_is_held_if_the_file_server_makes_a_link_and_its_answer_is_lost(config, tmp_path, monkeypatch):
    link = os.link

    def repeated(old, new):
        link(old, new)
        if new.parent != tmp_path:
            link(old, new)

    monkeypatch.setattr(os, "link", repeated)
    with leases.acquire(tmp_path, config, [0, 1]) as lease:
        assert lease.trials == [0, 1]
    assert left_behind(tmp_path) == []


def test_a_file_system_without_links_and_locks_has_leases(config, tmp_path, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with leases.acquire(tmp_path, config, [0, 1]) as lease:
        lease.verify()
        assert lease.trials == [0, 1]
        assert acquired(tmp_path, config, range(3)) == ([2], ["trials-0-1"])
    assert acquired(tmp_path, config, [0, 1]) == ([0, 1], [])
    assert left_behind(tmp_path) == []


# Two mounts -------------------------------------------------------------------------------------------------------


def test_a_lock_in_one_mount_is_no_lock_in_the_other_and_a_lease_is(config, mounts):
    folder, first, second = mounts
    with leases.locked(first) as one, leases.locked(second, wait=False) as two:
        assert one
        assert two
    with leases.acquire(first / "a", config, range(4, 8)) as lease:
        part = files.partial_path(folder / "a" / "trials-4-7" / "checkpoint.pt", os.getpid())
        part.write_bytes(b"x")
        assert lease.trials == [4, 5, 6, 7]
        assert acquired(second / "a", config, range(4, 8)) == ([], ["trials-4-7"])
        assert acquired(second / "a", config, range(3, 9)) == ([3], ["trials-4-7"])
        assert part.exists()


def test_disjoint_trials_of_one_configuration_train_in_two_mounts(config, mounts, tmp_path, number):
    store_folder, *places = mounts
    for attempt in range(number(1, 10)):
        name, tasks = str(attempt), number(2, 12)
        commands = [
            Command(tmp_path / f"{name}-{task}", train, config | {"results_dir": str(place / name), "seed": 2 * task})
            for task in range(tasks)
            for place in (places[task % 2],)
        ]
        assert [command.end(900) for command in commands] == [0] * tasks
        assert "is on a network file system (fuse): " in commands[0].told
        for seed in range(0, 2 * tasks, 2):
            training.run(config | {"results_dir": str(tmp_path / "one" / name), "seed": seed})
        assert tables(store_folder / name) == tables(tmp_path / "one" / name)
        assert left_behind(store_folder) == []


def test_trials_that_many_processes_ask_for_in_two_mounts_are_trained_once_although_some_are_killed(
    config, mounts, tmp_path, number
):
    """Each process asks for all stacks, in an order of its own. A stack is trained again only if its process died."""
    store_folder, *places = mounts
    seeds, chance = range(0, number(6, 30), 3), random.Random(5)
    runs = [config | {"seed": seed, "trials": 3} for seed in seeds]
    for run in runs:
        training.run(run | {"results_dir": str(tmp_path / "one")})
    for attempt in range(number(1, 10)):
        place_of = {}

        def start(place, name=str(attempt), place_of=place_of):
            order = [run | {"results_dir": str(place / name)} for run in chance.sample(runs, len(runs))]
            command = Command(tmp_path / f"{name}-{len(place_of)}", train, *order)
            place_of[command] = place
            return command

        running = [start(places[n % 2]) for n in range(number(3, 8))]
        for _ in range(number(2, 16)):
            time.sleep(chance.uniform(0, 0.3))
            victim = running.pop(chance.randrange(len(running)))
            victim.signal(signal.SIGKILL)
            assert victim.end() in (0, -signal.SIGKILL)
            running.append(start(place_of[victim]))
        assert [command.end(900) for command in running] == [0] * len(running)
        begun = [line for command in place_of for line in command.told.splitlines() if line.startswith("trains ")]
        killed = [command for command in place_of if command.end() != 0 and "trains " in command.told]
        last = [[line for line in command.told.splitlines() if line.startswith("trains ")][-1] for command in killed]
        for line in set(begun):
            assert begun.count(line) <= 1 + last.count(line)
        assert tables(store_folder / str(attempt)) == tables(tmp_path / "one")
        assert left_behind(store_folder / str(attempt)) == []
