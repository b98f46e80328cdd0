"""Batch norm on running statistics, worked into the convolution in front of it.

A batch norm that runs on its running statistics is one scale and one shift per channel, so that convolution and batch
norm together are a convolution with other weights (Jacob et al. 2018, eq. 14). That spares a pass over the features,
the largest tensors there are, in the forward and another in the backward direction. Only rounding changes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_TOLERANCE = 1e-3  # of the largest value: far above rounding, far below what a misplaced batch norm does

_MIXED: dict[tuple[type[Any], type[Any]], type[Any]] = {}


class _FoldingConvolution(nn.Conv2d):
    """Mixed into a convolution: what it convolves with is its own weight times the scale of its batch norm.

    The parameter itself stays what it was, and with it the names and values in a state dict, what optimisers change and
    what weight decay shrinks. Where no gradients are recorded the product is kept until a tensor it is made of changes.
    """

    # In a tuple, since the batch norm stays registered where it was, and there alone.
    _norm: tuple[nn.BatchNorm2d]
    _kept: tuple[Any, Tensor, Tensor] | None

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self._product() if self._in_flux() else self._kept_pair()[0]

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        return self._shift() if self._in_flux() else self._kept_pair()[1]

    def _product(self) -> Tensor:
        weight = self._parameters["weight"]
        assert weight is not None
        return weight * self._scale()[:, None, None, None]

    def _shift(self) -> Tensor:
        norm, bias = self._norm[0], self._parameters["bias"]
        assert norm.running_mean is not None
        mean = norm.running_mean if bias is None else norm.running_mean - bias
        return norm.bias - mean * self._scale()

    def _scale(self) -> Tensor:
        norm = self._norm[0]
        assert norm.running_var is not None
        return norm.weight * torch.rsqrt(norm.running_var + norm.eps)

    @staticmethod
    def _in_flux() -> bool:
        """Whether nothing can be kept: gradients are recorded, or tensors have no addresses (compiling, exporting)."""
        return torch.is_grad_enabled() or torch.compiler.is_compiling()

    def _kept_pair(self) -> tuple[Tensor, Tensor]:
        """Weight and bias to convolve with, made again when one of the tensors they are made of has changed."""
        norm = self._norm[0]
        sources = (*self._parameters.values(), norm.weight, norm.bias, norm.running_mean, norm.running_var)
        state = [(x.data_ptr(), x._version, x.dtype) for x in sources if x is not None]
        kept = self._kept
        if kept is None or kept[0] != state:
            self._kept = kept = (state, self._product(), self._shift())
        return kept[1], kept[2]


class _FoldedNorm(nn.BatchNorm2d):
    """Mixed into a batch norm that its convolution has taken over: what is left of it is timm's activation."""

    def forward(self, input: Tensor) -> Tensor:
        for name in ("drop", "act"):
            if name in self._modules:
                input = getattr(self, name)(input)
        return input


def fold_batch_norms(network: nn.Module, run: Callable[[], Tensor]) -> int:
    """Works batch norms into the convolutions whose outputs they are given.

    Which these are is seen in one run of the network. The folded network has to come to the same result in another;
    where it does not (something else reads a convolution's output as well) all is left as it was.

    Args:
        network: its batch norms must run on their running statistics for good, whatever its training mode. Changed in
            place; names and values of parameters stay.
        run: a forward pass of the network on some input, the same at every call; what it returns is compared.

    Returns:
        the number of batch norms that were folded.
    """
    producers: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: dict[nn.Module, nn.Conv2d] = {}
    calls: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            producers[id(output)] = module, output  # the output too: its id is its own as long as it lives
        elif id(inputs[0]) in producers:
            pairs[module] = producers[id(inputs[0])][0]

    concerned = [module for module in network.modules() if isinstance(module, nn.Conv2d) or _foldable(module)]
    hooks = [module.register_forward_hook(note) for module in concerned]
    with torch.no_grad():
        plain = run()
        for hook in hooks:
            hook.remove()
        # a module that runs twice would need two batch norms, or two convolutions
        folded = [(conv, norm) for norm, conv in pairs.items() if calls[norm] == calls[conv] == 1]
        kinds = [(type(conv), type(norm)) for conv, norm in folded]
        for conv, norm in folded:
            conv._norm, conv._kept = (norm,), None  # type: ignore[assignment]
            conv.__class__ = _mixed(_FoldingConvolution, type(conv))
            norm.__class__ = _mixed(_FoldedNorm, type(norm))
        if float((run() - plain).abs().max()) <= _TOLERANCE * float(plain.abs().max()):
            return len(folded)
    for (conv, norm), (conv_kind, norm_kind) in zip(folded, kinds, strict=True):
        conv.__class__, norm.__class__ = conv_kind, norm_kind
        del conv._norm, conv._kept
    return 0


def _foldable(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and module.affine and module.track_running_stats


def _mixed(mixin: type[Any], kind: type[Any]) -> type[Any]:
    """The class of a folded module: torch's parametrizations change a module's class in the same way."""
    return _MIXED.setdefault((mixin, kind), type(kind.__name__, (mixin, kind), {}))
