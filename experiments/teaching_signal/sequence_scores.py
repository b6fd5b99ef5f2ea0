"""Scores of completions: the gradient of log pi(completion | prompt), one per completion, formed block by block.

A policy gradient is a weighted sum of scores, the weights being advantages. So from the scores of a probe follow the
gradients of any number of reward models, and the products of gradients, without another backward pass.

All scores of a probe at once would be as large as the probe times the model. Kept are only the inputs and the output
gradients of each module, for a few prompts at a time: one forward and one backward pass, in which every completion is a
row by itself. From them the scores are formed for one block of a parameter after the other.

Legend: B completions in rows, T tokens of the longest, I inputs and M outputs of a module, W numbers of a block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from experiments.models.latent import GroupedLinear
from experiments.training.device import arithmetic

logger = logging.getLogger(__name__)

BLOCK_NUMBERS = 2**18  # of scores that exist at once: 1 MiB, which stays in a processor's cache
LARGEST_DISAGREEMENT = 0.02  # between the sum of scores and autograd's gradient, relative: covers the rounding of bf16

# (start, stop) of a parameter's first dimension, and scores [B, stop - start, ...] to add to (None: 0) -> the sum
Rows = Callable[[int, int, Tensor | None], Tensor]
Uses = dict[int, list[Rows]]  # by the id of a parameter: how its scores are formed, once per use in the model


class SequenceScores:
    """Forms the scores of a causal language model's completions with respect to its trained parameters.

    Known are linear layers, embeddings and norms with a gain. A parameter that the model uses in another way is left
    out: the first pass compares the sum of its scores with autograd's gradient, and `left_out` then has its name.
    `last_layers` restricts the parameters to the last blocks of the decoder and what follows them (norm and head). With
    `precision` bf16 the model's matrix products are in that type; scores are fp32. ValueError where nothing is left.
    """

    def __init__(self, model: nn.Module, *, last_layers: int | None = None, precision: str = "fp32") -> None:
        self.model, self.precision = model, precision
        self.left_out: list[str] = []
        self.size = 0  # of the flat vector of all trained parameters
        self._first_block, self._modules = _trained_modules(model, last_layers)
        self._parameters: dict[int, nn.Parameter] = {}
        self._places: dict[int, slice] = {}
        for module in self._modules:
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad and id(parameter) not in self._parameters:
                    self._parameters[id(parameter)] = parameter
                    self._places[id(parameter)] = slice(self.size, self.size + parameter.numel())
                    self.size += parameter.numel()
        if not self._parameters:
            raise ValueError("the policy has no parameter that is trained, so there is no gradient to measure")
        self._checked = False

    def blocks(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Iterator[tuple[slice, Tensor]]:
        """The scores of B completions in blocks: a place in the flat vector of parameters, and [B, W] in fp32."""
        uses = self._record(prompts, completions)
        for key, parameter in self._parameters.items():
            if key not in uses:
                continue
            rows, begin = len(parameter), self._places[key].start
            width = parameter.numel() // rows
            step = max(1, BLOCK_NUMBERS // (len(prompts) * width))
            for start in range(0, rows, step):
                stop = min(rows, start + step)
                block = _summed_uses(uses[key], start, stop)
                yield slice(begin + start * width, begin + stop * width), block.flatten(1)

    def _record(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Uses:
        """One forward and backward pass; afterwards every use of a parameter can form its scores."""
        inputs, mask, places, targets = _padded_rows(prompts, completions, next(self.model.parameters()).device)
        uses: Uses = {}
        with self._recording(uses, inputs.shape, frozen=self._checked):
            with arithmetic(inputs.device, self.precision), torch.enable_grad():
                logits = self.model(input_ids=inputs, attention_mask=mask, use_cache=False).logits[places]
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                total = -nn.functional.cross_entropy(logits, targets, reduction="sum")
            gradients: Sequence[Tensor | None] = ()
            if self._checked:
                torch.autograd.backward([total])
            else:
                gradients = torch.autograd.grad(total, list(self._parameters.values()), allow_unused=True)
        if not self._checked:
            self._check(uses, gradients)
        return uses

    def _check(self, uses: Uses, gradients: Sequence[Tensor | None]) -> None:
        """Leave out the parameters whose scores do not add up to autograd's `gradients`."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for (key, parameter), gradient in zip(list(self._parameters.items()), gradients, strict=True):
            if gradient is None:
                continue
            found, step = torch.zeros_like(gradient), max(1, BLOCK_NUMBERS // parameter[:1].numel() // 64)
            for start in range(0, len(parameter) if key in uses else 0, step):
                stop = min(len(parameter), start + step)
                found[start:stop] = _summed_uses(uses[key], start, stop).sum(dim=0)
            if not float((found - gradient).norm()) <= LARGEST_DISAGREEMENT * float(gradient.norm()):
                self.left_out.append(names[key])
                del self._parameters[key]
        self._checked = True
        if not self._parameters:
            raise ValueError("the policy uses no parameter in a way for which scores are known")
        if self.left_out:
            kept = sum(parameter.numel() for parameter in self._parameters.values())
            logger.warning(
                "signals leave out %.1f %% of the policy's parameters, which it uses in an unknown way: %s",
                100 * (1 - kept / self.size),
                ", ".join(self.left_out),
            )

    @contextmanager
    def _recording(self, uses: Uses, shape: Sequence[int], *, frozen: bool) -> Iterator[None]:
        """Hooks fill `uses`. The model evaluates; where `frozen`, autograd computes no gradients of its parameters."""
        handles = [module.register_forward_hook(_recorder(uses, tuple(shape))) for module in self._modules]
        if self._first_block is not None:
            handles.append(self._first_block.register_forward_pre_hook(_begin_graph, with_kwargs=True))
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        training = self.model.training
        self.model.eval()
        for parameter in trained:
            parameter.requires_grad_(not frozen)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter in trained:
                parameter.requires_grad_(True)
            self.model.train(training)


def _trained_modules(model: nn.Module, last_layers: int | None) -> tuple[nn.Module | None, list[nn.Module]]:
    """The block where gradients begin (None: at the embedding), and the modules with parameters of their own."""
    owners = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    if last_layers is None:
        return None, owners
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers = max(lists, key=len, default=nn.ModuleList())
    if not 1 <= last_layers <= len(layers):
        raise ValueError(f"last_layers={last_layers} is impossible: the policy has {len(layers)} layers")
    earlier = {id(module) for layer in layers[: len(layers) - last_layers] for module in layer.modules()}
    kept = [module for module in owners if id(module) not in earlier and not isinstance(module, nn.Embedding)]
    return layers[len(layers) - last_layers], kept


def _begin_graph(
    module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a block reads, its first argument, becomes a leaf: nothing before it is differentiated."""
    if arguments:
        return (arguments[0].detach().requires_grad_(), *arguments[1:]), keywords
    name = next(iter(keywords))
    return arguments, keywords | {name: keywords[name].detach().requires_grad_()}


def _recorder(uses: Uses, shape: tuple[int, ...]) -> Callable[[nn.Module, tuple[Any, ...], Any], Tensor | None]:
    """A forward hook that notes the module's inputs and, once they are known, the gradients of its outputs."""

    def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Tensor | None:
        if not arguments or not isinstance(output, Tensor):
            return None
        inputs = arguments[0].detach()
        if isinstance(module, nn.Embedding):
            if len(inputs) == 1 < shape[0]:  # positions, the same for all rows: each row shall have its own gradient
                inputs, output = inputs.expand(shape), output.expand(shape[0], *output.shape[1:])
            if not output.requires_grad:
                output = output.detach().requires_grad_()
        if not output.requires_grad:
            return None

        def note(gradient: Tensor) -> None:
            before, after = _by_row(inputs, shape), _by_row(gradient.detach(), shape)
            if before is not None and after is not None:
                for parameter, rows in _module_uses(module, before, after):
                    uses.setdefault(id(parameter), []).append(rows)

        output.register_hook(note)
        noted: Tensor = output
        return noted

    return hook


def _by_row(values: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """As [B, ...]; None where the rows of the batch cannot be told apart."""
    if len(values) == shape[0]:
        return values
    return values.view(*shape, *values.shape[1:]) if len(values) == shape[0] * shape[1] else None


def _module_uses(module: nn.Module, inputs: Tensor, gradients: Tensor) -> Iterator[tuple[Tensor, Rows]]:
    """A module's parameters with the rows of their scores, from inputs [B, ..., I] and output gradients [B, ..., M]."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(module, nn.Embedding):
        yield module.weight, partial(_embedding_rows, inputs, gradients, module.padding_idx)
        return
    if isinstance(module, GroupedLinear):
        yield module.weight, partial(_block_diagonal_outer, gradients, inputs, module.groups)
    elif isinstance(module, nn.Linear) and inputs.shape[:-1] == gradients.shape[:-1]:
        yield module.weight, partial(_outer, gradients, inputs)
    elif isinstance(module, Conv1D):  # the linear layer of GPT-2: its weight is [I, M]
        yield module.weight, partial(_outer, inputs, gradients)
    elif isinstance(weight, nn.Parameter) and weight.dim() == 1 and len(weight) == gradients.shape[-1]:
        yield weight, partial(_gain_rows, module, inputs, gradients)
    if isinstance(bias, nn.Parameter) and bias.dim() == 1 and len(bias) == gradients.shape[-1]:
        yield bias, partial(_summed, gradients)


def _summed_uses(uses: Sequence[Rows], start: int, stop: int) -> Tensor:
    """The scores of a parameter's rows, over all of its uses: [B, stop - start, ...]."""
    first, *others = uses
    block = first(start, stop, None)
    for use in others:
        block = use(start, stop, block)
    return block


def _outer(left: Tensor, right: Tensor, start: int, stop: int, block: Tensor | None) -> Tensor:
    """Sum over tokens of left[..., start:stop] right^T: [B, ..., M] and [B, ..., I] -> [B, stop - start, I]."""
    rows = left[..., start:stop].flatten(1, -2).float().transpose(1, 2)
    columns = right.flatten(1, -2).float()
    return torch.bmm(rows, columns) if block is None else block.baddbmm_(rows, columns)


def _block_diagonal_outer(
    left: Tensor, right: Tensor, groups: int, start: int, stop: int, block: Tensor | None
) -> Tensor:
    """As `_outer` within each of the groups that make up the last dimensions: [B, stop - start, C]."""
    left, right = (values.reshape(*values.shape[:-1], groups, -1) for values in (left, right))
    rows = left.shape[-1]
    parts = []
    for group in range(groups):
        first, last = (min(max(end - group * rows, 0), rows) for end in (start, stop))
        parts.append(_outer(left[..., group, :], right[..., group, :], first, last, None))
    return _added(torch.cat(parts, dim=1), block)


def _embedding_rows(
    tokens: Tensor, gradients: Tensor, padding: int | None, start: int, stop: int, block: Tensor | None
) -> Tensor:
    """Gradients [B, T, d] added to the rows of their tokens [B, T], of which those from `start` to `stop` are kept."""
    inside = (tokens >= start) & (tokens < stop)
    if padding is not None:
        inside &= tokens != padding
    rows, columns = inside.nonzero(as_tuple=True)
    if block is None:
        block = torch.zeros(len(tokens), stop - start, gradients.shape[-1], device=gradients.device)
    return block.index_put_((rows, tokens[rows, columns] - start), gradients[rows, columns].float(), accumulate=True)


def _summed(gradients: Tensor, start: int, stop: int, block: Tensor | None) -> Tensor:
    """[B, ..., M] summed over everything between: [B, stop - start]."""
    return _added(gradients[..., start:stop].float().flatten(1, -2).sum(dim=1), block)


@torch.no_grad()
def _gain_rows(
    module: nn.Module, inputs: Tensor, gradients: Tensor, start: int, stop: int, block: Tensor | None
) -> Tensor:
    """Of a norm's gain. The output is linear in it, so what it multiplies is a difference of two outputs."""
    weight = module.get_parameter("weight")
    ones, zeros = (
        functional_call(module, {"weight": gain}, (inputs,))
        for gain in (torch.ones_like(weight), torch.zeros_like(weight))
    )
    return _summed(gradients * (ones - zeros), start, stop, block)


def _added(values: Tensor, block: Tensor | None) -> Tensor:
    return values if block is None else block.add_(values)


def _padded_rows(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
    """Inputs [B, T] padded at the end, their mask, and the places that predict the completions' tokens with these."""
    texts = [[*prompt, *completion][:-1] for prompt, completion in zip(prompts, completions, strict=True)]
    inputs = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    mask = torch.zeros_like(inputs)
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for row, (text, prompt, completion) in enumerate(zip(texts, prompts, completions, strict=True)):
        inputs[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
        rows += [row] * len(completion)
        columns += range(len(prompt) - 1, len(text))
        targets += completion
    places = torch.tensor(rows, device=device), torch.tensor(columns, device=device)
    return inputs.to(device), mask.to(device), places, torch.tensor(targets, device=device)
