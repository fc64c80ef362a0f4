// Decoding of a few rows of one token each on a CPU: products with shared weights, low-rank adapters,
// attention over KV caches, norms and gates. native.py calls these functions and says what they
// compute. All are bound by the bytes that they read, so weights are read once, in order. Sums are
// float32. No sum runs across rows, and none depends on the number of rows or threads: a row computes
// alone, to the last bit, what it computes beside others.
//
// Names in comments: B rows, D model width, F MLP width, R rank, H query heads, G key/value heads,
// K head width. All arrays are contiguous unless a stride is given, in values.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "tiles.h"
#include "vectors.h"

namespace {

// Below this many multiplications a call stays on one thread: waking others costs more.
constexpr int64_t kWorthThreads = 1 << 16;

inline int64_t threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

// The dot products of 4 rows of x with 4 rows of w: [o * 4 + b].
template <class T>
inline Floats tile(const typename T::Value* x, const typename T::Value* w, int64_t inputs) {
  Floats total[16] = {};
  int64_t i = 0;
  for (; i + T::kWidth <= inputs; i += T::kWidth) {
    typename T::Packed row[4];
#pragma GCC unroll 4
    for (int b = 0; b < 4; ++b) row[b] = load<T>(x + b * inputs + i);
#pragma GCC unroll 4
    for (int o = 0; o < 4; ++o) {
      const auto weights = load<T>(w + o * inputs + i);
#pragma GCC unroll 4
      for (int b = 0; b < 4; ++b)
        total[o * 4 + b] = T::product(total[o * 4 + b], weights, row[b]);
    }
  }
  if (i < inputs)
    for (int o = 0; o < 4; ++o)
      for (int b = 0; b < 4; ++b)
        total[o * 4 + b] =
            T::product(total[o * 4 + b], load_part<T>(w + o * inputs + i, inputs - i),
                       load_part<T>(x + b * inputs + i, inputs - i));
  return sums(total);
}

// out = x w^T for the outputs from `first` on, fewer than kLanes.
template <class T, class Value = typename T::Value>
void last_outputs(const Value* x, const Value* w, Value* out, int64_t rows, int64_t inputs,
                  int64_t outputs, int64_t first) {
  for (int64_t b = 0; b < rows; ++b) {
    const int64_t count = outputs - first;
    const Floats found = dots<T>(x + b * inputs, w + first * inputs, inputs, count);
    for (int64_t k = 0; k < count; ++k) out[b * outputs + first + k] = T::write(found[k]);
  }
}

// out = x w^T: (B, inputs), (outputs, inputs) -> (B, outputs).
template <class T, class Value = typename T::Value>
void linear(const Value* x, const Value* w, Value* out, int64_t rows, int64_t inputs,
            int64_t outputs) {
#ifdef __AMX_BF16__
  // For a single row, too: its sums must be those that it has beside others.
  if constexpr (std::is_same_v<T, BFloat16>)
    if (inputs % kTileDepth == 0) {
      const int64_t done = tiled_linear(x, w, out, rows, inputs, outputs, kWorthThreads);
      if (done < outputs) last_outputs<T>(x, w, out, rows, inputs, outputs, done);
      return;
    }
#endif
  if (rows == 1) {
#pragma omp parallel for schedule(static) if (inputs * outputs > kWorthThreads)
    for (int64_t o = 0; o < outputs; o += kLanes) {
      const int64_t count = std::min(kLanes, outputs - o);
      const Floats found = dots<T>(x, w + o * inputs, inputs, count);
      for (int64_t k = 0; k < count; ++k) out[o + k] = T::write(found[k]);
    }
    return;
  }
  // Rows in fours; those that are missing are zeros.
  std::vector<Value> fours((rows + 3) / 4 * 4 * inputs);
  std::memcpy(fours.data(), x, rows * inputs * sizeof(Value));
  const int64_t whole = outputs / 4 * 4;
#pragma omp parallel for schedule(static) if (rows * inputs * outputs > kWorthThreads)
  for (int64_t o = 0; o < whole; o += 4) {
    touch<T>(w + o * inputs, 4 * inputs);
    for (int64_t b = 0; b < rows; b += 4) {
      const Floats found = tile<T>(fours.data() + b * inputs, w + o * inputs, inputs);
      for (int64_t row = b; row < std::min(b + 4, rows); ++row)
        for (int k = 0; k < 4; ++k) out[row * outputs + o + k] = T::write(found[k * 4 + row - b]);
    }
  }
  if (whole < outputs) last_outputs<T>(x, w, out, rows, inputs, outputs, whole);
}

// out += x * value, where out is float.
template <class T, class Value = typename T::Value>
inline void add_scaled(float* out, const Value* x, float value, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Floats sum = load<Float32>(out + i) + T::floats(x + i) * value;
    std::memcpy(out + i, &sum, sizeof sum);
  }
  for (; i < count; ++i) out[i] += T::read(x[i]) * value;
}

