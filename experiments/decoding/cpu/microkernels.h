// The two inner products of attention over one tile of cache rows, held in registers.
//
// Score kernel: `kRows` cache rows against a block of `block` query rows. A vector's lanes are (query row, d mod r),
// r = kWidth / block: queries are packed that way, r elements of a cache row are broadcast to all lanes, and the r
// partial sums of a score meet at the end. So every lane works whatever the group's size (a power of two), and each
// element of the cache is loaded once per block.
// Value kernel: `kM` query rows times `kN` vectors of a value, summed over the rows of the tile.
#pragma once

#include "vector.h"

// Cache rows of one score kernel: as many accumulators as the registers hold.
constexpr int kRows = kRegisters >= 32 ? 16 : 8;
// Of the one with two vectors of query rows: with sixteen registers twelve sums leave room for what they are made of.
constexpr int kDoubleRows = kRegisters >= 32 ? 8 : 6;
// Whether groups of less than 2 * kWidth query rows take `score_narrow`.
#if defined(__AVX__) && !defined(__AVX512F__)
constexpr bool kNarrow = true;
#else
constexpr bool kNarrow = false;
#endif
constexpr int kNarrowSums = 12;

#define KERNEL static __attribute__((noinline))  // inlined, kernels would fight their caller for registers

struct Segment {
  int64_t offset;  // in a tile row, for cached head 0
  int64_t head_stride;
  int64_t width;  // as used: padded to a multiple of kWidth
  int64_t query_width;  // true width in the query
};

// Sums the r = kWidth / kBlock partial sums of each score; writes scores[i * stride + m] for row i, query row m.
template <int kBlock, int kCount>
inline void store_scores(Vec (&sums)[kCount], float* scores, int64_t stride) {
  int vectors = kCount;
#pragma GCC unroll 8
  for (int parts = kWidth / kBlock; parts > 1; parts /= 2) {
    if (vectors > 1) {
      vectors /= 2;
#pragma GCC unroll 8
      for (int i = 0; i < vectors; ++i) sums[i] = add_neighbours(sums[2 * i], sums[2 * i + 1]);
    } else {
      sums[0] = add_neighbours(sums[0], sums[0]);
    }
  }
  constexpr int kPerVector = kWidth / kBlock < kCount ? kWidth / kBlock : kCount;
#pragma GCC unroll 16
  for (int i = 0; i < kCount / kPerVector; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kPerVector; ++j) store_part<kBlock>(scores + (i * kPerVector + j) * stride, sums[i], j);
  }
}

// What to ask memory for while the arithmetic runs: `kAhead` addresses per step of a kernel, `step` bytes apart. Asking
// at the pace of the arithmetic is what makes the two overlap: requests in a burst fill the core's miss buffers and
// stall it, and the hardware's own prefetcher only follows a steady stream.
struct Ahead {
  const char* at;
  int64_t step;

  // Kernels that do little arithmetic per cached byte must ask for more bytes per step.
  static constexpr int requests(int query_rows) { return query_rows == 1 ? 8 : query_rows <= 4 ? (kNarrow ? 1 : 4) : 1; }

  static constexpr int narrow_requests(int queries) { return queries == 1 ? 4 : 2; }

  template <int kAhead>
  inline __attribute__((always_inline)) void ask() {
#pragma GCC unroll 8
    for (int i = 0; i < kAhead; ++i) {
      __builtin_prefetch(at, 0, 3);
      at += step;
    }
  }
};

// Row i of a tile, from every fourth row's address and the stride: few enough address registers for the compiler.
template <int kCount, typename Element = float>
struct RowAddresses {
  const Element* fourth[(kCount + 3) / 4];
  int64_t stride, stride3;

  RowAddresses(const Element* tile, int64_t row_stride) : stride(row_stride), stride3(3 * row_stride) {
#pragma GCC unroll 4
    for (int i = 0; i < (kCount + 3) / 4; ++i) fourth[i] = tile + 4 * i * row_stride;
  }
  const Element* operator[](int i) const {
    const Element* row = fourth[i / 4];
    return i % 4 == 0 ? row : i % 4 == 1 ? row + stride : i % 4 == 2 ? row + 2 * stride : row + stride3;
  }
  void advance(int64_t elements) {
#pragma GCC unroll 4
    for (int i = 0; i < (kCount + 3) / 4; ++i) fourth[i] += elements;
  }
};

// kBlock <= kWidth query rows; `queries` as packed by pack_queries. Tile rows are `tile_stride` elements apart.
template <int kBlock>
KERNEL void score_block(const float* tile, int64_t tile_stride, const Segment* segments, int n_segments, int64_t head,
                        const float* queries, float* scores, int64_t stride, Ahead& ahead_of_all) {
  Ahead ahead = ahead_of_all;
  constexpr int kRepeat = kWidth / kBlock;
  Vec sums[kRows] = {};
  for (int s = 0; s < n_segments; ++s) {
    RowAddresses<kRows> rows(tile + segments[s].offset + head * segments[s].head_stride, tile_stride);
    for (int64_t steps = segments[s].width / kRepeat; steps > 0; --steps) {
      Vec q = load(queries);
      hold(q);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) sums[i] += q * load_repeated<kRepeat>(rows[i]);
      ahead.ask<Ahead::requests(kBlock)>();
      rows.advance(kRepeat);
      queries += kWidth;
    }
  }
  store_scores<kBlock>(sums, scores, stride);
  ahead_of_all = ahead;
}

