"""Small policies with probes, and the scores of their completions by autograd, one completion after the other."""

from __future__ import annotations

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import build_model
from experiments.training.log_probabilities import token_log_probabilities

VOCABULARY = 13


def our_policy(attention, **changes):
    settings = {"vocab_size": VOCABULARY, "hidden_size": 16, "layers": 2, "query_heads": 2, "head_dim": 8}
    settings |= {"feed_forward_dim": 24, "initializer_range": 0.3}
    config = RlExpConfig(**settings, attention=attention, **changes)
    return perturbed(build_model(config, torch.Generator().manual_seed(0)))


def llama():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return perturbed(LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, tie_word_embeddings=True)))


def gpt2():
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return perturbed(GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes)))


def perturbed(model):
    """Every parameter away from what initialisation makes special: gains of 1, biases of 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def probe(prompts=5, samples=3, seed=0):
    """Prompts and completions of different lengths [P N], rewards [2, P, N] and a ground truth [P, N]."""
    generator = np.random.default_rng(seed)
    tokens = lambda most: tuple(generator.integers(VOCABULARY, size=generator.integers(1, most)).tolist())  # noqa: E731
    rows = [prompt for prompt in (tokens(6) for _ in range(prompts)) for _ in range(samples)]
    rewards = generator.normal(size=(3, prompts, samples))
    return rows, [tokens(7) for _ in rows], rewards[:2], rewards[2]


def autograd_scores(model, prompts, completions, parameters=None):
    """[n, D] over `parameters`, by default all, in the order of `model.parameters()`."""
    wanted = list(model.parameters()) if parameters is None else parameters
    rows = []
    for prompt, completion in zip(prompts, completions, strict=True):
        total = token_log_probabilities(model, [prompt], [completion]).sum()
        parts = torch.autograd.grad(total, wanted, allow_unused=True)
        rows.append(
            torch.cat(
                [torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(wanted, parts, strict=True)]
            )
        )
    return torch.stack(rows)
