"""Prompts that are beginnings of sentences of a corpus, and the tokens with which a sentence ends.

A prompt looks as a training document does: the beginning-of-text token, then text. It begins where a sentence begins
and stops before a word, somewhere in the sentence, so that there is something to continue. All of it comes from the
training text: prompts are what the policy knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import TYPE_CHECKING, cast

import numpy as np

from experiments.data.tokenizer import encode_documents
from experiments.runs.seeds import SeedStreams
from experiments.tasks.prompt_set import PolicyTokenizer, PromptOptions, PromptSet
from experiments.tasks.task import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    from experiments.data.corpus import TokenisedCorpus, TokenisedText

FORMAT = 1  # raise it whenever equal arguments would give other prompts
DOCUMENTS_AT_ONCE = 256  # whose sentences are mixed: few documents would give prompts that are too alike
SENTENCES_AT_ONCE = 1_024  # encoded together

_QUOTES = "\"'\N{RIGHT DOUBLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"
_OPENING = "\"'(\N{LEFT DOUBLE QUOTATION MARK}\N{LEFT SINGLE QUOTATION MARK}"
_SENTENCE_END = re.compile(rf"[.!?][{_QUOTES})\]]*$")
# After the end of a sentence and white space: what may begin a sentence is a capital, perhaps behind a quote.
_SENTENCE_BORDER = re.compile(rf"(?<=[.!?])[{_QUOTES})\]]*\s+(?=[{_OPENING}]*[A-Z])")


def corpus_prompts(
    text: TokenisedText,
    corpus_tokenizer: PreTrainedTokenizerBase,
    *,
    prompts: int,
    prompt_tokens: int,
    seed: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[Prompt]:
    """`prompts` different beginnings of sentences, each of exactly `prompt_tokens` tokens.

    `text` was made by `corpus_tokenizer`; the policy's `tokenizer` makes the prompts (null: the same). The first token
    is its beginning-of-text token where it has one, unless that opens the messages of a chat. Equal arguments choose
    equal prompts; more prompts begin with the fewer. ValueError when the text has not so many.
    """
    tokenizer = corpus_tokenizer if tokenizer is None else tokenizer
    start = _beginning_of_text(tokenizer)
    length = prompt_tokens - len(start)
    if prompts < 1 or length < 1:
        raise ValueError(
            f"task.prompts={prompts} of task.prompt_tokens={prompt_tokens} are impossible: at least 1 prompt of "
            f"{len(start) + 1} tokens"
        )
    fast = cast("PreTrainedTokenizerFast", tokenizer)  # all tokenizers here have the Rust backend
    generator = SeedStreams(seed).numpy("prompts")
    sentences = _sentences(text, corpus_tokenizer, generator)
    found: dict[tuple[int, ...], Prompt] = {}
    while batch := list(islice(sentences, SENTENCES_AT_ONCE)):
        for sentence, tokens in zip(batch, encode_documents(fast, batch), strict=True):
            key = (*start, *tokens[:length])
            beginning = str(tokenizer.decode(tokens[:length]))
            if key not in found and _stops_before_a_word(sentence, beginning, tokens, length):
                found[key] = Prompt(len(found), beginning, key)
                if len(found) == prompts:
                    return list(found.values())
    raise ValueError(
        f"task.prompts={prompts} are too many: the text has {len(found)} different beginnings of sentences of "
        f"{prompt_tokens} tokens; ask for fewer, or for another task.prompt_tokens"
    )


def corpus_prompt_set(
    corpus: TokenisedCorpus, options: PromptOptions, policy: PolicyTokenizer | None = None
) -> PromptSet:
    """Prompts out of the corpus's training text; completions end with the text, or with a sentence too.

    `policy` is given where the policy's tokenizer is another than the corpus's. ValueError when the text has not so
    many beginnings of sentences.
    """
    tokenizer = corpus.tokenizer if policy is None else policy.tokenizer
    return PromptSet(
        prompts=corpus_prompts(
            corpus.train,
            corpus.tokenizer,
            prompts=options.prompts,
            prompt_tokens=options.prompt_tokens,
            seed=options.seed,
            tokenizer=tokenizer,
        ),
        max_new_tokens=options.max_new_tokens,
        stop_tokens=stop_tokens_of(tokenizer, at_sentence_end=options.stop_at_sentence_end),
        recipe={
            "format": FORMAT,
            "text": corpus.train.artifact.address,
            "tokenizer": corpus.tokenizer_artifact.address if policy is None else policy.address,
            "prompts": options.prompts,
            "prompt_tokens": options.prompt_tokens,
            "max_new_tokens": options.max_new_tokens,
            "seed": options.seed,
            "stop_at_sentence_end": options.stop_at_sentence_end,
        },
    )


def sentences_of(text: str) -> list[str]:
    """The text cut after each . ! ? (and closing quotes) that is followed by white space and a capital."""
    borders = [0, *(border.end() for border in _SENTENCE_BORDER.finditer(text)), len(text)]
    sentences = [text[start:end].rstrip() for start, end in pairwise(borders)]
    return [sentence for sentence in sentences if sentence]


def sentence_end_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token whose text ends a sentence: it ends with . ! or ?, perhaps followed by closing quotes; ascending."""
    special = set(tokenizer.all_special_ids)
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return tuple(
        token for token, text in enumerate(texts) if token not in special and _SENTENCE_END.search(text) is not None
    )


def stop_tokens_of(tokenizer: PreTrainedTokenizerBase, *, at_sentence_end: bool) -> tuple[int, ...]:
    """The end-of-document token, and the ends of sentences when asked for."""
    ends = sentence_end_tokens(tokenizer) if at_sentence_end else ()
    return tuple(dict.fromkeys([int(tokenizer.eos_token_id), *ends]))


def _beginning_of_text(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token before a document, or none: not the one that a chat template opens every message with (SmolLM2's)."""
    if tokenizer.bos_token_id is None:
        return []
    if tokenizer.chat_template is not None:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        if str(tokenizer.apply_chat_template(turns, tokenize=False)).count(str(tokenizer.bos_token)) > 1:
            return []
    return [int(tokenizer.bos_token_id)]


def _sentences(
    text: TokenisedText, tokenizer: PreTrainedTokenizerBase, generator: np.random.Generator
) -> Iterator[str]:
    """Sentences in random order, read as far as asked for: those of some documents mixed, then those of others."""
    order = generator.permutation(text.documents)
    for start in range(0, len(order), DOCUMENTS_AT_ONCE):
        chosen = order[start : start + DOCUMENTS_AT_ONCE]
        tokens = [text.tokens[text.offsets[i] : text.offsets[i + 1]].tolist() for i in chosen]
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        sentences = [sentence for document in texts for sentence in sentences_of(document)]
        for i in generator.permutation(len(sentences)):
            yield sentences[i]


def _stops_before_a_word(sentence: str, beginning: str, tokens: list[int], length: int) -> bool:
    """Whether the first `length` tokens are whole words of a sentence that goes on."""
    return (
        len(tokens) > length
        and sentence.startswith(beginning)
        and sentence[len(beginning) : len(beginning) + 1].isspace()
        and _SENTENCE_END.search(beginning) is None
    )
