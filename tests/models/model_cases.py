"""The models that the tests of this folder run through: every mechanism, and every option at least once."""

import torch

from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import build_model

SIZES = {"hidden_size": 32, "layers": 2, "query_heads": 4, "head_dim": 8, "vocab_size": 61, "feed_forward_dim": 48}

CASES = {
    "mha": {"attention": "mha"},
    "mqa": {"attention": "mqa"},
    "gqa": {"attention": "gqa", "key_value_heads": 2},
    "gqa-gated": {"attention": "gqa", "key_value_heads": 2, "output_gate": True},
    "gta": {"attention": "gta", "tied_heads": 2},
    "gta-biased-wide-rope": {"attention": "gta", "tied_heads": 2, "rope_dim": 6, "low_rank_bias": True},
    "gta-all-rope": {"attention": "gta", "tied_heads": 4, "rope_dim": 8},
    "gta-no-rope": {"attention": "gta", "tied_heads": 2, "rope_dim": 0},
    "mla": {"attention": "mla", "latent_dim": 12, "query_latent_dim": 10},
    "mla-biased-scaled": {"attention": "mla", "low_rank_bias": True, "latent_scaling": True},
    "gla": {"attention": "gla", "latent_dim": 6},
    "gla-biased-gated-scaled": {
        "attention": "gla",
        "low_rank_bias": True,
        "output_gate": True,
        "latent_scaling": True,
        "rope_dim": 6,
    },
    "gla-4": {"attention": "gla", "latent_heads": 4, "latent_dim": 6},
    "gla-split-query": {
        "attention": "gla",
        "split_query_latent": True,
        "query_latent_dim": 12,
        "low_rank_bias": True,
        "latent_scaling": True,
    },
    "tied": {"attention": "tied_key_value", "key_value_heads": 2},
}


def case_model(name, dtype=torch.float64, **options):
    """A model in evaluation mode whose biases and norms are not at their neutral starting values."""
    config = RlExpConfig(**{**SIZES, "initializer_range": 0.15, **CASES[name], **options})
    generator = torch.Generator().manual_seed(0)
    model = build_model(config, generator, dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


def tokens(rows, length, vocabulary=61, seed=1):
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))
