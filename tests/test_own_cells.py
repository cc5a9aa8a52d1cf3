"""A cell of one's own: its step means the same in both backends, and a mistake in it is one line that says where."""

import sys
from itertools import product

import numpy as np
import pytest
import torch
import yaml
from configured import task
from plain_scan import assert_derived_equals_autograd

from amu_experiments import run
from amu_experiments.cells import cell_class
from amu_experiments.cells.cell import Cell, recur
from amu_experiments.cells.contract import CellError, check_step, initial_values_of, shapes_of
from amu_experiments.cli import main
from amu_experiments.conf_files import choices
from amu_experiments.network import build, count_parameters, make_cell, resolved
from amu_experiments.options import ConfigurationError
from amu_experiments.overrides import load
from amu_experiments.plan import prepare
from amu_experiments.scans.__main__ import main as print_source
from amu_experiments.tasks import make_task
from amu_experiments.tasks.adding import Adding
from amu_experiments.tasks.temporal_order import TemporalOrder
from amu_experiments.tune import main as tune

SRU = """
from typing import Annotated

import torch

from amu_experiments.cells.cell import Cell, recur
from amu_experiments.options import FRACTION


class SRU(Cell):
    states = ("h", "c")

    def __init__(self, input_size, hidden_size, *, decay: Annotated[float, FRACTION] = 0.5, **common):
        self.decay = decay
        super().__init__(input_size, hidden_size, **common)

    @classmethod
    def shapes(cls, input_size, hidden_size):
        A = hidden_size
        return {"weight_ih": (3 * A, input_size), "weight_hh": (3 * A, A), "bias": (3 * A,), "v_f": (A,), "nu": (1,)}

    def initial_values(self, rng):
        values = super().initial_values(rng)
        values["nu"] += 1
        return values

    def step(self, net_RBK, state):
        h, c = state
        net_f, net_z, net_o = (net_RBK + recur(h, self.weight_hh)).chunk(3, dim=-1)
        f = torch.sigmoid(net_f + self.v_f.unsqueeze(1) * c)
        c = self.decay * f * c + (1 - f) * torch.tanh(net_z)
        h = self.nu.unsqueeze(1) * torch.sigmoid(net_o) * c
        return h, (h, c)
"""
"""A simple recurrent unit with a vector, a number, two states and an option."""

VECTOR = "self.v_f.unsqueeze(1) * c"
LINE = {text: number for number, text in enumerate(SRU.splitlines(), start=1)}


def line_of(text: str) -> int:
    """The number of the first line of the cell's file with this text."""
    return next(number for line, number in LINE.items() if text in line)


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A folder with the cell, which is the current one; a function writes its file with one text replaced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "my/conf/model").mkdir(parents=True)
    (tmp_path / "my/conf/model/sru.yaml").write_text("cell: sru.SRU\ninitial_range: 1.0\ndecay: 0.5\n")

    def write(old: str = "", new: str = "") -> None:
        assert old in SRU
        (tmp_path / "sru.py").write_text(SRU.replace(old, new, 1))
        sys.modules.pop("sru", None)

    yield write
    sys.modules.pop("sru", None)


SMALL = ("task=adding", "task.T=5", "trials=2", "training.max_sequences=20", "training.evaluate_every=20")


def trained(*words: str) -> int:
    return main(["--config-dir=my/conf", "model=sru", *SMALL, *words])


# One step has one meaning ---------------------------------------------------------------------------------------------


def test_a_vector_with_an_axis_for_sequences_means_the_same_in_both_backends(conf):
    conf()
    torch.manual_seed(0)
    assert_derived_equals_autograd(cell_class("sru.SRU")(2, 3))
    for R, B in product((1, 2, 3), (1, 2, 3)):
        cells = [cell_class("sru.SRU")(2, 3, trials=R, backend=backend) for backend in ("fused", "torch")]
        cells[1].load_state_dict(cells[0].state_dict())
        x = torch.randn(R, 4, B, 2)
        torch.testing.assert_close(cells[0](x)[0], cells[1](x)[0], rtol=0, atol=1e-5)


