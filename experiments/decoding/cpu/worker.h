// What one thread does with a chunk of a sequence, tile by tile; see decode_attention.cpp for the whole.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "plan.h"

namespace {

class Worker {
 public:
  explicit Worker(const Plan& plan) : plan_(plan), p_(plan.problem) {
    const int64_t sizes[] = {plan.packed_row * plan.group_rows * p_.cached_heads,
                             plan.tile_rows * plan.rows,
                             p_.query_heads * p_.query_length * plan.padded_value,
                             3 * plan.rows,
                             plan.tile_rows * plan.tile_elements};
    int64_t total = 0;
    for (const int64_t size : sizes) total += round_up(size, 64);
    static thread_local std::vector<float> memory;  // kept between calls: a step allocates nothing
    if (static_cast<int64_t>(memory.size()) < total + 16) memory.resize(total + 16);
    float* next = reinterpret_cast<float*>(round_up(reinterpret_cast<int64_t>(memory.data()), 64));
    float** parts[] = {&queries_, &scores_, &sums_, &maxima_, &copy_};
    for (int i = 0; i < 5; ++i) {
      *parts[i] = next;
      next += round_up(sizes[i], 64);
    }
    weights_ = maxima_ + plan.rows;
    decay_ = weights_ + plan.rows;
  }

  // `following` is the chunk after this one, if any: its first tile is fetched during this one's last.
  void run(const Chunk& chunk, const Chunk* following) {
    if (chunk.sequence != packed_sequence_) pack_queries(chunk.sequence);
    std::fill_n(sums_, p_.query_heads * p_.query_length * plan_.padded_value, 0.0f);
    std::fill_n(maxima_, plan_.rows, kFloor);
    std::fill_n(weights_, plan_.rows, 0.0f);
    Tile next = tile_at(chunk, chunk.begin);
    while (next.count > 0) {
      const Tile tile = next;
      next = tile_at(chunk, tile.begin + tile.count);
      start_prefetch(next.count > 0 || !following ? next : tile_at(*following, following->begin), tile.count);
      prepare_tile(tile);
      score_tile(tile.count);
      hide_future(tile, p_.lengths[chunk.sequence]);
      weigh_tile(tile.count);
      add_values(tile.count);
    }
  }

  void write_output(int64_t sequence) const { write(sequence, sums_, weights_); }

  // sums [query row][padded value], then maxima [rows], then weights [rows].
  void write_partial(float* partial) const {
    const int64_t n = p_.query_heads * p_.query_length * plan_.padded_value;
    std::copy_n(sums_, n, partial);
    std::copy_n(maxima_, 2 * plan_.rows, partial + n);
  }

  void merge(int64_t sequence, const float* partials, int64_t count, int64_t partial_size) {
    const int64_t n_rows = p_.query_heads * p_.query_length, n = n_rows * plan_.padded_value;
    std::copy_n(partials, n, sums_);
    std::copy_n(partials + n, 2 * plan_.rows, maxima_);
    for (int64_t c = 1; c < count; ++c) {
      const float* part = partials + c * partial_size;
      for (int64_t r = 0; r < plan_.rows; r += kWidth) {
        const Vec old = load(maxima_ + r), other = load(part + n + r), top = maximum(old, other);
        const Vec keep = exp2_nonpositive(old - top), add = exp2_nonpositive(other - top);
        store(maxima_ + r, top);
        store(weights_ + r, load(weights_ + r) * keep + load(part + n + plan_.rows + r) * add);
        store(decay_ + r, keep);
        store(scores_ + r, add);
      }
      for (int64_t r = 0; r < n_rows; ++r) {
        const Vec keep = splat(decay_[r]), add = splat(scores_[r]);
        float* sum = sums_ + r * plan_.padded_value;
        const float* other = part + r * plan_.padded_value;
        for (int64_t d = 0; d < plan_.padded_value; d += kWidth)
          store(sum + d, load(sum + d) * keep + load(other + d) * add);
      }
    }
    write_output(sequence);
  }

 private:
  // `count` tokens from `begin`; contiguous rows at `rows`, or, where rows is null, scattered over pages.
  struct Tile {
    int64_t sequence, begin, count;
    const char* rows;
  };

  const Plan& plan_;
  const Problem& p_;
  float *queries_, *scores_, *sums_, *maxima_, *weights_, *decay_, *copy_;
  int64_t packed_sequence_ = -1;
  const void* tile_;      // this tile's rows: of the cache, or a copy as fp32, padded to whole vectors
  bool tile_is_bf16_;
  int64_t tile_stride_;   // elements from row to row
  int64_t requests_count_ = -1, requests_;  // what requests() found last
  Ahead ahead_;           // what of the next tile to ask for

