"""Compares layers and the training step with torch.nn and JAX; measures the step by sequence length, and whole runs.

    python scripts/benchmark.py --jax-python PATH    # PATH: any Python with jax and optax, to compare with JAX
    python scripts/benchmark.py --checkout PATH      # PATH: another checkout of this project, to compare with it
    python scripts/benchmark.py --quick              # half a minute, with more noise

A training step is the forward pass on two inputs, the squared error at the last time step, the backward pass, clipping
of each trial's gradient at norm 1, and Adam. The AMU is that of tframe: JAX and older checkouts have no other. The
sides of a comparison take turns. Its ratio is the median of the ratios within a turn, since other load on the machine
slows both sides. Compilation is not timed. Prints a table and writes it as CSV with the name of the machine.
"""

import argparse
import csv
import functools
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import torch
from processes import CheckoutPeer, JaxPeer, run_command

from amu_experiments.cells import cell_class
from amu_experiments.conf_files import named_readings
from amu_experiments.learning import Optimizer, learn
from amu_experiments.network import Network
from amu_experiments.overrides import load
from amu_experiments.plan import prepare
from amu_experiments.scans.threads import set_threads
from amu_experiments.stack import Stack
from amu_experiments.tasks.task import Sequences

INPUTS = 2
RATE, CLIP = 1e-3, 1.0
ANSWER = SimpleNamespace(answer="last", loss="squared_error", squash="linear")

LAYERS = ("LSTM", "GRU", "RNN")
LAYER_UNITS, LAYER_BATCHES, LAYER_STEPS = (8, 32, 64, 128, 256, 512), (1, 8, 32, 128), 50
STACKED = 10

LENGTHS = (100, 1000, 10_000)
LENGTHS_FOR_MEMORY = (10_000, 100_000)  # shorter sequences hardly change the RAM of a process

RUN = ("task=two_sequence", "model=amu", "trials=30", "training.stop=null")


@dataclass(frozen=True)
class Setting:
    """A network and its training: `trials` side by side, `batch` sequences of `steps` time steps in each update."""

    cell: str
    units: int
    gradient: str | None = None
    trials: int = 30
    batch: int = 1
    steps: int = 100

    def __str__(self):
        cell = f"AMU of tframe, {self.gradient} gradient" if self.gradient else self.cell.upper()
        trials = "1 trial" if self.trials == 1 else f"{self.trials} trials"
        return f"{cell}, {trials}, batch {self.batch}, T = {self.steps:,}"


TFRAME = {key.removeprefix("model."): value for key, value in named_readings()["tframe"].items()}
AMU = Setting("amu", 4, "truncated")
LSTM = Setting("lstm", 6)
AGAINST_JAX = [AMU, replace(AMU, trials=10, batch=32), replace(AMU, trials=1), replace(AMU, gradient="full"), LSTM]
AGAINST_CHECKOUT = [
    replace(setting, trials=trials, batch=batch)
    for setting in (AMU, LSTM, replace(LSTM, cell="gru"), replace(LSTM, cell="rnn"))
    for trials, batch in ((30, 1), (10, 32))
]
AGAINST_TORCH = {"LSTM": LSTM, "GRU": replace(LSTM, cell="gru"), "RNN": replace(LSTM, cell="rnn")}