AS_VECTOR = {
    "self.v_f * c": "self.v_f",
    "torch.sigmoid(self.v_f) * c": "self.v_f",
    "self.v_f.unsqueeze(-1) * c": "self.v_f",
    "torch.lerp(c, c, self.v_f)": "self.v_f",
    "self.nu * c": "self.nu",
    "c + self.v_f + self.nu": "self.v_f",
}
"""Steps in which a parameter has no axis for sequences."""


@pytest.mark.parametrize("backend", ["fused", "torch", "auto"])
@pytest.mark.parametrize("trials", [None, 1, 2, 3])
def test_a_vector_without_an_axis_for_sequences_is_refused_in_both_backends(conf, backend, trials):
    for written, parameter in AS_VECTOR.items():
        conf(VECTOR, written)
        with pytest.raises(CellError) as refused:
            cell_class("sru.SRU")(2, 3, trials=trials, backend=backend)
        assert f"{parameter}.unsqueeze(1)" in str(refused.value), written
        assert f"sru.py, line {line_of(VECTOR)})" in str(refused.value), written


@pytest.mark.parametrize("backend", ["fused", "torch"])
@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("self.weight_hh * c", "self.weight_hh is a matrix: write recur"),
        ("self.weight_hh[:, :4] + c", "self.weight_hh is a matrix: write recur"),
        ("self.nu.squeeze(-1) * c", "write self.nu.unsqueeze"),
        ("self.v_f[0] * c", "mixes trials"),
        ("c.mean(dim=0)", "mixes trials"),
        ("c.flip(0)", "mixes trials"),
        ("c.transpose(0, 1)", "RuntimeError: The size of tensor a"),
        ("c[:, :1, :2].squeeze(1)", "RuntimeError: The size of tensor a"),
    ],
)
def test_a_step_that_takes_one_axis_for_another_is_refused_in_both_backends(conf, backend, written, words):
    conf(VECTOR, written)
    with pytest.raises(CellError, match=words):
        cell_class("sru.SRU")(2, 4, trials=2, backend=backend)


def test_a_random_step_is_none_that_mixes_trials_and_takes_no_random_number_from_the_program(conf):
    def next_number(old="", new=""):
        conf(old, new)
        torch.manual_seed(1)
        cell_class("sru.SRU")(2, 3, trials=2, backend="torch")
        return torch.rand(1)

    assert next_number() == next_number(VECTOR, "torch.nn.functional.dropout(c)")


# A mistake is one line ------------------------------------------------------------------------------------------------

MISTAKES = [
    (VECTOR, "self.v_f * c", "step(): self.v_f has no axis for the sequences of a batch: write self.v_f.unsqueeze(1)"),
    ("self.v_f.", "self.vf.", "step(): AttributeError: 'SRU' object has no attribute 'vf'"),
    ("self.decay * f", "self.decoy * f", "step(): AttributeError: 'SRU' object has no attribute 'decoy'"),
    ("chunk(3", "chunk(4", "step(): ValueError: too many values to unpack"),
    ("chunk(3", "chunk(2", "step(): ValueError: not enough values to unpack"),
    ("recur(h, self.weight_hh)", "recur(h, self.v_f)", "step(): ValueError: recur(h, U): U is "),
    ("net_RBK, state):", "state):", "step(): TypeError: SRU.step() takes 2 positional arguments but 3 were given"),
]
"""Mistakes whose line is that of the text replaced."""