  const char* row_at(int64_t sequence, int64_t token) const {
    const int64_t page = p_.page_table[sequence * p_.pages_per_sequence + token / p_.page_size];
    return static_cast<const char*>(p_.storage) + (page * p_.page_size + token % p_.page_size) * plan_.row_bytes;
  }

  // Tiles end with their page, so that rows lie together, unless pages are too small for that.
  Tile tile_at(const Chunk& chunk, int64_t begin) const {
    const int64_t left = std::min(plan_.tile_rows, chunk.end - begin);
    if (left <= 0) return {chunk.sequence, begin, 0, nullptr};
    if (p_.page_size < kRows) return {chunk.sequence, begin, left, nullptr};
    return {chunk.sequence, begin, std::min(left, p_.page_size - begin % p_.page_size), row_at(chunk.sequence, begin)};
  }

  // Queries times scale times log2(e), in the order in which the score kernel meets them.
  void pack_queries(int64_t sequence) {
    packed_sequence_ = sequence;
    const int64_t group = p_.query_heads / p_.cached_heads;
    const float scale = static_cast<float>(p_.softmax_scale * 1.4426950408889634);
    const float* queries = p_.queries + sequence * p_.query_length * p_.query_heads * plan_.key_dim;
    float* packed = queries_;
    for (int64_t g = 0; g < p_.cached_heads; ++g)
      for (int64_t start = 0, block; start < plan_.group_rows; start += block) {
        block = next_block(plan_.group_rows - start);
        const int64_t repeat = packed_repeat(block);
        for (int64_t m = start; m < start + block; ++m) {
          const float* query = queries + (m / group * p_.query_heads + g * group + m % group) * plan_.key_dim;
          float* out = packed + (m - start) * repeat;
          for (int64_t s = 0; s < p_.n_segments; query += plan_.segments[s++].query_width)
            for (int64_t d = 0; d < plan_.segments[s].width; d += repeat, out += block * repeat)
              for (int64_t i = 0; i < repeat; ++i)
                out[i] = d + i < plan_.segments[s].query_width ? query[d + i] * scale : 0.0f;
        }
        packed += block * plan_.packed_row;
      }
  }

  void prepare_tile(const Tile& tile) {
    const bool any_count = plan_.by_row || (kNarrow && plan_.group_rows < 2 * kWidth);
    tile_is_bf16_ = false;
    if (plan_.direct && tile.rows && (any_count || tile.count % kRows == 0)) {
      tile_ = tile.rows;
      tile_is_bf16_ = p_.element_type == kBf16;
      tile_stride_ = plan_.row_elements;
      return;
    }
    for (int64_t t = 0; t < tile.count; ++t) {
      const char* row = tile.rows ? tile.rows + t * plan_.row_bytes : row_at(tile.sequence, tile.begin + t);
      float* out = copy_ + t * plan_.tile_elements;
      if (plan_.unpadded) {
        widen(row, 0, plan_.row_elements, out);
        continue;
      }
      int64_t element = 0;
      for (int64_t s = 0; s < p_.n_states; ++s)
        for (int64_t h = 0; h < p_.state_heads[s]; ++h) {
          widen(row, element, p_.state_dims[s], out);
          element += p_.state_dims[s];
          out += plan_.state_tile_dims[s];
        }
    }
    tile_ = copy_;
    tile_stride_ = plan_.tile_elements;
  }

  void widen(const char* row, int64_t element, int64_t dim, float* out) const {
    int64_t d = 0;
    const uint16_t* in = reinterpret_cast<const uint16_t*>(row) + element;
    if (p_.element_type == kFp16) {
      for (; d + kWidth <= dim; d += kWidth) store(out + d, load_fp16(in + d));
      if (d < dim) {
        uint16_t rest[kWidth] = {};
        std::copy_n(in + d, dim - d, rest);
        store(out + d, load_fp16(rest));  // a tile row is padded to whole vectors, with zeros
      }
      return;
    }
    if (p_.element_type == kBf16) {
      for (; d + kWidth <= dim; d += kWidth) store(out + d, load_bf16(in + d));
      for (; d < dim; ++d) {
        const uint32_t bits = static_cast<uint32_t>(in[d]) << 16;
        std::memcpy(out + d, &bits, 4);
      }
    } else {
      std::copy_n(reinterpret_cast<const float*>(row) + element, dim, out);
      d = dim;
    }
    for (; d % kWidth; ++d) out[d] = 0.0f;
  }

