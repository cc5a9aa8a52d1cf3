"""Layers in the place of torch.nn's: the same program with another import, all cells, and whole state dicts."""

import copy
import pickle

import pytest
import torch
import yaml
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

import amu_experiments
from amu_experiments import AMU, GRU, LSTM, RNN
from amu_experiments.cells import cell_class
from amu_experiments.conf_files import choices

CELLS = sorted({yaml.safe_load(file.read_text()).get("cell", "amu") for file in choices("model").values()})
SIZES = {"clockwork": 4, "scrn": 5}
"""Numbers of units that these cells allow; 3 for the others."""


# An ordinary program ----------------------------------------------------------------------------------------------


class Tagger(nn.Module):
    """A program's module: two layers, both directions, dropout, and sequences of different lengths."""

    def __init__(self, library, kind):
        super().__init__()
        self.rnn = getattr(library, kind)(5, 8, 2, batch_first=True, dropout=0.25, bidirectional=True)
        self.readout = nn.Linear(2 * 8, 3)

    def forward(self, x, lengths):
        self.rnn.flatten_parameters()
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, state = self.rnn(packed)
        h = state[0] if isinstance(state, tuple) else state
        padded, lengths = pad_packed_sequence(output, batch_first=True)
        return self.readout(padded.sum(dim=1) / lengths.unsqueeze(1)) + self.readout(torch.cat([h[-2], h[-1]], dim=1))


def collate(batch):
    xs, targets = zip(*batch, strict=True)
    return nn.utils.rnn.pad_sequence(xs, batch_first=True), torch.tensor([len(x) for x in xs]), torch.tensor(targets)


def batches(epochs=2):
    torch.manual_seed(2)
    data = [(torch.randn(4 + i % 7, 5), i % 3) for i in range(40)]
    for _ in range(epochs):
        yield from DataLoader(data, batch_size=8, shuffle=True, collate_fn=collate)


def loss_and_gradients(model, x, lengths, target, seed):
    torch.manual_seed(seed)
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(x, lengths), target)
    loss.backward()
    return loss, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_program_with_the_import_of_our_layer_has_torchs_outputs_and_gradients(kind):
    """In every step of training, and with dropout: the same seed drops the same outputs."""
    torch.manual_seed(1)
    reference, model = Tagger(nn, kind), Tagger(amu_experiments, kind)
    model.load_state_dict(reference.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for step, batch in enumerate(batches()):
        reference.rnn.load_state_dict(model.rnn.torch_state_dict())
        reference.readout.load_state_dict(model.readout.state_dict())
        wanted, theirs = loss_and_gradients(reference, *batch, seed=step)
        loss, ours = loss_and_gradients(model, *batch, seed=step)
        torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-5)
        for name, gradient in ours.items():
            of_second = theirs.get(name.replace("bias_hn_l", "bias_hh_l"), torch.empty(0))[-8:]
            same = of_second if "bias_hn" in name else theirs[name.replace("bias_l", "bias_ih_l")]
            torch.testing.assert_close(gradient, same, rtol=0, atol=1e-5)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("form", ["packed", "unsorted", "batch first", "one sequence"])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_states_of_every_form_of_input(kind, form, bias):
    torch.manual_seed(3)
    options = {"bias": bias, "batch_first": form == "batch first", "bidirectional": True}
    theirs, ours = (getattr(library, kind)(3, 4, 2, **options) for library in (nn, amu_experiments))
    ours.load_state_dict(theirs.state_dict())
    assert sum(p.numel() for p in ours.parameters()) <= sum(p.numel() for p in theirs.parameters())
    single = form == "one sequence"
    lengths = [5, 3, 3, 1] if form == "packed" else [3, 5, 1, 3]
    x = torch.randn(5, 3) if single else torch.randn(4, 5, 3) if form == "batch first" else torch.randn(5, 4, 3)
    if form in ("packed", "unsorted"):
        x = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=form == "packed")
    state = tuple(torch.randn(4, 4) if single else torch.randn(4, 4, 4) for _ in ours.states)
    state = state if len(state) > 1 else state[0]
    for given in ((), (state,)):
        found, wanted = ours(x, *given), theirs(x, *given)
        if isinstance(wanted[0], PackedSequence):
            assert isinstance(found[0], PackedSequence)
            found, wanted = ((*y, last) for y, last in (found, wanted))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_state_dict_goes_to_torch_and_back(kind):
    ours, again = (getattr(amu_experiments, kind)(3, 4, 2, bidirectional=True) for _ in range(2))
    theirs = getattr(nn, kind)(3, 4, 2, bidirectional=True)
    theirs.load_state_dict(ours.torch_state_dict())
    again.load_state_dict(theirs.state_dict())
    assert all(map(torch.equal, again.parameters(), ours.parameters()))
    x = torch.randn(6, 2, 3)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
    with pytest.raises(RuntimeError, match='Missing key.*"weight_ih_l1"'):
        ours.load_state_dict(getattr(nn, kind)(3, 4).state_dict())