@dataclass(frozen=True)
class Row:
    """Our measurement, the measurement to compare it with, and their ratio with its meaning."""

    what: str
    value: float
    unit: str
    against: str = ""
    other: float = math.nan
    ratio: float = math.nan
    meaning: str = ""

    def __str__(self):
        compared = f"{self.against:30} {self.other:>10.4g}   {self.ratio:>6.3g} {self.meaning}" if self.against else ""
        return f"{self.what:58} {self.value:>10.4g} {self.unit:12} {compared}".rstrip()


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jax-python", metavar="PATH", help="a Python that has jax and optax")
    parser.add_argument("--checkout", metavar="PATH", help="another checkout of this project")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark.csv"), help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns")
    options = parser.parse_args(arguments)
    measure = functools.partial(by_turns, turns=3, seconds=0.05) if options.quick else by_turns

    software = {"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy", "llvmlite")}
    peer = None
    if options.jax_python:
        peer = JaxPeer(options.jax_python, INPUTS)
        software["jax"] = peer.version
    machine = f"{processor()}, {os.cpu_count()} processors"
    versions = ", ".join(f"{name} {number}" for name, number in software.items())
    print(f"{machine}; {versions}\n")

    rows = []
    for part in (
        against_jax(measure, peer) if peer else (),
        against_checkout(measure, options.checkout) if options.checkout else (),
        against_torch(measure),
        layers(measure, (8, 64), (1, 32)) if options.quick else layers(by_turns, LAYER_UNITS, LAYER_BATCHES),
        over_lengths(measure),
        arithmetic_floor(measure),
        whole_run(*((20_000, 1) if options.quick else (100_000, 5))),
        start_up(1 if options.quick else 5),
    ):
        for row in part:
            print(row, flush=True)
            rows.append(row)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Row)] + ["machine", "software"])
        table.writeheader()
        table.writerows(asdict(row) | {"machine": machine, "software": versions} for row in rows)
    print(f"\nWritten to {options.out}")


# Comparisons ----------------------------------------------------------------------------------------------------

Burst = Callable[[float], float]
"""A function that works for about the given number of seconds and returns the seconds per sequence."""


def by_turns(*bursts: Burst, turns: int = 9, seconds: float = 0.2) -> np.ndarray:
    """The result of each burst in each turn, (bursts, turns). The first turn is a warm-up and is left out."""
    measured = [[burst(seconds) for burst in bursts] for _ in range(turns + 1)]
    return np.array(measured[1:]).T


def compared(what: str, unit: str, scale: float, against: str, ours: np.ndarray, theirs: np.ndarray) -> Row:
    ratio = np.median(theirs / ours)
    return Row(what, scale * np.median(ours), unit, against, scale * np.median(theirs), ratio, "times faster")


def against_jax(measure, peer: "JaxPeer") -> Iterator[Row]:
    for setting in AGAINST_JAX:
        seen = measure(fused(setting), peer.burst(setting))
        yield compared(f"{setting}", "us/sequence", 1e6, "JAX", *seen)


def against_checkout(measure, path: str) -> Iterator[Row]:
    peer = CheckoutPeer(path)
    for setting in AGAINST_CHECKOUT:
        seen = measure(fused(setting), peer.burst(setting))
        yield compared(f"{setting}", "us/sequence", 1e6, "the other checkout", *seen)


def layers(measure, units: tuple[int, ...], batches: tuple[int, ...]) -> Iterator[Row]:
    """Forward and backward of a layer against torch.nn's, and of ten stacked trials against ten layers in turn."""
    single = [(kind, size, batch, None) for kind in LAYERS for size in units for batch in batches]
    for kind, size, batch, trials in [*single, *(("LSTM", size, 32, STACKED) for size in units[:2])]:
        seen = measure(*(layer_burst(kind, size, batch, trials, own) for own in (True, False)))
        what = f"{kind} layer, {f'{trials} trials, ' if trials else ''}{size} units, batch {batch}"
        yield compared(what, "us/sequence", 1e6, f"{trials or 1} torch.nn.{kind}", *seen)


def against_torch(measure) -> Iterator[Row]:
    for layer, setting in AGAINST_TORCH.items():
        seen = measure(fused(setting), torch_loop(layer, setting))
        yield compared(f"{setting}", "us/sequence", 1e6, f"torch.nn.{layer} in a loop", *seen)


