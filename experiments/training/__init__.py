"""The parts of training loops: optimizers and schedules, evaluation, checkpoints."""
