"""Cells of the literature: the equations as published, written out one sequence at a time, and their initial values."""

import numpy as np
import pytest
import torch
import torchrecurrent
from plain_scan import assert_derived_equals_autograd

from amu_experiments.cells import cell_class


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def mgu(p, x, h):
    (W_f, W_n), (U_f, U_n), (b_f, b_n) = (np.split(p[name], 2) for name in ("weight_ih", "weight_hh", "bias"))
    f = sigmoid(W_f @ x + U_f @ h + b_f)
    candidate = np.tanh(W_n @ x + U_n @ (f * h) + b_n)
    return ((1 - f) * h + f * candidate,)


def gru2014(p, x, h):
    W, U, b = (np.split(p[name], 3) for name in ("weight_ih", "weight_hh", "bias"))
    r, z = (sigmoid(W[k] @ x + U[k] @ h + b[k]) for k in (0, 1))
    candidate = np.tanh(W[2] @ x + U[2] @ (r * h) + b[2])
    return (z * h + (1 - z) * candidate,)


def lem(p, x, y, z, dt=1.0):
    V, b, W = np.split(p["weight_ih"], 4), np.split(p["bias"], 4), np.split(p["weight_hh"], 3)
    first = dt * sigmoid(W[0] @ y + V[0] @ x + b[0])
    second = dt * sigmoid(W[1] @ y + V[1] @ x + b[1])
    z = (1 - first) * z + first * np.tanh(W[2] @ y + V[2] @ x + b[2])
    y = (1 - second) * y + second * np.tanh(p["weight_zy"] @ z + V[3] @ x + b[3])
    return y, z


def cornn(p, x, y, z, dt=0.042, gamma=2.7, epsilon=4.7):
    W, script_W = np.split(p["weight_hh"], 2, axis=1)
    z_new = z + dt * (np.tanh(W @ y + script_W @ z + p["weight_ih"] @ x + p["bias"]) - gamma * y - epsilon * z)
    return y + dt * z_new, z_new


def janet(p, x, c, beta=1.0):
    s, candidate = np.split(p["weight_ih"] @ x + p["weight_hh"] @ c + p["bias"], 2)
    return (sigmoid(s) * c + (1 - sigmoid(s - beta)) * np.tanh(candidate),)


def indrnn(p, x, h):
    return (relu(p["weight_ih"] @ x + p["weight_hh"] * h + p["bias"]),)


def irnn(p, x, h):
    return (relu(p["weight_ih"] @ x + p["weight_hh"] @ h + p["bias"]),)


def lstm_peephole(p, x, h, c):
    i, f, g, o = np.split(p["weight_ih"] @ x + p["weight_hh"] @ h + p["bias"], 4)
    p_i, p_f, p_o = np.split(p["peepholes"], 3)
    c_new = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(g)
    return sigmoid(o + p_o * c_new) * np.tanh(c_new), c_new


def antisymmetric(p, x, h, epsilon=0.01, gamma=0.01):
    M = p["weight_hh"] - p["weight_hh"].T - gamma * np.eye(len(h))
    net = p["weight_ih"] @ x + p["bias"]
    if len(net) == len(h):
        return (h + epsilon * np.tanh(M @ h + net),)
    net_z, net_h = np.split(net, 2)
    return (h + epsilon * sigmoid(M @ h + net_z) * np.tanh(M @ h + net_h),)


def cfn(p, x, h):
    W_f, W_i, W_c = np.split(p["weight_ih"], 3)
    (U_f, U_i), (b_f, b_i) = np.split(p["weight_hh"], 2), np.split(p["bias"], 2)
    f, i = sigmoid(U_f @ h + W_f @ x + b_f), sigmoid(U_i @ h + W_i @ x + b_i)
    return (f * np.tanh(h) + i * np.tanh(W_c @ x),)


def fastgrnn(p, x, h):
    net = p["weight_ih"] @ x + p["weight_hh"] @ h
    z, candidate = sigmoid(net + p["bias_z"]), np.tanh(net + p["bias_c"])
    return ((sigmoid(p["zeta"]) * (1 - z) + sigmoid(p["nu"])) * candidate + z * h,)


