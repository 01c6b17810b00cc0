"""Every module has a place of its own in a table of layers and parts."""

import pytest

from experiments.metrics.module_names import places, shortened
from experiments.plots.modules import grid

BERT = [f"bert.encoder.layer.{i}.attention.self.{p}" for i in (0, 1) for p in ("query", "value")]
T5 = [
    *(f"encoder.block.{i}.layer.0.SelfAttention.{p}" for i in (0, 1) for p in "qv"),
    *(f"decoder.block.{i}.layer.0.SelfAttention.{p}" for i in (0, 1) for p in "qv"),
    *(f"decoder.block.{i}.layer.1.EncDecAttention.{p}" for i in (0, 1) for p in "qv"),
]
BART = [
    *(f"model.encoder.layers.{i}.self_attn.{p}_proj" for i in (0, 1) for p in "qv"),
    *(f"model.decoder.layers.{i}.self_attn.{p}_proj" for i in (0, 1) for p in "qv"),
    *(f"model.decoder.layers.{i}.encoder_attn.{p}_proj" for i in (0, 1) for p in "qv"),
]
EXPERTS = [f"model.layers.{i}.mlp.experts.{e}.w1" for i in (0, 1) for e in (0, 1, 2)]


@pytest.mark.parametrize("names", [BERT, T5, BART, EXPERTS, [*BERT, "classifier"], ["a", "b"]])
def test_no_two_modules_share_a_place(names):
    found = places(names)
    assert len(set(found.values())) == len(names)
    _layers, parts, cells = grid(names)
    assert len(set(cells.values())) == len(names)
    assert len(set(parts)) == len(parts)


def test_the_layer_is_the_first_number_and_the_part_is_short():
    assert places(BERT)[BERT[3]] == (1, "attention.self.value")
    assert places(T5)[T5[6]] == (1, "decoder.layer.0.SelfAttention.q")
    assert places(EXPERTS)[EXPERTS[4]] == (1, "mlp.experts.1.w1")
    assert shortened([part for _, part in places(BERT).values()][:2]) == ["query", "value"]
