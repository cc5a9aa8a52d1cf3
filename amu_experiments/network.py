"""A network: a cell and a linear readout, for a stack of trials. All parameters are parts of one flat tensor."""

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from amu_experiments.cells import cell_class, written_class
from amu_experiments.cells.cell import Cell
from amu_experiments.cells.contract import CellError, counting
from amu_experiments.cells.modules import ModuleCell
from amu_experiments.options import ConfigurationError, added_options
from amu_experiments.own_code import KEY, check_code, place_of
from amu_experiments.tasks.task import Sequences, Task, random_generator

STEPS_AT_ONCE = 2**23
"""Maximum number of time steps in one call of the compiled scans in prediction, for all trials together. A call then
takes some tenths of a second, during which signals wait."""

_NOT_CELL_OPTIONS = ("cell", "units", "parameters", "layers", KEY)


class Network(nn.Module):
    """Cell and readout of R trials. All their parameters are views of `flat` (R, P).

    One row of `flat` is a trial: the cell's parameters in the order of its `shapes`, the readout's weight (O, A), and
    its bias (O,) unless the cell has no readout bias. A trial leaves the stack when its row is dropped.

    batch_size: the batch size of training. It decides which compiled scans predict, so training and prediction use the
        same scans.
    """

    def __init__(self, cell: Cell | ModuleCell, output_size: int, device: str = "cpu", batch_size: int = 1):
        super().__init__()
        self.cell = cell
        self.batch_size = batch_size
        self.readout_weight = nn.Parameter(torch.empty(cell.trials, output_size, cell.hidden_size))
        self.readout_bias = nn.Parameter(torch.empty(cell.trials, output_size)) if cell.readout_bias else None
        flat = torch.cat([p.detach().flatten(1) for p in self._ordered()], dim=1)
        self.load_flat(flat.to(device))

    def _ordered(self) -> list[nn.Parameter]:
        return self.cell.ordered_parameters() + self._readout()

    def _readout(self) -> list[nn.Parameter]:
        return [p for p in (self.readout_weight, self.readout_bias) if p is not None]

    def parameter_names(self) -> dict[str, str]:
        """The name of each parameter of this module, in the order of `flat`, with its name in a network of one trial.

        They are the same, unless the cell is a torch module: cell.stacked.0 is that module's cell.weight_ih.
        """
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        own = [names[id(parameter)] for parameter in self._ordered()]
        shown = [f"cell.{name}" for name in self.cell.names()] if isinstance(self.cell, ModuleCell) else []
        return dict(zip(own, shown + own[len(shown) :], strict=True))

    def load_flat(self, flat: Tensor) -> None:
        """Use this tensor (R, P) as the parameters; R may differ from the present number of trials."""
        self.flat = flat
        self.cell.trials = flat.shape[0]
        parameters = self._ordered()
        sizes = [p.shape[1:].numel() for p in parameters]
        for parameter, piece in zip(parameters, flat.split(sizes, 1), strict=True):
            parameter.data = piece.unflatten(1, parameter.shape[1:])

    def gradient(self, loss: Tensor) -> Tensor:
        """The gradient of a loss that is summed over trials, laid out as `flat` (R, P)."""
        gradients = torch.autograd.grad(loss, self._ordered(), materialize_grads=True)
        return torch.cat([g.flatten(1) for g in gradients], dim=1)

    def initialise(self, trials: Sequence[int]) -> None:
        """Draw the initial parameters of every trial from its own seed."""
        generators = [random_generator(trial, "weights") for trial in trials]
        self.cell.initialise(generators)
        bound = self.cell.readout_range()
        with torch.no_grad():
            for r, rng in enumerate(generators):
                for parameter in self._readout():
                    values = rng.uniform(-bound, bound, parameter.shape[1:]).astype(np.float32)
                    parameter[r] = torch.from_numpy(values)

    def forward(self, x_RTBI: Tensor, lengths_RB: Tensor, every: bool) -> Tensor:
        """The readout before squashing, (R, B, T, O), or (R, B, 1, O) at each sequence's own last step."""
        y_RTBA, _ = self.cell(x_RTBI, None, lengths_RB)
        if not every:
            index = (lengths_RB - 1)[:, None, :, None].expand(-1, -1, -1, y_RTBA.shape[-1])
            y_RTBA = y_RTBA.gather(1, index)
        weight = self.readout_weight.transpose(1, 2)
        # Step by step: one product over all T would include padding, and its size would affect the rounding.
        steps = [y_RBA.clone(memory_format=torch.contiguous_format) for y_RBA in y_RTBA.unbind(1)]
        net = torch.stack([torch.bmm(y_RBA, weight) for y_RBA in steps], 2)
        return net if self.readout_bias is None else net + self.readout_bias[:, None, None]

    def predict(self, sequences: Sequences, every: bool, chunk: int = 512) -> np.ndarray:
        """The readout of all sequences (R, B, ...) before squashing, in the shape of `forward`, without gradients."""
        R, B, T, _ = sequences.inputs.shape
        size = self.readout_weight.shape[1]
        outputs = np.zeros((R, B, T if every else 1, size), np.float32)
        scans = self.scans(self.batch_size)
        if scans is not None:
            chunk = max(STEPS_AT_ONCE // max(R * T, 1), 1)
            for first in range(0, B, chunk):
                part = np.s_[:, first : first + chunk]
                inputs, lengths, into = map(
                    np.ascontiguousarray, (sequences.inputs[part], sequences.lengths[part], outputs[part])
                )
                scans.predict(self.flat.numpy(), inputs, lengths, every, into)
                outputs[part] = into
            return outputs
        with torch.no_grad():
            for first in range(0, B, chunk):
                part = np.s_[:, first : first + chunk]
                inputs, lengths, _ = to_torch(sequences.take(part), self.flat.device)
                outputs[part] = self(inputs, lengths, every).cpu().numpy()
        return outputs

    def free_run(
        self,
        given: np.ndarray,
        steps: int,
        squash: str,
        feedback: Literal["none", "value", "symbol", "bits"],
        draws: np.ndarray | None = None,
        temperature: float = 1.0,
    ) -> np.ndarray:
        """The answers (R, B, steps, O) of networks that read the inputs given, then their own answers.

        given: (R, B, G, I) float32, G of 1 or more. From step G on, the input is the last one given; its first O
            numbers are replaced by the previous answer, unless feedback is "none".
        feedback: what an answer is: the squashed outputs ("value" and "none"); one symbol, drawn from the softmax of
            the outputs ("symbol"); or a bit, 0 or 1, for each output, drawn with its logistic probability ("bits").
        draws: (R, B, steps) float32 from 0 to below 1, a number for each symbol; (R, B, steps, O) for bits.
        temperature: the readout is divided by it before a softmax, or before bits are drawn.
        """
        R, B, _, _ = given.shape
        needed = {"symbol": "softmax", "bits": "logistic"}.get(feedback, squash)
        if squash != needed:
            raise ValueError(f"a {feedback} feedback is drawn from {needed} outputs, not from {squash} ones")
        draws = np.zeros((R, B, steps), np.float32) if draws is None else np.ascontiguousarray(draws, np.float32)
        given = np.ascontiguousarray(given, np.float32)
        scans = self.cell.fused_scans("free run", 1) if self.flat.device.type == "cpu" else None
        if scans is None:
            return self._free_run_in_torch(given, steps, squash, feedback, draws, temperature)
        from amu_experiments.scans.free_run import FEEDBACKS
        from amu_experiments.scans.updates import SQUASHES

        answers = np.empty((R, B, steps, self.readout_weight.shape[1]), np.float32)
        heat = np.array([temperature], np.float32)
        scans.free_run(self.flat.numpy(), given, SQUASHES[squash], FEEDBACKS[feedback], heat, draws, answers)
        return answers

    @torch.no_grad()
    def _free_run_in_torch(self, given, steps, squash, feedback, draws, temperature):
        (R, B, G, _), device = given.shape, self.flat.device
        given_RGBI, draws = (torch.tensor(a, device=device) for a in (given.swapaxes(1, 2), draws))
        ones_RB = torch.ones(R, B, dtype=torch.long, device=device)
        state, answers = None, []
        for t in range(steps):
            x_RBI = given_RGBI[:, min(t, G - 1)]
            if t >= G and feedback != "none":
                x_RBI = torch.cat([answers[-1], x_RBI[..., answers[-1].shape[-1] :]], dim=-1)
            y_R1BA, state = self.cell(x_RBI.unsqueeze(1), state, ones_RB)
            net_RBO = torch.bmm(y_R1BA[:, 0], self.readout_weight.transpose(1, 2))
            net_RBO = net_RBO if self.readout_bias is None else net_RBO + self.readout_bias.unsqueeze(1)
            if squash == "logistic":
                net_RBO = (net_RBO / temperature if feedback == "bits" else net_RBO).sigmoid()
            elif squash == "softmax":
                net_RBO = (net_RBO / temperature).softmax(dim=-1)
            if feedback == "symbol":
                below_RBO = net_RBO.cumsum(dim=-1)[..., :-1] <= draws[:, :, t, None]
                net_RBO = torch.nn.functional.one_hot(below_RBO.sum(dim=-1), net_RBO.shape[-1]).to(net_RBO)
            elif feedback == "bits":
                net_RBO = (net_RBO > draws[:, :, t]).to(net_RBO)
            answers.append(net_RBO)
        return torch.stack(answers, 2).cpu().numpy()

    @property
    def backend(self) -> str:
        """The backend that computes this network: "fused" or "torch"."""
        return "torch" if self.scans(self.batch_size) is None else "fused"

    def scans(self, batch_size: int):
        """The compiled drivers for batches of this size, or None if this network runs in torch."""
        return self.cell.fused_scans("training", batch_size) if self.flat.device.type == "cpu" else None


def to_torch(sequences: Sequences, device) -> tuple[Tensor, Tensor, Tensor]:
    """The sequences as tensors: inputs (R, T, B, I), lengths (R, B), targets (R, B, T or 1, O).

    The tensors are copies, which torch aligns: alignment may change how a product of matrices is rounded.
    """
    arrays = (sequences.inputs, sequences.lengths, sequences.targets)
    inputs, lengths, targets = (torch.tensor(array, device=device) for array in arrays)
    return inputs.transpose(1, 2), lengths, targets


def squashed(net: np.ndarray, squash: str) -> np.ndarray:
    """Outputs (..., O) from the readout: unchanged, or its logistic function, or its softmax."""
    if squash == "linear":
        return net
    with np.errstate(over="ignore"):
        if squash == "logistic":
            return 1 / (1 + np.exp(-net))
        # numpy finds the largest of a few outputs much faster if their axis comes first.
        largest = np.ascontiguousarray(np.moveaxis(net, -1, 0)).max(axis=0)
        shifted = np.exp(net - largest[..., None])
    return shifted / shifted.sum(axis=-1, keepdims=True)


def cell_options(model: dict) -> dict:
    """The options of a model's cell. One that is missing because it was added later has the value of older runs."""
    return added_options(cell_class(model["cell"]).annotations()) | _given(model)


def _given(model: dict) -> dict:
    return {key: value for key, value in model.items() if key not in _NOT_CELL_OPTIONS}


def build(model: dict, task: Task, backend: str, device: str, batch_size: int = 1) -> Network:
    """The network of a configuration, whose `units` must be a number, for the stack of trials of a task."""
    name = model["cell"]
    check_code(f"model.cell={name}", model.get(KEY), written_class(name), name)
    cell = make_cell(model, task, model["units"], len(task.trials), backend)
    network = Network(cell, task.output_size, device, batch_size)
    network.initialise(task.trials)
    return network


def make_cell(
    model: dict, task: Task, units: int | None = None, trials: int = 1, backend: str = "torch"
) -> Cell | ModuleCell:
    """The cell of a configuration; without `units`, the smallest cell allowed, made only to count parameters.

    Raises ConfigurationError, one line with the cell's name, for a mistake in the class of the cell; `__cause__` is the
    original error. A ValueError is the class's own refusal of an option.
    """
    kind, options = cell_class(model["cell"]), cell_options(model)
    try:
        layers = {"num_layers": _layers(model)} if _layers(model) > 1 else {}
        # The step of the smallest cell is not tried: it may need more units, such as an even number.
        with nullcontext() if units else counting():
            units = units or kind.unit_step(**options)
            cell = kind(task.input_size, units, trials=trials, backend=backend, **layers, **options)
        if isinstance(cell, Cell):
            _check_trained(cell)
        return cell
    except CellError as error:
        raise ConfigurationError(f"model.cell={model['cell']}: {error}") from error
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}{place_of(error, kind.__init__)}"
        raise ConfigurationError(f"model.cell={model['cell']}: {text}") from error