def over_lengths(measure) -> Iterator[Row]:
    """Time and RAM per time step, divided by those of the shortest sequences."""
    what, against, meaning = "AMU of tframe, truncated gradient, T = {:,}", "T = {:,}", "times as much per step"
    per_step = measure(*(fused(replace(AMU, steps=T)) for T in LENGTHS)) / np.array(LENGTHS)[:, None]
    for T, times in zip(LENGTHS[1:], per_step[1:], strict=True):
        ours, first, ratio = np.median([times, per_step[0], times / per_step[0]], axis=1)
        yield Row(what.format(T), 1e9 * ours, "ns/step", against.format(LENGTHS[0]), 1e9 * first, ratio, meaning)
    if not Path("/proc/self/clear_refs").exists():
        print("(RAM is measured on Linux only)")
        return
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        peaks = fresh.map(peak, LENGTHS_FOR_MEMORY)
        first, *others = (memory / T for T, memory in zip(LENGTHS_FOR_MEMORY, peaks, strict=True))
    for T, ours in zip(LENGTHS_FOR_MEMORY[1:], others, strict=True):
        other = against.format(LENGTHS_FOR_MEMORY[0])
        yield Row(what.format(T), ours, "byte/step", other, first, ours / first, meaning)


def arithmetic_floor(measure) -> Iterator[Row]:
    """The time of a step's operations at the rate of a large matrix product, a lower bound for any program."""
    for threads in (1, os.cpu_count()):
        ours, rate = measure(fused(AMU, threads), functools.partial(seconds_per_operation, threads=threads))
        floor = rate * operations(AMU)
        what = f"{AMU}, {threads} thread{'s' * (threads > 1)}"
        against = f"at {1e-9 / np.median(rate):.0f} GFLOP/s"
        seen = 1e6 * np.median(ours), "us/sequence", against, 1e6 * np.median(floor), np.median(ours / floor)
        yield Row(what, *seen, "times the floor")


def whole_run(sequences: int, turns: int) -> Iterator[Row]:
    """amu-run with its data, evaluation and history, against the training step alone on data made in advance."""
    stack = Stack(prepare(load(*RUN)))
    trials = stack.trials
    data = stack.task.train_batch(0, stack.evaluate_every)
    initial = stack.network.flat.clone()

    def step_alone() -> None:
        # Start from the initial weights each time: repeated training on the same few sequences makes trials diverge.
        stack.network.load_flat(initial.clone())
        stack.optimizer.moments.zero_()
        stack.optimizer.updates = 0
        learned_whole(stack.network, stack.optimizer, stack.task, data, 1)

    bare = repeated(step_alone, data.lengths.size)
    command = functools.partial(run_command, *RUN)
    command("training.max_sequences=1")
    seen = np.array(
        [
            (command(f"training.max_sequences={sequences}"), command("training.max_sequences=1"), bare(1.0))
            for _ in range(turns)
        ]
    )
    whole, start, step = seen.T
    for what, took in (
        (f"amu-run, {len(trials)} trials, {sequences:,} sequences each", whole),
        ("the same without start-up and tests", whole - start),
    ):
        each = took / sequences / len(trials)
        other = "the training step alone", 1e6 * np.median(step), np.median(step / each)
        yield Row(what, 1e6 * np.median(each), "us/sequence", *other, "of its throughput")


def start_up(turns: int) -> Iterator[Row]:
    for what, status, arguments in (
        ("amu-run --help", 0, ["--help"]),
        ("amu-run with a mistake in its configuration", 2, ["task=two_sequence", "model.unit=3"]),
        ("amu-run of one update, tests and tables included", 0, [*RUN, "training.max_sequences=1"]),
    ):
        yield Row(what, median(run_command(*arguments, status=status) for _ in range(turns)), "s")


# Sides ----------------------------------------------------------------------------------------------------------


def repeated(work: Callable[[], object], sequences: int) -> Burst:
    """Bursts that repeat `work`; each call of it processes `sequences` sequences."""

    def burst(seconds):
        began, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - began < seconds:
            work()
            count += 1
        return (time.perf_counter() - began) / count / sequences

    return burst


