"""Steps and adjoints derived from a cell's torch step: equal to autograd in double precision, or refused by name."""

import itertools
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_scan import assert_derived_equals_autograd

from amu_experiments import AMU, GRU, LSTM, RNN
from amu_experiments.cells.cell import Cell, recur
from amu_experiments.cells.lstm97 import LSTM97
from amu_experiments.scans.__main__ import main as print_source
from amu_experiments.scans.derive import derive
from amu_experiments.scans.trace import NotDerivableError

# The cells ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell_type", [RNN, LSTM, GRU])
@pytest.mark.parametrize("units", [1, 3])
def test_classical_cells(cell_type, units):
    torch.manual_seed(0)
    assert_derived_equals_autograd(cell_type(2, units))


OPTIONS = {
    "memory_seen_by": ["unit", "all"],
    "output_sees": ["old", "new"],
    "writers": ["tanh", "gated"],
    "output": ["neuron", "linear", "memory"],
}
AMUS = [
    {"neurons_per_unit": neurons, "output_in_product": in_product} | dict(zip(OPTIONS, values, strict=True))
    for neurons, in_product in [(1, True), (3, True), (2, False), (3, False)]
    for values in itertools.product(*OPTIONS.values())
    if not (in_product and values[1] == "new")
    if values[2] == "tanh" or neurons - (not in_product) > 1
]
"""One, two and three neurons that write; one and two of them beside an output neuron that does not."""


@pytest.mark.parametrize("options", AMUS, ids=lambda options: " ".join(map(str, options.values())))
@pytest.mark.parametrize("gradient", ["truncated", "full"])
def test_amu(options, gradient):
    torch.manual_seed(1)
    assert_derived_equals_autograd(AMU(2, 2, gradient=gradient, **options), steps=3)


@pytest.mark.parametrize("block_size", [1, 2])
@pytest.mark.parametrize("biases", ["none", "gates", "hidden"])
@pytest.mark.parametrize("gradient", ["truncated", "full"])
def test_lstm97(block_size, biases, gradient):
    torch.manual_seed(2)
    output_bias = () if biases == "none" else (-1.0, -2.0)
    assert_derived_equals_autograd(
        LSTM97(2, 4, block_size=block_size, biases=biases, gradient=gradient, output_bias=output_bias), steps=3
    )


# Steps of every kind --------------------------------------------------------------------------------------------


class Step(Cell):
    """A cell with two states, a matrix for the inputs, one for the state, a square one, a bias and two more vectors."""

    states = ("h", "c")

    @classmethod
    def shapes(cls, input_size, hidden_size):
        A = hidden_size
        return {
            "weight_ih": (2 * A, input_size),
            "weight_hh": (2 * A, A),
            "bias": (A,),
            "weight_square": (A, A),
            "weight_v": (A,),
            "scale": (1,),
        }

    def bias_rows(self):
        return F.pad(self.bias, (0, self.hidden_size))


def of_step(function):
    """The class of a cell with this step."""
    return type("OfStep", (Step,), {"step": function})