WRONG_METHODS = [
    ("return h, (h, c)", "return h", "step() returns Tensor: must return output, (h, c)", "def step"),
    ("return h, (h, c)", "h, (h, c)", "step() returns NoneType: must return output, (h, c)", "def step"),
    ("return h, (h, c)", "return h, h", "step() returns (Tensor, Tensor): must return output, (h, c)", "def step"),
    ("return h, (h, c)", "return h, (h,)", "step() returns 1 new states: must be 2, (h, c)", "def step"),
    ("return h, (h, c)", "return h, (h, c[:, :1])", "state c is ", "def step"),
    ("return h, (h, c)", "return torch.cat([h, c], -1), (h, c)", "the output is ", "def step"),
    ("return h, (h, c)", "return h.double(), (h, c)", "the output is torch.float64: must be torch.float32", "def step"),
    ('"bias": (3 * A,), ', "", "shapes() has no bias", "@classmethod"),
    ('"weight_ih": (3 * A, input_size), ', "", "shapes() has no weight_ih", "@classmethod"),
    ("(3 * A, input_size)", "(3 * A, hidden_size)", "shapes(): weight_ih is ", "@classmethod"),
    ('"bias": (3 * A,)', '"bias": (4 * A,)', "shapes(): bias is ", "@classmethod"),
    ('"v_f": (A,)', '"v_f": (A)', "shapes(): v_f is 5: must be a tuple", "@classmethod"),
    ('"v_f": (A,)', '"v_f": (A / 1,)', "shapes(): v_f is (5.0,): must be whole numbers", "@classmethod"),
    ("return {", "a = {", "shapes() returns NoneType: must be a dict", "@classmethod"),
    ("return values", "return", "initial_values() returns NoneType: must be a dict", "def initial_values"),
    ('values["nu"] += 1', 'values["mu"] = 1', "initial_values() has weight_ih, ", "def initial_values"),
    ('values["nu"] += 1', 'values["v_f"] = [1, 2]', "initial_values(): v_f is (2,): must be ", "def initial_values"),
]
"""Mistakes whose line is the first one of the method."""


def assert_one_line(error: str, words: str, line: int | None) -> None:
    assert error.startswith("amu-run: model.cell=sru.SRU: ")
    assert words in error
    assert error.count("\n") == 1
    assert line is None or error.endswith(f"sru.py, line {line})\n")


def assert_nothing_is_written(tmp_path) -> None:
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my", "sru.py"]
    assert len(list((tmp_path / "my").rglob("*"))) == 3


@pytest.mark.parametrize(
    ("old", "new", "words", "line"),
    [(old, new, words, line_of(old)) for old, new, words in MISTAKES]
    + [(old, new, words, line_of(first)) for old, new, words, first in WRONG_METHODS]
    + [
        ("def step", "def steps", "SRU must define step()", None),
        ("def shapes", "def shape", "SRU must define shapes()", None),
        ("    @classmethod\n", "", "shapes() must be a @classmethod", None),
        ('states = ("h", "c")', 'states = "hc"', "states = 'hc': must be a tuple of names", None),
        ("self.decay = decay", "self.decay = self.deca", "AttributeError: 'SRU' object has no attribute 'deca'", 14),
    ],
)
def test_a_mistake_in_a_cell_is_one_line_that_says_where_it_is(conf, old, new, words, line):
    conf(old, new)
    with pytest.raises(ConfigurationError) as refused:
        build({"cell": "sru.SRU", "units": 5}, task("adding", T=5), "torch", "cpu")
    assert_one_line(f"amu-run: {refused.value}\n", words, line)


@pytest.mark.parametrize(("old", "new", "words"), MISTAKES[1:3])
def test_amu_run_ends_with_the_line_and_writes_nothing(conf, tmp_path, capsys, old, new, words):
    conf(old, new)
    assert trained() == 2
    assert_one_line(capsys.readouterr().err, words, line_of(old))
    assert_nothing_is_written(tmp_path)


FULL = {
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 8 MiB": "CUDA out of memory",
    "MPS backend out of memory (MPS allocated: 8 GB). Use a ratio": "MPS backend out of memory (MPS allocated: 8 GB)",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED\\nby cublasCreate": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
    "[enforce] err == 0. DefaultCPUAllocator: can't allocate memory: 9 bytes": (
        "DefaultCPUAllocator: can't allocate memory: 9 bytes"
    ),
}
"""What torch says if a device has too little memory, and the part that a user sees."""