  // While this tile is worked on, the kernels ask for the next one, evenly. Rows scattered over pages are asked for
  // at once.
  void start_prefetch(const Tile& next, int64_t count) {
    if (next.count > 0 && next.rows) {
      ahead_ = {next.rows, std::min<int64_t>(64, next.count * plan_.row_bytes / requests(count) + 1)};
      return;
    }
    ahead_ = {reinterpret_cast<const char*>(queries_), 0};
    for (int64_t t = 0; t < next.count; ++t) {
      const char* row = row_at(next.sequence, next.begin + t);
      for (int64_t byte = 0; byte < plan_.row_bytes + 63; byte += 64) __builtin_prefetch(row + byte, 0, 3);
    }
  }

  // How often the kernels will ask during a tile of `count` rows.
  int64_t requests(int64_t count) {
    if (count == requests_count_) return requests_;
    int64_t total = 0;
    if (plan_.by_row) total = count * plan_.packed_row / kWidth * Ahead::requests(1) / 8;
    for (int64_t start = plan_.by_row ? plan_.group_rows : 0, block; start < plan_.group_rows; start += block) {
      block = next_block(plan_.group_rows - start);
      const bool narrow = kNarrow && block < 2 * kWidth;
      const int64_t rows = block > kWidth ? kDoubleRows : narrow ? kNarrowSums / std::max<int64_t>(block, 2) : kRows;
      const int64_t calls = (count + rows - 1) / rows;
      const int n = static_cast<int>(block);
      total += calls * plan_.packed_row / packed_repeat(block) * (narrow ? Ahead::narrow_requests(n) : Ahead::requests(n));
    }
    for_value_blocks([&](int64_t, int64_t m) {
      for_value_vectors([&](int64_t, int64_t) { total += count * Ahead::requests(static_cast<int>(m)); });
    });
    requests_count_ = count;
    return requests_ = std::max<int64_t>(1, total * p_.cached_heads);
  }

  // Rows past `count`, up to the kernel's block, hold an earlier tile's values: scored, and never looked at.
  void score_tile(int64_t count) {
    if (tile_is_bf16_) return score_tile(count, static_cast<const uint16_t*>(tile_));
    score_tile(count, static_cast<const float*>(tile_));
  }

  template <typename Element>
  void score_tile(int64_t count, const Element* tile) {
    if (plan_.by_row) {
      const int64_t width = plan_.packed_row;
      for (int64_t t = 0; t < count; ++t)
        for (int64_t g = 0; g < p_.cached_heads; g += 8)
          score_eight_heads(tile + t * tile_stride_ + plan_.segments[0].offset + g * width, width, queries_ + g * width,
                            scores_ + t * plan_.rows + g, ahead_);
      return;
    }
    const float* queries = queries_;
    for (int64_t g = 0; g < p_.cached_heads; ++g) {
      for (int64_t start = 0, block; start < plan_.group_rows; start += block) {
        block = next_block(plan_.group_rows - start);
        float* scores = scores_ + g * plan_.group_rows + start;
        if (block <= kWidth) {
          score_single_rows(block, count, tile, g, queries, scores);
        } else if constexpr (std::is_same_v<Element, float>) {
          score_double_rows(round_up(count, kRows), tile, g, queries, scores);
        }
        queries += block * plan_.packed_row;
      }
    }
  }

  // `count` is a multiple of kRows, so even: what sixes leave over are fours and twos.
  void score_double_rows(int64_t count, const float* tile, int64_t g, const float* queries, float* scores) {
    int64_t t = 0;
    for (; t + kDoubleRows <= count; t += kDoubleRows) score_double<kDoubleRows>(t, tile, g, queries, scores);
    for (; t + 4 <= count; t += 4) score_double<4>(t, tile, g, queries, scores);
    for (; t < count; t += 2) score_double<2>(t, tile, g, queries, scores);
  }

  template <int kCount>
  void score_double(int64_t t, const float* tile, int64_t g, const float* queries, float* scores) {
    score_double_block<kCount>(tile + t * tile_stride_, tile_stride_, plan_.segments, n_segments(), g, queries,
                               scores + t * plan_.rows, plan_.rows, ahead_);
  }

