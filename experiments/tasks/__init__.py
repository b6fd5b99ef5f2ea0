"""Tasks: prompts, and a ground truth reward that is a program.

    task.py                 the contract: Prompt, Task, Outputs

Prompts:
    prompt_set.py           prompts, how long completions are, and what ends them
    corpus_prompts.py       beginnings of sentences out of a corpus, and the tokens that end a sentence
    dataset_prompts.py      a data set of prompts or preferences, through the policy's chat template

Ground truths, each with the function `prepare_<task>` that makes the whole task:
    sentiment.py            continue a sentence; VADER's sentiment of the continuation
    constraints.py          continue or answer under constraints; all met, or the share that is met
      constraint_checks.py    checks that small models meet
      benchmark_checks.py     those of IFEval and IFBench
    reasoning.py            questions of reasoning-gym; their verifiers
    preference.py           prompts of a data set; a reward model, such as ArmoRM
    enumerable.py           sixteen tokens, completions of four: expectations are exact

What may be added to a ground truth:
    prompt_spread.py        a constant per prompt: prompts that are graded apart
    fluency.py              the reference policy's log-probability per token
"""
