"""Precision names, autocast, and the loss scaler."""

import pytest
import torch

from bilevel import precision
from bilevel.errors import UserError


def product_dtype():
    return torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_given_precision_is_kept(name):
    assert precision.resolve(name, "cpu") == name


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"),
    [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")],
)
def test_auto_on_a_cpu_follows_its_flags(monkeypatch, amx, avx512, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    assert precision.resolve("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_gpu_wants_native_bf16(monkeypatch, native, expected):
    """An older GPU emulates bf16: supported, but slower than fp32."""
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or native,
    )
    assert precision.resolve("auto", torch.device("cuda", 0)) == expected


def test_auto_elsewhere_is_fp32():
    assert precision.resolve("auto", "mps") == "fp32"


def test_unknown_precision_names_the_known_ones():
    with pytest.raises(UserError, match=r"'fp8'.*auto, fp32, bf16, fp16"):
        precision.resolve("fp8", "cpu")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_autocast_sets_the_dtype_of_products(name, dtype):
    with precision.autocast(name, "cpu"):
        assert product_dtype() == dtype
    assert product_dtype() == torch.float32


def test_fp32_switches_an_outer_autocast_off():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with precision.autocast("fp32", "cpu"):
            assert product_dtype() == torch.float32
        assert product_dtype() == torch.bfloat16


def test_trainable_parameters_and_gradients_stay_fp32():
    layer = torch.nn.Linear(3, 2)
    with precision.autocast("bf16", "cpu"):
        loss = layer(torch.ones(4, 3)).float().pow(2).mean()
    loss.backward()
    assert layer.weight.dtype == layer.weight.grad.dtype == torch.float32


def test_only_fp16_has_a_scaler():
    assert precision.make_scaler("fp32", "cpu") is None
    assert precision.make_scaler("bf16", torch.device("cpu")) is None
    scaler = precision.make_scaler("fp16", torch.device("cpu"), init_scale=8.0, growth_factor=4.0)
    assert scaler is not None
    assert scaler.is_enabled()
    assert scaler.scale(torch.ones(())).item() == 8.0
    assert scaler.get_growth_factor() == 4.0


def test_scaler_keeps_small_gradients_that_fp16_would_lose():
    """A gradient of 2e-9 is zero in fp16 (smallest number: 6e-8), and survives when scaled."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    x = torch.tensor([2e-4])

    def gradient(scale):
        weight.grad = None
        with precision.autocast("fp16", "cpu"):
            y = torch.nn.functional.linear(x, weight.unsqueeze(0))
        (y.float().sum() * 1e-5 * scale).backward()
        return weight.grad / scale

    assert gradient(1.0).item() == 0.0
    scaler = precision.make_scaler("fp16", "cpu")
    assert scaler is not None
    scaled = gradient(scaler.scale(torch.ones(())).item())
    assert scaled.item() == pytest.approx(2e-9, rel=1e-2)
