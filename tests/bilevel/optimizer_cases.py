"""Optimisers of every supported kind, with parameters and random gradients to step them with."""

import torch

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW

CASES = {
    "sgd": (SGD, {"lr": 0.1}),
    "sgd-decay": (SGD, {"lr": 0.1, "weight_decay": 0.3}),
    "sgd-momentum": (SGD, {"lr": 0.1, "momentum": 0.9}),
    "sgd-dampening": (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.2}),
    "sgd-nesterov": (SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.2}),
    "sgd-maximize": (SGD, {"lr": 0.1, "momentum": 0.8, "maximize": True, "weight_decay": 0.2}),
    "adam": (Adam, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3}),
    "adam-decay": (Adam, {"lr": 0.05, "weight_decay": 0.3}),
    "adam-amsgrad": (Adam, {"lr": 0.05, "amsgrad": True, "weight_decay": 0.3}),
    "adam-maximize": (Adam, {"lr": 0.05, "maximize": True, "weight_decay": 0.3}),
    "adamw": (AdamW, {"lr": 0.05, "weight_decay": 0.3}),
    "adamw-amsgrad": (AdamW, {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True}),
    "adamw-maximize": (AdamW, {"lr": 0.05, "weight_decay": 0.3, "maximize": True}),
    "adamw-tensor-lr": (AdamW, {"lr": torch.tensor(0.05, dtype=torch.float64)}),
}
SHAPES = [(3, 4), (5,), (), (2, 3)]


def make_params(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in SHAPES]


def random_like(tensors, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors]


def build(case, params):
    """Two param groups, the second with half the learning rate."""
    cls, options = CASES[case]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": options["lr"] / 2}]
    return cls(groups, **options)


def torch_step(optimizer, params, grads, max_norm=0.0):
    for param, grad in zip(params, grads, strict=True):
        param.grad = None if grad is None else grad.clone()
    if max_norm > 0:
        torch.nn.utils.clip_grad_norm_(params, max_norm)
    optimizer.step()


def warmed_up(case, steps):
    params = make_params()
    optimizer = build(case, params)
    for step in range(steps):
        torch_step(optimizer, params, random_like(params, 10 + step))
    return params, optimizer


def state_names(taken):
    return [[k for k in s if k != "step"] for s in taken.state]
