"""Predictions for devices that are not available: memory, largest batch, the floor of a step, crossover contexts.

Everything is closed form over `decoding.whole_model_cost` and a `Device`. A step's floor is the largest of what memory,
arithmetic and link need at the device's peaks, all overlapped; the tokens per second that follow are a ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from math import isclose
from typing import Any

from ..decoding.whole_model_cost import (
    Experts,
    Placement,
    StepCost,
    cache_bytes_per_token,
    device_weights,
    largest_batch,
    step_cost,
)
from ..models.shapes import ModelShape
from .ceilings import measure_ceilings
from .device_table import DEVICES, Device, physical_memory

Row = dict[str, Any]
Line = tuple[float, float]  # seconds at context 0, seconds per token of context
FAR = 1_000_000  # tokens of context between the two points that give a line


@dataclass(frozen=True, kw_only=True)
class PlanSetting:
    """One cell: `batch` sequences of `context` tokens, of which a step adds `query_length` each."""

    mechanism: str
    tensor_parallel: int
    context: int
    batch: int
    query_length: int


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What the cells share: the device, how elements are stored, how many devices serve together.

    `devices` None: as many as `tensor_parallel`; else what is over holds copies of the attention (data parallel).
    """

    device: Device
    weights: str
    weight_bytes: int
    cache: str
    cache_bytes: int
    devices: int | None = None
    memory_share: float = 1.0
    experts: Experts | None = None

    @property
    def memory(self) -> float:
        """Bytes of a device for weights and cache."""
        return self.memory_share * self.device.memory_bytes

    def placement(self, tensor_parallel: int) -> Placement:
        """How a model lies on the devices."""
        return Placement(
            tensor_parallel=tensor_parallel,
            data_parallel=(self.devices or tensor_parallel) // tensor_parallel,
            weight_bytes=self.weight_bytes,
            cache_bytes=self.cache_bytes,
        )

    def seconds(self, cost: StepCost) -> dict[str, float]:
        """The least time of each resource."""
        peaks = self.device.flops_per_second
        return cost.seconds(
            self.device.bytes_per_second, peaks[self.weights], peaks[self.cache], self.device.link_bytes_per_second
        )

    def step(self, model: ModelShape, setting: PlanSetting, *, batch: int, context: int) -> StepCost:
        """The cost of a step on the fullest device."""
        return step_cost(
            model,
            batch,
            context,
            self.placement(setting.tensor_parallel),
            experts=self.experts,
            query_length=setting.query_length,
        )


def planned_device(name: str) -> tuple[Device, list[Row]]:
    """The device of that name, and the ceilings that were measured for it: none but for `cpu`, this machine."""
    if name != "cpu":
        return DEVICES[name], []
    memory = physical_memory()
    if memory is None:
        raise RuntimeError("this system does not say how much memory it has: plan for another plan.device")
    ceilings = measure_ceilings()
    device = Device(
        name="cpu",
        memory_bytes=memory,
        bytes_per_second=ceilings.memory_read_bytes,
        flops_per_second={"fp32": ceilings.fp32_flops, "bf16": ceilings.fp32_flops},  # bf16 is only stored
        link_bytes_per_second=None,
        source=f"this machine, measured in this run with {ceilings.threads} threads: "
        f"{ceilings.memory_read_bytes / 1e9:.1f} GB/s, {ceilings.fp32_flops / 1e9:.0f} GFLOP/s",
    )
    return device, [asdict(ceilings)]


def predict(settings: Sequence[PlanSetting], shapes: Mapping[str, ModelShape], serving: Serving) -> list[Row]:
    """A row for every setting. `status`: predicted; does not fit; skipped, where heads do not split."""
    return [_row(setting, shapes[setting.mechanism], serving) for setting in settings]