def learned_whole(network, optimizer, task, sequences: Sequences, batch: int) -> None:
    """Call `learn`. Raises RuntimeError if a trial diverged, since `learn` skips its later updates."""
    if (learn(network, optimizer, task, sequences, batch).updates < len(sequences) // batch).any():
        raise RuntimeError("a trial diverged, so its updates cannot be timed")


def fused(setting: Setting, threads: int | None = None, updates: int | None = None) -> Burst:
    """This project's training step. `updates`: number in one call; by default, enough to hide the cost of the call."""
    R, T = setting.trials, setting.steps
    options = {"gradient": setting.gradient} | TFRAME if setting.cell == "amu" else {}
    cell = cell_class(setting.cell)(INPUTS, setting.units, trials=R, backend="fused", **options)
    network = Network(cell, 1)
    network.initialise(range(R))
    optimizer = Optimizer("adam", RATE, 0.0, CLIP, torch.zeros(R, 2 * network.flat.shape[1]))
    updates = updates or max(min(1000, 2**21 // (R * setting.batch * T * INPUTS)), 1)  # 8 MiB of inputs at most
    count = updates * setting.batch
    rng = np.random.default_rng(0)
    data = Sequences(
        rng.standard_normal((R, count, T, INPUTS), dtype=np.float32),
        np.full((R, count), T),
        rng.standard_normal((R, count, 1, 1), dtype=np.float32),
    )

    def work():
        set_threads(threads)
        learned_whole(network, optimizer, ANSWER, data, setting.batch)

    return repeated(work, R * count)


def layer_burst(kind: str, units: int, batch: int, trials: int | None, own: bool) -> Burst:
    """Forward and backward of this project's layer, or of torch.nn's, one after another for `trials` of them."""
    inputs, count = min(units, 64), trials or 1
    if own:
        cells = [cell_class(kind.lower())(inputs, units, trials=trials, backend="fused")]
    else:
        cells = [getattr(torch.nn, kind)(inputs, units) for _ in range(count)]
    lead = (trials,) if own and trials else ()
    x = torch.randn(*lead, LAYER_STEPS, batch, inputs, requires_grad=True)
    error = torch.randn(*lead, LAYER_STEPS, batch, units)

    def work():
        for cell in cells:
            x.grad = None
            cell.zero_grad()
            cell(x)[0].backward(error)

    return repeated(work, count * batch)


def torch_loop(layer: str, setting: Setting) -> Burst:
    """The same step with a layer of torch.nn, one sequence at a time on one thread."""
    torch.manual_seed(0)
    layer = getattr(torch.nn, layer)(INPUTS, setting.units)
    readout = torch.nn.Linear(setting.units, 1)
    parameters = [*layer.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, RATE)
    x, target = torch.randn(setting.steps, 1, INPUTS), torch.randn(1, 1)

    def work():
        optimizer.zero_grad()
        y, _ = layer(x)
        torch.nn.functional.mse_loss(readout(y[-1]), target).backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()

    burst = repeated(work, 1)

    def on_one_thread(seconds):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        took = burst(seconds)
        torch.set_num_threads(threads)
        return took

    return on_one_thread


# Facts about the machine and the step ---------------------------------------------------------------------------


def processor() -> str:
    names = (
        re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def seconds_per_operation(seconds: float, threads: int, size: int = 1024) -> float:
    """The time of one operation in a product of float32 matrices; a multiplication and an addition are two."""
    a, b = torch.randn(2, size, size)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    took = repeated(lambda: a @ b, 2 * size**3)(seconds)
    torch.set_num_threads(before)
    return took


def operations(setting: Setting) -> int:
    """Operations of one AMU sequence with truncated gradient, forward and backward, without the optimiser.

    The products with the weight matrices take 2 K (I + K) operations a step, and so does their gradient. A neuron takes
    about 25 for tanh, v s and the product, and about 15 for its share of the error.
    """
    K = 3 * setting.units
    return setting.steps * (4 * K * (INPUTS + K) + 40 * K)


def peak(T: int) -> int:
    """The largest number of bytes that a training step on sequences of T steps uses, data included."""
    status = Path("/proc/self/status")

    def kilobytes(name):
        return int(re.search(rf"{name}:\s+(\d+) kB", status.read_text())[1])

    fused(replace(AMU, steps=10), updates=1)(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the highest size
    before = kilobytes("VmRSS")
    fused(replace(AMU, steps=T), updates=1)(0)
    return 1024 * (kilobytes("VmHWM") - before)


if __name__ == "__main__":
    main()
