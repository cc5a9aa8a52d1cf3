"""The training step of benchmark.py in JAX, for comparison: jit(vmap(scan)) over trials, on the CPU.

Runs in any Python with jax and optax; it imports nothing of this project. It reads settings from standard input, one
line of JSON each. For each setting it trains for about `seconds` and prints a line with the time per sequence.

    {"cell": "amu", "units": 4, "trials": 30, "batch": 1, "steps": 100, "inputs": 2, "seconds": 0.3}
    {"seconds_per_sequence": 4.5e-05}

Cells are "amu" (truncated gradient), "amu full" and "lstm". A step is the scan, the squared error of a linear readout
at the last time step, the gradient, clipping at norm 1 and Adam, separately for each trial.
"""

import json
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.lax import scan, stop_gradient

NEURONS = 3
RATE, CLIP = 1e-3, 1.0


def amu_sizes(inputs, units):
    rows = NEURONS * units
    return {"w": (inputs, rows), "u": (rows, rows), "v": (rows,), "b": (rows,)}


def amu_step(p, state, net, truncated):
    """The new state and the output, from the state (h, s) and net = W x(t) + b.

    Truncation cuts every path of the error except two: the memory's own, s(t) = s(t-1) + ..., and the path from the
    output neuron into the memory.
    """
    h, s = state
    seen_h, seen_s = (stop_gradient(h), stop_gradient(s)) if truncated else state
    units = s.shape[0]
    # u @ h is faster here, h @ u is faster in the LSTM.
    net = net + p["u"] @ seen_h + p["v"] * jnp.tile(seen_s, NEURONS)
    new_h = jnp.tanh(net)
    new_s = s + new_h.reshape(NEURONS, units).prod(axis=0)
    # This term is 0. It gives the truncated error its path from the output neuron into the memory.
    into_memory = stop_gradient(p["v"][:units]) * (s - seen_s)
    y = jnp.tanh(net[:units] + into_memory) if truncated else new_h[:units]
    return (new_h, new_s), y


def lstm_sizes(inputs, units):
    return {"w": (inputs, 4 * units), "u": (units, 4 * units), "b": (4 * units,)}


def lstm_step(p, state, net):
    h, c = state
    i, f, g, o = jnp.split(net + h @ p["u"], 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


CELLS = {
    "amu": (amu_sizes, lambda p, state, net: amu_step(p, state, net, truncated=True), (NEURONS, 1)),
    "amu full": (amu_sizes, lambda p, state, net: amu_step(p, state, net, truncated=False), (NEURONS, 1)),
    "lstm": (lstm_sizes, lstm_step, (1, 1)),
}
"""Parameter sizes, the step of one sequence, and the widths of the two states in units."""


def training(cell, units, trials, batch, steps, inputs):
    """A compiled function that makes `count` training steps and waits for the last."""
    sizes, step, widths = CELLS[cell]
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(RATE))

    def initial(key):
        shapes = sizes(inputs, units) | {"out_w": (units,), "out_b": ()}
        keys = jax.random.split(key, len(shapes))
        bound = shapes["b"][0] ** -0.5
        draw = partial(jax.random.uniform, minval=-bound, maxval=bound)
        return {name: draw(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}

    def loss(p, x, target):
        def one(x):
            start = tuple(jnp.zeros(width * units) for width in widths)
            _, y = scan(lambda state, net: step(p, state, net), start, x @ p["w"] + p["b"])
            return y[-1] @ p["out_w"] + p["out_b"]

        return jnp.square(jax.vmap(one)(x) - target).mean()

    def update(p, memory, x, target):
        gradient = jax.grad(loss)(p, x, target)
        change, memory = optimizer.update(gradient, memory, p)
        return optax.apply_updates(p, change), memory

    keys = jax.random.split(jax.random.key(0), 3)
    p = jax.vmap(initial)(jax.random.split(keys[0], trials))
    memory = jax.vmap(optimizer.init)(p)
    x = jax.random.normal(keys[1], (trials, batch, steps, inputs))
    target = jax.random.normal(keys[2], (trials, batch))
    train = jax.jit(jax.vmap(update), donate_argnums=(0, 1))

    def run(count):
        nonlocal p, memory
        for _ in range(count):
            p, memory = train(p, memory, x, target)
        jax.block_until_ready(p)

    run(1)
    return run


def main():
    print(json.dumps({"jax": jax.__version__}), flush=True)
    made = {}
    for line in sys.stdin:
        setting = json.loads(line)
        seconds = setting.pop("seconds")
        key = tuple(setting.items())
        run = made.get(key) or made.setdefault(key, training(**setting))
        count, took = 1, 0.0
        while took < 0.7 * seconds:
            count = max(int(count * min(seconds / max(took, 1e-6), 100)), 1) if took else 1
            began = time.perf_counter()
            run(count)
            took = time.perf_counter() - began
        print(json.dumps({"seconds_per_sequence": took / count / setting["trials"] / setting["batch"]}), flush=True)


if __name__ == "__main__":
    main()
