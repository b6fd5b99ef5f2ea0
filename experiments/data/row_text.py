"""The text of a row: a field, a field within a field, or messages through a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from experiments.data.documents import Document

MESSAGE_FIELDS = ("messages", "conversations")  # which hold lists of messages
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}


class Template(Protocol):
    """What makes one text of a conversation."""

    def recipe_of_template(self) -> str:
        """What decides the texts, for addresses. ValueError where there is no template."""

    def render(self, messages: list[dict[str, str]]) -> str:
        """The text of messages with `role` and `content`."""


def text_of_row(row: Mapping[str, Any], field: str, where: str, name: str, template: Template | None) -> Document:
    """The document `name` in `row[field]`, or what is wrong with the row at `where`. Lines end with a line feed."""
    value: Any = row
    missing = object()
    for key in [field] if field in row else field.split("."):
        value = value.get(key, missing) if isinstance(value, Mapping) else missing
    if value is missing:
        types = {column: type(content).__name__ for column, content in row.items()}
        return Document(name, missing_field(field, types, where), problem="without the field")
    if value is None:
        return Document(name, f"{where}: {field!r} is null", problem="null")
    if isinstance(value, list) and value and all(isinstance(message, Mapping) for message in value):
        if template is None:
            reason = (
                f"{where}: {field!r} holds messages, which the chat template of a tokenizer makes a text of: set "
                f"data.text_field to one of {', '.join(MESSAGE_FIELDS)} with tokenizer=hub, or to a column of text"
            )
            return Document(name, reason, problem="messages")
        try:
            return Document(name, template.render([_message(message) for message in value]))
        except Exception as error:  # templates raise errors of their own about roles and their order
            return Document(name, f"{where}: the chat template refuses it ({error})", problem="malformed")
    if not isinstance(value, str):
        reason = f"{where}: {field!r} holds {type(value).__name__} instead of text: set data.text_field"
        return Document(name, reason, problem="of another type")
    return Document(name, value.replace("\r\n", "\n").replace("\r", "\n"))


def missing_field(field: str, present: Mapping[str, str], where: str) -> str:
    """The message for a field or column that is not there; `present` are the types of those that are."""
    known = ", ".join(f"{name} ({kind})" for name, kind in sorted(present.items()))
    return f"{where} has no {field!r}: set data.text_field to one of {known or 'its columns'}"


def _message(message: Mapping[str, Any]) -> dict[str, str]:
    """`role` and `content`, also of ShareGPT's `from` and `value`."""
    role = str(message.get("role", message.get("from", "")))
    content = message.get("content", message.get("value"))
    if not isinstance(content, str):
        raise ValueError("a message without text")
    return {"role": _SHAREGPT_ROLES.get(role, role), "content": content}
