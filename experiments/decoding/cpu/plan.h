// One call of the kernel: what it is asked, and the numbers derived from that.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "microkernels.h"

extern "C" {

enum ElementType : int64_t { kFp32, kBf16, kFp16 };

// One call; mirrored field by field by the Python side. Tensors are contiguous.
struct Problem {
  int64_t batch, query_length, query_heads, cached_heads;
  int64_t n_states, state_heads[2], state_dims[2];
  int64_t n_segments, segment_states[2], segment_widths[2], value_state;
  int64_t pages, page_size, pages_per_sequence;
  int64_t element_type, threads;
  const void* storage;        // [pages, page_size, row elements]
  const int32_t* page_table;  // [batch, pages_per_sequence]
  const int32_t* lengths;     // [batch]
  const float* queries;       // [batch, query_length, query_heads, key dim]
  float* outputs;             // [batch, query_length, query_heads, value dim]
  double softmax_scale;
};
}

namespace {

constexpr float kFloor = -std::numeric_limits<float>::max();  // a running maximum that has seen nothing
// Of fp32 rows. With few query rows memory is the limit, and a tile that stays in the first-level cache is best; with
// many it is arithmetic, and the more rows a visit to the queries and sums serves, the better (measured: 1.4 times).
constexpr int64_t kTileBytes = 32 * 1024, kWideTileBytes = kNarrow ? 192 * 1024 : kTileBytes;
constexpr int64_t kMaxTileRows = 64, kMaxWideTileRows = kNarrow ? 96 : kMaxTileRows;
constexpr int64_t kValueParts = 4;  // rows of a part of a tile where values are used once
constexpr int64_t kValueRows = 6;   // the largest block of the value kernel
constexpr int64_t kMostWidened = 4;  // query rows per cached head up to which widening twice is cheaper than a copy
constexpr float kHidden = -std::numeric_limits<float>::infinity();

int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

// The numbers that every chunk needs, derived once per call.
struct Plan {
  const Problem& problem;
  int64_t group_rows;     // query rows per cached head
  int64_t rows;           // query rows of all cached heads, padded to whole vectors
  int64_t key_dim;        // of a query
  int64_t value_dim;      // of an output
  int64_t padded_value;   // value_dim in whole vectors
  int64_t row_elements;   // of the cache
  int64_t row_bytes;
  bool unpadded;  // every state and segment is whole vectors: a tile row looks like a cache row
  bool by_row;    // one query row per cached head, eight heads at a time
  bool direct;    // and fp32, or bf16 that is widened as often as it is used: tiles need no copy (fp16 has one)
  int64_t tile_elements;  // of a tile row
  int64_t tile_rows;
  Segment segments[2];
  int64_t packed_row;     // elements of one packed query row
  int64_t value_offset, value_stride;
  int64_t state_tile_dims[2];

  explicit Plan(const Problem& p) : problem(p) {
    group_rows = p.query_heads / p.cached_heads * p.query_length;
    rows = round_up(p.query_heads * p.query_length, kWidth);
    row_elements = tile_elements = 0;
    unpadded = true;
    for (int64_t s = 0; s < p.n_states; ++s) {
      row_elements += p.state_heads[s] * p.state_dims[s];
      unpadded = unpadded && p.state_dims[s] % kWidth == 0;
    }
    for (int64_t i = 0; i < p.n_segments; ++i) unpadded = unpadded && p.segment_widths[i] % kWidth == 0;
    row_bytes = row_elements * (p.element_type == kFp32 ? 4 : 2);
    int64_t offsets[2] = {0, 0};
    for (int64_t s = 0; s < p.n_states; ++s) {
      state_tile_dims[s] = unpadded ? p.state_dims[s] : round_up(p.state_dims[s], kWidth);
      offsets[s] = tile_elements;
      tile_elements += p.state_heads[s] * state_tile_dims[s];
    }
    key_dim = packed_row = 0;
    for (int64_t i = 0; i < p.n_segments; ++i) {
      const int64_t s = p.segment_states[i], width = p.segment_widths[i];
      segments[i] = {offsets[s], p.state_heads[s] == 1 ? 0 : state_tile_dims[s], round_up(width, kWidth), width};
      key_dim += width;
      packed_row += segments[i].width;
    }
    by_row = group_rows == 1 && p.n_segments == 1 && p.cached_heads % 8 == 0 && segments[0].head_stride == packed_row;
    direct = unpadded && (p.element_type == kFp32 ||
                          (p.element_type == kBf16 && kNarrow && group_rows <= kMostWidened));
    value_dim = p.state_dims[p.value_state];
    padded_value = round_up(value_dim, kWidth);
    value_offset = offsets[p.value_state];
    value_stride = state_tile_dims[p.value_state];
    const bool wide = group_rows >= 2 * kWidth;
    const int64_t unit = by_row ? kValueParts : kNarrow ? 24 : kRows;  // 24: threes, fours, sixes and eights fit
    tile_rows = std::clamp((wide ? kWideTileBytes : kTileBytes) / (tile_elements * 4) / unit * unit, unit,
                           wide ? kMaxWideTileRows : kMaxTileRows / unit * unit);
  }

  // Tokens per chunk of a sequence: about 16 chunks, within bounds that keep merging and idle threads cheap.
  static int64_t chunk_tokens(int64_t length) {
    int64_t tokens = 128;
    while (tokens < 1024 && tokens * 16 < length) tokens *= 2;
    return tokens;
  }
};

struct Chunk {
  int64_t sequence, begin, end;
  bool whole;  // the sequence's only chunk
};

// Query blocks of the score kernel, widest first: powers of two, or where kNarrow 2 * kWidth, then at most four.
int64_t next_block(int64_t rows_left) {
  if (kNarrow && rows_left < 2 * kWidth) return rows_left <= 3 ? rows_left : rows_left <= 6 && rows_left != 4 ? 3 : 4;
  int64_t block = 2 * kWidth;
  while (block > rows_left) block /= 2;
  return block;
}

// Neighbouring elements of a query row in one vector of packed queries.
int64_t packed_repeat(int64_t block) { return kNarrow && block < 2 * kWidth ? kWidth : std::max<int64_t>(1, kWidth / block); }

}  // namespace
