// Linear layers over few rows, where weights are read faster than they are used: packed so that one pass streams them.
//
// A weight [out, in] is stored as panels of kPanel outputs: panel p holds, for every input k, the kPanel weights
// side by side. A thread takes a panel, keeps it in its cache and multiplies it with all rows, a few at a time in
// registers, and asks memory early for what comes next. The norm before a layer is one factor per row (its weight is
// folded into the matrix), so it is applied to the outputs. Results do not depend on the number of threads.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "vector.h"

namespace {

constexpr int64_t kPanel = 2 * kWidth;
constexpr int kMostRows = kRegisters == 32 ? 8 : 6;   // per pass over a panel: 2 sums each stay in registers
constexpr int64_t kChunk = 256;                       // rows between two looks at a weight
constexpr int64_t kAhead = 4096;                      // weights between using one and asking memory for it

struct Linear {
  const float* weight;  // [panels, inputs, kPanel]
  const float* bias;    // [panels * kPanel] or null
  int64_t inputs, outputs;
};

struct Rows {
  const float* data;
  int64_t stride;
};

// sums[r] of one panel for kRows rows; short chains of additions are split up to hide their latency.
template <int kRows>
inline void multiply(const float* panel, Rows x, int64_t inputs, Vec (&sums)[kRows][2]) {
  constexpr int kChains = kRows == 1 ? 4 : kRows <= 3 ? 2 : 1;
  Vec chains[kChains][kRows][2] = {};
  int64_t k = 0;
  for (; k + kChains <= inputs; k += kChains)
    for (int c = 0; c < kChains; ++c) {
      const float* weights = panel + (k + c) * kPanel;
      Vec first = load(weights), second = load(weights + kWidth);
      hold(first), hold(second);
      __builtin_prefetch(weights + kAhead), __builtin_prefetch(weights + kAhead + kWidth);
      for (int r = 0; r < kRows; ++r) {
        const Vec input = splat(x.data[r * x.stride + k + c]);
        chains[c][r][0] += first * input;
        chains[c][r][1] += second * input;
      }
    }
  for (; k < inputs; ++k)
    for (int r = 0; r < kRows; ++r) {
      const Vec input = splat(x.data[r * x.stride + k]);
      chains[0][r][0] += load(panel + k * kPanel) * input;
      chains[0][r][1] += load(panel + k * kPanel + kWidth) * input;
    }
  for (int r = 0; r < kRows; ++r)
    for (int half = 0; half < 2; ++half) {
      sums[r][half] = chains[0][r][half];
      for (int c = 1; c < kChains; ++c) sums[r][half] += chains[c][r][half];
    }
}

template <int kRows, class Finish>
inline void panel_rows(const Linear& linear, int64_t panel, Rows x, int64_t row, const Finish& finish) {
  Vec sums[kRows][2];
  multiply<kRows>(linear.weight + panel * linear.inputs * kPanel, {x.data + row * x.stride, x.stride}, linear.inputs,
                  sums);
  for (int r = 0; r < kRows; ++r) finish(panel, row + r, sums[r][0], sums[r][1]);
}

// One panel with all rows; `finish(panel, row, first, second)` takes its two vectors of outputs.
template <class Finish>
void all_rows(const Linear& linear, int64_t panel, Rows x, int64_t rows, const Finish& finish) {
  int64_t row = 0;
  for (; row + kMostRows <= rows; row += kMostRows) panel_rows<kMostRows>(linear, panel, x, row, finish);
  switch (rows - row) {
    case 7: return panel_rows<7>(linear, panel, x, row, finish);
    case 6: return panel_rows<6>(linear, panel, x, row, finish);
    case 5: return panel_rows<5>(linear, panel, x, row, finish);
    case 4: return panel_rows<4>(linear, panel, x, row, finish);
    case 3: return panel_rows<3>(linear, panel, x, row, finish);
    case 2: return panel_rows<2>(linear, panel, x, row, finish);
    case 1: return panel_rows<1>(linear, panel, x, row, finish);
  }
}

int64_t panels_of(int64_t outputs) { return (outputs + kPanel - 1) / kPanel; }

// Called by all threads of a team; dynamic, so that a thread that lost its core for a while holds up nobody, and a few
// panels at a time, so that what was asked for ahead is the thread's own.
template <class Finish>
void apply(const Linear& linear, Rows x, int64_t rows, const Finish& finish) {
  const int64_t panels = panels_of(linear.outputs), threads = omp_get_num_threads();
  const int64_t share = std::clamp<int64_t>(panels / (2 * threads), 1, 4);
#pragma omp for schedule(dynamic, share)
  for (int64_t panel = 0; panel < panels; ++panel) all_rows(linear, panel, x, rows, finish);
}

// Writes factor * sums + bias + residual, where there are such things, to the columns of a panel.
struct Write {
  const Linear& linear;
  float* outputs;
  int64_t stride;
  const float* factors;
  Rows residual;