  template <typename Element>
  void score_single_rows(int64_t block, int64_t count, const Element* tile, int64_t g, const float* queries, float* scores) {
#if defined(__AVX__) && !defined(__AVX512F__)
    switch (block) {
      case 1: return score_narrow_rows<1>(count, tile, g, queries, scores);
      case 2: return score_narrow_rows<2>(count, tile, g, queries, scores);
      case 3: return score_narrow_rows<3>(count, tile, g, queries, scores);
      default: return score_narrow_rows<4>(count, tile, g, queries, scores);
    }
#else
    if constexpr (std::is_same_v<Element, float>) switch (block) {  // bf16 comes as a widened copy
      case 1: return score_single<1>(count, tile, g, queries, scores);
      case 2: return score_single<2>(count, tile, g, queries, scores);
      case 4: return score_single<4>(count, tile, g, queries, scores);
#if defined(__AVX512F__)
      case 8: return score_single<8>(count, tile, g, queries, scores);
      case 16: return score_single<16>(count, tile, g, queries, scores);
#endif
    }
#endif
  }

#if defined(__AVX__) && !defined(__AVX512F__)
  template <int kQueries, typename Element>
  void score_narrow_rows(int64_t count, const Element* tile, int64_t g, const float* queries, float* scores) {
    constexpr int kCount = kNarrowSums / (kQueries > 2 ? kQueries : 2);
    const int64_t done = score_narrow<kQueries, kCount>(tile, tile_stride_, count, plan_.segments, n_segments(), g,
                                                        queries, scores, plan_.rows, ahead_);
    if (done < count)
      score_narrow<kQueries, 1>(tile + done * tile_stride_, tile_stride_, count - done, plan_.segments, n_segments(), g,
                                queries, scores + done * plan_.rows, plan_.rows, ahead_);
  }
#else
  template <int kBlock>
  void score_single(int64_t count, const float* tile, int64_t g, const float* queries, float* scores) {
    for (int64_t t = 0; t < count; t += kRows)
      score_block<kBlock>(tile + t * tile_stride_, tile_stride_, plan_.segments, n_segments(), g, queries,
                          scores + t * plan_.rows, plan_.rows, ahead_);
  }
#endif

  int n_segments() const { return static_cast<int>(p_.n_segments); }

  // Query token t of a sequence of length n sits at n - query_length + t and sees nothing behind itself.
  void hide_future(const Tile& tile, int64_t length) {
    const int64_t begin = tile.begin, count = tile.count, group = p_.query_heads / p_.cached_heads, first_query = length - p_.query_length;
    for (int64_t t = std::max<int64_t>(0, first_query + 1 - begin); t < count; ++t)
      for (int64_t g = 0; g < p_.cached_heads; ++g)
        for (int64_t m = 0; m < plan_.group_rows; ++m)
          if (begin + t > first_query + m / group) scores_[t * plan_.rows + g * plan_.group_rows + m] = kHidden;
  }

  // Scores become weights 2^(score - running maximum); the maximum and the sum of weights move on.
  void weigh_tile(int64_t count) {
    const int64_t stride = plan_.rows;
    for (int64_t r = 0; r < plan_.rows; r += kWidth) {
      float* scores = scores_ + r;
      const Vec old = load(maxima_ + r);
      Vec tops[4] = {old, old, old, old};  // several at once: one alone would wait for itself
      int64_t t = 0;
      for (; t + 4 <= count; t += 4)
        for (int i = 0; i < 4; ++i) tops[i] = maximum(load(scores + (t + i) * stride), tops[i]);
      for (; t < count; ++t) tops[0] = maximum(load(scores + t * stride), tops[0]);
      const Vec top = maximum(maximum(tops[0], tops[1]), maximum(tops[2], tops[3]));
      const Vec decay = exp2_nonpositive(old - top);
      Vec sums[2] = {load(weights_ + r) * decay, {}};
      for (t = 0; t + 2 <= count; t += 2)
        for (int i = 0; i < 2; ++i) {
          const Vec weight = exp2_nonpositive(load(scores + (t + i) * stride) - top);
          store(scores + (t + i) * stride, weight);
          sums[i] += weight;
        }
      if (t < count) {
        const Vec weight = exp2_nonpositive(load(scores + t * stride) - top);
        store(scores + t * stride, weight);
        sums[0] += weight;
      }
      store(maxima_ + r, top);
      store(weights_ + r, sums[0] + sums[1]);
      store(decay_ + r, decay);
    }
  }

  // The group's rows in blocks of nearly equal size, as many as the value kernel takes: (first row, rows).
  template <typename Visit>
  void for_value_blocks(Visit visit) const {
    int64_t left = plan_.group_rows, row = 0;
    for (int64_t blocks = (left + kValueRows - 1) / kValueRows; blocks > 0; --blocks) {
      int64_t m = kValueRows;
      while (m * blocks >= left + blocks) --m;
      visit(row, m);
      row += m;
      left -= m;
    }
  }

