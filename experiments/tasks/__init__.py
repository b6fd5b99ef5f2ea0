"""Tasks: prompts, and a ground truth reward that is a program.

task.py           the contract: Prompt, Task, Outputs
prompt_spread.py  a constant per prompt in the ground truth: prompts that are graded apart
corpus_prompts.py beginnings of sentences out of a corpus, and the tokens that end a sentence
sentiment.py      continue a sentence; the ground truth is VADER's sentiment of the continuation
"""