def _row(setting: PlanSetting, model: ModelShape, serving: Serving) -> Row:
    placement = serving.placement(setting.tensor_parallel)
    row: Row = {
        "mechanism": setting.mechanism,
        "device": serving.device.name,
        "devices": placement.devices,
        "tensor_parallel": setting.tensor_parallel,
        "data_parallel": placement.data_parallel,
        "weights": serving.weights,
        "cache": serving.cache,
        "context": setting.context,
        "batch": setting.batch,
        "query_length": setting.query_length,
    }
    if problem := _impossible(model, placement, serving):
        return row | {"status": "skipped", "reason": problem}
    weights = placement.weight_bytes * device_weights(model, placement, serving.experts).total
    per_token = cache_bytes_per_token(model, placement)
    largest = largest_batch(model, setting.context, placement, serving.memory, experts=serving.experts)
    cost = serving.step(model, setting, batch=setting.batch, context=setting.context)
    times = serving.seconds(cost)
    floor = max(times.values())
    row |= {
        "parameters": device_weights(model, Placement(), serving.experts).total,
        "weight_bytes_per_device": weights,
        "cache_bytes_per_token": per_token,
        "room_bytes": int(serving.memory - weights),
        "largest_batch": largest,
        "cache_equals_weights_context": int(cost.weight_bytes * setting.context / cost.cache_bytes),
    }
    if largest:
        full = serving.seconds(serving.step(model, setting, batch=largest, context=setting.context))
        row["tokens_per_second_ceiling_at_largest"] = largest * setting.query_length / max(full.values())
    if setting.batch > largest:
        needed = weights + per_token * setting.context * -(-setting.batch // placement.data_parallel)
        what = "the weights alone need" if weights > serving.memory else "weights and cache need"
        amount = weights if weights > serving.memory else needed
        reason = f"{what} {amount / 1e9:,.1f} of {serving.memory / 1e9:,.1f} GB a device"
        return row | {"status": "does not fit", "reason": reason}
    return row | {
        "status": "predicted",
        "bytes": cost.bytes,
        "flops": cost.flops,
        **{f"{name}_seconds": value for name, value in times.items()},
        "floor_seconds": floor,
        "bound": max(times, key=lambda name: times[name]),
        "tokens_per_second_ceiling": setting.batch * setting.query_length / floor,
    }


def _impossible(model: ModelShape, placement: Placement, serving: Serving) -> str | None:
    if placement.devices > 1 and serving.device.link_bytes_per_second is None:
        return f"nothing is known of a link between several {serving.device.name}: use one device"
    try:
        device_weights(model, placement, serving.experts)
    except ValueError as error:
        return str(error)
    return None


def crossovers(settings: Sequence[PlanSetting], shapes: Mapping[str, ModelShape], serving: Serving) -> list[Row]:
    """For every two mechanisms on the same devices: the context from which the first has the lower floor, for good.

    `faster_from` is None where it never has. Memory is not asked: a batch may not fit at that context.
    """
    rows = []
    cells = dict.fromkeys((s.tensor_parallel, s.batch, s.query_length) for s in settings)
    for tensor_parallel, batch, query_length in cells:
        placement = serving.placement(tensor_parallel)
        possible = [name for name, model in shapes.items() if not _impossible(model, placement, serving)]
        lines = {}
        for name in possible:
            setting = PlanSetting(
                mechanism=name, tensor_parallel=tensor_parallel, context=FAR, batch=batch, query_length=query_length
            )
            near, far = (
                serving.seconds(serving.step(shapes[name], setting, batch=batch, context=context))
                for context in (query_length, query_length + FAR)
            )
            slopes = {part: (far[part] - near[part]) / FAR for part in near}
            lines[name] = [(near[part] - slopes[part] * query_length, slopes[part]) for part in near]
        rows += [
            {
                "devices": placement.devices,
                "tensor_parallel": tensor_parallel,
                "batch": batch,
                "query_length": query_length,
                "first": first,
                "second": second,
                "faster_from": faster_from(lines[first], lines[second], query_length),
            }
            for first, second in permutations(possible, 2)
        ]
    return rows


def faster_from(first: Sequence[Line], second: Sequence[Line], shortest: int) -> float | None:
    """The context from which the maximum of `first` stays below that of `second`; None if it does not in the end."""

    def is_below(context: float) -> bool:
        return max(a + b * context for a, b in first) < max(a + b * context for a, b in second)

    meetings = {float(shortest)}
    for a, b in first:
        for c, d in second:
            if not isclose(b, d, rel_tol=1e-9) and (c - a) / (b - d) > shortest:
                meetings.add((c - a) / (b - d))
    ordered = sorted(meetings)
    if not is_below(2 * ordered[-1] + 1):
        return None
    start = ordered[-1]
    for left, right in zip(ordered[-2::-1], ordered[:0:-1], strict=True):
        if not is_below((left + right) / 2):
            break
        start = left
    return start