  void operator()(int64_t panel, int64_t row, Vec first, Vec second) const {
    if (factors) first *= splat(factors[row]), second *= splat(factors[row]);
    const int64_t column = panel * kPanel, count = std::min(kPanel, linear.outputs - column);
    if (linear.bias) first += load(linear.bias + column), second += load(linear.bias + column + kWidth);
    float* out = outputs + row * stride + column;
    const float* add = residual.data ? residual.data + row * residual.stride + column : nullptr;
    if (count == kPanel) {
      if (add) first += load(add), second += load(add + kWidth);
      store(out, first), store(out + kWidth, second);
      return;
    }
    float both[kPanel];
    store(both, first), store(both + kWidth, second);
    for (int64_t i = 0; i < count; ++i) out[i] = both[i] + (add ? add[i] : 0.0f);
  }
};

// 1 / root mean square of every row.
void norm_factors(Rows x, int64_t rows, int64_t width, double epsilon, float* factors) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* values = x.data + row * x.stride;
    Vec squares[4] = {};
    int64_t i = 0;
    for (; i + 4 * kWidth <= width; i += 4 * kWidth)
      for (int c = 0; c < 4; ++c) {
        const Vec v = load(values + i + c * kWidth);
        squares[c] += v * v;
      }
    const Vec sums = (squares[0] + squares[1]) + (squares[2] + squares[3]);
    double total = 0;
    for (int lane = 0; lane < kWidth; ++lane) total += sums[lane];
    for (; i < width; ++i) total += double(values[i]) * values[i];
    factors[row] = float(1.0 / std::sqrt(total / double(width) + epsilon));
  }
}

inline Vec silu(Vec x) {
  const Vec decay = exp2_nonpositive((x < 0.0f ? x : -x) * splat(1.44269504088896341f));  // e^-|x|
  return x * (x < 0.0f ? decay : splat(1.0f)) / (splat(1.0f) + decay);
}

}  // namespace

extern "C" {

EXPORT int64_t rl_exp_panel_outputs() { return kPanel; }

struct LinearCall {
  Linear linear;
  Rows inputs, residual;
  float* outputs;
  int64_t output_stride, rows, threads;
  double epsilon;  // of the norm before it; negative: no norm
};

// outputs = norm(inputs) W^T + bias + residual.
EXPORT void rl_exp_linear(const LinearCall* call) {
  const LinearCall& c = *call;
#pragma omp parallel num_threads(int(c.threads))
  {
    float factors[kChunk];
    for (int64_t row = 0; row < c.rows; row += kChunk) {
      const int64_t rows = std::min(kChunk, c.rows - row);
      const Rows x = {c.inputs.data + row * c.inputs.stride, c.inputs.stride};
      if (c.epsilon >= 0) norm_factors(x, rows, c.linear.inputs, c.epsilon, factors);
      const Rows residual = {c.residual.data ? c.residual.data + row * c.residual.stride : nullptr, c.residual.stride};
      apply(c.linear, x, rows,
            Write{c.linear, c.outputs + row * c.output_stride, c.output_stride, c.epsilon >= 0 ? factors : nullptr,
                  residual});
    }
  }
}

struct BlockCall {
  Linear output, gate_and_up, down;  // a panel of gate_and_up holds kWidth gates and their kWidth partners
  Rows heads, hidden;
  float* outputs;  // [rows, hidden size]
  int64_t output_stride, rows, threads;
  double epsilon;
};

// The block behind its attention: hidden += heads W_o^T, then hidden += W_down (silu(W_gate n) * W_up n) where
// n = norm(hidden).
EXPORT void rl_exp_finish_block(const BlockCall* call) {
  const BlockCall& c = *call;
  const int64_t size = c.output.outputs, width = c.gate_and_up.outputs / 2;
  const int64_t stride = (width + kWidth - 1) / kWidth * kWidth;
  static thread_local std::vector<float> memory;  // kept between calls: a step allocates nothing
  if (int64_t(memory.size()) < std::min(kChunk, c.rows) * stride) memory.resize(std::min(kChunk, c.rows) * stride);
  float* products = memory.data();
#pragma omp parallel num_threads(int(c.threads))
  {
    float factors[kChunk];
    for (int64_t row = 0; row < c.rows; row += kChunk) {
      const int64_t rows = std::min(kChunk, c.rows - row);
      float* out = c.outputs + row * c.output_stride;
      const Rows hidden = {c.hidden.data + row * c.hidden.stride, c.hidden.stride}, attended = {out, c.output_stride};
      apply(c.output, {c.heads.data + row * c.heads.stride, c.heads.stride}, rows,
            Write{c.output, out, c.output_stride, nullptr, hidden});
      norm_factors(attended, rows, size, c.epsilon, factors);
      apply(c.gate_and_up, attended, rows, [&](int64_t panel, int64_t r, Vec gate, Vec up) {
        const Vec factor = splat(factors[r]);
        store(products + r * stride + panel * kWidth, silu(gate * factor) * (up * factor));
      });
      apply(c.down, {products, stride}, rows, Write{c.down, out, c.output_stride, nullptr, attended});
    }
  }
}
}