def _check_trained(cell: Cell) -> None:
    """CellError for a parameter that is no part of the network's flat tensor, such as those of a torch.nn.Linear."""
    shapes = cell.shapes(cell.input_size, cell.hidden_size, **cell.options)
    known = {f"{name}_l{layer}" for name in shapes for layer in range(cell.num_layers)}
    for name, _ in cell.named_parameters():
        if name not in known:
            raise CellError(
                f"{name} is a parameter that shapes() does not have: only the parameters in shapes() are trained"
                f"{place_of(Exception(), type(cell).__init__)}"
            )


def count_parameters(model: dict, task: Task, units: int) -> int:
    """Number of parameters of one trial of this model, readout included."""
    return _counted(make_cell(model, task), task, units, _layers(model))


def resolved(model: dict, task: Task) -> dict:
    """The model's configuration with its number of units.

    Raises ValueError for an option that its cell does not have, or a value that its cell does not allow.
    """
    kind = cell_class(model["cell"])
    known = kind.option_names()
    if "layers" in (known or ()):
        raise ValueError(f"model.layers: the number of recurrent layers; {model['cell']} has an option of that name")
    if _layers(model) > 1 and not issubclass(kind, Cell):
        raise ValueError(f"model.layers={model['layers']}: must be 1; {model['cell']} is no {Cell.__module__}.Cell")
    for name in _given(model):
        if known is not None and name not in known:
            raise ValueError(f"model.{name} is not an option of {model['cell']}, which has {', '.join(known)}")
    return model | {"units": match_units(model, task)}


