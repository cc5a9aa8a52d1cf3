"""Measures the mechanism of stored runs: error flow, gradient conflict and memory traces.

    python -m amu_experiments.studies.mechanism
    python -m amu_experiments.studies.mechanism --where "task == two_sequence,adding" --sequences 4

Reads the configuration and the final weights of each run; trains nothing. Writes flow.csv.gz, trials.csv.gz and
traces.csv.gz, whose columns `measure` explains; pandas.read_csv opens them.

Every number comes from the recurrence, unrolled step by step under autograd. It is computed in double precision,
because a gradient that vanishes soon leaves the range of single precision.
"""

import copy
import gzip
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

from amu_experiments.cells.amu import AMU
from amu_experiments.cells.cell import Cell, State
from amu_experiments.command_line import whole
from amu_experiments.files import write_bytes
from amu_experiments.learning import loss_and_error
from amu_experiments.network import Network, build, to_torch
from amu_experiments.options import ConfigurationError
from amu_experiments.selection import select
from amu_experiments.store import Result, read_results, read_weights
from amu_experiments.studies.arguments import option_parser
from amu_experiments.tasks import make_task
from amu_experiments.tasks.task import Sequences, Task

QUARTILES = {"low": 0.25, "median": 0.5, "high": 0.75}

MOST_LAGS = 30
"""Maximum number of points of a curve over lags."""

MOST_STEPS = 75
"""Maximum number of points of a trace over time."""

MOST_TRACED = 2
"""Maximum number of sequences of a trial that have traces."""

NUMBERS_AT_ONCE = 2 * 10**7
"""Number of values in RAM at a time, for the gradients of single steps."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = option_parser(
        "mechanism", __doc__, out="results/paper/mechanism", results_dir="results/runs", trains=False
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help='measure only the runs whose settings meet this, such as "model == lstm,gru"; may be given more than once',
    )
    parser.add_argument("--sequences", type=whole(1), default=8, help="sequences of each trial (%(default)s)")
    parser.add_argument("--steps", type=whole(1), help="leave out runs whose median sequence is longer")
    parser.add_argument("--threads", type=whole(1), help="processor threads; default: all")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    left_out: list = []
    results = read_results(options.results_dir, left_out)
    for error in left_out:
        print(f"Left out: {error}")
    try:
        results = select(results, options.where)
    except ConfigurationError as error:
        raise SystemExit(f"{parser.prog}: --where: {error}") from None
    if not results:
        raise SystemExit(f"{parser.prog}: no finished runs in {options.results_dir}")
    measured = []
    for result in tqdm(results):
        if options.steps and median_length(result) > options.steps:
            continue
        try:
            measured.append(measure(result, read_weights(result.folder), options.sequences))
        except (OSError, ValueError) as error:  # damaged weights, or data files of the user that have changed
            print(f"Left out: {error}")
    if not measured:
        raise SystemExit(f"{parser.prog}: nothing could be measured")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("flow", "trials", "traces"):
        table = pd.concat([tables[name] for tables in measured], ignore_index=True)
        text = table.to_csv(index=False, float_format="%.5g")
        # Without a time stamp, equal tables give equal bytes.
        write_bytes(options.out / f"{name}.csv.gz", gzip.compress(text.encode(), mtime=0))
    print(f"Written to {options.out}")


# Stored runs -----------------------------------------------------------------------------------------------


def median_length(result: Result) -> float:
    """The median length, in steps, of the validation sequences of a configuration's first trial."""
    return float(np.median(make_task(result.config["task"], result.trials["trial"][:1]).validation().lengths))


