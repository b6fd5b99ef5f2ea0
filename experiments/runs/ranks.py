"""The processes that torchrun starts for one run: who is first, how they agree, and which of them ended the others.

    ranks = join_ranks()                       # outside torchrun: one rank, and nothing below does anything
    decision = ranks.broadcast({"go": True})   # the first rank's object, on every rank
    ranks.barrier()
    ranks.close()

The first rank alone owns what there is one of: the run directory, the screen, the tracker. torch is imported only where
there are several ranks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

# A dead rank is noticed at once (its connections close). This is for one that lives and does not answer, and must be
# longer than anything that the first rank does alone: reading a corpus, drawing figures.
TIMEOUT = timedelta(minutes=30)
LOST_CONNECTION = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "NCCL communicator was abort",
)
INTERRUPTED = "interrupted"


class RankFailed(RuntimeError):
    """This rank could not go on, because another one failed or was killed."""


@dataclass(frozen=True)
class Launched:
    """What torchrun told this process in its environment."""

    rank: int
    local_rank: int
    size: int


def launched_by_torchrun() -> Launched | None:
    """This process's place among those of torchrun; None where it was started alone."""
    try:
        rank, local_rank, size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    except (KeyError, ValueError):
        return None
    return Launched(rank, local_rank, size)


def is_first_process() -> bool:
    """Whether this process may speak: alone, or the first of torchrun's."""
    launched = launched_by_torchrun()
    return launched is None or launched.rank == 0


class Ranks:
    """One process alone: rank 0 of 1."""

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank owns run directory, screen and tracker."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This rank's places among `count` that the ranks take in order, as equally as can be; it may be empty."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def broadcast(self, value: Any = None) -> Any:
        """The first rank's `value` (of JSON) on every rank; what the others pass is ignored."""
        return value

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def largest(self, values: list[float]) -> list[float]:
        """Of every number the largest on any rank."""
        return values

    def total(self, values: list[float]) -> list[float]:
        """Of every number the sum over all ranks."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value` (of JSON), in the order of the ranks, on all of them."""
        return [value]

    def cause_of(self, error: BaseException) -> BaseException:
        """What really ended this rank: `error` itself, or what happened to another rank."""
        return error

    def close(self) -> None:
        """Leave the process group."""


class TorchRanks(Ranks):
    """This process's place in a torch process group; made by `join_ranks`."""

    def __init__(self, rank: int, size: int, store: Any) -> None:
        self.rank, self.size, self._store = rank, size, store

    def broadcast(self, value: Any = None) -> Any:
        """See `Ranks`."""
        import torch.distributed as dist

        text = [json.dumps(value) if self.is_first else None]
        dist.broadcast_object_list(text, src=0)
        return json.loads(str(text[0]))

    def gather(self, value: Any) -> list[Any]:
        """See `Ranks`."""
        import torch.distributed as dist

        texts = [""] * self.size
        dist.all_gather_object(texts, json.dumps(value))
        return [json.loads(text) for text in texts]

    def barrier(self) -> None:
        """See `Ranks`."""
        import torch
        import torch.distributed as dist

        dist.all_reduce(torch.zeros(1))  # dist.barrier() would want a GPU where there is NCCL

    def largest(self, values: list[float]) -> list[float]:
        """See `Ranks`."""
        return self._reduced(values, "MAX")

    def total(self, values: list[float]) -> list[float]:
        """See `Ranks`."""
        return self._reduced(values, "SUM")

    def _reduced(self, values: list[float], operation: str) -> list[float]:
        import torch
        import torch.distributed as dist

        every = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(every, getattr(dist.ReduceOp, operation))
        return [float(value) for value in every]

    def cause_of(self, error: BaseException) -> BaseException:
        """See `Ranks`. A rank that loses a peer gets an error of its connection, or torchrun's SIGTERM, or both.

        Every rank leaves word of its own error before its connections close. Who finds a connection lost, and no word
        from anybody, has a peer that was killed.
        """
        lost = any(_is_lost_connection(each) for each in _chain(error))
        signalled = isinstance(error, KeyboardInterrupt | SystemExit)
        if not lost and not signalled:
            self._leave_word(f"{type(error).__name__}: {error}")
            return error
        words = self._words()
        for rank, word in words.items():
            if word != INTERRUPTED:
                return RankFailed(f"rank {rank} of {self.size} failed: {word}")
        if lost and not words:
            return RankFailed(
                f"a rank was killed (of {self.size}; torchrun says below which, and by what signal): where it was "
                "signal 9, look for a lack of memory"
            )
        self._leave_word(INTERRUPTED)
        return error if signalled else KeyboardInterrupt()

    def _leave_word(self, word: str) -> None:
        try:
            self._store.set(f"rl-exp/word/{self.rank}", word)
        except RuntimeError:
            return  # torchrun, which keeps the store, is gone as well

    def _words(self) -> dict[int, str]:
        others = [rank for rank in range(self.size) if rank != self.rank]
        try:
            return {
                rank: self._store.get(f"rl-exp/word/{rank}").decode()
                for rank in others
                if self._store.check([f"rl-exp/word/{rank}"])
            }
        except RuntimeError:
            return {}

    def close(self) -> None:
        """See `Ranks`."""
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def join_ranks(device: str = "cpu") -> Ranks:
    """Join the process group of torchrun; one rank where there is no torchrun, or where it started one process.

    `device` is cpu, cuda or auto. Tensors on the CPU go by gloo, those on a GPU by NCCL, each rank's own GPU.
    """
    launched = launched_by_torchrun()
    if launched is None or launched.size == 1:
        return Ranks()
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(launched.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(iter(rendezvous("env://", timeout=TIMEOUT)))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    return TorchRanks(rank, size, store)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_lost_connection(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(text in str(error) for text in LOST_CONNECTION)
