"""Block sizes and split counts: arithmetic, so that no triton and no GPU is needed."""

from dataclasses import replace

import pytest

from experiments.decoding.triton_blocks import (
    LARGEST_SPLITS,
    LEAST_ROWS,
    LEAST_TOKENS,
    TABLE,
    Blocks,
    Device,
    TileWidths,
    alternatives,
    candidates,
    padded,
    shared_memory,
    split_count,
    table_entry,
)

H100 = Device(capability=(9, 0), shared_bytes=227 * 1024, multiprocessors=132)
UNKNOWN = Device(capability=(7, 5), shared_bytes=64 * 1024, multiprocessors=40)
NEWER = Device(capability=(12, 0), shared_bytes=99 * 1024, multiprocessors=170)
MLA, GLA, GQA = TileWidths(512, 64, 0), TileWidths(256, 64, 0), TileWidths(128, 0, 128)


def test_padding_goes_to_the_next_power_of_two():
    assert [padded(n) for n in (0, 1, 2, 3, 16, 17, 320, 512, 576)] == [0, 1, 2, 4, 16, 32, 512, 512, 1024]


def test_every_entry_can_be_launched():
    for entries in TABLE.values():
        for (width, rows), blocks in entries.items():
            assert blocks.rows <= padded(rows)
            for number in (blocks.rows, blocks.tokens, blocks.warps):
                assert padded(number) == number
            assert blocks.rows >= LEAST_ROWS
            assert blocks.tokens >= LEAST_TOKENS
            assert blocks.rows * width <= 128 * 32 * blocks.warps, "the accumulator takes more than 128 registers"


@pytest.mark.parametrize("device", [H100, UNKNOWN, NEWER])
@pytest.mark.parametrize("widths", [MLA, GLA, GQA, TileWidths(16, 16, 0), TileWidths(1024, 128, 0)])
@pytest.mark.parametrize("query_rows", [1, 16, 48, 256])
@pytest.mark.parametrize("element_bytes", [2, 4])
def test_candidates_fit_the_device_and_shrink_to_the_smallest(device, widths, query_rows, element_bytes):
    blocks = list(candidates(device, widths, query_rows, element_bytes, page_size=None))
    sizes = [shared_memory(each, widths, element_bytes, device) for each in blocks]
    assert all(size <= device.shared_bytes for size in sizes[:-1])
    assert sizes == sorted(sizes, reverse=True)
    assert blocks[-1] == replace(blocks[-1], rows=LEAST_ROWS, tokens=LEAST_TOKENS, depth=0)


def test_the_papers_cells_get_the_tables_entry_on_an_h100():
    """An entry that has to be shrunk on the device it is meant for would be a wrong entry."""
    for widths, rows in [(MLA, 128), (MLA, 256), (GLA, 64), (GLA, 128), (GQA, 16), (GQA, 64)]:
        assert next(candidates(H100, widths, rows, 2, None)) == table_entry(H100, widths.state, rows)


def test_a_tile_is_not_larger_than_a_large_page():
    assert next(candidates(H100, GQA, 16, 2, page_size=32)).tokens == 32
    assert next(candidates(H100, GQA, 16, 2, page_size=1)).tokens == 64


def test_rows_are_not_padded_beyond_what_the_queries_need():
    assert next(candidates(H100, GLA, 20, 2, None)).rows == 32


def test_pipelining_counts_the_page_table_look_up_as_a_stage_of_its_own():
    blocks = Blocks(64, 64, 4, depth=2)
    assert blocks.pipeline_stages(looks_up_pages=False) == 3
    assert blocks.pipeline_stages(looks_up_pages=True) == 5


@pytest.mark.parametrize(
    ("widths", "blocks", "compiled"),
    [
        (MLA, Blocks(64, 32, 8, 1), 147_472),
        (GLA, Blocks(64, 64, 4, 1), 122_896),
        (GQA, Blocks(16, 64, 4, 1), 38_928),
        (GQA, Blocks(32, 64, 4, 1), 45_072),
        (TileWidths(128, 64, 0), Blocks(16, 64, 4, 1), 32_784),
        (TileWidths(128, 64, 0), Blocks(16, 128, 4, 1), 59_904),
    ],
)
def test_the_estimate_of_shared_memory_is_what_triton_compiles_for_hopper(widths, blocks, compiled):
    """Bytes that Triton 3.9 gave these kernels for sm_90, bf16, page sizes 64 and (the last) 1."""
    assert compiled <= shared_memory(blocks, widths, 2, H100) <= compiled + 2048


def test_alternatives_are_different_and_begin_with_the_entry():
    entry = Blocks(64, 64, 4, 2)
    others = alternatives(entry)
    assert others[0] == entry
    assert len(set(others)) == len(others)


def test_a_full_device_is_not_split_and_an_empty_one_is():
    assert split_count(programs=1024, tiles=1000, slots=132) == 1
    assert split_count(programs=132, tiles=1000, slots=132) == 1
    assert split_count(programs=1, tiles=1000, slots=132) > 100


def test_a_bad_last_wave_is_filled_by_splitting():
    """200 programs on 132 slots leave 64 of 264 places idle; in three parts 600 of 660 are busy."""
    assert split_count(programs=200, tiles=1000, slots=132) == 3


def test_splits_are_bounded_by_tiles_and_by_the_combine():
    assert split_count(programs=1, tiles=8, slots=132) == 4
    assert split_count(programs=1, tiles=1, slots=132) == 1
    assert split_count(programs=1, tiles=10**6, slots=10**4) <= LARGEST_SPLITS
    assert split_count(programs=0, tiles=0, slots=132) == 1
