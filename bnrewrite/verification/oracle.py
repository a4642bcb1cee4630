"""What PyTorch itself says: loss, gradient, H v and G v of an untouched model by autograd's double backward.

    g = d loss / d w        H v = d <g, v> / d w
    G v = J^T H_L J v,      z = f(w),  J v = d <J^T u, v> / d u   (J^T u is linear in u: the double backward trick)
    R v = d <J^T c, v> / d w           c = d loss / d z held constant, so that nothing cancels: H = G + R

Nothing of the compiler is used here (no capture, no rules, no graphs), so that agreement means something.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..errors import InputError
from ..losses import Loss, resolve

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Evaluation:
    """`loss`, `grad` by name, and for each product one dict by name for each vector."""

    loss: Tensor
    grad: Parts
    products: dict[str, list[Parts]]


class Oracle:
    """A copy of `model` in `dtype` on the CPU, in the modes that the metadata of a file describes.

    Each BatchNorm takes the statistics of its site; what draws random numbers is in evaluation mode, for itself alone.
    `wrt` names parameters, or inputs where the file was made with `wrt="input"`.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, meta: Mapping[str, Any], wrt: Sequence[str], dtype: torch.dtype
    ) -> None:
        self.model = copy.deepcopy(model).to("cpu", dtype)
        module = resolve(loss)
        self.loss = None if module is None else copy.deepcopy(module).to("cpu", dtype)
        self.dtype, self.wrt = dtype, list(wrt)
        _set_modes(self.model, meta)

    def evaluate(
        self, input: Any, target: Any, vectors: Sequence[Mapping[str, Tensor]], products: Sequence[str]
    ) -> Evaluation:
        """Loss, gradient and products at `(input, target)`; floating-point entries are converted to `dtype`."""
        input, target = (pytree.tree_map(self._cast, value) for value in (input, target))
        sources = self._sources(input)
        # Fused attention has no double backward, and that of weight normalization is wrong.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _PlainWeightNorm():
            output, loss = self._forward(input, target)
            grad = _grad(loss, sources, None, create_graph=True)
            named = dict(zip(self.wrt, (g.detach() for g in grad), strict=True))
            found: dict[str, list[Parts]] = {}
            for product in products:
                found[product] = []
                for vector in vectors:
                    v = [vector[name].to(self.dtype) for name in self.wrt]
                    if product == "hvp":
                        result = _grad(_inner(grad, v), sources, None)
                    elif product == "ggn":
                        result = self._gauss_newton(output, target, sources, v)
                    else:
                        result = self._residual(output, target, sources, v)
                    found[product].append(dict(zip(self.wrt, result, strict=True)))
        return Evaluation(loss.detach(), named, found)

    def draws_random_numbers(self, input: Any, target: Any) -> bool:
        """Whether two evaluations of the loss differ with the state of the random generator."""
        input, target = (pytree.tree_map(self._cast, value) for value in (input, target))
        losses = []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for seed in (0, 1):
                torch.manual_seed(seed)
                losses.append(self._forward(input, target)[1])
        return not torch.equal(*losses)

    def _cast(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        leaf = leaf.detach().cpu()
        return leaf.to(self.dtype) if leaf.is_floating_point() else leaf

    def _forward(self, input: Any, target: Any) -> tuple[Any, Tensor]:
        positional = tuple(input) if isinstance(input, (tuple, list)) else (input,)
        if self.loss is None:
            named = isinstance(input, dict)
            loss = self.model(**input, target=target) if named else self.model(*positional, target)
            return loss, loss
        output = self.model(**input) if isinstance(input, dict) else self.model(*positional)
        return output, self.loss(output, target)

    def _sources(self, input: Any) -> list[Tensor]:
        """The tensors that derivatives are taken by, in the order of `wrt`."""
        known: dict[str, Tensor] = dict(self.model.named_parameters())
        if any(name not in known for name in self.wrt):
            known |= named_leaves("input", input)
        for name in self.wrt:
            known[name].requires_grad_(True)
        return [known[name] for name in self.wrt]

    def _gauss_newton(
        self, output: Any, target: Any, sources: Sequence[Tensor], v: Sequence[Tensor]
    ) -> list[Tensor]:
        z, z_free, slope = self._at_output(output, target)
        u = [torch.zeros_like(leaf, requires_grad=True) for leaf in z]
        jt_u = _grad(z, sources, u, create_graph=True)
        j_v = _grad(_inner(jt_u, v), u, None)
        return _grad(z, sources, _grad(_inner(slope, j_v), z_free, None))

    def _residual(
        self, output: Any, target: Any, sources: Sequence[Tensor], v: Sequence[Tensor]
    ) -> list[Tensor]:
        z, _, slope = self._at_output(output, target)
        jt_c = _grad(z, sources, [c.detach() for c in slope], create_graph=True)
        return _grad(_inner(jt_c, v), sources, None)

    def _at_output(self, output: Any, target: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The tensors z of the output, leaves of the same values, and the derivative of the loss by these."""
        leaves, structure = pytree.tree_flatten(output)
        z = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        z_free = [leaf.detach().requires_grad_(True) for leaf in z]
        free = iter(z_free)
        replaced = [next(free) if isinstance(x, Tensor) and x.requires_grad else x for x in leaves]
        assert self.loss is not None
        loss = self.loss(pytree.tree_unflatten(replaced, structure), target)
        return z, z_free, _grad(loss, z_free, None, create_graph=True)


class _PlainWeightNorm(TorchFunctionMode):
    """v g / |v| from primitives. PyTorch's second derivative of its fused form takes the saved |v| for a constant:
    measured on 2.13, it is off by tens of percent from central differences of its own gradient."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch._weight_norm:
            return func(*args, **(kwargs or {}))
        v, g, dim = args
        return v * (g / torch.norm_except_dim(v, 2, dim))


def named_leaves(root: str, value: Any) -> dict[str, Tensor]:
    """The tensors inside `value` under the names that a file gives them: `input`, `input.0`, `input.mask`."""
    found = {}
    for path, leaf in pytree.tree_flatten_with_path(value)[0]:
        keys = [str(getattr(key, "idx", getattr(key, "key", key))) for key in path]
        if isinstance(leaf, Tensor):
            found[".".join([root, *keys])] = leaf
    return found


def _set_modes(model: nn.Module, meta: Mapping[str, Any]) -> None:
    for site in meta.get("sites", ()):
        _site_owner(model, site["module"]).training = site["statistics"] == "batch"
    for module in model.modules():
        # A file never holds random numbers.
        if isinstance(module, _DropoutNd) or getattr(module, "draws", False):
            module.training = False
        elif isinstance(module, nn.SyncBatchNorm):  # it insists on its counter
            module.momentum = module.momentum or 0.1
        elif isinstance(module, _NormBase):
            module.num_batches_tracked = (
                None  # with momentum=None the counter would be read, to no effect here
            )
    names = {name for name, _ in model.named_modules()}
    for name in meta.get("random_off", ()):
        # The file may have been made from another form of the model, without names for some modules.
        if name in names:
            model.get_submodule(name).training = False


def _site_owner(model: nn.Module, name: str) -> nn.Module:
    """The module of a BatchNorm site; one in the model's own forward, without a module, is called 'batch_norm'."""
    if name == "batch_norm" and not hasattr(model, name):
        return model
    return _submodule(model, name)


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"the model does not fit the file: it has no module '{name}'.") from error


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def _grad(
    outputs: Any,
    inputs: Sequence[Tensor],
    grad_outputs: Sequence[Tensor] | None,
    *,
    create_graph: bool = False,
) -> list[Tensor]:
    """`torch.autograd.grad` with zeros for what the outputs do not depend on; the graph is kept."""
    roots = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if not any(root.requires_grad for root in roots):
        return [torch.zeros_like(x) for x in inputs]
    try:
        found = torch.autograd.grad(
            roots, list(inputs), grad_outputs, create_graph=create_graph, retain_graph=True, allow_unused=True
        )
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        raise InputError(
            f"PyTorch has no second derivative to compare with: {str(error).splitlines()[0]} Verify the file without "
            "the model: its products are then compared with differences of its own gradient."
        ) from error
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]