def ugrnn(p, x, h):
    (W_g, W_c), (U_g, U_c), (b_g, b_c) = (np.split(p[name], 2) for name in ("weight_ih", "weight_hh", "bias"))
    c = np.tanh(U_c @ h + W_c @ x + b_c)
    g = sigmoid(U_g @ h + W_g @ x + b_g)
    return (g * h + (1 - g) * c,)


def ligru(p, x, h):
    (W_z, W_h), (U_z, U_h), (b_z, b_h) = (np.split(p[name], 2) for name in ("weight_ih", "weight_hh", "bias"))
    z = sigmoid(W_z @ x + U_z @ h + b_z)
    candidate = relu(W_h @ x + U_h @ h + b_h)
    return (z * h + (1 - z) * candidate,)


def star(p, x, h):
    (W_xk, W_xz), (b_k, b_z) = np.split(p["weight_ih"], 2), np.split(p["bias"], 2)
    k = sigmoid(W_xk @ x + p["weight_hh"] @ h + b_k)
    z = np.tanh(W_xz @ x + b_z)
    return (np.tanh((1 - k) * h + k * z),)


def scrn(p, x, h, s, alpha=0.95):
    A, B = p["weight_ih"][: len(h)], p["weight_ih"][len(h) :]
    s = (1 - alpha) * B @ x + alpha * s
    h = sigmoid(p["weight_sh"] @ s + A @ x + p["weight_hh"] @ h)
    return np.concatenate([h, s]), h, s


def minimal_rnn(p, x, h):
    z = np.tanh(p["weight_ih"] @ x + p["bias"])
    u = sigmoid(p["weight_hh"] @ h + p["weight_zu"] @ z + p["bias_u"])
    return (u * h + (1 - u) * z,)


def mingru(p, x, h, positive=False):
    (W_z, W_h), (b_z, b_h) = np.split(p["weight_ih"], 2), np.split(p["bias"], 2)
    z, candidate = sigmoid(W_z @ x + b_z), W_h @ x + b_h
    if positive:
        candidate = np.array([a + 0.5 if a >= 0 else sigmoid(a) for a in candidate])
    return ((1 - z) * h + z * candidate,)


CELLS = {
    "mgu": [{}],
    "gru2014": [{}],
    "lem": [{}, {"dt": 0.3}],
    "cornn": [{}, {"dt": 0.1, "gamma": 1.5, "epsilon": 0.5}],
    "janet": [{}, {"beta": 0.5}],
    "indrnn": [{}],
    "irnn": [{"input_deviation": 0.5}],
    "lstm_peephole": [{"forget_bias": 1.0}],
    "cfn": [{"initial_range": 1.0}],
    "fastgrnn": [{"initial_range": 10.0}],
    "ugrnn": [{"forget_bias": 1.0}],
    "ligru": [{}],
    "star": [{}, {"longest_lag": 10}],
    "scrn": [{"hidden_per_context": 2}, {"hidden_per_context": 2, "alpha": 0.5}],
    "minimal_rnn": [{}],
    "mingru": [{}, {"positive": True}],
    "antisymmetric": [{}, {"epsilon": 0.5, "gamma": 0.2}, {"gated": False, "epsilon": 0.5}],
}


@pytest.mark.parametrize(("name", "options"), [(name, options) for name in CELLS for options in CELLS[name]])
def test_the_equations_as_published(name, options):
    torch.manual_seed(0)
    cell = cell_class(name)(2, 3, backend="torch", **options).double()
    p = {parameter: getattr(cell, parameter)[0].detach().numpy() for parameter in cell.shapes(2, 3, **cell.options)}
    x = torch.randn(6, 2, dtype=torch.double)
    state = [torch.rand(1, size, dtype=torch.double) for size in cell.state_sizes()]
    y, _ = cell(x, state if len(state) > 1 else state[0])
    numbers = [s[0].numpy() for s in state]
    known = {option: value for option, value in options.items() if option in globals()[name].__code__.co_varnames}
    for t in range(6):
        output, *numbers = globals()[name](p, x[t].numpy(), *numbers, **known)
        numbers = numbers if name == "scrn" else [output, *numbers]
        np.testing.assert_allclose(y[t].detach().numpy(), output, rtol=1e-12, atol=1e-14)


