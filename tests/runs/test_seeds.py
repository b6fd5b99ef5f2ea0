"""Named seed streams."""

from __future__ import annotations

import pytest
import torch

from experiments.runs.seeds import SeedStreams


def test_a_stream_depends_on_its_name_and_the_root_only():
    one, other = SeedStreams(7), SeedStreams(7)
    other.numpy("data").random(1000)  # drawing elsewhere moves nothing
    assert one.numpy("sampling").random() == other.numpy("sampling").random()
    assert one.numpy("sampling").random() != one.numpy("data").random()
    assert SeedStreams(8).integer("data") != one.integer("data")


def test_streams_are_the_same_on_every_machine_and_version():
    assert SeedStreams(0).integer("data") == 1631077074501914248


def test_no_global_random_state_is_touched():
    before = torch.get_rng_state()
    torch.rand(3, generator=SeedStreams(1).torch("data"))
    assert torch.equal(before, torch.get_rng_state())


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed=-1"):
        SeedStreams(-1)