def match_units(model: dict, task: Task) -> int:
    """The number of units: as configured, or the number whose parameter count is nearest to `parameters`.

    If two numbers are equally near, the smaller one is used. Raises ValueError if the cell does not allow its options
    or units.
    """
    # Make the smallest cell only: larger cells of this package are counted without making them.
    cell = make_cell(model, task)
    step, units, wanted = cell.hidden_size, model.get("units"), model.get("parameters")
    layers = _layers(model)
    if units is not None:
        if units % step:
            raise ValueError(f"model.units={units}: must be a multiple of {step}, the block size of this cell")
        return units
    # Counting creates a torch module, and a far too large one takes long: so the units are doubled from the smallest.
    end = step
    while end <= step * wanted and _counted(cell, task, end, layers) <= wanted:
        end *= 2
    most = bisect_right(range(step, end, step), wanted, key=lambda n: _counted(cell, task, n, layers))
    units = step * max(most, 1)
    over = _counted(cell, task, units + step, layers) - wanted
    under = wanted - _counted(cell, task, units, layers)
    return units + step if over < under else units


def _counted(cell: Cell | ModuleCell, task: Task, units: int, layers: int) -> int:
    """Number of parameters of one trial, with this cell at this number of units in each layer, and of the readout."""
    lowest = cell.count(task.input_size, units, **cell.options)
    higher = (layers - 1) * cell.count(units, units, **cell.options) if layers > 1 else 0
    return lowest + higher + task.output_size * (units + cell.readout_bias)


def _layers(model: dict) -> int:
    return model.get("layers", 1)
