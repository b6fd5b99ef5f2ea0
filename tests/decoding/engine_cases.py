"""Small fp32 models of every mechanism for the engine's tests, and what they should say by a full forward pass."""

import torch

from experiments.decoding.engine import Completion
from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import RlExpForCausalLM, build_model

VOCABULARY = 61
SIZES = {"hidden_size": 32, "layers": 2, "query_heads": 4, "head_dim": 8, "vocab_size": VOCABULARY}
CASES = {
    "mha": {"attention": "mha"},
    "mqa": {"attention": "mqa"},
    "gqa": {"attention": "gqa", "key_value_heads": 2},
    "gqa-gated": {"attention": "gqa", "key_value_heads": 2, "output_gate": True},
    "gta": {"attention": "gta", "tied_heads": 2},
    "gta-biased-gated": {"attention": "gta", "rope_dim": 6, "low_rank_bias": True, "output_gate": True},
    "gta-no-rope": {"attention": "gta", "tied_heads": 2, "rope_dim": 0},
    "mla": {"attention": "mla", "latent_dim": 13, "query_latent_dim": 11},
    "mla-biased-scaled": {"attention": "mla", "low_rank_bias": True, "latent_scaling": True},
    "gla": {"attention": "gla", "latent_dim": 6},
    "gla-everything": {
        "attention": "gla",
        "low_rank_bias": True,
        "output_gate": True,
        "latent_scaling": True,
        "split_query_latent": True,
        "query_latent_dim": 12,
        "rope_dim": 6,
    },
    "tied_key_value": {"attention": "tied_key_value", "key_value_heads": 2},
}
ONE_OF_EACH = ("mha", "mqa", "gqa", "gta", "mla", "gla", "tied_key_value")


def case_model(name: str, dtype: torch.dtype = torch.float32, seed: int = 0, **options: object) -> RlExpForCausalLM:
    """Biases and norms are away from their neutral starting values, so that leaving one out shows."""
    config = RlExpConfig(**{**SIZES, "feed_forward_dim": 48, "initializer_range": 0.15, **CASES[name], **options})
    generator = torch.Generator().manual_seed(seed)
    model = build_model(config, generator).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def prompts_of(*lengths: int, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


@torch.no_grad()
def greedy_text(model: RlExpForCausalLM, prompt: list[int], new_tokens: int) -> tuple[int, ...]:
    """What transformers' own `generate` says."""
    prompt_ids = torch.tensor([prompt])
    options = {"attention_mask": torch.ones_like(prompt_ids), "do_sample": False, "pad_token_id": 0}
    return tuple(model.generate(prompt_ids, max_new_tokens=new_tokens, **options)[0, len(prompt) :].tolist())


@torch.no_grad()
def true_log_probabilities(model: RlExpForCausalLM, completion: Completion) -> torch.Tensor:
    """Log-probabilities of the new tokens by one full forward pass over the finished text."""
    logits = model(torch.tensor([completion.prompt + completion.tokens])).logits[0].double()
    new = logits.log_softmax(dim=-1)[len(completion.prompt) - 1 : -1]
    return new.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]


def log_probabilities_of(completion: Completion) -> torch.Tensor:
    return torch.tensor(completion.policy_log_probabilities, dtype=torch.float64)