// One query row per cached head (MHA): eight heads of one tile row at a time, so that rows are read from end to end.
// Queries are packed head by head; writes scores[h].
template <typename Element>
KERNEL void score_eight_heads(const Element* row, int64_t width, const float* queries, float* scores, Ahead& ahead_of_all) {
  Ahead ahead = ahead_of_all;
  Vec sums[8] = {};
  RowAddresses<8, Element> keys(row, width);
  RowAddresses<8> query(queries, width);
  for (int64_t steps = width / kWidth; steps > 0; --steps) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sums[i] += load(query[i]) * load(keys[i]);
    ahead.ask<Ahead::requests(1)>();
    keys.advance(kWidth);
    query.advance(kWidth);
  }
  store_scores<1>(sums, scores, 1);
  ahead_of_all = ahead;
}

#if defined(__AVX__) && !defined(__AVX512F__)
// kQueries <= 4 query rows times kCount tile rows at a time; lanes run along the row. With sixteen registers this takes
// fewer loads per multiply-add than broadcasts would, and any number of query rows fills its lanes. `queries` holds a
// vector of each query row side by side, then the next ones. Returns how many of `count` rows were done: the multiple
// of kCount in it.
template <int kQueries, int kCount, typename Element>
KERNEL int64_t score_narrow(const Element* tile, int64_t tile_stride, int64_t count, const Segment* segments,
                            int n_segments, int64_t head, const float* queries, float* scores, int64_t stride,
                            Ahead& ahead_of_all) {
  Ahead ahead = ahead_of_all;
  int64_t t = 0;
  for (; t + kCount <= count; t += kCount, tile += kCount * tile_stride, scores += kCount * stride) {
    Vec sums[kCount][kQueries] = {};
    const float* query = queries;
    for (int s = 0; s < n_segments; ++s) {
      RowAddresses<kCount, Element> rows(tile + segments[s].offset + head * segments[s].head_stride, tile_stride);
      for (int64_t steps = segments[s].width / kWidth; steps > 0; --steps) {
        // The fewer of the two stay in registers.
        constexpr bool kKeepQueries = kQueries <= kCount;
        constexpr int kKept = kKeepQueries ? kQueries : kCount, kOthers = kKeepQueries ? kCount : kQueries;
        Vec kept[kKept];
#pragma GCC unroll 8
        for (int i = 0; i < kKept; ++i) kept[i] = kKeepQueries ? load(query + i * kWidth) : load(rows[i]), hold(kept[i]);
        ahead.ask<Ahead::narrow_requests(kQueries)>();
#pragma GCC unroll 8
        for (int j = 0; j < kOthers; ++j) {
          Vec other = kKeepQueries ? load(rows[j]) : load(query + j * kWidth);
          hold(other);
#pragma GCC unroll 8
          for (int i = 0; i < kKept; ++i) sums[kKeepQueries ? j : i][kKeepQueries ? i : j] += kept[i] * other;
        }
        rows.advance(kWidth);
        query += kQueries * kWidth;
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      const Vec none = {};
      const __m128 row = sum_each(sums[i][0], kQueries > 1 ? sums[i][kQueries > 1 ? 1 : 0] : none,
                                  kQueries > 2 ? sums[i][kQueries > 2 ? 2 : 0] : none,
                                  kQueries > 3 ? sums[i][kQueries > 3 ? 3 : 0] : none);
      std::memcpy(scores + i * stride, &row, kQueries * sizeof(float));
    }
  }
  ahead_of_all = ahead;
  return t;
}
#endif

// 2 * kWidth query rows at a time: a cache element's broadcast serves two vectors.
template <int kTileRows>
KERNEL void score_double_block(const float* tile, int64_t tile_stride, const Segment* segments, int n_segments,
                               int64_t head, const float* queries, float* scores, int64_t stride,
                               Ahead& ahead_of_all) {
  Ahead ahead = ahead_of_all;
  Vec low[kTileRows] = {}, high[kTileRows] = {};
  for (int s = 0; s < n_segments; ++s) {
    RowAddresses<kTileRows> rows(tile + segments[s].offset + head * segments[s].head_stride, tile_stride);
    for (int64_t steps = segments[s].width; steps > 0; --steps) {
      Vec q_low = load(queries), q_high = load(queries + kWidth);
      hold(q_low), hold(q_high);
#pragma GCC unroll 16
      for (int i = 0; i < kTileRows; ++i) {
        Vec x = splat(*rows[i]);
        hold(x);
        low[i] += q_low * x;
        high[i] += q_high * x;
      }
      ahead.ask<1>();
      rows.advance(1);
      queries += 2 * kWidth;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) {
    store(scores + i * stride, low[i]);
    store(scores + i * stride + kWidth, high[i]);
  }
  ahead_of_all = ahead;
}

// outputs[m][n] = outputs[m][n] * decay[m] + sum over t of weights[t * stride + m] * values[t * tile_stride + n]
template <int kM, int kN, typename Element>
KERNEL void value_block(const Element* values, int64_t tile_stride, int64_t count, const float* weights, int64_t stride,
                        const float* decay, float* outputs, int64_t output_stride, Ahead& ahead_of_all) {
  Ahead ahead = ahead_of_all;
  Vec sums[kM][kN];
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < kN; ++n) sums[m][n] = load(outputs + m * output_stride + n * kWidth) * splat(decay[m]);
  for (int64_t t = 0; t < count; ++t, weights += stride, values += tile_stride) {
    Vec x[kN];
#pragma GCC unroll 8
    for (int n = 0; n < kN; ++n) x[n] = load(values + n * kWidth), hold(x[n]);
    ahead.ask<Ahead::requests(kM)>();
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
      Vec weight = splat(weights[m]);
      hold(weight);
#pragma GCC unroll 8
      for (int n = 0; n < kN; ++n) sums[m][n] += weight * x[n];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < kN; ++n) store(outputs + m * output_stride + n * kWidth, sums[m][n]);
  ahead_of_all = ahead;
}
