"""What every criterion keeps to: the function, the model's state, and one order over all layers."""

import copy

import pytest
import torch
from peft import PeftModel

from bilevel.cutting import CRITERIA, Budget, Ranking, ScoringData, cut, cut_by
from bilevel.cutting.options import CutOptions
from bilevel.cutting.ranking import masked
from bilevel.errors import UserError
from bilevel.lowrank import export_adapter, lora_layers
from tests.bilevel.exported import logits

QUICK = {"gates": {"steps": 20}, "greedy": {"block": 0.5}}


def criterion(name: str):
    return CRITERIA[name](**QUICK.get(name, {}))


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_function_and_the_state_of_the_model_stay(adapted, batch, scoring, name, dtype):
    model = adapted("bert", dropout=0.2).to(dtype)
    before = logits(model, batch)
    model.train()
    next(m for n, m in model.named_modules() if n.endswith("layer.1")).eval()
    modes = [module.training for module in model.modules()]
    trained = {n: p.requires_grad for n, p in model.named_parameters()}
    identities = {n: id(p) for n, p in model.named_parameters()}
    others = {n: p.clone() for n, p in model.named_parameters() if ".lora_" not in n}
    count = hooks(model)
    data = scoring(model)
    # losses of the tests' own leave evaluation mode on: keep the modes as a criterion found them
    data = ScoringData(data.batches, _in_its_modes(model, data.losses))
    drawn = torch.get_rng_state()
    scores = criterion(name).score(model, data)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [module.training for module in model.modules()] == modes
    assert {n: p.requires_grad for n, p in model.named_parameters()} == trained
    assert {n: id(p) for n, p in model.named_parameters()} == identities
    assert all(p.grad is None for p in model.parameters())
    assert hooks(model) == count
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in others.items())
    assert {n: tuple(row.shape) for n, row in scores.items()} == dict.fromkeys(
        lora_layers(model), (4,)
    )
    assert len(Ranking.of(model, scores).order) == 24  # refuses negative ones
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(logits(model, batch), before, rtol=0, atol=tolerance)


def _in_its_modes(model, losses):
    def measured():
        modes = {module: module.training for module in model.modules()}
        found = losses()
        for module, training in modes.items():
            module.training = training
        return found

    return measured


def test_singular_is_the_squared_norm_a_component_has_for_each_of_its_parameters(adapted):
    model = adapted("bert", target_modules=["query", "intermediate.dense"])
    full = {
        name: layer.get_delta_weight("default").detach()
        for name, layer in lora_layers(model).items()
    }
    assert len({matrix.shape for matrix in full.values()}) == 2
    for name, row in criterion("singular").score(model, None).items():
        expected = torch.linalg.svdvals(full[name])[:4].square() / sum(full[name].shape)
        torch.testing.assert_close(row, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_are_the_same_twice(adapted, scoring, name):
    rows = []
    for _ in range(2):
        model = adapted("bert")
        torch.rand(3)  # whatever the global generator is at
        rows.append(criterion(name).score(model, scoring(model)))
    assert all(torch.equal(rows[0][n], rows[1][n]) for n in rows[0])


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_layers_of_unequal_ranks_and_shapes(adapted, batch, scoring, name, family):
    odd = {"bert": "query", "gpt2": "c_attn", "llama": "q_proj"}[family]
    model = adapted(family, rank_pattern={odd: 2})
    before = logits(model, batch)
    scores = criterion(name).score(model, scoring(model))
    assert {len(row) for row in scores.values()} == {2, 4}
    torch.testing.assert_close(logits(model, batch), before, rtol=0, atol=1e-10)
    assert Ranking.of(model, scores).total > 0


@pytest.mark.parametrize("name", CRITERIA)
def test_cut_adapters_load_in_stock_peft_with_equal_logits(
    adapted, base, batch, scoring, name, tmp_path
):
    model = adapted("bert")
    data = scoring(model)
    found = cut(model, criterion(name), budget=Budget(budget=0.2), scoring=data)
    assert found.keep is not None
    assert found.ranks is not None
    assert 0 in found.ranks.values()  # 4 or 5 components of 6 layers
    assert found.frontier is None
    with masked(model, found.keep):
        expected = logits(model, batch)
    report = export_adapter(copy.deepcopy(model), tmp_path, keep=found.keep)
    for folder in (report.adapter, report.compact):
        loaded = PeftModel.from_pretrained(base("bert"), str(folder))
        torch.testing.assert_close(logits(loaded, batch), expected, rtol=0, atol=1e-10)
    small = PeftModel.from_pretrained(base("bert"), str(report.compact))
    ranks = {n: layer.r["default"] for n, layer in lora_layers(small).items()}
    assert ranks == {n: rank for n, rank in found.ranks.items() if rank}


@torch.no_grad()
def gains(model, batch):
    """(n, classes), by how much the adapter makes each class likelier."""
    nothing = {n: torch.zeros(layer.r["default"]) for n, layer in lora_layers(model).items()}
    with_it = model.eval()(**batch).logits.log_softmax(-1)
    with masked(model, nothing):
        return with_it - model(**batch).logits.log_softmax(-1)


def test_the_frontier_chooses_where_no_budget_is_told(adapted, scoring):
    model = adapted("bert")
    data = scoring(model, count=40)
    for batch in data.batches:
        batch["labels"] = gains(model, batch).argmax(-1)
    found = cut(model, criterion("singular"), budget=Budget(), losses=data.losses, share=0.5)
    assert found.frontier is not None
    assert found.frontier.learned
    assert 0 < found.frontier.chosen < len(found.ranking.order)
    assert sum(found.ranks.values()) == found.frontier.chosen
    with masked(model, found.keep):
        assert data.losses().mean == pytest.approx(found.frontier.choice.loss, abs=1e-12)


def test_nothing_is_kept_by_a_frontier_of_what_was_not_learned(adapted, scoring):
    model = adapted("bert")
    data = scoring(model, count=40)
    for batch in data.batches:
        batch["labels"] = gains(model, batch).argmin(-1)
    found = cut(model, criterion("singular"), budget=Budget(), losses=data.losses)
    told = cut(model, criterion("singular"), budget=Budget(budget=0.2))
    assert told.as_json().keys() == found.as_json().keys()  # null where no frontier is drawn
    assert found.frontier is not None
    assert not found.frontier.learned
    assert found.keep is found.ranks is None


def test_a_told_cut_needs_no_finite_losses(adapted, scoring, caplog):
    model = adapted()
    data = scoring(model)

    def diverged():
        found = data.losses()
        return found._replace(totals=found.totals * float("nan"))

    told = cut(model, criterion("singular"), budget=Budget(budget=0.2), losses=diverged)
    assert told.frontier is None
    assert told.ranks is not None
    assert "no frontier is drawn" in caplog.text
    with pytest.raises(UserError, match="not finite"):
        cut(model, criterion("singular"), budget=Budget(), losses=diverged)


def test_saliency_and_gates_refuse_what_is_out_of_range():
    with pytest.raises(UserError, match="density"):
        CRITERIA["gates"](density=1.0)
    with pytest.raises(UserError, match="block"):
        CRITERIA["greedy"](block=0.0)
    with pytest.raises(UserError, match="across"):
        CRITERIA["activation"](across="input")


def test_one_example_draws_no_frontier_where_none_is_needed(adapted):
    def never(rows):
        raise AssertionError(rows)

    rows = [{"input_ids": [1]}]
    told = {"collate": never, "losses": never}
    found = cut_by(adapted("bert"), rows, CutOptions(), Budget(budget=0.2), **told)
    assert found.frontier is None
    assert found.keep is not None
