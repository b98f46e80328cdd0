"""Batch norm on running statistics, worked into the convolution in front of it.

A batch norm that runs on its running statistics is one scale and one shift per channel, so that convolution and batch
norm together are a convolution with other weights (Jacob et al. 2018, eq. 14). That spares a pass over the features,
the largest tensors there are, in the forward and another in the backward direction. Only rounding changes.

The other weights are made in every forward pass, which is little work beside the convolution; so parameters remain
plain parameters, which may be changed in any way at any time.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, conv2d_same
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# others may do more in their forward passes than what is done in their place here
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)

_QUESTIONS = (Tensor.size, Tensor.dim, Tensor.stride, Tensor.is_contiguous)  # answered without a look at the values


def fold_batch_norms(network: nn.Module, run: Callable[[], Tensor]) -> int:
    """Works batch norms into the convolutions whose outputs they are given.

    Which these are is seen in one run of the network. A batch norm is folded if it is the only one to use the output
    of a convolution, and both run once. Values play no part in that, so that tensors on the device ``meta`` will do.

    Args:
        network: its batch norms must run on their running statistics for good, whatever its training mode. Changed in
            place; parameters and buffers stay as they are, and so does the state dict.
        run: a forward pass of the network on some input; what it returns counts as used.

    Returns:
        the number of batch norms that were folded.
    """
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d, Tensor]] = []
    calls: Counter[nn.Module] = Counter()
    uses = _Uses()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            uses.watch(output)
            made[id(output)] = module, output
        elif isinstance(module, nn.BatchNorm2d) and inputs and id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module, inputs[0]))

    # first of all hooks: what others read of an output is a use as well
    hooks = [module.register_forward_hook(note, prepend=True) for module in network.modules() if _foldable(module)]
    try:
        with torch.no_grad(), uses:
            uses.count(run())
    finally:
        for hook in hooks:
            hook.remove()
    folded = [(conv, norm) for conv, norm, seen in pairs if calls[conv] == calls[norm] == uses.of(seen) == 1]
    for conv, norm in folded:
        # partials can be pickled and copied, and what they refer to is no submodule
        conv.forward = partial(_folded_convolution, conv, norm)  # type: ignore[method-assign]
        norm.forward = partial(_after_norm, norm)  # type: ignore[method-assign]
    return len(folded)


def _folded_convolution(conv: nn.Conv2d, norm: nn.BatchNorm2d, input: Tensor) -> Tensor:
    """Batch norm of the convolution's output."""
    assert norm.running_mean is not None
    weight = conv.weight * _scale(norm)[:, None, None, None]
    mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    bias = norm.bias - mean * _scale(norm)
    if isinstance(conv, Conv2dSame):
        # the first three are pairs, which torch's annotations do not say
        settings: Any = (conv.stride, conv.padding, conv.dilation, conv.groups)
        return conv2d_same(input, weight, bias, *settings)
    return conv._conv_forward(input, weight, bias)


def _scale(norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_var is not None
    return norm.weight * torch.rsqrt(norm.running_var + norm.eps)


def _after_norm(norm: nn.BatchNorm2d, input: Tensor) -> Tensor:
    """Rest of a batch norm that its convolution has taken over: timm's activation."""
    if isinstance(norm, BatchNormAct2d):
        activated: Tensor = norm.act(norm.drop(input))
        return activated
    return input


def _foldable(module: nn.Module) -> bool:
    if "forward" in vars(module):  # folded already, or changed by somebody else
        return False
    if isinstance(module, nn.BatchNorm2d):
        return type(module) in _NORMS and module.affine and module.track_running_stats
    return type(module) in _CONVOLUTIONS


class _Uses(TorchFunctionMode):
    """Counts the torch functions that take certain tensors."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[int, int] = {}
        self._watched: list[Tensor] = []

    def watch(self, tensor: Tensor) -> None:
        """Counts the uses of a tensor from now on."""
        self._watched.append(tensor)  # its id is its own as long as it lives
        self._counts[id(tensor)] = 0

    def count(self, value: Any) -> None:
        """Counts one use of every watched tensor in nested lists, tuples and dictionaries."""
        for tensor in _tensors(value):
            if id(tensor) in self._counts:
                self._counts[id(tensor)] += 1

    def of(self, tensor: Tensor) -> int:
        """Uses of a watched tensor."""
        return self._counts[id(tensor)]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # properties are read through `__get__`; those that are tensors (`data`, `mT`) pass the values on
        asked = func in _QUESTIONS or (getattr(func, "__name__", None) == "__get__" and not isinstance(result, Tensor))
        if not asked:
            self.count((args, kwargs))
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
