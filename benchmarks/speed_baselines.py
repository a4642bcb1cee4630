"""The other ways to the same products: PyTorch's own, and those of curvlinops and BackPACK where they are installed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, replace_all_batch_norm_modules_, vjp, vmap
from torch.nn.functional import cross_entropy

from .speed_cases import Parts, Point
from .speed_method import Method, Prepared, Stages, named, one, rows


def _parameters(point: Point) -> list[Tensor]:
    return [p for _, p in point.model.named_parameters()]


def _loss(point: Point) -> Tensor:
    return cross_entropy(point.model(point.x), point.y)


def gradient(point: Point) -> Prepared:
    """Forward and backward pass: the unit of the table."""
    parameters, v = _parameters(point), point.vectors[0]
    return Prepared(lambda: torch.autograd.grad(_loss(point), parameters), lambda g: one(named(v, g)))


def double_backward(point: Point) -> Prepared:
    """g with its graph, then the gradient of <g, v>."""
    parameters, v = _parameters(point), point.vectors[0]
    direction = list(v.values())

    def call() -> Any:
        g = torch.autograd.grad(_loss(point), parameters, create_graph=True)
        return torch.autograd.grad(g, parameters, direction)

    return Prepared(call, lambda found: one(named(v, found)))


def _retained(point: Point) -> tuple[list[Tensor], tuple[Tensor, ...], dict[str, float]]:
    """The gradient with its graph, to be used again and again."""
    parameters, stages = _parameters(point), Stages()
    with stages.step("gradient with its graph"):
        g = torch.autograd.grad(_loss(point), parameters, create_graph=True)
    return parameters, g, stages.seconds


def retained(point: Point) -> Prepared:
    """The second pass of double backward alone, on a graph that is kept."""
    parameters, g, stages = _retained(point)
    v = point.vectors[0]
    direction = list(v.values())
    return Prepared(
        lambda: torch.autograd.grad(g, parameters, direction, retain_graph=True),
        lambda found: one(named(v, found)),
        stages,
    )


def retained_block(point: Point) -> Prepared:
    """The same for all directions at once, vectorised by PyTorch."""
    parameters, g, stages = _retained(point)
    stacked = point.stacked
    directions = list(stacked.values())
    return Prepared(
        lambda: torch.autograd.grad(g, parameters, directions, retain_graph=True, is_grads_batched=True),
        lambda found: rows(named(stacked, found), len(point.vectors)),
        stages,
    )


def double_backward_ggn(point: Point) -> Prepared:
    """G v = J^T H_L J v, where J v is the derivative of <J^T u, v> by u (double backward trick)."""
    parameters, v = _parameters(point), point.vectors[0]
    direction = list(v.values())

    def call() -> Any:
        z = point.model(point.x)
        u = torch.zeros_like(z, requires_grad=True)
        jt_u = torch.autograd.grad(z, parameters, u, create_graph=True)
        (j_v,) = torch.autograd.grad(jt_u, u, direction, retain_graph=True)
        at = z.detach().requires_grad_()
        (z_bar,) = torch.autograd.grad(cross_entropy(at, point.y), at, create_graph=True)
        (hl_j_v,) = torch.autograd.grad(z_bar, at, j_v)
        return torch.autograd.grad(z, parameters, hl_j_v)

    return Prepared(call, lambda found: one(named(v, found)))


def without_statistics(model: nn.Module) -> nn.Module:
    """A copy that shares the parameters, but tracks no running statistics: torch.func cannot write to them."""
    found = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    return replace_all_batch_norm_modules_(found)


def _functional(point: Point) -> tuple[Callable[[Parts], Tensor], Parts]:
    """The network's output as a function of its parameters, and the parameters."""
    model = without_statistics(point.model)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    return lambda p: functional_call(model, p, (point.x,)), parameters


def _functional_hvp(point: Point) -> Callable[[Parts], Parts]:
    output, parameters = _functional(point)

    def hvp(v: Parts) -> Parts:
        return jvp(grad(lambda p: cross_entropy(output(p), point.y)), (parameters,), (v,))[1]

    return hvp