UNARY = {
    "relu": torch.relu,
    "abs": torch.abs,
    "neg": torch.neg,
    "sign": torch.sign,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "softplus of beta": lambda x: F.softplus(x, beta=3.0, threshold=2.0),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "elu": F.elu,
    "selu": F.selu,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "sin": torch.sin,
    "cos": torch.cos,
    "exp": lambda x: torch.exp(-x * x),
    "expm1": lambda x: torch.expm1(-x.abs()),
    "log": lambda x: torch.log(x * x + 0.5),
    "log1p": lambda x: torch.log1p(x * x),
    "sqrt": lambda x: torch.sqrt(x * x + 0.5),
    "rsqrt": lambda x: torch.rsqrt(x * x + 0.5),
    "reciprocal": lambda x: torch.reciprocal(x * x + 0.5),
    "square": torch.square,
    "cube": lambda x: 0.1 * x**3,
    "power": lambda x: (x.abs() + 0.5) ** -1.7,
    "power 1.5": lambda x: (x * x) ** 1.5,
    "clamp": lambda x: x.clamp(-1, 1),
    "clamp below": lambda x: x.clamp(min=0.5),
    "clamp above": lambda x: x.clamp(max=0.5),
    "clamp, bounds reversed": lambda x: x.clamp(1, -1),
    "where": lambda x: torch.where(x > 0, x, 0.5 * x),
    "where not above": lambda x: torch.where((x <= 1) & ~(x == -1) | (x != x), x * x, 1 - x),
    "as numbers": lambda x: x * (x > 0),
    "filled": lambda x: x.masked_fill(x < 0, 0.25),
    "detached": lambda x: x.detach() * x,
    "over half": lambda x: 1 - x / 2,
    "filled with zeros": lambda x: x + torch.zeros_like(x) * 3 + x.new_full(x.shape, 0.5),
}
BINARY = {
    "add": torch.add,
    "sub": lambda x, y: torch.sub(x, y, alpha=0.5),
    "rsub": lambda x, y: torch.rsub(x, y),
    "mul": torch.mul,
    "div": lambda x, y: x / (1 + y * y),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where": lambda x, y: torch.where(x >= y, x, y * y),
    "where equal": lambda x, y: torch.where(x == y, x, y),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "lerp by a tensor": lambda x, y: torch.lerp(x, y, torch.sigmoid(x)),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=-0.5),
    "addcdiv": lambda x, y: torch.addcdiv(x, y, 1 + x * x),
    "stacked": lambda x, y: torch.stack([x, y, x], -1).prod(dim=-1),
    "mean": lambda x, y: torch.cat([x.unsqueeze(2), y.unsqueeze(2)], 2).mean(dim=2),
}


def grid(*shape):
    """Numbers at which functions bend, and at which two are often the same; random numbers, too."""
    values = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 2.0, 3.0])
    chosen = values[torch.randint(len(values), shape)]
    return torch.where(torch.rand(shape) < 0.3, torch.randn(shape), chosen)


@pytest.mark.parametrize("name", UNARY)
def test_functions_at_ties(name):
    """The function of the state alone, at the points where it bends."""
    torch.manual_seed(3)
    function = UNARY[name]
    cell = of_step(lambda self, net, state: (function(state[0]), (function(state[1]), state[0])))(1, 9)
    points = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 25.0, -0.0])
    assert_derived_equals_autograd(
        cell,
        steps=1,
        batch=1,
        inputs=lambda *shape: points[: shape[-1]].expand(shape).clone(),
        tolerance=1e-7 if name == "hardsigmoid" else 1e-12,  # torch has its slope, 1 / 6, in single precision
    )


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_at_ties(name):
    torch.manual_seed(4)
    function = BINARY[name]
    cell = of_step(lambda self, net, state: (function(*state), (function(*state), state[0])))(1, 9)
    assert_derived_equals_autograd(cell, steps=1, batch=8, inputs=grid)


def evaluated(cell, program, net, state):
    """The values of a program, a list of (operation, operands by number), on net inputs, states and vectors."""
    net_a, net_b = net.chunk(2, dim=-1)
    ones = torch.ones_like(net_a)
    values = [net_a, net_b, *state, cell.weight_v.unsqueeze(1) * ones, cell.scale.unsqueeze(1) * ones]
    for operation, first, second in program:
        x, y = values[first % len(values)], values[second % len(values)]
        if operation in UNARY:
            values.append(UNARY[operation](x))
        elif operation in BINARY:
            values.append(BINARY[operation](x, y))
        elif operation == "recur":
            values.append(recur(x, cell.weight_square))
        elif operation == "recur transposed":
            values.append(recur(x, cell.weight_square.transpose(1, 2)))
        elif operation == "recur by rows":
            values.append(recur(x, cell.weight_hh[:, cell.hidden_size :]))
        elif operation == "recur wide":
            values += recur(x, cell.weight_hh).chunk(2, dim=-1)
        else:
            values += (net + recur(x, cell.weight_hh)).chunk(2, dim=-1)
    return values