@pytest.mark.parametrize("said", FULL)
def test_a_device_without_memory_ends_the_run_with_one_line(conf, capsys, said):
    raised = f'        if len(h[0]) == 64:\n            raise RuntimeError("{said}")\n'
    conf("        h, c = state\n", f"        h, c = state\n{raised}")
    assert trained("training.batch_size=64", "backend=torch") == 1
    assert capsys.readouterr().err == (
        f"amu-run: not enough memory (device=cpu: {FULL[said]}; use fewer trials or units, or a smaller "
        "training.batch_size)\n"
    )


def test_a_matrix_for_the_hidden_size_is_refused_where_the_input_has_that_size(conf, capsys):
    conf("(3 * A, input_size)", "(3 * A, hidden_size)")
    assert trained("model.units=2") == 2
    assert "weight_ih is " in capsys.readouterr().err


def test_a_mistake_that_shows_with_more_than_one_unit_is_found_before_anything_is_written(conf, tmp_path, capsys):
    conf(VECTOR, "self.nu.unsqueeze(1) * c[..., :2] + c")
    assert trained("model.units=5") == 2
    assert_one_line(capsys.readouterr().err, "with R=3, B=4, K=15, A=5: RuntimeError: ", line_of(VECTOR))
    assert_nothing_is_written(tmp_path)


def test_amu_tune_ends_with_the_line_and_writes_nothing(conf, tmp_path, capsys):
    conf(VECTOR, "self.v_f * c")
    assert tune(["task=adding", "model=sru"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("amu-tune: model.cell=sru.SRU: step(): self.v_f has no axis")
    assert error.count("\n") == 1
    assert_nothing_is_written(tmp_path)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("sru.SRU", "sru.SRU: step(): AttributeError: 'SRU' object has no attribute 'vf'"),
        ("sru.SRUU", "sru.SRUU: module sru has no class SRUU"),
        ("none", "'none' is not a cell"),
    ],
)
def test_the_printer_of_compiled_steps_ends_with_the_line(conf, monkeypatch, capsys, cell, words):
    conf("self.v_f.", "self.vf.")
    monkeypatch.setattr(sys, "argv", ["amu_experiments.scans", cell])
    with pytest.raises(SystemExit) as ended:
        print_source()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"python -m amu_experiments.scans: {words}")
    assert error.count("\n") == 1


def causes(error: BaseException | None) -> list[type]:
    """The kinds of an error, of its cause, and so on."""
    return [type(error), *causes(error.__cause__)] if error else []


def test_in_python_the_error_keeps_its_cause(conf):
    conf("self.v_f.", "self.vf.")
    with pytest.raises(CellError) as of_a_layer:
        cell_class("sru.SRU")(2, 3)
    assert causes(of_a_layer.value) == [CellError, AttributeError]
    with pytest.raises(ConfigurationError, match=r"^model\.cell=sru\.SRU: step\(\): AttributeError") as of_a_run:
        run("model=sru", *SMALL, config_dir="my/conf")
    assert causes(of_a_run.value)[-1] is AttributeError


class Plain(Cell):
    """A recurrent unit; subclasses replace one of its methods."""

    @classmethod
    def shapes(cls, input_size, hidden_size):
        A = hidden_size
        return {"weight_ih": (A, input_size), "weight_hh": (A, A), "bias": (A,), "p": (A,)}

    def step(self, net_RBK, state):
        (h,) = state
        h = torch.tanh(net_RBK + recur(self.seen(h), self.weight_hh))
        return h, (h,)

    def seen(self, h):
        """What the unit reads of its state."""
        return h

    def initial_values(self, rng):
        return super().initial_values(rng) | {"p": np.full(self.hidden_size, 0.5), **self.own_values(rng)}

    def own_values(self, rng):
        return {}


def plain(**methods) -> type[Cell]:
    return type("Own", (Plain,), {"__module__": __name__, **methods})


