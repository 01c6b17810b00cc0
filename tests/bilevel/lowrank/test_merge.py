"""Merging an exported adapter into a plain model."""

import copy
import math

import pytest
import torch

from bilevel.errors import UserError
from bilevel.lowrank.attach import attach_gates
from bilevel.lowrank.export import export_adapter
from bilevel.lowrank.gates import Gates
from bilevel.lowrank.layers import lora_layers
from bilevel.lowrank.merging import merge


def exported(adapted, folder, family="bert"):
    model = adapted(family).float()
    gates = Gates(list(lora_layers(model)), 4, "sigmoid")
    torch.nn.init.normal_(gates.logits, generator=torch.Generator().manual_seed(3))
    attach_gates(model, gates)
    return model.eval(), export_adapter(model, folder)


@pytest.mark.parametrize("layout", ["adapter", "adapter_compact"])
@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "gpt2"])
def test_merged_model_is_plain_and_gives_the_same_logits(
    adapted, base, batch, tmp_path, family, layout
):
    model, _ = exported(adapted, tmp_path, family)
    start = base(family).float()
    untouched = copy.deepcopy(start.state_dict())
    merged, difference = merge(tmp_path / layout, start, [batch, batch])
    with torch.no_grad():
        found, expected = merged(**batch).logits, model(**batch).logits
        plain = start.eval()(**batch).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert 0 < difference < 1e-5
    assert (expected - plain).abs().max() > 1e-2
    assert type(merged) is type(start)
    assert set(merged.state_dict()) == set(untouched)
    assert not merged.training
    assert all(torch.equal(t, untouched[n]) for n, t in start.state_dict().items())


def test_a_bf16_base_is_merged_in_fp32(adapted, base, batch, tmp_path):
    exported(adapted, tmp_path)
    merged, difference = merge(tmp_path / "adapter", base().bfloat16(), [batch])
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    assert difference < 1e-5


def test_merged_model_survives_saving(adapted, base, batch, tmp_path):
    exported(adapted, tmp_path)
    merged, _ = merge(tmp_path / "adapter", base())
    merged.save_pretrained(tmp_path / "merged")
    again = type(merged).from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        # up to rounding: how a kernel sums depends on where in memory a weight begins
        torch.testing.assert_close(again(**batch).logits, merged(**batch).logits, rtol=0, atol=1e-6)


def test_without_batches_there_is_no_difference_to_report(adapted, base, tmp_path):
    exported(adapted, tmp_path)
    assert math.isnan(merge(tmp_path / "adapter", base())[1])


def test_bad_requests_are_refused(adapted, base, tmp_path):
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        merge(tmp_path, base())
    model, _ = exported(adapted, tmp_path)
    with pytest.raises(UserError, match="does not fit the base model"):
        merge(tmp_path / "adapter", base("llama"))
    quantised = base()
    quantised.is_quantized = True
    with pytest.raises(UserError, match="quantised"):
        merge(tmp_path / "adapter", quantised)
    next(iter(lora_layers(model).values())).lora_B["default"].weight.data[0, 0] = torch.inf
    export_adapter(model, tmp_path)
    with pytest.raises(UserError, match="cannot be merged"):
        merge(tmp_path / "adapter", base())
