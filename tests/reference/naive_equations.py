"""The attention mechanisms once more, with loops over heads and tokens, straight from the paper's equations.

Nothing here is absorbed, fused, cached or batched, and nothing is shared with the models: one sequence x of T hidden
states goes in, keys and values are written out for every head. Source: Hardware-Efficient Attention for Fast Decoding
(arXiv 2505.21487), sections 2.1, 3.3.1 and 3.3.2, figure 2.

Weights are dictionaries by the paper's names; a list holds one matrix (rows = outputs) per head. Missing biases are 0.
"""

import math

import torch


def rope(vector, position, base=10000.0):
    """Rotate the pair (i, i + R/2) of an R-wide vector by the angle position * base^(-2i/R)."""
    half = len(vector) // 2
    rotated = [None] * len(vector)
    for i in range(half):
        angle = position * base ** (-2 * i / len(vector))
        rotated[i] = vector[i] * math.cos(angle) - vector[i + half] * math.sin(angle)
        rotated[i + half] = vector[i] * math.sin(angle) + vector[i + half] * math.cos(angle)
    return torch.stack(rotated) if rotated else vector


def rms_norm(vector, weight, epsilon):
    return weight * vector / torch.sqrt((vector * vector).mean() + epsilon)


def one_head(queries, keys, values, scale):
    """Causal softmax attention of one head: lists of T vectors in, a list of T vectors out."""
    outputs = []
    for t, query in enumerate(queries):
        scores = torch.stack([scale * (query @ keys[s]) for s in range(t + 1)])
        weights = torch.exp(scores - scores.max())
        weights = weights / weights.sum()
        outputs.append(sum(weights[s] * values[s] for s in range(t + 1)))
    return outputs


def output_projection(heads, x, weights):
    """W_O [o_1; ...; o_H], gated by sigmoid(W_G x) where there is a gate."""
    outputs = []
    for t in range(len(x)):
        joined = torch.cat([head[t] for head in heads])
        if "W_G" in weights:
            joined = joined * torch.sigmoid(weights["W_G"] @ x[t])
        outputs.append(weights["W_O"] @ joined)
    return torch.stack(outputs)


def grouped_query_attention(x, weights):
    """q_h, k_i, v_i of width d_h; all of q and k is rotated; query head h reads head h // (H / K)."""
    group = len(weights["W_Q"]) // len(weights["W_K"])
    heads = []
    for h, query_weight in enumerate(weights["W_Q"]):
        i = h // group
        queries = [rope(query_weight @ x[t], t) for t in range(len(x))]
        keys = [rope(weights["W_K"][i] @ x[t], t) for t in range(len(x))]
        values = [weights["W_V"][i] @ x[t] for t in range(len(x))]
        heads.append(one_head(queries, keys, values, 1 / math.sqrt(len(queries[0]))))
    return output_projection(heads, x, weights)


def tied_key_value_attention(x, weights):
    """One state per group is key (rotated) and value (as it is)."""
    group = len(weights["W_Q"]) // len(weights["W_KV"])
    heads = []
    for h, query_weight in enumerate(weights["W_Q"]):
        tied = [weights["W_KV"][h // group] @ x[t] for t in range(len(x))]
        queries = [rope(query_weight @ x[t], t) for t in range(len(x))]
        keys = [rope(tied[t], t) for t in range(len(x))]
        heads.append(one_head(queries, keys, tied, 1 / math.sqrt(len(tied[0]))))
    return output_projection(heads, x, weights)


def grouped_tied_attention(x, weights):
    """Section 3.3.1: V = the tied state; K = [its first d_h - d_R dimensions, the shared RoPE key]."""
    group = len(weights["W_Q"]) // len(weights["W_KV"])
    rope_dim = len(weights["W_R"])
    heads = []
    for h, query_weight in enumerate(weights["W_Q"]):
        queries, keys, values = [], [], []
        for t in range(len(x)):
            query = query_weight @ x[t]
            still = len(query) - rope_dim
            tied = weights["W_KV"][h // group] @ x[t]
            rope_key = rope(weights["W_R"] @ x[t] + weights.get("b_R", 0), t)
            queries.append(torch.cat([query[:still], rope(query[still:], t)]))
            keys.append(torch.cat([tied[:still], rope_key]))
            values.append(tied)
        heads.append(one_head(queries, keys, values, 1 / math.sqrt(len(queries[0]))))
    return output_projection(heads, x, weights)


def grouped_latent_attention(x, weights, epsilon, latent_factor=1.0, query_factor=1.0):
    """Section 3.3.2: head h of group i has k = [W_UK,h c_i, k_R] and v = W_UV,h c_i, expanded for every token.

    W_DQ and g_Q are lists: one for all heads, or one per group (GLA_q). The factors are MLRA's latent scaling.
    """
    query_heads, latent_heads = len(weights["W_UQ"]), len(weights["W_DKV"])
    group, rope_dim = query_heads // latent_heads, len(weights["W_R"])
    heads = []
    for h in range(query_heads):
        i = h // group
        share = i if len(weights["W_DQ"]) > 1 else 0
        queries, keys, values = [], [], []
        for t in range(len(x)):
            query_latent = weights["W_DQ"][share] @ x[t] + weights["b_DQ"][share]
            query_latent = query_factor * rms_norm(query_latent, weights["g_Q"][share], epsilon)
            query = weights["W_UQ"][h] @ query_latent + weights["b_UQ"][h]
            still = len(query) - rope_dim
            queries.append(torch.cat([query[:still], rope(query[still:], t)]))

            latent = weights["W_DKV"][i] @ x[t] + weights["b_DKV"][i]
            latent = latent_factor * rms_norm(latent, weights["g_KV"][i], epsilon)
            rope_key = rope(weights["W_R"] @ x[t] + weights["b_R"], t)
            keys.append(torch.cat([weights["W_UK"][h] @ latent + weights["b_UK"][h], rope_key]))
            values.append(weights["W_UV"][h] @ latent + weights["b_UV"][h])
        heads.append(one_head(queries, keys, values, 1 / math.sqrt(len(queries[0]))))
    return output_projection(heads, x, weights)