PRODUCTS = ("recur", "recur transposed", "recur by rows", "recur wide", "recur to net")
OPERATIONS = sorted({*UNARY, *BINARY} - {"hardsigmoid"}) + [*PRODUCTS * 4]
PLACES = st.integers(0, 30)
PROGRAMS = st.lists(st.tuples(st.sampled_from(OPERATIONS), PLACES, PLACES), min_size=1, max_size=12)


def test_random_steps(number):
    @settings(max_examples=number(60, 1000), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(
        program=PROGRAMS, ends=st.tuples(*[st.integers(0, 30)] * 3), units=st.integers(1, 4), seed=st.integers(0, 99)
    )
    def check(program, ends, units, seed):
        def step(self, net, state):
            values = evaluated(self, program, net, state)
            # Bounded, so that no term of a sum dwarfs the others.
            y, h, c = (torch.tanh(values[-1 - end % len(values)]) for end in ends)
            return y, (h, c)

        torch.manual_seed(seed)
        assert_derived_equals_autograd(of_step(step)(2, units, initial_range=0.5), steps=3, inputs=grid)

    check()


def test_states_that_move_from_unit_to_unit():
    """Units that read each other's state are one; nothing is overwritten before it has been read."""

    def step(self, net, state):
        h, c = state
        a, b = (net + recur(c, self.weight_hh)).chunk(2, dim=-1)
        return h.flip(-1) * a, (torch.roll(h, 1, -1) + torch.tanh(b), h)

    torch.manual_seed(5)
    assert_derived_equals_autograd(of_step(step)(2, 3))


def test_an_error_cut_in_a_part_of_a_factor():
    def step(self, net, state):
        h, c = state
        mixed = torch.cat([h[..., :1].detach(), h[..., 1:]], dim=-1)
        a, b = (net + recur(mixed, self.weight_hh)).chunk(2, dim=-1)
        return torch.tanh(a), (torch.tanh(a), c + torch.tanh(b))

    torch.manual_seed(6)
    recurrence = assert_derived_equals_autograd(of_step(step)(2, 3))
    assert recurrence.products[0].factor == ("old", 0)


def test_values_that_are_not_finite_stay_so():
    functions = {name: UNARY[name] for name in ("relu", "abs", "clamp", "hardtanh", "leaky_relu", "softplus", "where")}
    for name, function in functions.items():
        cell = of_step(lambda self, net, state, f=function: (f(state[0]), (f(state[0]), state[1])))(1, 1)
        functions = derive(cell).functions({"f32": np.float64, **{n: getattr(np, n) for n in ("exp", "log1p")}})
        y = np.zeros(1)
        recurrence = derive(cell)
        tape = np.zeros(max(recurrence.tape, 1))
        functions["step_0"](np.zeros(30), np.full(2, np.nan), np.zeros(2), tape, np.zeros(2), np.zeros(0), y)
        assert np.isnan(y[0]), name


# Products -------------------------------------------------------------------------------------------------------


def test_products_as_data():
    """A sum with the net inputs needs no room; the old state, or the new one, is a factor where it lies."""

    def step(self, net, state):
        h, c = state
        first, second = (net + recur(h, self.weight_hh)).chunk(2, dim=-1)
        c = c + torch.tanh(first)
        h = torch.tanh(second + recur(c, self.weight_square))
        return h, (h, c)

    torch.manual_seed(7)
    recurrence = assert_derived_equals_autograd(of_step(step)(2, 3))
    first, second = recurrence.products
    assert (first.parameter, first.factor, first.result, first.error) == ("weight_hh", ("old", 0), ("net", 0), "state")
    assert (second.parameter, second.factor, second.result) == ("weight_square", ("new", 3), ("net", 3))
    assert recurrence.recs == 0
    assert (first.last, second.factors, second.results) == (6, 3, 3)


def test_an_error_that_is_cut_needs_no_product():
    assert derive(LSTM97(2, 4, gradient="truncated")).products[0].error is None
    assert derive(LSTM97(2, 4, gradient="full")).products[0].error == "state"


# What has no compiled form --------------------------------------------------------------------------------------


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, error):
        return error