# Every cell -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CELLS)
def test_layers_and_directions_of_every_cell(name):
    """A layer reads the one below, forwards and backwards, and has the shapes and the states of torch.nn's."""
    torch.manual_seed(4)
    kind, A = cell_class(name), SIZES.get(name, 3)
    layer = kind(2, A, 2, bidirectional=True, backend="torch", dtype=torch.double)
    ones = {}
    for number, size in ((0, 2), (1, 2 * A)):
        for reverse in ("", "_reverse"):
            one = ones[number, reverse] = kind(size, A, backend="torch", dtype=torch.double)
            shapes = {each: getattr(one, f"{each}_l0").shape for each in kind.shapes(size, A)}
            assert shapes == kind.shapes(size, A)
            one.load_state_dict({f"{each}_l0": getattr(layer, f"{each}_l{number}{reverse}") for each in shapes})
    x = torch.randn(5, 2, 2, dtype=torch.double)
    below, first = x, []
    for number in (0, 1):
        forward, last = ones[number, ""](below)
        backward, last_reverse = ones[number, "_reverse"](below.flip(0))
        below = torch.cat([forward, backward.flip(0)], dim=2)
        first += [last, last_reverse]
    y, state = layer(x)
    torch.testing.assert_close(y, below)
    states = [each if isinstance(each, tuple) else (each,) for each in first]
    for found, wanted in zip(state if isinstance(state, tuple) else (state,), zip(*states, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(wanted))
    packed, _ = layer(pack_sequence([x[:2, 0], x[:4, 1]], enforce_sorted=False))
    alone = [layer(x[:2, 0])[0], layer(x[:4, 1])[0]]
    torch.testing.assert_close(pad_packed_sequence(packed)[0], nn.utils.rnn.pad_sequence(alone))
    assert repr(layer) == f"{kind.__name__}(2, {A}, num_layers=2, bidirectional=True, backend='torch')"


@pytest.mark.parametrize("name", CELLS)
def test_without_bias_every_bias_is_zero_and_no_parameter(name):
    torch.manual_seed(5)
    kind, A = cell_class(name), SIZES.get(name, 3)
    without, zero = kind(3, A, bias=False, backend="torch"), kind(3, A, backend="torch")
    with torch.no_grad():
        for parameter, value in zero.named_parameters():
            value.copy_(getattr(without, parameter)) if "bias" not in parameter else value.zero_()
    assert not any("bias" in parameter for parameter, _ in without.named_parameters())
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(without(x), zero(x))


def test_a_stack_of_trials_has_layers_too():
    torch.manual_seed(6)
    stack = GRU(2, 3, 2, bidirectional=True, trials=3, backend="torch")
    x, lengths = torch.randn(3, 5, 4, 2), torch.tensor([[5, 2, 1, 3]] * 3)
    y, state = stack(x, lengths=lengths)
    assert (y.shape, state.shape) == ((3, 5, 4, 6), (3, 4, 4, 3))
    for trial in range(3):
        single = GRU(2, 3, 2, bidirectional=True, backend="torch")
        single.load_state_dict({name: value[trial] for name, value in stack.state_dict().items()})
        torch.testing.assert_close(single(x[trial], lengths=lengths[0]), (y[trial], state[trial]))
    again, _ = stack(x, state)
    assert not torch.equal(again, y)


# The rest of torch ------------------------------------------------------------------------------------------------


def test_compiled_layers_are_those_of_torch():
    torch.manual_seed(7)
    fused = RNN(2, 1, 2, bidirectional=True, backend="fused")
    plain = RNN(2, 1, 2, bidirectional=True, backend="torch")
    plain.load_state_dict(fused.state_dict())
    x, lengths = torch.randn(6, 3, 2), torch.tensor([6, 2, 4])
    seen = []
    for layer in (fused, plain):
        y, state = layer(x, lengths=lengths)
        seen.append([y, state, *torch.autograd.grad(y.pow(2).sum() + state.sum(), list(layer.parameters()))])
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-6)


