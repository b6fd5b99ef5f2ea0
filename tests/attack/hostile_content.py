"""What hostile files hold."""

from __future__ import annotations


class Touches:
    """Unpickled, it makes a file: the proof that code ran."""

    def __init__(self, sentinel) -> None:
        self.sentinel = sentinel

    def __reduce__(self):
        return open, (str(self.sentinel), "w")