def torch_func(point: Point) -> Prepared:
    """Forward over reverse: jvp of grad."""
    hvp, v = _functional_hvp(point), point.vectors[0]
    return Prepared(lambda: hvp(v), one)


def torch_func_block(point: Point) -> Prepared:
    """vmap of jvp of grad over all directions."""
    hvp, stacked = vmap(_functional_hvp(point)), point.stacked
    return Prepared(lambda: hvp(stacked), lambda found: rows(found, len(point.vectors)))


def torch_func_ggn(point: Point) -> Prepared:
    """jvp of the network, of the loss's gradient, and vjp of the network."""
    output, parameters = _functional(point)
    v = point.vectors[0]

    def call() -> Parts:
        z, j_v = jvp(output, (parameters,), (v,))
        hl_j_v = jvp(grad(lambda at: cross_entropy(at, point.y)), (z,), (j_v,))[1]
        return vjp(output, parameters)[1](hl_j_v)[0]

    return Prepared(call, one)


def compiled(point: Point) -> Prepared:
    """torch.compile of jvp of grad; its first call compiles."""
    stages, v = Stages(), point.vectors[0]
    hvp = torch.compile(_functional_hvp(point))
    with stages.step("torch.compile"):
        hvp(v)
    return Prepared(lambda: hvp(v), one, stages.seconds)


def curvlinops(point: Point) -> Prepared:
    """`HessianLinearOperator` without its check for determinism, which takes passes of its own.

    Version 3 takes jvp of jacrev. With batch statistics that is wrong for gamma in torch 2.13, in float64 as well,
    where jvp of grad is right; the row then says so, and no ratio is taken to it.
    """
    from curvlinops import HessianLinearOperator

    model, v, stages = without_statistics(point.model), point.vectors[0], Stages()
    with stages.step("operator"):
        operator = HessianLinearOperator(
            model, nn.CrossEntropyLoss(), list(model.parameters()), [(point.x, point.y)],
            check_deterministic=False,
        )  # fmt: skip
    direction = list(v.values())
    return Prepared(lambda: operator @ direction, lambda found: one(named(v, found)), stages.seconds)


def backpack(point: Point) -> Prepared:
    """BackPACK's Hessian-free product, which is a double backward of its own."""
    from backpack.hessianfree.hvp import hessian_vector_product

    parameters, v = _parameters(point), point.vectors[0]
    direction = list(v.values())
    return Prepared(
        lambda: hessian_vector_product(_loss(point), parameters, direction),
        lambda found: one(named(v, found)),
    )


def jax(point: Point) -> Prepared:
    """jit of jvp of grad in JAX."""
    from .speed_jax import forward_over_reverse

    return forward_over_reverse(point)


BASELINES: dict[str, Method] = {
    "gradient": Method("loss, gradient (the unit)", "gradient", gradient, memory=True),
    "double_backward": Method("PyTorch double backward", "hvp", double_backward, True, memory=True),
    "torch_func": Method("torch.func jvp(grad)", "hvp", torch_func, True, memory=True),
    "curvlinops": Method("curvlinops", "hvp", curvlinops, True, needs="curvlinops"),
    "backpack": Method("BackPACK", "hvp", backpack, needs="backpack"),
    "jax": Method("JAX jit of jvp(grad)", "hvp", jax, needs="jax"),
    "compile": Method("torch.compile of jvp(grad)", "hvp", compiled, default=False),
    "retained": Method("retained double backward", "apply", retained, True),
    "retained_block": Method(
        "retained double backward, {K} at once", "apply", retained_block, True, block=True
    ),
    "torch_func_block": Method(
        "torch.func vmap(jvp(grad)), {K} at once", "hvp", torch_func_block, True, block=True
    ),
    "double_backward_ggn": Method("PyTorch double backward", "ggn", double_backward_ggn, True),
    "torch_func_ggn": Method("torch.func jvp, vjp", "ggn", torch_func_ggn, True),
}
"""By their names on the command line. Those with `baseline` are what the ratios are taken to."""
