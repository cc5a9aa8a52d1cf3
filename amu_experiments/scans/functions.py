"""tanh, exp, log, log1p, sin and cos of float32 numbers, the same on every machine: no call of the C library.

vectorised.py writes them into the loops of the scans, from their sources.
"""

from decimal import Decimal

import numpy as np

f32 = np.float32


def tanh(x):
    """tanh of a float32 as x P(x^2) / Q(x^2), relative error below 4e-7; vectorises.

    The coefficients minimise the largest relative error on [-8, 8] (rational fit by iteratively reweighted least
    squares); beyond, tanh differs from +-1 by less than 3e-7. NaN stays NaN.
    """
    x = max(min(x, f32(8.0)), f32(-8.0))  # in this order of arguments NaN passes
    u = x * x
    p = f32(1.5230370e-08) * u + f32(2.1894630e-05)
    p = (p * u + f32(3.5715962e-03)) * u + f32(1.3444497e-01)
    p = p * u + f32(1.0)
    q = f32(8.5224281e-07) * u + f32(3.4112888e-04)
    q = (q * u + f32(2.6164435e-02)) * u + f32(4.6777824e-01)
    q = q * u + f32(1.0)
    return x * p / q


_ROOTS = np.array([float(Decimal(2) ** (Decimal(i) / 32)) for i in range(32)]).view(np.int64)
"""The bits of 2^(i/32) in double precision, rounded from a Decimal: pow of the C library may differ in the last bit."""

_LOG2 = 0.6931471805599453


def exp(x):
    """e to the power of a float32, correct to the last digit of a float32 or its neighbour; NaN stays NaN.

    In double precision: x = (k + r) ln(2)/32 with a whole k and |r| <= 1/2, so that e^x = 2^(k/32) e^(r ln(2)/32),
    where the first factor comes from a table and the second from four terms of its series.
    """
    scaled = max(min(np.float64(x), 700.0), -700.0) * (32 / _LOG2)
    whole = np.floor(scaled + 0.5)
    r = (scaled - whole) * (_LOG2 / 32)
    k = np.int64(whole)
    power = np.int64(_ROOTS[k & 31] + ((k >> 5) << 52)).view(np.float64)
    result = f32(power + power * (r + r * r * (0.5 + r * (1.0 / 6.0))))
    return result if x == x else x


def log(x):
    """Natural logarithm of a normal positive float32, relative error below 2e-7; of 0 or less NaN."""
    bits = np.float32(x).view(np.int32)
    exponent = (bits - 0x3F3504F3) >> 23  # so that the mantissa lies between the roots of 1/2 and 2
    mantissa = np.int32(bits - (exponent << 23)).view(np.float32)
    s = (mantissa - f32(1.0)) / (mantissa + f32(1.0))
    z = s * s
    series = ((f32(1.0 / 9) * z + f32(1.0 / 7)) * z + f32(1.0 / 5)) * z + f32(1.0 / 3)
    result = f32(exponent) * f32(0.693147181) + (f32(2.0) * s + f32(2.0) * s * z * series)
    below = f32(-np.inf) if x == f32(0.0) else f32(np.nan)
    return x if x == f32(np.inf) or x != x else result if x > f32(0.0) else below


def log1p(x):
    """log(1 + x) of a float32, relative error below 4e-7, small x included."""
    x = f32(x)
    u = f32(1.0) + x
    # The sum has rounded x; a factor corrects this.
    return x if u == f32(1.0) or u == f32(np.inf) else log(u) * (x / (u - f32(1.0)))


def _quarter(x):
    """x = k pi / 2 + r with a whole k and |r| <= pi / 4, in double precision: (k modulo 4, sin r, cos r)."""
    whole = np.floor(np.float64(x) * (2 / np.pi) + 0.5)
    r = (np.float64(x) - whole * _HALF_PI[0]) - whole * _HALF_PI[1]
    z = r * r
    sine = r + r * z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880))))
    cosine = 1 + z * (-1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320 - z * (1 / 3628800)))))
    return np.int64(whole) & 3, sine, cosine


_HALF_PI = (1.5707963267341256, 6.077100506506192e-11)
"""pi / 2 in two parts, the first so short that small multiples of it are exact."""


def sin(x):
    """Sine of a float32, absolute error below 1e-7 up to |x| = 1e6; NaN if x is infinite or NaN."""
    k, sine, cosine = _quarter(x)
    size = cosine if k & 1 else sine
    return f32(-size if k & 2 else size) if abs(x) < f32(np.inf) else f32(np.nan)


def cos(x):
    """Cosine of a float32, absolute error below 1e-7 up to |x| = 1e6; NaN if x is infinite or NaN."""
    k, sine, cosine = _quarter(x)
    size = sine if k & 1 else cosine
    return f32(-size if (k + 1) & 2 else size) if abs(x) < f32(np.inf) else f32(np.nan)


VECTORISED = (tanh, exp, log, log1p, _quarter, sin, cos)
"""The functions that vectorised.py uses; each calls only earlier ones."""
