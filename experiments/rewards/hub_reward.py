"""Any sequence-classification model of transformers as a reward, with its own tokenizer and chat template.

It reads texts, not the policy's tokens: prompt and completion are put through the model's chat template as a user's and
an assistant's message, or simply joined where it has none.

What the models of the two reward papers need (their code, and papers.md Part III, 3.1):
    ArmoRM         its own code (trust_remote_code) and `output.score` instead of logits
    RM-RB2         revision="2"
    Skywork-V2, GRM, OffsetBias, RM-Gemma, RM-Mistral, tulu-2-uf-mean     one logit, nothing special
    Qwen3 based    a template that thinks unless told not to: `enable_thinking=False` goes into every call
    InternLM       has no sequence-classification class: not supported

Shapes: n texts in rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from experiments.rewards.reward import Reward
from experiments.runs.external_inputs import identity_of_input
from experiments.runs.foreign_files import loading, refuse_missing_weights
from experiments.tasks.task import Floats, Outputs

logger = logging.getLogger(__name__)


class SequenceClassifierScorer:
    """Scores texts with a classifier. Rows go through in batches of similar length, padded at the end."""

    def __init__(
        self,
        path: str,
        *,
        revision: str | None = None,
        dtype: str = "float32",
        device: str | torch.device = "cpu",
        batch_size: int = 16,
        most_tokens: int = 2048,
        chat: bool | None = None,
        label: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Load model and tokenizer of `path`, a folder or hub name.

        `chat` None applies the chat template where there is one. `label` is the output that is the reward, of a model
        with several. Texts of more tokens than `most_tokens` or than the model has
        positions lose their beginning. ValueError for what cannot be loaded, for a
        model with several outputs and no `label`, and for `chat` without a template.
        """
        # Our own classes must be known before a folder of ours is loaded.
        import experiments.models.reward_head  # noqa: F401

        self.path, self.batch_size = path, batch_size
        self.tokenizer, self.model = _loaded(path, revision, dtype, trust_remote_code)
        self.identity = identity_of_input(path, revision)  # of what was loaded
        self.model.to(device).eval().requires_grad_(False)
        has_template = bool(getattr(self.tokenizer, "chat_template", None))
        if chat and not has_template:
            raise ValueError(f"reward.hub.chat=true, but the tokenizer of {path} has no chat template: leave it null")
        self.chat = has_template if chat is None else chat
        self.label = self._checked_label(label)
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.most_tokens = most_tokens if positions is None else min(most_tokens, positions)
        self._warned_of_bos = False

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Floats:
        """The reward [n] of every response to its prompt."""
        texts = [self.text(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        # A template writes the beginning-of-text token itself.
        encoded = self.tokenizer(texts, add_special_tokens=not self.chat)["input_ids"]
        cut = sum(len(row) > self.most_tokens for row in encoded)
        if cut:
            logger.warning("%s: %d of %d texts are cut to %d tokens", self.path, cut, len(texts), self.most_tokens)
        self._warn_of_doubled_bos(encoded)
        rows = [row[-self.most_tokens :] for row in encoded]
        scores = np.empty(len(rows))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            scores[part] = self._score_batch([rows[i] for i in part])
        return scores

    def _warn_of_doubled_bos(self, rows: list[list[int]]) -> None:
        """Once: the text itself begins with the token that the tokenizer puts before every text."""
        bos = self.tokenizer.bos_token_id
        doubled = sum(row[:2] == [bos, bos] for row in rows) if bos is not None else 0
        if doubled and not self._warned_of_bos:
            self._warned_of_bos = True
            logger.warning(
                "%s: %d of %d texts begin with two beginning-of-text tokens (%s): leave it out of the texts, or set "
                "reward.hub.chat",
                *(self.path, doubled, len(rows), self.tokenizer.bos_token),
            )

    def text(self, prompt: str, response: str) -> str:
        """What the model reads."""
        if not self.chat:
            return prompt + response
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        # `enable_thinking` is a variable of Qwen's templates; others do not look at it.
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False))

    @torch.no_grad()
    def _score_batch(self, rows: list[list[int]]) -> Floats:
        width = max(map(len, rows))
        padding = self._padding_for(rows)
        self.model.config.get_text_config().pad_token_id = padding
        inputs = torch.full((len(rows), width), padding)
        mask = torch.zeros_like(inputs)
        for i, row in enumerate(rows):
            inputs[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        device = self.model.device
        output = self.model(input_ids=inputs.to(device), attention_mask=mask.to(device))
        scores = output.score if getattr(output, "score", None) is not None else output.logits[:, self.label]
        values: Floats = scores.reshape(len(rows)).double().cpu().numpy()
        return values

    def _checked_label(self, label: int | None) -> int:
        labels = int(self.model.config.num_labels)
        if label is None:
            if labels > 1 and not hasattr(self.model, "gating"):  # ArmoRM's 19 objectives end in one `score`
                names = ", ".join(map(str, self.model.config.id2label.values()))
                raise ValueError(
                    f"{self.path} has {labels} outputs ({names}): say which is the reward with reward.hub.label"
                )
            return 0
        if not 0 <= label < labels:
            raise ValueError(f"reward.hub.label={label} is impossible: {self.path} has outputs 0 to {labels - 1}")
        return label

    def _padding_for(self, rows: list[list[int]]) -> int:
        """The tokenizer's padding token, or, where a row contains it or there is none, a token that no row contains.

        Classifiers of transformers score the last token that is not padding: where padding is the end-of-text token, as
        is often set, the end of a text would be taken for padding.
        """
        used = {token for row in rows for token in row}
        padding = self.tokenizer.pad_token_id
        if padding is not None and padding not in used:
            return int(padding)
        return next(token for token in range(len(used) + 1) if token not in used)


class HubReward(Reward):
    """A scorer as a reward. The question is the prompt's text, or `Prompt.facts["question"]` where a task gives it."""

    def __init__(self, name: str, scorer: SequenceClassifierScorer) -> None:
        parameters = int(scorer.model.num_parameters())
        super().__init__(name, {"path": scorer.path, **scorer.identity, "chat": scorer.chat, "parameters": parameters})
        self.scorer = scorer

    def score(self, outputs: Outputs) -> Floats:
        questions = [str(prompt.facts.get("question", prompt.text)) for prompt in outputs.prompts]
        return self.scorer.score(questions, outputs.texts)


def _loaded(path: str, revision: str | None, dtype: str, trust_remote_code: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    hint = "name a folder or hub model that transformers knows as a sequence classifier"
    if not trust_remote_code:
        hint += " (or, if it needs code of its own and you trust it, reward.hub.trust_remote_code=true)"
    with loading("reward.hub.path", path, hint):
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **options
        )
        refuse_missing_weights(info)
    return tokenizer, model
