"""Rewards: a number for every output, imperfect in a way that is known.

reward.py             the contract, and the ground truth as a reward
normalisation.py      what rewards are shifted and divided by before they train a policy
prompt_constants.py   a constant per prompt: sets the normalised reward variance
hashed_draws.py       randomness that belongs to an output or a prompt, not to a stream
probe_statistics.py   what the families measure on probe rollouts to set their knobs
low_variance.py       scaled: perfectly accurate, low variance
noisy.py              noise up to a target accuracy
graded_truth.py       coarse, clipped, overpaying, suppressing: the ground truth graded anew
credit.py             partial or binary credit for the parts of the ground truth
families.py           all of the above by name
trained.py            a reward model that reads the policy's tokens
ensemble.py           mean or minimum of several
hub_reward.py         any sequence-classification model of transformers, with its own tokenizer and chat template
"""