def test_a_clockwork_module_moves_at_its_period_and_sees_slower_ones():
    torch.manual_seed(0)
    cell = cell_class("clockwork")(2, 6, modules=3, initial_range=5.0, backend="torch").double()
    p = {name: getattr(cell, name)[0].detach().numpy() for name in cell.shapes(2, 6, modules=3)}
    U = np.zeros((6, 6))
    for i in range(3):
        U[2 * i : 2 * i + 2, 2 * i :] = p[f"weight_hh_{i}"]
    x, h = torch.randn(9, 2, dtype=torch.double), np.zeros(6)
    y, _ = cell(x)
    for t in range(9):
        new = np.tanh(p["weight_ih"] @ x[t].numpy() + U @ h + p["bias"])
        h = np.concatenate([new[2 * i : 2 * i + 2] if t % 2**i == 0 else h[2 * i : 2 * i + 2] for i in range(3)])
        np.testing.assert_allclose(y[t].detach().numpy(), h, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "theirs", "rows"),
    [
        ("mgu", "MGUCell", None),
        ("ugrnn", "UGRNNCell", (1, 0)),
        ("ligru", "LiGRUCell", None),
        ("star", "STARCell", (1, 0)),
        ("minimal_rnn", "MinimalRNNCell", None),
    ],
)
def test_an_independent_implementation_has_the_same_outputs(name, theirs, rows):
    """rows: the order of the blocks of torchrecurrent, if it differs. Its second bias is 0, except for minimal_rnn."""
    torch.manual_seed(0)
    ours, theirs = cell_class(name)(2, 3, backend="torch"), getattr(torchrecurrent, theirs)(2, 3)

    def arranged(name):
        value = getattr(ours, name)[0].detach()
        turned = rows and len(value) == 6
        return torch.cat([value.chunk(2)[i] for i in rows]) if turned else value

    given = {own: arranged(own) for own in ("weight_ih", "weight_hh")} | {"bias_ih": arranged("bias")}
    if name == "minimal_rnn":
        given |= {"weight_mm": arranged("weight_zu"), "bias_hh": arranged("bias_u")}
    theirs.load_state_dict(theirs.state_dict() | given)
    x, h = torch.randn(5, 1, 2), torch.zeros(1, 3)
    y, _ = ours(x)
    for t in range(5):
        h = theirs(x[t], h)
        torch.testing.assert_close(y[t], h)


@pytest.mark.parametrize(("name", "options"), [(name, options) for name in CELLS for options in CELLS[name]])
def test_derived_forms(name, options):
    torch.manual_seed(1)
    assert_derived_equals_autograd(cell_class(name)(2, 3, **options))


def test_the_derived_form_of_the_clockwork():
    torch.manual_seed(1)
    assert_derived_equals_autograd(cell_class("clockwork")(2, 6, modules=3, initial_range=5.0), steps=6)


@pytest.mark.parametrize(
    ("name", "count"),
    [("mgu", 2 * 3 * 6), ("gru2014", 3 * 3 * 6), ("lem", 4 * 3 * 6), ("cornn", 3 * (2 + 6 + 1)), ("janet", 2 * 3 * 6)]
    + [("indrnn", 3 * 4), ("irnn", 3 * 6), ("lstm_peephole", 4 * 3 * 6 + 9), ("antisymmetric", 9 + 2 * 3 * 3)]
    + [("ugrnn", 2 * 3 * 6), ("ligru", 2 * 3 * 6), ("star", 2 * 3 * 3 + 9), ("minimal_rnn", 3 * 3 + 2 * 9 + 3)]
    + [("mingru", 2 * 3 * 3)]
    + [("cfn", 3 * 3 * 2 + 2 * 3 * 4), ("fastgrnn", 3 * 5 + 2 * 3 + 2)],
)
def test_parameter_counts(name, count):
    assert cell_class(name).count(2, 3) == count


