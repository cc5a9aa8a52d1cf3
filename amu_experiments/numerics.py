"""Which processor instructions compute a run's numbers, so that the same command gives the same numbers everywhere.

Compilers and libraries choose instructions by the processor they find, and each choice rounds differently.
`instructions=portable` fixes one set: x86-64-v3 (AVX2 and FMA, processors since 2013 to 2015) on x86, the baseline of
64-bit ARM elsewhere. `instructions=native` leaves the choice to numba, torch and MKL, which may be faster.
Nothing here imports numba or torch: what they read when they start must be set before.
"""

import os
import platform

from amu_experiments.options import ConfigurationError

VERSION = 3
"""Of the arithmetic of the compiled scans; counted up when the same run comes to give other digits.

1: compiled for the processor at hand, exp and log of the C library. 2: fixed instructions, our own exp and log.
3: steps and adjoints derived from the cells' torch form.
"""

PORTABLE = {"x86_64": "x86-64-v3", "amd64": "x86-64-v3", "aarch64": "generic", "arm64": "generic"}
"""The compiler's name of the portable processor, by platform.machine()."""

FEATURES = {"x86-64-v3": "", "generic": "+neon"}
"""What the compiler may use beside what the processor's name says; numba would add what it finds."""

_LIBRARIES = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own loops
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # products of matrices: the only branch that is the same on every maker's processors
}
"""Environment variables that fix the instructions of torch's libraries on x86, each read once."""


_fixed: str | None = None
"""The choice of this process."""


def fix(instructions: str) -> None:
    """Set the instructions of this process and its children: "portable" or "native".

    Call this before numba or torch is imported: they decide once, when they start. ConfigurationError where this
    process has made the other choice already.
    """
    global _fixed
    if _fixed not in (None, instructions):
        raise ConfigurationError(
            f"instructions={instructions}: this process computes with {_fixed}; give each choice a command of its own"
        )
    _fixed = instructions
    name = portable_name()
    if instructions == "native" or name is None:
        return
    os.environ |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": FEATURES[name]}
    if name == "x86-64-v3":
        os.environ |= _LIBRARIES


def fix_numba() -> None:
    """Have numba compile for the portable processor, unless the choice is native or NUMBA_CPU_NAME names another."""
    import numba

    name = os.environ.get("NUMBA_CPU_NAME", portable_name())
    if name is not None and _fixed != "native":
        numba.config.CPU_NAME = name
        numba.config.CPU_FEATURES = os.environ.get("NUMBA_CPU_FEATURES", FEATURES.get(name, ""))


def used(backend: str) -> dict:
    """What computes the numbers of a backend ("fused" or "torch") in this process: version and instructions."""
    if backend == "fused":
        from numba.core.registry import cpu_target

        _, processor, _ = cpu_target.target_context.codegen().magic_tuple()
        return {"version": VERSION, "instructions": processor}
    import torch

    products = os.environ.get("MKL_CBWR", "as MKL chooses")
    return {"version": VERSION, "instructions": f"{torch.backends.cpu.get_cpu_capability()}, products {products}"}


def portable_name() -> str | None:
    """The portable processor here, or None where there is none, or where this one lacks its instructions."""
    name = PORTABLE.get(platform.machine().lower())
    if name != "x86-64-v3":
        return name
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:  # not Linux: the x86 processors of macOS all have them
        return name
    return name if {"avx2", "fma", "bmi2"} <= set(flags) else None