def line_in_this_file(refused) -> str:
    """The message, which is one line that names this file."""
    message = str(refused.value)
    assert "\n" not in message
    assert f"({__file__}, line " in message
    return message


def texts(self, rng):
    return {"weight_hh": [["one"] * self.hidden_size] * self.hidden_size}


def two_lines(self, h):
    raise ValueError("first\n  second")


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ({"own_values": texts}, r"initial_values\(\): weight_hh is an array of <U3: must be of real numbers"),
        ({"state_sizes": lambda self: (self.hidden_size / 2,)}, r"state_sizes\(\) returns \(2.0,\): must be whole"),
        ({"seen": two_lines}, r"step\(\): ValueError: first second \("),
        ({"seen": lambda self, h: recur(h, self.p)}, r"step\(\): ValueError: recur\(h, U\): U is "),
    ],
)
def test_in_python_too_a_mistake_is_one_line_that_names_the_file(methods, words):
    with pytest.raises(CellError, match=words) as refused:
        plain(**methods)(2, 4, trials=2, backend="torch")
    line_in_this_file(refused)


class WithLinear(Plain):
    def __init__(self, input_size, hidden_size, **common):
        super().__init__(input_size, hidden_size, **common)
        self.inner = torch.nn.Linear(hidden_size, hidden_size)


def test_a_network_has_no_parameters_beside_those_in_shapes(monkeypatch):
    assert isinstance(WithLinear(2, 4), Cell)
    monkeypatch.setattr("amu_experiments.network.cell_class", lambda name: WithLinear)
    with pytest.raises(ConfigurationError, match="^model.cell=own: inner.weight is a parameter that ") as refused:
        make_cell({"cell": "own"}, task("adding", T=5), 4)
    assert "only the parameters in shapes() are trained" in line_in_this_file(refused)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "b"], "classes has 2 names, and the network has 4 outputs: give one name for each output, or classes ="),
        (list("abcde"), "classes has 5 names, and the network has 4 outputs: give one name for each output"),
        (list("abca"), "classes has the name a twice: give one name for each output"),
        (4, "classes is 4: give one name for each output"),
    ],
)
def test_the_names_of_classes_are_those_of_the_outputs(monkeypatch, names, words):
    config = load("task=temporal_order")
    monkeypatch.setattr(TemporalOrder, "classes", names)
    with pytest.raises(ConfigurationError) as refused:
        prepare(config)
    assert str(refused.value).startswith(f"task.problem=temporal_order: {words}")


def test_two_names_for_one_logistic_output_are_refused(monkeypatch):
    options = load("task=adding")["task"]
    monkeypatch.setattr(Adding, "classes", ("no", "yes"))
    with pytest.raises(ConfigurationError, match="classes has 2 names, and the network has 1 output: give one name"):
        make_task(options, [0])
    monkeypatch.setattr(Adding, "classes", ("sum",))
    assert make_task(options, [0]).classes == ("sum",)


# What is allowed ------------------------------------------------------------------------------------------------------


def test_an_option_has_its_annotation_as_a_rule(conf, capsys):
    conf()
    assert trained("model.decay=2") == 2
    assert capsys.readouterr().err == "amu-run: model.decay=2: must be a number from 0 to below 1\n"
    assert trained("model.decay=0.9", "backend=torch") == 0


def test_a_cell_may_have_matrices_with_more_axes(conf):
    conf('"nu": (1,)', '"nu": (1,), "cube": (2, 2, 2)')
    assert isinstance(cell_class("sru.SRU")(2, 3, backend="torch"), Cell)


@pytest.mark.parametrize("name", choices("model"))
def test_the_cells_of_the_package_keep_the_contract(name):
    options = yaml.safe_load(choices("model")[name].read_text())
    kind = cell_class(options.get("cell", "amu"))
    cell = kind(3, 2 * kind.unit_step(**({"block_size": 2} if name.startswith("lstm97") else {})), trials=2)
    assert initial_values_of(cell, np.random.default_rng(0)).keys() == shapes_of(cell).keys()
    check_step(cell)