// out[b] += B (A x[b]) with each row's own factors, for `parts` matrices that share their input and
// whose outputs lie behind each other. a[b] is (layers, parts * R, inputs) and b_[b] is (layers,
// parts, R, outputs); a row of rank 0 stays as it is.
template <class T, class Value = typename T::Value>
void add_low_rank(const Value* x, int64_t x_stride, Value* out, int64_t out_stride, int64_t rows,
                  int64_t inputs, int64_t outputs, int64_t parts, int64_t layer,
                  const int64_t* ranks, const Value* const* a, const Value* const* b_) {
  const int64_t most = *std::max_element(ranks, ranks + rows) * parts;
  const int64_t groups = (most + kLanes - 1) / kLanes;
  std::vector<float> inner(rows * groups * kLanes);
  const bool wide = rows * most * inputs > kWorthThreads;
#pragma omp parallel for schedule(static) collapse(2) if (wide)
  for (int64_t b = 0; b < rows; ++b)
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t rank = ranks[b] * parts, r = group * kLanes;
      if (r >= rank) continue;
      const Value* factors = a[b] + (layer * rank + r) * inputs;
      const Floats found = dots<T>(x + b * x_stride, factors, inputs, std::min(kLanes, rank - r));
      std::memcpy(inner.data() + b * groups * kLanes + r, &found, sizeof found);
    }
  // With fewer matrices than threads each one's outputs are divided.
  const int64_t shares = std::max<int64_t>(1, threads() / (rows * parts));
  const int64_t share = (outputs + shares - 1) / shares;
#pragma omp parallel for schedule(static) collapse(3) if (wide)
  for (int64_t b = 0; b < rows; ++b)
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t piece = 0; piece < shares; ++piece) {
        const int64_t rank = ranks[b], from = piece * share;
        const int64_t count = std::min(share, outputs - from);
        if (!rank || count <= 0) continue;
        const Value* factors = b_[b] + (layer * parts + part) * rank * outputs + from;
        std::vector<float> added(count);
        for (int64_t r = 0; r < rank; ++r)
          add_scaled<T>(added.data(), factors + r * outputs,
                        inner[b * groups * kLanes + part * rank + r], count);
        Value* here = out + b * out_stride + part * outputs + from;
        for (int64_t i = 0; i < count; ++i) here[i] = T::write(T::read(here[i]) + added[i]);
      }
}

inline Floats silu(Floats x) { return x / (exponential(-x) + 1.0f); }

// GELU in its approximation by tanh: x * sigmoid(2 c (x + 0.044715 x^3)), c = sqrt(2 / pi).
inline Floats gelu_tanh(Floats x) {
  return x / (exponential((x + x * x * x * 0.044715f) * -1.59576912f) + 1.0f);
}

// out[b] = activation(gate[b]) * up[b]; gate and up have `stride` values from row to row.
template <class T, class Value = typename T::Value>
void gated(const Value* gate, const Value* up, int64_t stride, Value* out, int64_t rows,
           int64_t width, bool gelu) {
  for (int64_t b = 0; b < rows; ++b)
    for (int64_t i = 0; i < width; i += kLanes) {
      const int64_t count = std::min(kLanes, width - i);
      Floats x{};
      for (int64_t k = 0; k < count; ++k) x[k] = T::read(gate[b * stride + i + k]);
      const Floats active = gelu ? gelu_tanh(x) : silu(x);
      for (int64_t k = 0; k < count; ++k)
        out[b * width + i + k] = T::write(active[k] * T::read(up[b * stride + i + k]));
    }
}

