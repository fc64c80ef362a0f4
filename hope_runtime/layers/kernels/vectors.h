// Vectors of 16 floats, and values of both dtypes read into them. Knows no model.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int32_t Integers __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

constexpr int64_t kLanes = 16;
struct Float32 {
  using Value = float;
  using Packed = Floats;
  static constexpr int64_t kWidth = 16;  // values of a Packed
  static float read(float value) { return value; }
  static float write(float value) { return value; }
  static Floats product(Floats total, Packed a, Packed b) { return total + a * b; }
  // kLanes values as floats.
  static Floats floats(const float* from) {
    Floats v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
};

struct BFloat16 {
  using Value = uint16_t;
  using Packed = Words;  // each holds two neighbours
  static constexpr int64_t kWidth = 32;
  static float read(uint16_t value) {
    const uint32_t bits = uint32_t{value} << 16;
    float found;
    std::memcpy(&found, &bits, sizeof found);
    return found;
  }
  // To the nearest, ties to even; NaN stays NaN.
  static uint16_t write(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0x7fc0;
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
  static Floats product(Floats total, Packed a, Packed b) {
#ifdef __AVX512BF16__
    return (Floats)_mm512_dpbf16_ps((__m512)total, (__m512bh)a, (__m512bh)b);
#else
    const Words high = Words{} + 0xffff0000u;
    total += (Floats)(a << 16) * (Floats)(b << 16);
    return total + (Floats)(a & high) * (Floats)(b & high);
#endif
  }
  static Floats floats(const uint16_t* from) {
    Halves v;
    std::memcpy(&v, from, sizeof v);
    return (Floats)(__builtin_convertvector(v, Words) << 16);
  }
};

template <class T>
inline typename T::Packed load(const typename T::Value* from) {
  typename T::Packed v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// The first `count` values, zeros behind them.
template <class T>
inline typename T::Packed load_part(const typename T::Value* from, int64_t count) {
  typename T::Packed v{};
  std::memcpy(&v, from, count * sizeof(typename T::Value));
  return v;
}

// Brings `count` values near, in order, so that they can then be read as several streams.
template <class T>
inline void touch(const typename T::Value* from, int64_t count) {
  constexpr int64_t line = 64 / sizeof(typename T::Value);
  for (int64_t i = 0; i < count; i += line) __asm__ __volatile__("" : : "r"(from[i]));
}

// Sums of the lanes of 16 vectors, lane by lane: each is added up in the same order.
inline Floats sums(const Floats* v) {
  Floats a[8], b[4], c[2];
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k)
    a[k] = __builtin_shufflevector(v[2 * k], v[2 * k + 1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26,
                                   12, 28, 14, 30) +
           __builtin_shufflevector(v[2 * k], v[2 * k + 1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27,
                                   13, 29, 15, 31);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k)
    b[k] = __builtin_shufflevector(a[2 * k], a[2 * k + 1], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25,
                                   12, 13, 28, 29) +
           __builtin_shufflevector(a[2 * k], a[2 * k + 1], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27,
                                   14, 15, 30, 31);
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k)
    c[k] = __builtin_shufflevector(b[2 * k], b[2 * k + 1], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11,
                                   24, 25, 26, 27) +
           __builtin_shufflevector(b[2 * k], b[2 * k + 1], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15,
                                   28, 29, 30, 31);
  return __builtin_shufflevector(c[0], c[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22,
                                 23) +
         __builtin_shufflevector(c[0], c[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29,
                                 30, 31);
}


// Adds up a[i] * b[i], lane by lane.
template <class T>
inline Floats dot(const typename T::Value* a, const typename T::Value* b, int64_t count) {
  Floats total{};
  int64_t i = 0;
  for (; i + T::kWidth <= count; i += T::kWidth)
    total = T::product(total, load<T>(a + i), load<T>(b + i));
  if (i < count)
    total = T::product(total, load_part<T>(a + i, count - i), load_part<T>(b + i, count - i));
  return total;
}

// The dot products of `x` with `count` rows of `w`, at most kLanes of them. The rows are one stream,
// which processors fetch ahead; several streams within a page they do not.
template <class T>
inline Floats dots(const typename T::Value* x, const typename T::Value* w, int64_t inputs,
                   int64_t count) {
  Floats total[kLanes] = {};
  for (int64_t o = 0; o < count; ++o) total[o] = dot<T>(w + o * inputs, x, inputs);
  return sums(total);
}

// e^x to about 1e-7; what would overflow is the largest power of two.
inline Floats exponential(Floats x) {
  const Floats low = Floats{} - 87.0f, high = Floats{} + 88.0f, round = Floats{} + 12582912.0f;
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Floats shifted = x * 1.44269504f + round;
  const Floats whole = shifted - round;
  const Floats r = (x - whole * 0.693359375f) - whole * -2.12194440e-4f;
  Floats y = Floats{} + 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  const Integers power = ((Integers)shifted - (Integers)round + 127) << 23;
  return y * (Floats)power;
}

}  // namespace
