"""The command amu-sample lets a trained network generate, without its input, and writes the result to files.

RUN is the folder of a run, RESULTS/TASK/MODEL/IDENTITY, or the overrides of the command amu-run that trained it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from amu_experiments import numerics, store
from amu_experiments.analysis.media import files_of
from amu_experiments.analysis.samples import Sample
from amu_experiments.command_line import Parser, whole
from amu_experiments.console import failed, say
from amu_experiments.files import UnusableError, write_bytes
from amu_experiments.options import ConfigurationError
from amu_experiments.tasks.task import Task


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit status: 0; 1 if the run cannot be used, 2 for a wrong command, 130 if interrupted."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        config, folder = _run(options.run)
        sample = sample_run(config, folder, options)
        place, files = options.out / sample.name, files_of(sample)
        place.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_bytes(place / name, data)
        write_bytes(place / "sample.json", json.dumps(sample.as_json()).encode() + b"\n")
    except (ConfigurationError, UnusableError, OSError, KeyboardInterrupt) as error:
        return failed("amu-sample", error)
    for text in sample.marked_texts():
        say(text)
    say(f"{', '.join(files)} in {place}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser("amu-sample", description=__doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="a folder, or key=value ... as for amu-run")
    parser.add_argument("--trial", type=int, help="the trial (default: the one with the median validation loss)")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of all random numbers (default: %(default)s)")
    parser.add_argument("--count", type=whole(1), help="number of sequences (default: the task's own)")
    parser.add_argument("--length", type=whole(1), help="steps of each sequence (default: the task's own)")
    parser.add_argument(
        "--primed", action="store_true", help="begin with a part of test sequences, and keep their rest beside it"
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=1.0,
        help="divides the readout (logits) before symbols or keys are drawn: below 1, likely ones become more likely",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/report/samples"), help="folder for samples (default: %(default)s)"
    )
    return parser


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text}: must be a number from 0.01 to 100")
    return value


def _run(words: Sequence[str]) -> tuple[dict, Path]:
    """The configuration and the folder of a run; ConfigurationError or UnusableError if there is none."""
    if not any("=" in word for word in words):
        if len(words) > 1:
            raise ConfigurationError(f"{' '.join(words)}: give one folder, or key=value")
        folder = Path(words[0]).expanduser().resolve()
        folder = folder.parent if store.STACK_NAME.fullmatch(folder.name) else folder
        if not folder.is_dir():
            raise UnusableError(Path(words[0]), "no such folder")
        if not (folder / "config.yaml").exists():
            raise UnusableError(
                Path(words[0]), "is no stored run, since it has no config.yaml; give RESULTS/TASK/MODEL/IDENTITY"
            )
        config = store.read_config(folder)
        numerics.fix("portable")
        return config, folder
    from amu_experiments.overrides import load
    from amu_experiments.plan import prepare

    run = prepare(load(*words))
    return run.config, run.folder


def sample_run(config: Mapping, folder: Path, options: argparse.Namespace) -> Sample:
    """The sequences that a network of a finished run generates.

    Raises:
        ConfigurationError: the task cannot be continued, or there is no such trial.
        UnusableError: the folder has no finished trials, or no weights.
    """
    import torch

    from amu_experiments.network import build
    from amu_experiments.tasks import make_task

    trial = _trial(folder, options.trial, options.run)
    try:
        task = make_task(config["task"], [trial])
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    weights = store.read_weights(folder)[trial]
    network = build(config["model"], task, "auto", "cpu", config["training"]["batch_size"])
    if network.flat.shape[1] != len(weights):
        raise UnusableError(folder, f"has weights of {len(weights)} parameters, not {network.flat.shape[1]}")
    network.load_flat(torch.from_numpy(weights[None].copy()))
    if task.feedback is None:
        raise ConfigurationError(f"{folder.parent.parent.name}: the task cannot be continued")
    texts = task.feedback == "symbol"
    count = options.count or task.shown
    length, prime, truth = options.length or task.longest_generated(), None, None
    rng = np.random.default_rng(options.seed)
    if options.primed or task.fixed:
        sequences = task.test()
        chosen = np.sort(rng.permutation(len(sequences))[:count])
        prime, (truth,) = task.continuation(sequences.take(np.s_[:, chosen]))
        count = len(chosen)
    else:
        prime = task.start(rng, count)[None]
    generated = task.generate(network, [rng], count, length, prime, options.temperature)[0]
    known = {} if texts else {"prime": prime[0], "generated": generated, "truth": truth}
    written = task.texts(prime[0], generated) if texts else []
    return Sample(
        task=folder.parent.parent.name,
        model=folder.parent.name,
        identity=folder.name,
        trial=trial,
        seed=options.seed,
        primed=options.primed,
        temperature=options.temperature,
        media=task.media,
        texts=[(text, task.first_wrong(text)) for text in written],
        series={name: None if values is None else _answers(values, task) for name, values in known.items()},
    )


def _answers(values: np.ndarray, task: Task) -> np.ndarray:
    """The part of inputs or answers (count, steps, _) to show: all O outputs for moves and notes, else the first."""
    return values[..., : task.output_size] if {"svg", "mid"} & set(task.media) else values[..., 0]


def _trial(folder: Path, asked: int | None, words: Sequence[str]) -> int:
    """The trial that was asked for, or the one with the median validation loss (of an even number, the better one)."""
    result = store.read_result(folder, left_out=[])
    if result is None:
        command = " ".join(["amu-run", *(word for word in words if "=" in word)])
        raise UnusableError(folder, f"has no finished trials; train some with {command}")
    stacks = [stack for stack in result.stacks if (stack / "weights.npz").exists()]
    if not stacks:
        raise UnusableError(folder, "has no weights (a copy of results leaves them out); train the run with amu-run")
    trained = result.trials[result.trials["status"] != "diverged"]
    if asked is not None:
        if asked not in set(trained["trial"]):
            known = ", ".join(map(str, trained["trial"])) or "none"
            raise ConfigurationError(
                f"--trial {asked}: is not among the trials that were trained to their end: {known}"
            )
        return asked
    if trained.empty:
        raise UnusableError(folder, "has only trials that diverged")
    return int(trained.sort_values(["loss", "trial"])["trial"].iloc[(len(trained) - 1) // 2])