def test_a_cell_may_need_an_even_number_of_units(monkeypatch):
    def swapped(self, h):
        first, second = h.chunk(2, -1)
        return torch.cat([second, first], -1)

    def blocks(self, rng):
        return {"p": np.ones((2, self.hidden_size // 2)).ravel()}

    even, adding = plain(seen=swapped, own_values=blocks), task("adding", T=5)
    monkeypatch.setattr("amu_experiments.network.cell_class", lambda name: even)
    assert count_parameters({"cell": "own"}, adding, 8) == 8 * 2 + 8 * 8 + 8 + 8 + 8 + 1
    assert resolved({"cell": "own", "parameters": 105}, adding)["units"] == 8
    assert make_cell({"cell": "own"}, adding, 8).hidden_size == 8
    with pytest.raises(ConfigurationError, match=r"model.cell=own: initial_values\(\)"):
        make_cell({"cell": "own"}, adding, 7)


@pytest.mark.parametrize("trials", [1, 2, 5])
def test_a_step_knows_its_number_of_trials(trials):
    cell = plain(seen=lambda self, h: h.view(self.trials, -1, self.hidden_size))(2, 4, trials=trials, backend="torch")
    assert cell(torch.randn(trials, 3, 2, 2))[0].shape == (trials, 3, 2, 4)


def covariance(self, h):
    """The Cholesky factor of 1 plus a state that starts at zero."""
    matrix = torch.diag_embed(1 + 20 * h)
    return torch.linalg.cholesky(matrix).diagonal(dim1=-2, dim2=-1)


@pytest.mark.parametrize(
    "seen",
    [
        lambda self, h: torch.bernoulli(h),
        lambda self, h: h + torch.bernoulli(self.p).unsqueeze(1),
        covariance,
    ],
)
def test_a_step_may_be_defined_only_for_some_numbers(seen):
    assert isinstance(plain(seen=seen)(2, 4, trials=2, backend="torch"), Cell)


@pytest.mark.parametrize(
    "seen",
    [
        lambda self, h: torch.bernoulli(h) + self.p,
        lambda self, h: torch.bernoulli(h + 3),
    ],
)
def test_a_step_that_fails_at_the_start_of_training_is_refused(seen):
    with pytest.raises(CellError, match="RuntimeError: Expected p_in >= 0"):
        plain(seen=seen)(2, 4, trials=2, backend="torch")


@pytest.mark.parametrize(
    "matrix",
    [np.eye(4)[::-1], np.eye(4, dtype=int), np.broadcast_to(np.arange(4.0), (4, 4)), np.eye(4).tolist(), torch.eye(4)],
)
def test_initial_values_may_be_any_numbers(matrix):
    cell = plain(own_values=lambda self, rng: {"weight_hh": matrix})(2, 4, trials=2, backend="torch")
    value = initial_values_of(cell, np.random.default_rng(0))["weight_hh"]
    assert (value.dtype, value.flags.c_contiguous, value.flags.writeable) == (np.float32, True, True)
    np.testing.assert_array_equal(cell.weight_hh.detach().numpy(), [np.asarray(matrix)] * 2)


@pytest.mark.parametrize(
    "drawn",
    [
        lambda A: torch.nn.init.orthogonal_(torch.empty(A, A)),
        lambda A: np.random.standard_normal((A, A)),
    ],
)
def test_initial_values_from_a_global_generator_depend_on_the_trial_alone(drawn):
    kind = plain(own_values=lambda self, rng: {"weight_hh": drawn(self.hidden_size)})

    def values(seed):
        cell, generator = kind(2, 4, 2, trials=1, backend="torch"), np.random.default_rng(seed)
        cell.initialise([generator])
        return cell.weight_hh_l0.detach(), cell.weight_hh_l1.detach(), generator.random()

    (first, second, after), again, other = values(0), values(0), values(1)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert after == again[2]
    assert not torch.equal(first, second)
    assert not torch.equal(first, other[0])
