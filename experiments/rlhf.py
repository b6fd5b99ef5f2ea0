"""`rl-exp rlhf`: one policy-gradient run."""
