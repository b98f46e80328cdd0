// The dense CRF's hot loops. One source, compiled once for each level of instruction sets; the best level that the
// processor has is chosen when the module is loaded.

#pragma once

#include <cstddef>
#include <cstdint>

namespace permutohedral {

constexpr int kPositionFeatures = 2;
constexpr int kColourFeatures = 3;
constexpr int kMaxFeatures = kPositionFeatures + kColourFeatures;
constexpr int kMaxCorners = kMaxFeatures + 1;
constexpr int kKernels = 2;
constexpr int kChunk = 128;  // pixels embedded together
constexpr int kTile = 32;    // pixels updated together

// In: features of a chunk of pixels. Out: corner k of each pixel's simplex, as a key, and its barycentric weight.
struct Chunk {
  alignas(64) float scaled[kMaxFeatures][kChunk];  // features times the diagonal part of the embedding
  alignas(64) float weight[kMaxCorners][kChunk];
  alignas(64) std::uint32_t key[kMaxCorners][kChunk];
  alignas(64) std::uint64_t wide_key[kMaxCorners][kChunk];
};

// The key of a lattice point is the sum of (coordinate - low) * stride over its first d coordinates. Most lattices fit
// into 32 bits.
struct Numbering {
  float low[kMaxFeatures];
  std::uint64_t stride[kMaxCorners];  // 0 for the last coordinate, which follows from the others
  std::uint64_t every;                // sum of the strides
  bool wide;
};

// A pixel's entries are the corners of all kernels, then their weights. An offset is half the first float's index.
union Entry {
  std::uint32_t offset;
  float weight;
};

// Values of one kernel's vertices, (vertices + 1, width).
struct Values {
  const float* blurred;  // sliced from
  float* sums;           // splatted to
};

// One pass over all pixels.
struct Pass {
  Values kernels[kKernels];     // position, then position and colour
  int corners[kKernels];        // 0 where the kernel is switched off
  const Entry* entries;         // (pixels, 2 * corners of all kernels)
  float* unary;                 // (pixels, width): scores before any message
  float* planes;                // (classes, pixels): scores come in, probabilities go out
  float* tile;                  // room for kTile rows
  std::size_t pixels;
  std::size_t classes;
  std::size_t width;            // floats per row: the classes, and what fills the last vector up
  bool first;                   // takes scores from the planes and slices nothing
  bool last;                    // leaves probabilities in the planes and splats nothing
};

struct Loops {
  const char* name;
  bool (*supported)();
  void (*embed_positions)(Chunk&, const Numbering&, int count);
  void (*embed_colours)(Chunk&, const Numbering&, int count);
  // Along one direction: to = gain * (from + (both neighbours) / 2). A neighbour is a row; 0 is a row of zeros.
  void (*blur)(const float* from, float* to, const std::int32_t* neighbours, std::size_t vertices, std::size_t width,
               float gain);
  void (*update)(const Pass&);
};

// Floats per row of values for a number of classes.
constexpr std::size_t row_width(std::size_t classes) { return classes <= 4 ? 4 : (classes + 7) / 8 * 8; }

extern const Loops x86_64_v2, x86_64_v3, x86_64_v4, generic;  // generic: whatever the compiler assumes by default

}  // namespace permutohedral