// out[b] = x[b] / sqrt(mean(x[b]^2) + eps) * weight.
template <class T, class Value = typename T::Value>
void rms_norm(const Value* x, const Value* weight, Value* out, int64_t rows, int64_t width,
              float eps) {
  for (int64_t b = 0; b < rows; ++b) {
    const Value* row = x + b * width;
    const Floats found = dots<T>(row, row, width, 1);
    const float scale = 1.0f / std::sqrt(found[0] / static_cast<float>(width) + eps);
    for (int64_t i = 0; i < width; ++i)
      out[b * width + i] = T::write(T::read(row[i]) * scale * T::read(weight[i]));
  }
}

// out[i] = sum over s of shares[s] * v[s][i], divided by `total`, for V * kLanes of the K values.
template <class T, int V, class Value = typename T::Value>
inline void mix(const float* shares, const Value* v, int64_t count, int64_t K, float total,
                Value* out) {
  Floats mixed[V] = {};
  for (int64_t s = 0; s < count; ++s)
#pragma GCC unroll 4
    for (int k = 0; k < V; ++k) mixed[k] += T::floats(v + s * K + k * kLanes) * shares[s];
  for (int k = 0; k < V; ++k)
    for (int64_t i = 0; i < kLanes; ++i) out[k * kLanes + i] = T::write(mixed[k][i] / total);
}

// One row and one key/value head of `attend`.
template <class T, class Value = typename T::Value>
void attend_group(const Value* q, int64_t heads, const Value* k, const Value* v, int64_t first,
                  int64_t stop, int64_t K, float scale, float softcap, Value* out) {
  const int64_t count = stop - first, padded = (count + kLanes - 1) / kLanes * kLanes;
  std::vector<float> scores(padded);
  for (int64_t h = 0; h < heads; ++h) {
    Floats highest = Floats{} - INFINITY;
    for (int64_t s = 0; s < padded; s += kLanes) {
      const int64_t here = std::min(kLanes, count - s);
      Floats found = dots<T>(q + h * K, k + (first + s) * K, K, here) * scale;
      if (softcap > 0)
        found = softcap - 2 * softcap / (exponential(found * (2 / softcap)) + 1.0f);
      for (int64_t i = here; i < kLanes; ++i) found[i] = -INFINITY;
      highest = found > highest ? found : highest;
      std::memcpy(scores.data() + s, &found, sizeof found);
    }
    float most = highest[0];
    for (int64_t i = 1; i < kLanes; ++i) most = std::max(most, highest[i]);
    Floats sum{};
    for (int64_t s = 0; s < padded; s += kLanes) {
      const Floats share = exponential(load<Float32>(scores.data() + s) - most);
      sum += share;
      std::memcpy(scores.data() + s, &share, sizeof share);
    }
    float total = 0;
    for (int64_t i = 0; i < kLanes; ++i) total += sum[i];
    const Value* values = v + first * K;
    Value* to = out + h * K;
    int64_t i = 0;
    for (; i + 4 * kLanes <= K; i += 4 * kLanes)
      mix<T, 4>(scores.data(), values + i, count, K, total, to + i);
    for (; i + kLanes <= K; i += kLanes)
      mix<T, 1>(scores.data(), values + i, count, K, total, to + i);
    for (; i < K; ++i) {
      float mixed = 0;
      for (int64_t s = 0; s < count; ++s) mixed += scores[s] * T::read(values[s * K + i]);
      to[i] = T::write(mixed / total);
    }
  }
}