def measure(result: Result, weights: dict[int, np.ndarray], sequences: int = 8) -> dict[str, pd.DataFrame]:
    """The mechanism of one configuration's trials, at the start of training and after it, on validation sequences.

    Args:
        result: from the store.
        weights: final flat parameters of every trial, as `store.read_weights` returns them. Trials with weights that
            are not finite are left out.
        sequences: number of validation sequences of each trial.

    Returns a dict of three tables:
        flow: columns task, model, identity, phase (start, trained), flow, lag, trials, and quartiles over trials.
            `flow` is full or truncated: the derivative of the loss, or the error that a truncated gradient sends back
            (only for a cell that learns by one). The quartiles relative_... are of the ratio of `error_flow` to that at
            lag 1 (0 if there is no error at all). A trial's value is the median over sequences.
        trials: columns task, model, identity, phase, flow, trial, quantity, value. Quantities: relative_flow, the
            ratio at the longest lag of the table `flow`; conflict, the conflict ratio over all weights of the cell, for
            the gradient that the cell learns by.
        traces: columns task, model, identity, trial, sequence, step, unit, memory, output, for one trial of an AMU: the
            first that met its stop criterion, else the first. Empty for other cells.
    """
    trials = [trial for trial in result.trials["trial"] if np.isfinite(weights[trial]).all()]
    task = make_task(result.config["task"], trials)
    network = build(result.config["model"], task, "torch", "cpu")
    if layers := result.config["model"].get("layers"):
        raise ValueError(f"{result.folder}: model.layers={layers}, and only networks of one layer are measured")
    few = task.validation().take(np.s_[:, :sequences])
    start = network.flat.double()
    trained = torch.tensor(np.array([weights[trial] for trial in trials])).double()
    curves, values = [], []
    for phase, flat in {"start": start, "trained": trained}.items():
        network.load_flat(flat)
        for flow in _flows(network.cell):
            norms = error_flow(network, task, few, flow == "truncated")
            curve, longest = _curves(norms, few.lengths)
            curves.append(curve.assign(phase=phase, flow=flow))
            values.append(_long(trials, {"relative_flow": longest}).assign(phase=phase, flow=flow))
        flow = _flows(network.cell)[-1]
        conflicts = conflict(network, task, few, flow == "truncated")["conflict"]
        values.append(_long(trials, {"conflict": conflicts}).assign(phase=phase, flow=flow))
    tables = {"flow": pd.concat(curves), "trials": pd.concat(values), "traces": _traces(network, result, trials, few)}
    first = ["task", "model", "identity"]
    for name, table in tables.items():
        table = table.assign(task=result.task, model=result.model, identity=result.identity)
        leading = [column for column in [*first, "phase", "flow"] if column in table]
        tables[name] = table[leading + [column for column in table if column not in leading]]
    return tables


def _flows(cell: Cell) -> list[str]:
    """The kinds of flow to measure; the cell learns by the last."""
    return ["full", "truncated"] if getattr(cell, "gradient", "full") == "truncated" else ["full"]


