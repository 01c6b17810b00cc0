"""The configuration to train found ranks with has what the adapter that was cut trained."""

import pytest

from bilevel.lowrank import lora_layers
from experiments.artefacts.ranks_file import lora_config
from tests.bilevel.lowrank.conftest import _adapted


@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
def test_biases_are_trained_where_they_were(bias: str) -> None:
    model = _adapted(bias=bias)
    first, *others = lora_layers(model)
    found = lora_config(model, {first: 2, **dict.fromkeys(others, 0)})
    assert found.bias == bias
    assert list(found.target_modules or ()) == [first]