// Turns queries and keys of one token a row, stores keys and values behind the lengths[b] that the
// row's cache holds, and mixes the values: qkv (B, (H+2G)*K) -> out (B, H*K). cos and sin are (B, K).
// k[b] and v[b] are the row's caches, (layers, G, capacity, K), with strides[b] values from layer to
// layer. A row sees its last `window` positions, 0 for all.
template <class T, class Value = typename T::Value>
void attend(const Value* qkv, const Value* cos, const Value* sin, Value* out, int64_t rows,
            int64_t H, int64_t G, int64_t K, int64_t layer, Value* const* k, Value* const* v,
            const int64_t* strides, const int64_t* capacities, const int64_t* lengths,
            int64_t window, float scale, float softcap) {
  int64_t keys = 0;
  for (int64_t b = 0; b < rows; ++b) keys += lengths[b];
  const int64_t heads = H / G;
#pragma omp parallel for schedule(dynamic) collapse(2) if (keys * H * K > kWorthThreads)
  for (int64_t b = 0; b < rows; ++b)
    for (int64_t g = 0; g < G; ++g) {
      const Value* row = qkv + b * (H + 2 * G) * K;
      const Value *c = cos + b * K, *s = sin + b * K;
      const auto turn = [&](const Value* x, Value* to) {
        for (int64_t i = 0; i < K; ++i) {
          const int64_t other = i < K / 2 ? i + K / 2 : i - K / 2;
          to[i] = T::write(T::read(x[i]) * T::read(c[i]) + T::read(x[other]) * T::read(s[i]));
        }
      };
      std::vector<Value> q(heads * K);
      for (int64_t h = 0; h < heads; ++h) turn(row + (g * heads + h) * K, q.data() + h * K);
      const int64_t at = layer * strides[b] + g * capacities[b] * K, length = lengths[b];
      turn(row + (H + g) * K, k[b] + at + length * K);
      std::memcpy(v[b] + at + length * K, row + (H + G + g) * K, K * sizeof(Value));
      const int64_t first = window ? std::max<int64_t>(0, length + 1 - window) : 0;
      attend_group<T>(q.data(), heads, k[b] + at, v[b] + at, first, length + 1, K, scale, softcap,
                      out + (b * H + g * heads) * K);
    }
}

}  // namespace

#define HOPE_EXPORT(T, name)                                                                       \
  extern "C" void hope_linear_##name(const T::Value* x, const T::Value* w, T::Value* out,          \
                                     int64_t rows, int64_t inputs, int64_t outputs) {              \
    linear<T>(x, w, out, rows, inputs, outputs);                                                   \
  }                                                                                                \
  extern "C" void hope_add_low_rank_##name(                                                        \
      const T::Value* x, int64_t x_stride, T::Value* out, int64_t out_stride, int64_t rows,        \
      int64_t inputs, int64_t outputs, int64_t parts, int64_t layer, const int64_t* ranks,         \
      const T::Value* const* a, const T::Value* const* b) {                                        \
    add_low_rank<T>(x, x_stride, out, out_stride, rows, inputs, outputs, parts, layer, ranks, a,   \
                    b);                                                                            \
  }                                                                                                \
  extern "C" void hope_gated_##name(const T::Value* gate, const T::Value* up, int64_t stride,      \
                                    T::Value* out, int64_t rows, int64_t width, int64_t gelu) {    \
    gated<T>(gate, up, stride, out, rows, width, gelu != 0);                                       \
  }                                                                                                \
  extern "C" void hope_rms_norm_##name(const T::Value* x, const T::Value* weight, T::Value* out,   \
                                       int64_t rows, int64_t width, float eps) {                   \
    rms_norm<T>(x, weight, out, rows, width, eps);                                                 \
  }                                                                                                \
  extern "C" void hope_attend_##name(                                                              \
      const T::Value* qkv, const T::Value* cos, const T::Value* sin, T::Value* out, int64_t rows,  \
      int64_t H, int64_t G, int64_t K, int64_t layer, T::Value* const* k, T::Value* const* v,      \
      const int64_t* strides, const int64_t* capacities, const int64_t* lengths, int64_t window,   \
      float scale, float softcap) {                                                                \
    attend<T>(qkv, cos, sin, out, rows, H, G, K, layer, k, v, strides, capacities, lengths,        \
              window, scale, softcap);                                                             \
  }

// Whether this processor and system run what was compiled here; asked once, before anything else.
extern "C" int64_t hope_prepare() {
#ifdef __AMX_BF16__
  return tiles_allowed();
#else
  return 1;
#endif
}

HOPE_EXPORT(Float32, f32)
HOPE_EXPORT(BFloat16, bf16)
