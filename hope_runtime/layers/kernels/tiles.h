// Products of some rows with shared weights on processors that multiply tiles of bfloat16 (AMX). A
// tile of 16 rows costs what one row costs, so a step of many rows takes little longer than of one.

#pragma once

#include <cstdint>

#include "vectors.h"

#ifdef __AMX_BF16__
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

namespace {

// Rows of a tile, and the values of one of them.
constexpr int64_t kTileRows = 16, kTileDepth = 32;
constexpr int64_t kTileValues = kTileRows * kTileDepth;
// Outputs that a block computes: two tiles, whose sums do not wait for each other.
constexpr int64_t kBlock = 2 * kTileRows;

// Linux lends a process the tiles' registers when it asks for them.
inline bool tiles_allowed() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Gives all tiles of this thread their full shape.
inline void shape_tiles() {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } shapes;
  for (int tile = 0; tile < 8; ++tile) {
    shapes.row_bytes[tile] = 64;
    shapes.rows[tile] = kTileRows;
  }
  _tile_loadconfig(&shapes);
}

// Writes a tile of sums, [o * 16 + b], as bfloat16: out[b * outputs + o].
inline void write_tile(const float* sums, uint16_t* out, int64_t rows, int64_t outputs) {
  const __m512i places = _mm512_setr_epi32(0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192,
                                           208, 224, 240);
  for (int64_t b = 0; b < rows; ++b) {
    const __m512 found = _mm512_i32gather_ps(places, sums + b, sizeof(float));
    _mm256_storeu_si256((__m256i*)(out + b * outputs), (__m256i)_mm512_cvtneps_pbh(found));
  }
}

// Rows of x in tiles: of 16 rows at a time, the pairs of neighbours of each 32 inputs, [pair][row].
// Rows that are missing are zeros.
inline std::vector<uint32_t> in_tiles(const uint16_t* x, int64_t rows, int64_t inputs) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  std::vector<uint32_t> packed(tiles * kTileRows * inputs / 2);
  for (int64_t b = 0; b < rows; ++b) {
    uint32_t* to = packed.data() + b / kTileRows * kTileRows * inputs / 2 + b % kTileRows;
    for (int64_t pair = 0; pair < inputs / 2; ++pair)
      std::memcpy(to + pair * kTileRows, x + b * inputs + 2 * pair, sizeof(uint32_t));
  }
  return packed;
}

// The sums of one tile of rows with `Tiles` tiles of outputs, over all inputs.
template <int Tiles>
inline void tile_products(const uint32_t* x, const uint16_t* w, uint16_t* out, int64_t rows,
                          int64_t inputs, int64_t outputs) {
  _tile_zero(0);
  if (Tiles == 2) _tile_zero(1);
  for (int64_t i = 0; i < inputs; i += kTileDepth) {
    _tile_loadd(4, x + i / kTileDepth * kTileValues / 2, 64);
    _tile_loadd(2, w + i, inputs * sizeof(uint16_t));
    _tile_dpbf16ps(0, 2, 4);
    if (Tiles == 2) {
      _tile_loadd(3, w + kTileRows * inputs + i, inputs * sizeof(uint16_t));
      _tile_dpbf16ps(1, 3, 4);
    }
  }
  alignas(64) float sums[kTileRows * kTileRows];
  _tile_stored(0, sums, 64);
  write_tile(sums, out, rows, outputs);
  if (Tiles == 2) {
    _tile_stored(1, sums, 64);
    write_tile(sums, out + kTileRows, rows, outputs);
  }
}

// out = x w^T for the first outputs, as many as fill tiles: returns how many. `inputs` fill tiles.
inline int64_t tiled_linear(const uint16_t* x, const uint16_t* w, uint16_t* out, int64_t rows,
                            int64_t inputs, int64_t outputs, int64_t worth_threads) {
  const std::vector<uint32_t> packed = in_tiles(x, rows, inputs);
  const int64_t whole = outputs / kTileRows * kTileRows;
#pragma omp parallel if (rows * inputs * outputs > worth_threads)
  {
    shape_tiles();
#pragma omp for schedule(static)
    for (int64_t o = 0; o < whole; o += kBlock) {
      const bool two = o + kBlock <= whole;
      const uint16_t* weights = w + o * inputs;
      touch<BFloat16>(weights, (two ? kBlock : kTileRows) * inputs);
      for (int64_t b = 0; b < rows; b += kTileRows) {
        const int64_t count = std::min(kTileRows, rows - b);
        const uint32_t* tiles = packed.data() + b * inputs / 2;
        uint16_t* to = out + b * outputs + o;
        if (two)
          tile_products<2>(tiles, weights, to, count, inputs, outputs);
        else
          tile_products<1>(tiles, weights, to, count, inputs, outputs);
      }
    }
    _tile_release();
  }
  return whole;
}

}  // namespace
#endif
