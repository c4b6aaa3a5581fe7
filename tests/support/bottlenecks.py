"""A training loop for tests of learned bottlenecks."""

import torch


def fit(model, x, target, steps, rate, rate_lambda):
    """Train on one batch; returns (distortion, bits per image) of the first and of the last step."""
    quantiles = model.auxiliary_parameters()
    main = torch.optim.Adam([p for p in model.parameters() if all(p is not q for q in quantiles)], rate)
    auxiliary = torch.optim.Adam(quantiles, 1e-2)
    history = []
    for _ in range(steps):
        restored, bits = model(x)
        distortion = (restored[..., : target.shape[-2], : target.shape[-1]] - target).square().mean()
        history.append((distortion.item(), bits.mean().item()))
        main.zero_grad()
        (distortion + rate_lambda * bits.mean()).backward()
        assert all(p.grad is not None for p in main.param_groups[0]["params"])
        main.step()
        auxiliary.zero_grad()
        model.auxiliary_loss().backward()
        auxiliary.step()
    return history[0], history[-1]
