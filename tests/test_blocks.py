"""Batches of 8 sequences and more, computed in blocks: equal to torch, and independent of what surrounds them."""

import platform

import pytest
import torch
from test_kernels import ANSWERS, Products, close, made_network, made_optimizer, made_sequences, outputs_and_gradients

from amu_experiments import LSTM
from amu_experiments.cells import cell_class
from amu_experiments.learning import learn
from amu_experiments.scans import lanes
from amu_experiments.scans.derive import derive
from amu_experiments.scans.machine import Machine
from amu_experiments.scans.threads import set_threads

CELLS = {
    "amu": {},
    "amu, full": {"gradient": "full", "output": "linear", "neurons_per_unit": 4},
    "amu, memory": {"output": "memory", "output_in_product": False},
    "antisymmetric": {},
    "cfn": {},
    "cornn": {},
    "fastgrnn": {},
    "gru": {},
    "gru2014": {},
    "indrnn": {},
    "irnn": {},
    "janet": {},
    "lem": {},
    "lstm": {},
    "lstm97": {"block_size": 3},
    "lstm_peephole": {},
    "mgu": {},
    "rnn": {},
}


OF_EIGHT = ("amu", "amu, full", "lem", "lstm", "lstm97", "products")
"""Their steps have every kind of operation; a batch of 8 needs code of its own, compiled for a block of 8 sequences."""


@pytest.mark.parametrize(
    ("name", "batch"),
    [*((name, batch) for name in (*CELLS, "products") for batch in (16, 37)), *((name, 8) for name in OF_EIGHT)],
)
def test_blocks_equal_torch(name, batch):
    kind = Products if name == "products" else cell_class(name.split(",")[0])
    torch.manual_seed(batch)
    made = [kind(3, 9, backend=backend, **CELLS.get(name, {})) for backend in ("fused", "torch")]
    made[1].load_state_dict(made[0].state_dict())
    x, state = torch.randn(12, batch, 3), [0.5 * torch.randn(1, batch, size) for size in made[0].state_sizes()]
    lengths = torch.randint(1, 13, (batch,))
    close(*(outputs_and_gradients(cell, x, state, lengths, False) for cell in made))


@pytest.mark.parametrize("answers", ANSWERS)
def test_a_trial_is_the_same_to_the_bit_with_any_threads_neighbours_and_stretches(answers):
    task, results = ANSWERS[answers], []
    for trials, threads, stretches in (
        ([7], 1, 1),
        ([7], 2, 1),
        ([7], 3, 2),
        ([3, 7], 8, 1),
        (list(range(5, 10)), 2, 2),
    ):
        set_threads(threads)
        network = made_network("fused", trials, cell_type=LSTM)
        network.batch_size = 37
        optimizer, place = made_optimizer(network), trials.index(7)
        sequences = made_sequences(trials, 74, task, inputs=3)
        learned = []
        for part in range(stretches):
            count = 74 // stretches
            learned.append(
                learn(
                    network, optimizer, task, sequences.take((slice(None), slice(part * count, (part + 1) * count))), 37
                )
            )
        predicted = network.predict(sequences, task.answer == "every")[place]
        results.append(
            [network.flat[place].numpy().tobytes(), predicted.tobytes()]
            + [b"".join(getattr(stretch, name)[place].tobytes() for stretch in learned) for name in ("losses", "norms")]
        )
    set_threads(None)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("name", ["amu", "gru", "lem", "lstm"])
def test_one_compilation_serves_all_sizes(name):
    made = (cell_class(name)(inputs, units, backend="torch") for inputs, units in ((2, 8), (5, 300)))
    assert len({lanes.form_of(derive(cell)) for cell in made}) == 1


def test_a_sequence_does_not_see_its_neighbours():
    torch.manual_seed(0)
    cell = LSTM(3, 9, backend="fused")
    x, lengths = torch.randn(20, 37, 3), torch.randint(1, 21, (37,))
    seen = []
    for scale, places in ((1.0, range(37)), (100.0, range(37)), (1.0, [*range(20, 37), *range(20)])):
        order = torch.tensor([*places])
        mine = order == 5
        # Sequence 5, in a batch with others, at another place.
        given = torch.where(mine[:, None], x[:, order], scale * x[:, order]).requires_grad_()
        y, (h, c) = cell(given, lengths=lengths[order])
        (y.square().sum() + c.sum()).backward()
        seen.append([t[:, mine].detach() for t in (y, h, c, given.grad)])
    for others in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], others, strict=True))


@pytest.mark.parametrize("batch", [8, 21])
def test_other_vectors_give_the_same_bits(monkeypatch, batch):
    """With half and a quarter of the registers' width, sums and tiles are cut otherwise; no digit may depend on it."""
    narrow = {"+avx2,+fma": "x86-64-v3"} if platform.machine() in ("x86_64", "AMD64") else {}
    machines = [Machine(), *(Machine(name, features) for features, name in narrow.items()), Machine(features="+fma")]
    seen = []
    for machine in machines:
        monkeypatch.setattr(lanes, "machine", lambda machine=machine: machine)
        torch.manual_seed(1)
        cell = Products(5, 11, backend="fused")
        x, lengths = torch.randn(40, batch, 5), torch.randint(1, 41, (batch,))
        seen.append(outputs_and_gradients(cell, x, [torch.zeros(1, batch, 11)] * 2, lengths, False))
    for others in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], others, strict=True))
