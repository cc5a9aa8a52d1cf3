"""A reading of the paper's abstract: options of the auxiliary memory unit, with words and a name for them.

Only the abstract of the paper is public. A reading is one way to understand it.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import yaml

from amu_experiments import conf_files
from amu_experiments.analysis.text import listing

PHRASES = {
    "output_in_product": {
        True: "output neuron a factor of the product",
        False: "output neuron not a factor of the product",
    },
    "memory_seen_by": {"unit": "memory seen by its own unit", "all": "memory seen by all units"},
    "output_sees": {"old": "old memory seen by the output neuron", "new": "new memory seen by the output neuron"},
    "writers": {"tanh": "tanh writers", "gated": "gated writers"},
    "output": {"neuron": "output with tanh", "linear": "output without tanh"},
}
"""The values of a reading's options in words."""


class Reading(NamedTuple):
    """The options of the AMU that the paper's abstract leaves open.

    The defaults describe the AMU before it had these options: older stored rows lack the keys.
    """

    neurons_per_unit: int = 3
    output_in_product: bool = True
    memory_seen_by: str = "unit"
    output_sees: str = "old"
    writers: str = "tanh"
    output: str = "neuron"

    @property
    def phrases(self) -> list[str]:
        """Each option in words."""
        neurons = f"{self.neurons_per_unit} neuron{'' if self.neurons_per_unit == 1 else 's'} a unit"
        others = [words.get(getattr(self, key), f"{key}={getattr(self, key)}") for key, words in PHRASES.items()]
        return [neurons, *others]

    @property
    def words(self) -> str:
        """The reading in words: "2 neurons a unit, output neuron not a factor of the product, ..."."""
        return ", ".join(self.phrases)

    @property
    def name(self) -> str:
        """The name in conf/readings.yaml, or the most similar named reading with the differences: "tframe with ..."."""
        name, nearest = min(named_readings().items(), key=lambda item: len(self.unlike(item[1])))
        differences = self.unlike(nearest)
        return f"{name} with {listing(differences)}" if differences else name

    def emitting(self, output: str = "neuron") -> "Reading":
        """The same reading, but the unit emits `output`."""
        return self._replace(output=output)

    def unlike(self, other: "Reading") -> list[str]:
        """The options, in words, in which this reading differs from the other."""
        return [phrase for phrase, theirs in zip(self.phrases, other.phrases, strict=True) if phrase != theirs]


def reading_of(model: Mapping) -> Reading:
    """The reading that the options of an AMU give."""
    return Reading(**{key: model[key] for key in Reading._fields if key in model})


@functools.cache
def named_readings() -> dict[str, Reading]:
    """The readings that conf/readings.yaml names, in its order."""
    named = conf_files.named_readings()
    return {
        name: reading_of({key.rpartition(".")[2]: value for key, value in options.items()})
        for name, options in named.items()
    }


@functools.cache
def shipped_reading() -> Reading:
    """The reading of model=amu."""
    return reading_of(yaml.safe_load(conf_files.choices("model")["amu"].read_bytes()))