def test_chrono_biases_keep_memories_up_to_the_longest_lag():
    """Tallec & Ollivier 2018: b_f = log u, u uniform from 1 to T_max - 1, b_i = -b_f."""
    rng = np.random.default_rng(0)
    bias = cell_class("lstm")(2, 1000, longest_lag=100, backend="torch").initial_values(rng)["bias"]
    input_gate, forget_gate = bias[:1000], bias[1000:2000]
    np.testing.assert_array_equal(input_gate, -forget_gate)
    steps = np.exp(forget_gate)
    assert 1 <= steps.min() < 2
    assert 98 < steps.max() <= 99
    assert abs(steps.mean() - 50) < 3


def test_initial_values_as_published():
    rng = np.random.default_rng(0)
    values = cell_class("irnn")(50, 100, backend="torch").initial_values(rng)
    np.testing.assert_array_equal(values["weight_hh"], np.eye(100))
    assert (values["bias"] == 0).all()
    assert values["weight_ih"].std() == pytest.approx(0.001, rel=0.05)
    values = cell_class("antisymmetric")(25, 100, backend="torch").initial_values(rng)
    assert values["weight_hh"].std() == pytest.approx(0.1, rel=0.05)
    assert values["weight_ih"].std() == pytest.approx(0.2, rel=0.05)
    values = cell_class("cfn")(2, 3, initial_range=0.07, backend="torch").initial_values(rng)
    assert values["bias"].tolist() == [1, 1, 1, -1, -1, -1]
    assert 0 < abs(values["weight_hh"]).max() <= 0.07
    values = cell_class("fastgrnn")(50, 100, backend="torch").initial_values(rng)
    assert (values["zeta"].item(), values["nu"].item(), values["bias_z"].mean()) == (1, -4, 1)
    assert values["weight_hh"].std() == pytest.approx(0.1, rel=0.05)
    values = cell_class("ugrnn")(2, 100, forget_bias=1.0, backend="torch").initial_values(rng)
    assert abs(values["bias"][:100] - 1).max() <= 0.1
    assert abs(values["bias"][100:]).max() <= 0.1
    recurrent = cell_class("ligru")(2, 20, backend="torch").initial_values(rng)["weight_hh"]
    np.testing.assert_allclose(recurrent.T @ recurrent, np.eye(20), atol=1e-6)
    values = cell_class("star")(30, 20, longest_lag=100, backend="torch").initial_values(rng)
    for matrix in (values["weight_hh"], *np.split(values["weight_ih"], 2)):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(20), atol=1e-6)
    assert 1 <= np.exp(-values["bias"][:20]).min() < np.exp(-values["bias"][:20]).max() <= 99
    assert (values["bias"][20:] == 0).all()
    values = cell_class("mingru")(16, 200, backend="torch").initial_values(rng)
    assert 0.24 < abs(values["weight_ih"]).max() <= 0.25
    values = cell_class("clockwork")(50, 40, backend="torch").initial_values(rng)
    assert values["weight_ih"].std() == pytest.approx(0.1, rel=0.05)
    recurrent = cell_class("indrnn")(2, 1000, backend="torch").initial_values(rng)["weight_hh"]
    assert 0 <= recurrent.min() < 0.01
    assert 0.99 < recurrent.max() <= 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lem", {"dt": 0.0}),
        ("lem", {"dt": 1.5}),
        ("cornn", {"gamma": -1.0}),
        ("janet", {"longest_lag": 2}),
        ("lstm", {"longest_lag": 100, "forget_bias": 1.0}),
        ("indrnn", {"recurrent_range": 0.0}),
        ("irnn", {"input_deviation": -1.0}),
        ("antisymmetric", {"epsilon": 0.0}),
        ("star", {"longest_lag": 2}),
        ("scrn", {"alpha": 1.0}),
        ("scrn", {"hidden_per_context": 0}),
        ("scrn", {"hidden_per_context": 4}),
        ("clockwork", {"modules": 17}),
        ("clockwork", {"modules": 2}),
    ],
)
def test_wrong_options_are_named(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        cell_class(name)(2, 3, **options)