def no_grad(x):
    with torch.no_grad():
        return x * 2


REFUSED = {
    "dropout": (lambda self, x: F.dropout(x, 0.5, training=True), "^dropout.*random"),
    "noise": (lambda self, x: x + torch.randn_like(x), "randn_like.*random"),
    "zoneout": (lambda self, x: torch.where(torch.rand_like(x) < 0.1, x, 0 * x), "rand_like.*random"),
    "batch norm": (
        lambda self, x: F.batch_norm(x.flatten(0, 1), None, None, training=True).view(x.shape),
        "^batch_norm.*couples the sequences",
    ),
    "mean over the batch": (lambda self, x: x - x.mean(dim=1, keepdim=True), "mixes sequences"),
    "one sequence for all": (lambda self, x: x * x[:, :1], "mixes sequences of a batch"),
    "one trial for all": (lambda self, x: x * self.weight_v[0], "mixes sequences of a batch, or trials"),
    "mean over trials": (lambda self, x: x - x.mean(dim=0, keepdim=True), "mixes sequences of a batch, or trials"),
    "control flow": (lambda self, x: x if x.sum() > 0 else -x, "control flow that depends on data"),
    "a number": (lambda self, x: x * x.sum().item(), "control flow that depends on data"),
    "in place": (lambda self, x: torch.tanh(x).mul_(2), "mul_ has no compiled form"),
    "cumsum": (lambda self, x: x.cumsum(-1), "cumsum has no compiled form"),
    "product of states": (lambda self, x: x @ x.transpose(1, 2) @ x, "only parameters multiply"),
    "matrix, entry by entry": (lambda self, x: recur(x, self.weight_square - 1), "weight_square is a matrix"),
    "columns": (lambda self, x: recur(x[..., :1], self.weight_square[..., :1]), "only whole rows"),
    "autograd function": (lambda self, x: Straight.apply(x), "detach|round"),
    "no_grad": (lambda self, x: no_grad(x), "cut an error flow by detach"),
    "bias": (lambda self, x: x + self.bias.unsqueeze(1), "weight_ih or bias"),
    "a chain through all units": (
        lambda self, x: torch.tanh(x / x.square().sum(-1, keepdim=True).sqrt()),
        "couples its units",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_compiled_form_is_refused_by_name(name):
    function, message = REFUSED[name]
    units = 400 if "chain" in name else 3
    cell = of_step(lambda self, net, state: (function(self, state[0]), (function(self, state[0]), state[1])))(1, units)
    before = dict(cell.named_parameters())
    with pytest.raises(NotDerivableError, match=message):
        derive(cell)
    assert dict(cell.named_parameters()) == before


def test_a_state_of_another_size_is_refused():
    kind = of_step(lambda self, net, state: (state[0], (state[0], state[1][..., :1])))
    with pytest.raises(NotDerivableError, match="shapes"):
        derive(kind(1, 3, device="meta"))  # only a layer without storage can be made with this step


def test_a_step_is_derived_inside_a_transform_of_torch_func():
    cell = GRU(2, 3, backend="torch")
    outside = derive(cell)

    def loss(h):
        assert derive(cell) == outside
        return h.sum()

    torch.func.grad(loss)(torch.ones(3))


# The command ----------------------------------------------------------------------------------------------------


def test_the_derived_source_is_printed_with_the_names_of_the_equations(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["amu_experiments.scans", "gru", "--units", "4"])
    print_source()
    source = capsys.readouterr().out
    assert "h = (f32(1.0) - z) * tape[2 * A + a] + z * old[a]" in source
    assert "d_z" in source