  // A value's vectors in blocks that fit the registers: (first element, vectors).
  template <typename Visit>
  void for_value_vectors(Visit visit) const {
    const int64_t blocks = (plan_.group_rows + kValueRows - 1) / kValueRows;
    const int64_t m = (plan_.group_rows + blocks - 1) / blocks;  // query rows of the largest block
    int64_t most = kRegisters >= 32 || m <= 3 ? 4 : m == 4 ? 3 : 2;
    // A row of MHA as it lies in memory: short blocks, so that memory is asked more often (measured: 15 % faster).
    if (plan_.by_row) most = plan_.direct && p_.element_type == kFp32 ? 2 : 4;
    for (int64_t d = 0, vectors; d < plan_.padded_value; d += vectors * kWidth) {
      const int64_t left = (plan_.padded_value - d) / kWidth;
      vectors = most == 3 && left == 4 ? 2 : left >= most ? most : left >= 2 ? 2 : 1;  // 4 as 2 + 2, not 3 + 1
      visit(d, vectors);
    }
  }

  void add_values(int64_t count) {
    // Without groups a value is used once: few rows at a time, so that they too are read nearly from end to end.
    const int64_t part = plan_.by_row ? kValueParts : count;
    for (int64_t t = 0; t < count; t += part) {
      if (t > 0) std::fill_n(decay_, plan_.rows, 1.0f);
      add_values(t, std::min(part, count - t));
    }
  }

  void add_values(int64_t t, int64_t count) {
    if (tile_is_bf16_) return add_values(t, count, static_cast<const uint16_t*>(tile_));
    add_values(t, count, static_cast<const float*>(tile_));
  }

  template <typename Element>
  void add_values(int64_t t, int64_t count, const Element* tile) {
    for (int64_t g = 0; g < p_.cached_heads; ++g) {
      const Element* values = tile + t * tile_stride_ + plan_.value_offset + g * plan_.value_stride;
      for_value_vectors([&](int64_t d, int64_t vectors) {
        for_value_blocks([&](int64_t first, int64_t m) {
          const int64_t row = g * plan_.group_rows + first;
          value_rows(m, vectors, count, values + d, scores_ + t * plan_.rows + row, decay_ + row, sums_ + row * plan_.padded_value + d);
        });
      });
    }
  }

  template <int kM, typename Element>
  void value_rows_of(int64_t vectors, int64_t count, const Element* values, const float* weights, const float* decay,
                     float* sums) {
    const int64_t stride = plan_.rows, output_stride = plan_.padded_value;
    if (vectors == 4) return value_block<kM, 4>(values, tile_stride_, count, weights, stride, decay, sums, output_stride, ahead_);
    if constexpr (kM == 4)
      if (vectors == 3) return value_block<kM, 3>(values, tile_stride_, count, weights, stride, decay, sums, output_stride, ahead_);
    if (vectors == 2) return value_block<kM, 2>(values, tile_stride_, count, weights, stride, decay, sums, output_stride, ahead_);
    value_block<kM, 1>(values, tile_stride_, count, weights, stride, decay, sums, output_stride, ahead_);
  }

  template <typename Element>
  void value_rows(int64_t m, int64_t vectors, int64_t count, const Element* values, const float* weights,
                  const float* decay, float* sums) {
    switch (m) {
      case 1: return value_rows_of<1>(vectors, count, values, weights, decay, sums);
      case 2: return value_rows_of<2>(vectors, count, values, weights, decay, sums);
      case 3: return value_rows_of<3>(vectors, count, values, weights, decay, sums);
      case 4: return value_rows_of<4>(vectors, count, values, weights, decay, sums);
      case 5: return value_rows_of<5>(vectors, count, values, weights, decay, sums);
      default: return value_rows_of<6>(vectors, count, values, weights, decay, sums);
    }
  }

  void write(int64_t sequence, const float* sums, const float* weights) const {
    const int64_t group = p_.query_heads / p_.cached_heads;
    for (int64_t g = 0; g < p_.cached_heads; ++g)
      for (int64_t m = 0; m < plan_.group_rows; ++m) {
        const int64_t row = g * plan_.group_rows + m;
        const float inverse = weights[row] > 0 ? 1.0f / weights[row] : 0.0f;  // a query that sees nothing: zeros
        float* out = p_.outputs +
            ((sequence * p_.query_length + m / group) * p_.query_heads + g * group + m % group) * plan_.value_dim;
        for (int64_t d = 0; d < plan_.value_dim; ++d) out[d] = sums[row * plan_.padded_value + d] * inverse;
      }
  }
};

}  // namespace