def test_initialisations_of_torch_work_on_every_matrix():
    layer = LSTM(6, 8, 2)
    for name, parameter in layer.named_parameters():
        if "weight" in name:
            nn.init.orthogonal_(parameter)
    square = layer.weight_hh_l1.detach()
    torch.testing.assert_close(square.mT @ square, torch.eye(8), rtol=0, atol=1e-5)
    nn.init.xavier_uniform_(layer.weight_ih_l0)
    assert layer.weight_ih_l0.abs().max() <= (6 / (6 + 32)) ** 0.5


def test_parametrizations_of_torch_work():
    layer, x = AMU(2, 3, backend="torch"), torch.randn(4, 2, 2)
    y, _ = layer(x)
    nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    torch.testing.assert_close(layer(x)[0], y)
    layer(x)[0].sum().backward()
    assert layer.parametrizations.weight_hh_l0.original1.grad is not None


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_layers_are_exported_where_torch_exports_its_own(backend):
    layer, x = GRU(2, 3, 2, bidirectional=True, backend=backend), torch.randn(4, 5, 2)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(layer, (x,), dynamic_shapes=({1: batch},)).module()
    other = torch.randn(4, 9, 2)
    for y, wanted in zip(exported(other), layer(other), strict=True):
        torch.testing.assert_close(y, wanted)


@pytest.mark.filterwarnings("ignore")  # those that torch.compile has of itself
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_torch_compiles_layers(backend):
    layer, x = RNN(2, 1, 2, bidirectional=True, backend=backend), torch.randn(3, 2, 2)
    compiled = torch.compile(layer, backend="eager", fullgraph=backend == "torch")
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.filterwarnings("ignore")  # torch warns of every trace
@pytest.mark.parametrize("batch", [2, 9])
def test_compiled_layers_are_traced_with_their_numbers(batch):
    """In a trace, sizes are tensors."""
    layer, x = LSTM(3, 4, backend="fused"), torch.randn(6, batch, 3)
    traced = torch.jit.trace(layer, (x,), check_trace=False)
    torch.testing.assert_close(traced(x)[0], layer(x)[0], rtol=0, atol=0)


@pytest.mark.parametrize("batch", [2, 9])
def test_tensors_whose_numbers_are_not_in_their_memory(batch):
    """Torch keeps the gradient of sgn, zeros, without memory, and an imaginary part of a conjugate without its sign."""
    layer, z = LSTM(3, 4, backend="fused"), torch.randn(6, batch, 3, dtype=torch.complex64)
    torch.testing.assert_close(layer(z.conj().imag)[0], layer(-z.imag.contiguous())[0], rtol=0, atol=0)
    layer(z.real.contiguous())[0].sgn().sum().backward()
    assert all((parameter.grad == 0).all() for parameter in layer.parameters())


def test_layers_are_copied_and_pickled():
    layer, x = LSTM(2, 3, 2, dropout=0.5, bidirectional=True, backend="torch").eval(), torch.randn(4, 2, 2)
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(same) == repr(layer)
        torch.testing.assert_close(same(x), layer(x))


def test_dropout_acts_between_layers_and_in_training_alone():
    layer, x = GRU(2, 3, 2, dropout=1.0, backend="torch"), torch.ones(4, 2, 2)
    y, _ = layer(x)
    torch.testing.assert_close(layer(2 * x)[0], y)
    layer.eval()
    assert not torch.equal(layer(x)[0], layer(2 * x)[0])
    with pytest.warns(UserWarning, match="dropout=0.5 does nothing with num_layers=1"):
        GRU(2, 3, dropout=0.5)


def test_device_and_dtype_are_those_asked_for():
    layer = AMU(2, 3, 2, device="meta", dtype=torch.float16)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float16)}
    double = AMU(2, 3, dtype=torch.double)
    assert double(torch.zeros(4, 1, 2, dtype=torch.double))[0].dtype == torch.double


def test_a_packed_sequence_has_its_own_lengths_and_is_for_layers_without_trials():
    packed = pack_sequence([torch.zeros(3, 2), torch.zeros(1, 2)])
    with pytest.raises(TypeError, match="lengths: must be None for a PackedSequence"):
        RNN(2, 3, backend="torch")(packed, lengths=[3, 1])
    with pytest.raises(TypeError, match="a PackedSequence: .*`lengths`.*pad_packed"):
        RNN(2, 3, trials=2, backend="torch")(packed)
