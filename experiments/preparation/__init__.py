"""From a configuration to what an experiment on rewards starts from. `prepare` in setup.py returns all of it.

policy.py       the initial policy: a finished run of `rl-exp train`, or a model of transformers
task.py         prompts and ground truth, as tokens of the policy
probe.py        what the initial policy answers to the probe prompts
rewards.py      reward models: made of the ground truth, trained or loaded
properties.py   what a reward model is like for the initial policy

Everything is shared between runs: probe rollouts, preference pairs and reward models are artifacts. So the arms of a
sweep pay once.
"""