def _curves(norms_RBL: np.ndarray, lengths_RB: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """Quartiles over trials against the lag, up to the median length, and each trial's relative norm at the end."""
    longest = int(np.median(lengths_RB)) - 1
    lags = _spread(1, longest, MOST_LAGS)
    columns = {"lag": lags, "trials": len(norms_RBL)}
    of_trials = np.nanmedian(relative_flow(norms_RBL)[..., lags - 1], axis=1)
    for quartile, share in QUARTILES.items():
        # A quartile is the value of a trial: interpolation between a number and infinity is impossible.
        columns[f"relative_{quartile}"] = np.quantile(of_trials, share, axis=0, method="inverted_cdf")
    return pd.DataFrame(columns), of_trials[:, -1]


def _spread(first: int, last: int, most: int) -> np.ndarray:
    """The whole numbers from first to last; if there are more than `most`, `most` of them, evenly spread."""
    return np.linspace(first, last, min(last - first + 1, most)).round().astype(int)


def _long(trials: list[int], quantities: dict[str, np.ndarray]) -> pd.DataFrame:
    tables = [pd.DataFrame({"trial": trials, "quantity": name, "value": v}) for name, v in quantities.items()]
    return pd.concat(tables, ignore_index=True)


def _traces(network: Network, result: Result, trials: list[int], few: Sequences) -> pd.DataFrame:
    columns = {"trial": int, "sequence": int, "step": int, "unit": int, "memory": float, "output": float}
    if not isinstance(network.cell, AMU) or not trials:
        return pd.DataFrame(columns=list(columns)).astype(columns)
    solved = result.trials.loc[result.trials["status"] == "solved", "trial"]
    shown = next((trial for trial in trials if trial in set(solved)), trials[0])
    memory, output = (values[trials.index(shown)] for values in traces(network, few))
    lengths = few.lengths[trials.index(shown)]
    rows = [
        (shown, b, t + 1, a, memory[b, t, a], output[b, t, a])
        for b in range(min(len(lengths), MOST_TRACED))
        for t in _spread(0, lengths[b] - 1, MOST_STEPS)
        for a in range(memory.shape[-1])
    ]
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


# One network -------------------------------------------------------------------------------------------------


def error_flow(network: Network, task: Task, sequences: Sequences, truncated: bool = False) -> np.ndarray:
    """The norm of dL/d(state at t) against T - t: how much error reaches the state this many steps back.

    L is the loss of a sequence's last answer, and T is the sequence's length. The state at t is everything that step t
    passes to step t + 1: the state tensors of the cell, side by side.

    Args:
        network: R trials, in double precision.
        task: gives the loss.
        sequences: R trials of B sequences.
        truncated: the error that a truncated gradient sends back, instead of the derivative. h carries no error. The s
            of the LSTM of 1997 carries the error that enters it at the last step, unchanged. The memory s of the AMU
            carries the error that enters it at later steps, unchanged: v_0 e_0(T) in every s(t) with t < T, or dL/ds(T)
            if the memory is emitted (see AMU).

    Returns:
        (R, B, T - 1), for T - t = 1, 2, ...; NaN before a sequence's start.
    """
    inputs, lengths, targets = _double(sequences)
    step, state = Step(network.cell, truncated), _zero_state(network.cell, inputs)
    states, outputs = [], []
    for t in range(inputs.shape[1]):
        y, state = step(inputs[:, t], state)
        # The state that goes to the next step, without the output that this step made from it.
        state = tuple(s.clone().requires_grad_() for s in state)
        states.append(state)
        outputs.append(y)
    last = (lengths - 1)[:, :, None, None]
    y_RB1A = _at(torch.stack(outputs, 2), last)
    losses, _ = loss_and_error(
        _readout(network, y_RB1A),
        _at(targets, last) if targets.shape[2] > 1 else targets,
        torch.ones_like(lengths),
        task,
    )
    gradients = torch.autograd.grad(losses.sum(), [s for state in states for s in state], allow_unused=True)
    width = len(state)
    squares = [
        sum((g**2).sum(dim=-1) for g in gradients[t * width : (t + 1) * width] if g is not None)
        + torch.zeros(lengths.shape, dtype=torch.float64)
        for t in range(len(states))
    ]
    norms_RBT = torch.stack(squares, 2).sqrt().numpy()
    lags = np.arange(1, norms_RBT.shape[2])
    places = sequences.lengths[:, :, None] - 1 - lags
    return np.where(places >= 0, np.take_along_axis(norms_RBT, np.maximum(places, 0), axis=2), np.nan)


def relative_flow(norms_RBL: np.ndarray) -> np.ndarray:
    """Error flow divided by error flow at lag 1, both from `error_flow`.

    0 where there is no error: a saturated neuron whose derivative rounds to 0 passes none, not even to t = T - 1.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms_RBL == 0, 0.0, norms_RBL / norms_RBL[..., :1])


def conflict(network: Network, task: Task, sequences: Sequences, truncated: bool = False) -> dict[str, np.ndarray]:
    """How much the gradients of a weight at different time steps work against each other.

    A weight is used at every step t. Each use has its own gradient g(t) of a sequence's loss, and their sum moves the
    weight. Its conflict ratio is

        1 - |sum over t of g(t)| / sum over t of |g(t)|

    It is 0 if all steps pull the same way, and 1 if they cancel out. It is averaged over the weights that have a
    gradient, and over the sequences. If error vanishes on its way back, only few steps have a gradient that is not
    negligible. The ratio is then low, because few gradients can conflict.

    Args:
        network, task, sequences, truncated: as in `error_flow`; L is the loss of training, of all answers.

    Returns:
        (R,) each: conflict, over all weights of the cell; conflict_<name>, over the weights of one parameter tensor.
        NaN if no weight has a gradient.
    """
    R, B, T, _ = sequences.inputs.shape
    at_once = max(1, NUMBERS_AT_ONCE // (B * T * network.flat.shape[1]))
    parts = [
        _conflict(network, task, sequences.take(np.s_[first : first + at_once]), first, truncated)
        for first in range(0, R, at_once)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _conflict(network: Network, task: Task, sequences: Sequences, first: int, truncated: bool) -> dict[str, np.ndarray]:
    """As `conflict`, for the sequences of the trials from number `first` on."""
    R, B = sequences.lengths.shape
    # Each sequence becomes a trial, with a copy of the weights for each step.
    inputs, lengths, targets = (tensor.flatten(0, 1).unsqueeze(1) for tensor in _double(sequences, steps_first=False))
    inputs = inputs.transpose(1, 2)
    shapes = network.cell.shapes(1, 1, **network.cell.options)
    weights = {name: getattr(network.cell, name).detach()[first : first + R] for name in shapes}
    weights = {name: weight.repeat_interleave(B, 0) for name, weight in weights.items() if weight.numel()}
    step, state = Step(network.cell, truncated), _zero_state(network.cell, inputs)
    copies, outputs = [], []
    for t in range(inputs.shape[1]):
        copies.append({name: weight.clone().requires_grad_() for name, weight in weights.items()})
        own = {f"cell.{name}_l0": weight for name, weight in copies[-1].items()}
        y, state = functional_call(step, own, (inputs[:, t], state))
        outputs.append(y)
    y_RBTA = torch.stack(outputs, 2)
    if task.answer != "every":
        y_RBTA = _at(y_RBTA, (lengths - 1)[:, :, None, None])
    losses, _ = loss_and_error(_readout(network, y_RBTA, np.s_[first : first + R], B), targets, lengths, task)
    asked = [copy[name] for copy in copies for name in weights]
    gradients = torch.autograd.grad(losses.sum(), asked, allow_unused=True, materialize_grads=True)
    ratios = {}
    for place, name in enumerate(weights):
        of_steps = torch.stack(gradients[place :: len(weights)]).flatten(2)
        ratios[name] = 1 - of_steps.sum(dim=0).abs() / of_steps.abs().sum(dim=0)
    named = {"conflict": torch.cat(list(ratios.values()), dim=1)}
    named |= {f"conflict_{name}": ratio for name, ratio in ratios.items()}
    return {name: ratio.nanmean(dim=1).view(R, B).nanmean(dim=1).numpy() for name, ratio in named.items()}


def traces(network: Network, sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """The AMU's memory neurons s(t) and its outputs y(t), both (R, B, T, A), at every step t = 1 .. T."""
    inputs, _, _ = _double(sequences)
    step, state = Step(network.cell, truncated=False), _zero_state(network.cell, inputs)
    memory, output = [], []
    with torch.no_grad():
        for t in range(inputs.shape[1]):
            y, state = step(inputs[:, t], state)
            memory.append(state[network.cell.states.index("s")])
            output.append(y)
    return torch.stack(memory, 2).numpy(), torch.stack(output, 2).numpy()


# The recurrence, step by step ---------------------------------------------------------------------------------


class Step(nn.Module):
    """One step of a cell: from input (R, B, I) and state to output and state, with the full or truncated gradient.

    Raises ValueError if `truncated` and the cell has no truncated gradient.
    """

    def __init__(self, cell: Cell, truncated: bool):
        super().__init__()
        two = "gradient" in vars(cell)  # an option of this cell
        if truncated and not two:
            raise ValueError(f"truncated=True: {type(cell).__name__} has no truncated gradient")
        # A copy that shares the parameters: the gradient option of the cell itself stays as it is.
        self.cell = copy.copy(cell)
        if two:
            self.cell.gradient = "truncated" if truncated else "full"

    def forward(self, x_RBI: Tensor, state: State) -> tuple[Tensor, State]:
        return self.cell.step(self.cell.input_net(x_RBI.unsqueeze(1))[:, 0], state)


def _zero_state(cell: Cell, inputs_RTBI: Tensor) -> State:
    R, _, B, _ = inputs_RTBI.shape
    return tuple(inputs_RTBI.new_zeros(R, B, size) for size in cell.state_sizes())


def _double(sequences: Sequences, steps_first: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (R, T, B, I), or (R, B, T, I) if not steps_first; lengths (R, B); targets (R, B, T or 1, O)."""
    inputs, lengths, targets = to_torch(sequences, "cpu")
    return (inputs if steps_first else inputs.transpose(1, 2)).double(), lengths, targets.double()


def _at(values_RBTX: Tensor, places_RB11: Tensor) -> Tensor:
    """Each sequence's values at its own place, (R, B, 1, X)."""
    return values_RBTX.gather(2, places_RB11.expand(-1, -1, 1, values_RBTX.shape[-1]))


def _readout(network: Network, y_RBTA: Tensor, rows=np.s_[:], repeats: int = 1) -> Tensor:
    """The outputs before squashing, (R, B, T, O), from the readouts of these trials, each repeated."""
    weight = network.readout_weight.detach()[rows].repeat_interleave(repeats, 0)
    net = torch.einsum("rbta,roa->rbto", y_RBTA, weight)
    if network.readout_bias is None:
        return net
    return net + network.readout_bias.detach()[rows].repeat_interleave(repeats, 0)[:, None, None]


if __name__ == "__main__":
    main()
