"""Off-policy completions are what they claim to be: real continuations, or random tokens, cut as the task's are."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from preference_cases import STOP, CountingTask

from experiments.data.corpus import prepare_corpus
from experiments.data.local_files import LocalFiles
from experiments.data.tokenizer import PlainBytes
from experiments.runs.artifacts import ArtifactStore
from experiments.tasks.task import Prompt
from experiments.training.completion_sources import CorpusContinuations, UniformTokens

SENTENCES = [f"Number {i} walked {i * i} miles to the sea." for i in range(100, 400)]


@dataclass
class Continuing:
    """Prompts of three bytes behind the beginning-of-text token, if there is one; a full stop ends."""

    prompts: list[Prompt]
    stop_tokens: tuple[int, ...]
    max_new_tokens: int = 40
    name: str = "continuing"
    made_of: dict = field(default_factory=dict)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    documents = [" ".join(SENTENCES[start : start + 10]) for start in range(0, len(SENTENCES), 10)]
    (folder / "text.txt").write_text("\n---\n".join(documents))
    source = LocalFiles(path=str(folder / "text.txt"), document_separator="\n---\n", holdout_fraction=0.1)
    return prepare_corpus(ArtifactStore(folder / "artifacts"), source, PlainBytes())


def task_on(corpus, **settings) -> Continuing:
    start = [] if corpus.tokenizer.bos_token_id is None else [corpus.tokenizer.bos_token_id]
    tokens = (*start, *corpus.tokenizer("Num", add_special_tokens=False)["input_ids"])
    (stop,) = corpus.tokenizer(".", add_special_tokens=False)["input_ids"]
    return Continuing([Prompt(i, "Num", tokens) for i in range(20)], (stop,), **settings)


def test_continuations_of_the_corpus_are_the_rests_of_its_sentences(corpus):
    source = CorpusContinuations.read(corpus.train, corpus.tokenizer, task_on(corpus))
    texts = corpus.tokenizer.batch_decode([list(row) for row in source.pool])
    assert len(set(texts)) > 200
    assert set(texts) <= {sentence.removeprefix("Num") for sentence in SENTENCES}


def test_continuations_are_cut_at_the_tasks_most_tokens(corpus):
    source = CorpusContinuations.read(corpus.train, corpus.tokenizer, task_on(corpus, max_new_tokens=7), size=50)
    assert {len(row) for row in source.pool} == {7}
    assert len(source.pool) == 50


def test_completions_depend_on_prompt_and_seed_only(corpus):
    task = task_on(corpus)
    source = CorpusContinuations.read(corpus.train, corpus.tokenizer, task)
    one, other = source.completions(task.prompts, 2, seed=1), source.completions(task.prompts[::-1], 2, seed=1)
    assert one == other[::-1]
    assert one != source.completions(task.prompts, 2, seed=2)
    assert all(a != b for a, b in one)


def test_a_text_with_nothing_behind_its_prompts_is_refused(corpus):
    task = task_on(corpus)
    task.prompts = [Prompt(0, "long", tuple(range(200)))]
    with pytest.raises(ValueError, match="off_policy=hot"):
        CorpusContinuations.read(corpus.train, corpus.tokenizer, task)


def test_random_tokens_end_with_a_stop_token_or_at_the_most_tokens():
    task = CountingTask()
    source = UniformTokens(range(30, STOP + 1), task.max_new_tokens, task.stop_tokens)
    rows = [row for own in source.completions(task.prompts, 4, seed=0) for row in own]
    assert all(STOP not in row[:-1] for row in rows)
    assert all(row[-1] == STOP for row in rows if len(row) < task.max_new_tokens)
    assert {len(row) for row in rows} == set(range(1, task.max_new_tokens + 1))
