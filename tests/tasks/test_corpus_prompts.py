"""Prompts are beginnings of sentences of the training text."""

from __future__ import annotations

import copy

import pytest

from experiments.tasks.corpus_prompts import corpus_prompts, sentence_end_tokens, sentences_of, stop_tokens_of


def test_prompts_have_the_length_asked_for_and_begin_as_documents_do(story_corpus):
    prompts = corpus_prompts(story_corpus.train, story_corpus.tokenizer, prompts=20, prompt_tokens=6, seed=0)
    assert [prompt.index for prompt in prompts] == list(range(20))
    for prompt in prompts:
        assert len(prompt.tokens) == 6
        assert prompt.tokens[0] == story_corpus.tokenizer.bos_token_id
        assert story_corpus.tokenizer.decode(list(prompt.tokens[1:])) == prompt.text


def test_every_prompt_begins_a_sentence_of_the_training_text_and_leaves_some_of_it(story_corpus, story_sentences):
    for prompt in corpus_prompts(story_corpus.train, story_corpus.tokenizer, prompts=20, prompt_tokens=6, seed=3):
        assert any(sentence.startswith(prompt.text + " ") for sentence in story_sentences)


def test_prompts_differ_and_follow_from_the_seed(story_corpus):
    def draw(count: int, seed: int):
        return corpus_prompts(story_corpus.train, story_corpus.tokenizer, prompts=count, prompt_tokens=6, seed=seed)

    assert len({prompt.tokens for prompt in draw(30, 0)}) == 30
    assert draw(20, 0) == draw(20, 0) == draw(30, 0)[:20]
    assert draw(20, 0) != draw(20, 1)


def test_too_many_prompts_are_refused_with_the_number_that_there_is(story_corpus):
    with pytest.raises(ValueError, match=r"task\.prompts=5000 are too many: the text has \d+ different"):
        corpus_prompts(story_corpus.train, story_corpus.tokenizer, prompts=5000, prompt_tokens=6, seed=0)
    with pytest.raises(ValueError, match=r"task\.prompt_tokens=1 are impossible"):
        corpus_prompts(story_corpus.train, story_corpus.tokenizer, prompts=5, prompt_tokens=1, seed=0)


def test_another_tokenizer_cuts_the_same_text(story_corpus, byte_tokenizer, story_sentences):
    prompts = corpus_prompts(
        story_corpus.train, story_corpus.tokenizer, prompts=4, prompt_tokens=12, seed=0, tokenizer=byte_tokenizer
    )
    for prompt in prompts:
        assert bytes(prompt.tokens[1:]).decode() == prompt.text
        assert any(sentence.startswith(prompt.text + " ") for sentence in story_sentences)


def test_sentences_end_at_stops_before_capitals():
    text = 'He went out. "Where is it?" they said. Is 3.5 much? No! (Not at all.) Yes, i.e. little.'
    assert sentences_of(text) == [
        "He went out.",
        '"Where is it?" they said.',
        "Is 3.5 much?",
        "No!",
        "(Not at all.)",
        "Yes, i.e. little.",
    ]


def test_tokens_that_end_a_sentence_stop_a_completion(byte_tokenizer):
    assert sentence_end_tokens(byte_tokenizer) == (ord("!"), ord("."), ord("?"))
    end = byte_tokenizer.eos_token_id
    assert stop_tokens_of(byte_tokenizer, at_sentence_end=True) == (end, ord("!"), ord("."), ord("?"))
    assert stop_tokens_of(byte_tokenizer, at_sentence_end=False) == (end,)


def test_a_beginning_that_opens_the_messages_of_a_chat_is_no_beginning_of_text(story_corpus, byte_tokenizer):
    start = byte_tokenizer.bos_token
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.chat_template = "{% for message in messages %}{{ '" + start + "' + message['role'] }}{% endfor %}"
    options = {"prompts": 5, "prompt_tokens": 20, "seed": 0}
    for prompt in corpus_prompts(story_corpus.train, story_corpus.tokenizer, tokenizer=tokenizer, **options):
        assert tokenizer.decode(list(prompt.tokens)) == prompt.text
    tokenizer.chat_template = "{{ bos_token }}{% for message in messages %}{{ message['role'] }}{% endfor %}"
    for prompt in corpus_prompts(story_corpus.train, story_corpus.tokenizer, tokenizer=tokenizer, **options):
        assert prompt.tokens[0] == tokenizer.bos_token_id
