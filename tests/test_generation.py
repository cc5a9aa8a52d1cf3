"""Networks that generate: the loop in both backends, symbols drawn, and how strings are judged."""

import time

import numpy as np
import pytest
import torch
from configured import task
from scipy.integrate import solve_ivp

from amu_experiments import AMU, LSTM, store
from amu_experiments.cells.modules import module_cell
from amu_experiments.cli import main
from amu_experiments.config import identity
from amu_experiments.network import Network
from amu_experiments.options import ConfigurationError
from amu_experiments.overrides import load
from amu_experiments.plan import prepare
from amu_experiments.tasks.embedded_reber import (
    LONGEST,
    SYMBOLS,
    decode,
    draw_string,
    encode,
    first_wrong,
    legal_next,
    length_distribution,
    measure_strings,
)
from amu_experiments.tasks.fitzhugh_nagumo import fitzhugh_nagumo
from amu_experiments.tasks.mackey_glass import mackey_glass
from amu_experiments.tasks.next_value import measure_free_run
from amu_experiments.tasks.oscillators import FREQUENCIES


def network_of(kind, trials, inputs, outputs, **options):
    network = Network(kind(inputs, 4, trials=trials, **options), outputs)
    network.initialise(range(trials))
    return network


def uniform(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


FEEDBACKS = [
    ("none", "linear"),
    ("value", "linear"),
    ("value", "logistic"),
    ("symbol", "softmax"),
    ("bits", "logistic"),
]

# The loop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AMU, LSTM])
@pytest.mark.parametrize(("feedback", "squash"), FEEDBACKS)
def test_a_compiled_free_run_equals_torch(kind, feedback, squash):
    given, draws = uniform(2, 3, 5, 4), uniform(2, 3, 100, *[3] * (feedback == "bits"))
    answers = [
        network_of(kind, 2, 4, 3, backend=backend).free_run(given, 100, squash, feedback, draws)
        for backend in ("fused", "torch")
    ]
    assert answers[0].shape == (2, 3, 100, 3)
    np.testing.assert_allclose(*answers, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", [torch.nn.LSTMCell, torch.nn.RNNCell])
def test_any_torch_module_can_run_freely(cell):
    """While inputs are given, a free run says what the network says to whole sequences."""
    network, given = network_of(module_cell(cell, "torch.nn.Cell"), 2, 3, 3), uniform(2, 4, 6, 3)
    with torch.no_grad():
        whole = network(torch.tensor(given).transpose(1, 2), torch.full((2, 4), 6), True)
    np.testing.assert_allclose(network.free_run(given, 6, "linear", "value"), whole, rtol=0, atol=1e-6)


def test_values_are_read_as_the_next_input():
    network, given = network_of(LSTM, 1, 2, 2), uniform(1, 1, 3, 2)
    free = network.free_run(given, 8, "linear", "value")
    read = np.concatenate([given, free[:, :, 2:-1]], axis=2)
    np.testing.assert_allclose(network.free_run(read, 8, "linear", "none"), free, rtol=0, atol=1e-6)


def test_inputs_without_an_answer_stay_as_they_were_given():
    network, given = network_of(LSTM, 1, 3, 2), uniform(1, 1, 1, 3)
    free = network.free_run(given, 5, "linear", "value")
    read = np.concatenate([free[:, :, :-1], np.broadcast_to(given[..., 2:], (1, 1, 4, 1))], axis=3)
    read = np.concatenate([given, read], axis=2)
    np.testing.assert_allclose(network.free_run(read, 5, "linear", "none"), free, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["fused", "torch"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_symbols_are_drawn_with_the_probabilities_of_the_softmax(backend, temperature):
    network = network_of(LSTM, 1, 3, 3, backend=backend)
    network.flat.zero_()
    network.readout_bias.data[0] = torch.log(torch.tensor([0.2, 0.3, 0.5]))
    steps = 20 if backend == "torch" else 4000
    draws = np.random.default_rng(1).random((1, 4000 // steps, steps))
    drawn = network.free_run(np.zeros((1, len(draws[0]), 1, 3)), steps, "softmax", "symbol", draws, temperature)
    assert set(np.unique(drawn)) == {0, 1}
    powers = np.array([0.2, 0.3, 0.5]) ** (1 / temperature)
    np.testing.assert_allclose(drawn.mean(axis=(0, 1, 2)), powers / powers.sum(), rtol=0, atol=0.03)


def test_a_trial_goes_on_alike_whatever_surrounds_it():
    reber, several = task("embedded_reber", trials=[3]), task("embedded_reber", trials=[1, 3])
    alone, together = network_of(AMU, 1, 7, 7), network_of(AMU, 2, 7, 7)
    alone.initialise([3])
    together.initialise([1, 3])
    rng = [np.random.default_rng(seed) for seed in (3, 1, 3)]
    strings = reber.generate(alone, rng[:1], 2, 50), several.generate(together, rng[1:], 2, 50)
    assert (strings[0][0] == strings[1][1]).all()


def test_ten_networks_make_100_000_steps_in_two_seconds():
    network = network_of(LSTM, 10, 7, 7)
    given, draws = np.zeros((10, 1, 1, 7)), np.full((10, 1, 100_000), 0.5, np.float32)
    network.free_run(given, 1, "softmax", "symbol", draws[..., :1])  # compiles
    began = time.process_time()  # of all threads together: other processes do not count
    network.free_run(given, 100_000, "softmax", "symbol", draws)
    assert time.process_time() - began < 2


def test_a_task_that_cannot_be_continued_says_so():
    adding = task("adding")
    with pytest.raises(ConfigurationError, match="cannot be continued"):
        adding.generate(network_of(LSTM, 1, 2, 1), [np.random.default_rng(0)], 1, 1)


# Strings of the embedded Reber grammar ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("string", "place"),
    {
        "BPBTSXSEPE": None,
        "BTBTXSETE": None,
        "BPBTSXSETE": 8,
        "BTBTXSEPE": 7,
        "BTBTXSET": 8,
        "TBTBTXSETE": 0,
        "BTBTXSETEB": 9,
        "BTBTXVVETE": 5,
    }.items(),
)
def test_the_first_wrong_symbol_of_a_string(string, place):
    assert first_wrong(string) == place


def test_strings_of_the_grammar_have_its_lengths():
    rng = np.random.default_rng(0)
    drawn = [draw_string(rng) for _ in range(4000)]
    lengths = np.bincount(list(map(len, drawn)), minlength=LONGEST + 1) / 4000
    expected = length_distribution(LONGEST)
    assert expected[:10].tolist() == [0] * 9 + [0.25]  # two strings of five symbols, of probability 1/8, embedded
    assert expected.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(lengths, expected, rtol=0, atol=0.03)
    measured = measure_strings(drawn)
    assert (measured["grammatical"], measured["right_last_but_one"]) == (1, 1)
    assert measured["length_distance"] < 0.03


def test_wrong_strings_are_counted():
    measured = measure_strings(["BPBTSXSEPE", "BPBTSXSETE", "BTBTXVETE", "B" * LONGEST])
    assert measured["grammatical"] == 0.25
    assert measured["right_last_but_one"] == 0.5
    assert measured["length_distance"] >= 0.25


def test_a_string_ends_with_its_second_e():
    symbols = encode(["BTBTXSETEB" + "B" * 5]).inputs
    assert decode(symbols) == ["BTBTXSETE"]
    assert decode(symbols[:, :8]) == ["BTBTXSET"]


def test_a_network_that_knows_the_grammar_has_no_nats_too_many():
    reber = task("embedded_reber", strings=20, samples=10)
    data = reber.validation().take(0)
    legal = legal_next(data.inputs)
    known = legal / np.maximum(legal.sum(axis=-1, keepdims=True), 1)
    assert reber.measure(known, data)["excess_nats"] == pytest.approx(0, abs=1e-6)
    guessed = np.full_like(known, 1 / len(SYMBOLS))
    steps = np.arange(legal.shape[1]) < data.lengths[:20, None]
    expected = np.log(7) - np.log(legal[:20].sum(axis=-1)[steps]).mean()
    assert reber.measure(guessed, data)["excess_nats"] == pytest.approx(expected, rel=1e-6)


def test_samples_need_probabilities_of_the_next_symbol():
    with pytest.raises(ConfigurationError, match="task.samples=5: needs task.loss=cross_entropy"):
        task("embedded_reber", samples=5, targets="legal")


# Series, waves ----------------------------------------------------------------------------------------------


def test_fitzhugh_nagumo_series_are_those_of_solve_ivp():
    first = np.array([0.3, -0.7, -0.1])
    for x, ours in zip(first, fitzhugh_nagumo(first, 1000), strict=True):
        solved = solve_ivp(
            lambda _, z: [z[0] - z[0] ** 3 / 3 - z[1] + 0.5, (z[0] + 0.7 - 0.8 * z[1]) / 50],
            [0, 400],
            [x, 0],
            t_eval=np.linspace(0, 400, 1001),
        ).y[0]
        # The two integrations have different errors, and a jump magnifies the difference.
        np.testing.assert_allclose(ours, solved, rtol=0, atol=5e-3)


def test_repeating_the_last_value_of_fitzhugh_nagumo_has_an_error_of_0079():
    system = task("fitzhugh_nagumo", train_size=1, validation_size=128, test_size=1)
    data = system.validation().take(0)
    assert data.inputs.shape == (128, 1000, 1)
    assert (data.inputs[:, 1:] == data.targets[:, :-1]).all()
    assert system.measure(data.inputs, data)["rmse"] == pytest.approx(0.0786, abs=0.0005)


def test_mackey_glass_follows_its_equation():
    fine = mackey_glass(np.array([0.7, 1.2]), 17, 600)
    # Central differences of whole steps are not exact, but the series is smooth.
    slope = (fine[:, 2:] - fine[:, :-2])[:, 16:] / 2
    delayed, now = fine[:, : slope.shape[1]], fine[:, 17:-1]
    assert np.abs(slope - 0.2 * delayed / (1 + delayed**10) + 0.1 * now).max() < 0.01  # the slopes are of size 0.06
    assert np.ptp(fine[:, 300:]) == pytest.approx(0.9, abs=0.1)


@pytest.mark.parametrize("name", ["fitzhugh_nagumo", "mackey_glass"])
def test_a_run_with_series_of_another_version_is_another_run(name):
    run = prepare(load(f"task={name}", "model=rnn"))
    assert identity(run.config) != identity(run.config | {"task": run.config["task"] | {"contents": "version_1"}})
    assert task(name, contents=run.config["task"]["contents"]).contents["contents"] == run.config["task"]["contents"]
    with pytest.raises(ConfigurationError, match="task.contents=version_1: series are version_2 here"):
        task(name, contents="version_1")


def test_neighbours_on_the_mackey_glass_attractor_part():
    apart = np.abs(np.diff(mackey_glass(np.array([0.9, 0.9 + 1e-6]), 17, 3000), axis=0))[0]
    assert apart[:100].max() < 1e-4 < 0.1 < apart[2000:].max()


@pytest.mark.parametrize("sines", [2, 5, 8])
def test_oscillators_obey_the_linear_recurrence_of_their_frequencies(sines):
    """A sum of n sines is continued exactly by a linear recurrence of order 2n."""
    mso = task("oscillators", sines=sines)
    values = mso.validation().take(0).inputs[0, :, 0].astype(np.float64)
    kernel = np.ones(1)
    for f in FREQUENCIES[:sines]:
        kernel = np.convolve(kernel, [1, -2 * np.cos(f), 1])
    assert np.abs(np.convolve(values, kernel, "valid")).max() < 2e-5 * np.abs(kernel).sum() / 4
    assert task("oscillators", sines=sines).test().targets.var() == pytest.approx(1, abs=0.1)


def test_only_the_inputs_of_training_have_noise():
    noisy, clean = (task("oscillators", noise=noise, T=99, free_steps=50) for noise in (0.03, 0.0))
    ours, without = (each.train_batch(0, 200) for each in (noisy, clean))
    np.testing.assert_array_equal(ours.targets, without.targets)
    added = ours.inputs - without.inputs
    assert added.std() == pytest.approx(0.03, rel=0.02)
    assert added.mean() == pytest.approx(0, abs=0.001)
    for split in ("validation", "test"):
        np.testing.assert_array_equal(getattr(noisy, split)().inputs, getattr(clean, split)().inputs)


@pytest.mark.parametrize("form", ["sines", "composed"])
def test_a_wave_has_320_samples_between_minus_1_and_1(form):
    data = task("waveform", form=form).test().take(0)
    wave = data.targets[0, :, 0]
    assert (len(wave), np.abs(wave).max()) == (320, 1)
    assert (data.inputs == 1).all()
    assert wave.mean() == pytest.approx(0, abs=1e-6)


def test_the_wave_of_sines_repeats_after_160_samples():
    wave = task("waveform").test().targets[0, 0, :, 0]
    np.testing.assert_allclose(wave[:160], wave[160:], rtol=0, atol=1e-6)


class Repeats:
    """A network whose answer is always the last true value."""

    def free_run(self, given, steps, *_):
        return np.repeat(given[:, :, -1:], steps, axis=2)


def test_a_free_run_is_compared_with_the_rest_of_the_series():
    free, true = np.zeros((2, 4, 1)), np.array([[0, 0, 1, -1], [0.9, 0, 0, -0.9]])[..., None]
    deviation = true.std()
    measured = measure_free_run(free, true)
    assert measured["free_nrmse"] == pytest.approx(np.sqrt((true**2).mean()) / deviation)
    assert measured["last_nrmse"] == pytest.approx(np.sqrt((1 + 0.81) / 2) / deviation)
    assert measured["steps_followed"] == 1  # the median of 2 and 0
    assert measure_free_run(np.full((2, 4, 1), np.nan), true)["free_nrmse"] == np.inf


def test_a_free_run_begins_after_the_values_that_are_given():
    mso = task("oscillators", T=20, free_steps=5, test_size=3)
    sequences = mso.test()
    prime, truth = mso.continuation(sequences)
    assert (prime.shape, truth.shape) == ((1, 3, 16, 1), (1, 3, 5, 1))
    np.testing.assert_array_equal(
        np.concatenate([prime[:, :, 1:], truth[:, :, :1]], axis=2), sequences.targets[:, :, :16]
    )
    (measured,) = mso.measure_generated(Repeats(), sequences, [0])
    wanted = np.repeat(prime[:, :, -1:], 5, axis=2)
    assert measured == measure_free_run(wanted[0], truth[0])


def test_more_free_steps_than_steps_are_an_error():
    with pytest.raises(ConfigurationError, match="task.free_steps=30: must be at most task.T=20"):
        task("oscillators", T=20, free_steps=30)


def test_the_free_run_is_a_column_of_the_test(tmp_path):
    short = ["task.T=20", "task.free_steps=5", "training.max_sequences=20", "training.evaluate_every=10", "trials=2"]
    assert main(["task=oscillators", "model=gru", *short, f"results_dir={tmp_path}"]) == 0
    (result,) = store.read_results(tmp_path)
    generated = result.trials[["test_free_nrmse", "test_last_nrmse", "test_steps_followed"]]
    assert generated.notna().all(axis=None)
    assert not [name for name in result.history if "free" in name]
