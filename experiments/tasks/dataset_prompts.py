"""Prompts out of a data set of prompts or preferences, through the policy's chat template.

A row has a prompt, and perhaps a preferred and a rejected response: as texts, or as lists of messages with roles.
Single-turn rows are used; a row with a history or a system message is passed over. Prompts longer than asked for, and
pairs with a response that is longer than a completion may be, are passed over too, as in the good-teacher paper
(appendix F.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.data.hub_rows import HubRows
from experiments.runs.seeds import SeedStreams
from experiments.tasks.prompt_set import PolicyTokenizer, PromptOptions, PromptSet
from experiments.tasks.task import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1  # raise it whenever equal arguments would give other prompts
ROWS_AT_ONCE = 256
# The good-teacher paper writes [USER] x [ASSISTANT] y, where a policy has no chat template.
PLAIN_FORMAT = "[USER] {} [ASSISTANT] "


@dataclass(frozen=True)
class Fields:
    """Names of a data set's columns."""

    prompt: str = "prompt"
    chosen: str | None = "chosen"  # None: a data set of prompts only
    rejected: str | None = "rejected"
    facts: tuple[str, ...] = ()  # further columns, for the ground truth


@dataclass(frozen=True)
class Row:
    """What of a row is used."""

    question: str
    pair: tuple[str, str] | None  # preferred, rejected
    facts: dict[str, Any]


def dataset_prompt_set(
    rows: HubRows,
    policy: PolicyTokenizer,
    options: PromptOptions,
    *,
    fields: Fields | None = None,
    instruction: str = "",
    plain_format: str = PLAIN_FORMAT,
) -> PromptSet:
    """Different prompts in an order that the seed draws; a prompt's text is what the user says.

    `instruction` is added to each as a paragraph of its own. `Prompt.facts` has the data set's pair, as `chosen` and
    `rejected`. `plain_format` is for tokenizers without a chat template. ValueError where the data set has no such
    fields, or not so many rows that fit.
    """
    tokenizer = policy.tokenizer
    fields = Fields() if fields is None else fields
    if "{}" not in plain_format:
        raise ValueError(f"task.dataset.plain_format={plain_format!r} has no place for the prompt: write one {{}}")
    table = rows.read()
    _require_fields(fields, table.column_names, rows)
    found: dict[str, Prompt] = {}
    too_long = 0
    for row in _in_random_order(table, fields, options.seed):
        text = f"{row.question}\n\n{instruction}" if instruction else row.question
        if text in found:
            continue
        tokens = prompt_tokens(tokenizer, text, plain_format)
        responses = [] if row.pair is None else tokenizer(list(row.pair), add_special_tokens=False)["input_ids"]
        longest_response = max(map(len, responses), default=0)
        if len(tokens) > options.longest_prompt or longest_response > options.max_new_tokens:
            too_long += 1
            continue
        pair = {} if row.pair is None else {"chosen": row.pair[0], "rejected": row.pair[1]}
        found[text] = Prompt(len(found), text, tuple(tokens), row.facts | pair)
        if len(found) == options.prompts:
            break
    else:
        raise ValueError(
            f"task.prompts={options.prompts} are too many: {rows.path} has {len(found)} that fit, {too_long} are longer"
            f" than task.longest_prompt={options.longest_prompt} or have a response longer than task.max_new_tokens="
            f"{options.max_new_tokens}"
        )
    return PromptSet(
        prompts=list(found.values()),
        max_new_tokens=options.max_new_tokens,
        stop_tokens=end_of_turn_tokens(tokenizer),
        recipe={
            "format": FORMAT,
            "rows": rows.recipe(),
            "fields": [fields.prompt, fields.chosen, fields.rejected, *fields.facts],
            "tokenizer": policy.address,
            "prompts": options.prompts,
            "max_new_tokens": options.max_new_tokens,
            "longest_prompt": options.longest_prompt,
            "seed": options.seed,
            "instruction": instruction,
            "plain_format": plain_format,
        },
    )


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, text: str, plain_format: str = PLAIN_FORMAT) -> list[int]:
    """What the policy continues when the user says `text`."""
    if tokenizer.chat_template:
        rendered = str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # a variable of Qwen's templates; others do not look at it
            )
        )
        return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])  # templates write their own
    tokens = list(tokenizer(plain_format.replace("{}", text), add_special_tokens=False)["input_ids"])
    return tokens if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id), *tokens]


def end_of_turn_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The end-of-text token, and the special token that the chat template writes behind an answer, if it is another."""
    ends = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    if tokenizer.chat_template:
        answer = "\N{BLACK STAR}"
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
        rendered = str(tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False))
        behind = tokenizer(rendered.rpartition(answer)[2].lstrip(), add_special_tokens=False)["input_ids"]
        special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        ends += [int(token) for token in behind[:1] if token in special]
    if not ends:
        raise ValueError("the policy's tokenizer has neither an end-of-text token nor a chat template that ends a turn")
    return tuple(dict.fromkeys(ends))


def _in_random_order(table: Any, fields: Fields, seed: int) -> Iterator[Row]:
    order = SeedStreams(seed).numpy("prompts").permutation(len(table))
    for start in range(0, len(order), ROWS_AT_ONCE):
        for values in table.select(order[start : start + ROWS_AT_ONCE]):
            row = _row_of(values, fields)
            if row is not None:
                yield row


def _row_of(values: Mapping[str, Any], fields: Fields) -> Row | None:
    """A single-turn row, or None."""
    question = _said(values[fields.prompt], "user")
    if question is None:
        return None
    facts = {name: values[name] for name in fields.facts}
    if fields.chosen is None or fields.rejected is None:
        return Row(question, None, facts)
    chosen, rejected = (_said(values[name], "assistant") for name in (fields.chosen, fields.rejected))
    if chosen is None or rejected is None or chosen == rejected:
        return None
    return Row(question, (chosen, rejected), facts)


def _said(value: Any, role: str) -> str | None:
    """A text, or the only message of `role` in a list of messages that has nothing before the user's; else None."""
    if isinstance(value, str):
        return value if value.strip() else None
    if not isinstance(value, Sequence) or not all(isinstance(message, Mapping) for message in value):
        return None
    roles = [message.get("role") for message in value]
    if roles not in ([role], ["user", "assistant"]):
        return None
    content = value[roles.index(role)].get("content") if role in roles else None
    return content if isinstance(content, str) and content.strip() else None


def _require_fields(fields: Fields, present: Sequence[str], rows: HubRows) -> None:
    if (fields.chosen is None) != (fields.rejected is None):
        raise ValueError("task.dataset.chosen and task.dataset.rejected belong together: name both, or null for none")
    named = [("prompt", fields.prompt), ("chosen", fields.chosen), ("rejected", fields.rejected)]
    for setting, name in [*named, *(("facts", name) for name in fields.facts)]:
        if name is not None and name not in present:
            raise ValueError(
                f"{rows.path} has no column {name!r}: set task.dataset.{setting} to one of {', '.join(present)}"
                + ("" if setting in ("prompt", "facts") else ", or chosen and rejected to null")
            )
