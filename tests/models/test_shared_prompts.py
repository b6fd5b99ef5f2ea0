"""Completions of shared prompts, packed: the numbers and gradients of separate rows, for every mechanism."""

import numpy as np
import pytest
import torch

from experiments.models.configuration import RlExpConfig
from experiments.models.linear_log_probabilities import linear_log_probabilities
from experiments.models.shared_prompts import share_prompts
from experiments.models.transformer import build_model

VOCABULARY = 40


def model_of(attention, **options):
    config = RlExpConfig(
        attention=attention,
        hidden_size=32,
        layers=2,
        query_heads=4,
        head_dim=8,
        feed_forward_dim=48,
        vocab_size=VOCABULARY,
        initializer_range=0.3,
        zero_init_output=False,
        **options,
    )
    return build_model(config, torch.Generator().manual_seed(0), torch.float64).requires_grad_()


def ragged_rows(prompt_lengths, completion_lengths):
    """Rows of `completion_lengths`, in turn of the prompts: samples of a prompt need not be neighbours."""
    random = np.random.default_rng(0)
    prompts = [random.integers(0, VOCABULARY, length).tolist() for length in prompt_lengths]
    completions = [random.integers(0, VOCABULARY, length).tolist() for length in completion_lengths]
    return [prompts[row % len(prompts)] for row in range(len(completions))], completions


RAGGED = ragged_rows((3, 1, 7), (4, 2, 1, 5, 1, 6, 3))
EQUAL = ragged_rows((4, 4), (5, 5, 5, 5))
SINGLE = ragged_rows((2, 5), (1, 1, 1))  # nothing behind the prompts is an input


def packed_values(model, rows):
    shared = share_prompts(*rows, torch.device("cpu"))
    return linear_log_probabilities(shared.hidden_states(model.decoder), model.head.weight, shared.targets)


def separate_values(model, rows):
    """Row by row through the model's own interface."""
    parts = []
    for prompt, completion in zip(*rows, strict=True):
        text = torch.tensor([[*prompt, *completion]])
        values = model(text, use_cache=False).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, text.shape[1] - 1)
        parts.append(torch.stack([values[place, text[0, place + 1]] for place in places]))
    return torch.cat(parts)


@pytest.mark.parametrize("rows", [RAGGED, EQUAL, SINGLE], ids=["ragged", "equal", "single"])
@pytest.mark.parametrize("attention", ["mha", "mqa", "gqa", "gta", "mla", "gla", "tied_key_value"])
def test_packed_completions_are_separate_rows(attention, rows):
    model = model_of(attention)
    found, expected = packed_values(model, rows), separate_values(model, rows)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    weights = torch.randn(len(found), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parameters = list(model.parameters())
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_gates_are_kept():
    model = model_of("gqa", output_gate=True)
    torch.testing.assert_close(packed_values(model, RAGGED), separate_values(model, RAGGED), rtol=1e-10, atol=1e-12)


def test_a_prompt_is_computed_once_and_nothing_is_padded():
    prompts, completions = RAGGED
    shared = share_prompts(prompts, completions, torch.device("cpu"))
    assert len(shared.tokens) == 3 + 1 + 7 + sum(len(completion) - 1 for completion in completions)
    assert shared.targets.tolist() == [token for completion in completions for token in completion]


def test_rows_of_nothing_are_refused():
    for prompts, completions in (([[]], [[1]]), ([[1]], [[]])):
        with pytest.raises(ValueError, match="has no token"):
            share_prompts(prompts, completions, torch.device("cpu"))


def test_log_probabilities_have_the_right_gradient_twice_over():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, 5, generator=generator, dtype=torch.float64) for rows in (7, 11))
    hidden.requires_grad_()
    weight.requires_grad_()
    targets = torch.tensor([0, 3, 3, 10, 1, 2, 9])
    values = linear_log_probabilities(hidden, weight, targets)
    torch.testing.assert_close(values, (hidden @ weight.T).log_softmax(-1)[range(7), targets])
    assert torch.autograd.gradcheck(linear_log_probabilities, (hidden, weight, targets))
    first = torch.autograd.grad(values.sum(), hidden, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(values.sum(), hidden)[0])


def test_log_probabilities_in_chunks_are_those_of_one_piece():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(300, 4, generator=generator), torch.randn(2**14, 4, generator=generator)
    targets = torch.randint(2**14, (300,), generator=generator)
    with torch.no_grad():  # 128 rows at a time
        chunked = linear_log_probabilities(hidden, weight, targets)
    torch.testing.assert_close(chunked, linear_log_probabilities(hidden.requires_grad_(), weight, targets).detach())
