// Mean field of the fully connected CRF (Kraehenbuehl & Koltun, NIPS 2011) on the permutohedral lattice
// (Adams, Baek & Davis, Eurographics 2010).
//
// The features of a pixel are embedded in the plane of d+1 coordinates that sum to zero. A kernel is then applied by
// splatting values to the d+1 corners of the enclosing simplex, blurring with (1/2, 1, 1/2) along each of the d+1
// lattice directions and slicing back with the same barycentric weights. One call works on one image in one thread and
// without the GIL; callers run several images side by side.
//
// Vectors are GCC's and Clang's vector extension, eight floats wide on every machine: the order of additions, and so
// every bit of the result, is the same whether they become AVX2 or pairs of SSE2 registers. The build switches off
// contraction to fused multiply-adds for the same reason.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

namespace nb = nanobind;

// One wheel for all x86-64 machines: the hot loops exist for SSE2 and for AVX2, glibc's loader picks one.
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define MULTIVERSIONED __attribute__((target_clones("avx2", "default")))
#endif
#endif
#ifndef MULTIVERSIONED
#define MULTIVERSIONED
#endif
#define INLINED __attribute__((always_inline)) inline

namespace {

constexpr int kLanes = 8;
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t IntVec __attribute__((vector_size(4 * kLanes)));

constexpr int kPositionFeatures = 2;
constexpr int kColourFeatures = 3;
constexpr int kMaxFeatures = kPositionFeatures + kColourFeatures;
constexpr int kMaxCorners = kMaxFeatures + 1;
constexpr int kColours = 256;
constexpr int kChunk = 256;  // pixels embedded together: all temporaries stay in the first-level cache

// pydensecrf embeds four pixels at a time and fills the last four up with zero features. The corners of those become
// vertices that hold nothing, yet values flow through them in the blur: without them, results at pixel counts that
// are no multiple of four differ by several per cent near black image corners. Published numbers have them, so have we.
constexpr std::size_t kGroup = 4;

// Adding and subtracting 1.5 * 2^23 rounds a float below 2^22 to the nearest integer, halves to even.
constexpr float kRounder = 12582912.0f;

INLINED Vec rounded(Vec x) { return (x + kRounder) - kRounder; }

INLINED Vec masked(Vec x, IntVec mask) { return (Vec)((IntVec)x & mask); }

INLINED Vec larger(Vec a, Vec b) {
  const IntVec mask = a > b;
  return (Vec)(((IntVec)a & mask) | ((IntVec)b & ~mask));
}

INLINED Vec broadcast(float x) { return Vec{x, x, x, x, x, x, x, x}; }

// exp(x) for x <= 0. Below the cutoff the answer is 0: such a probability changes nothing, and its products with
// small weights would be denormal numbers, which are very slow to multiply.
INLINED Vec exp_nonpositive(Vec x) {
  constexpr float kCutoff = -60.0f;
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // few bits, so that multiples of it are exact
  constexpr float kLn2Low = -2.12194440e-4f;
  const IntVec kept = x > kCutoff;
  x = larger(x, broadcast(kCutoff));
  const Vec n = rounded(x * kLog2E);
  const Vec r = (x - n * kLn2High) - n * kLn2Low;
  Vec e = r * (1.0f / 5040.0f) + (1.0f / 720.0f);  // Taylor series, |r| <= ln(2) / 2
  e = e * r + (1.0f / 120.0f);
  e = e * r + (1.0f / 24.0f);
  e = e * r + (1.0f / 6.0f);
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  const IntVec exponent = (__builtin_convertvector(n, IntVec) + 127) << 23;
  return masked(e * (Vec)exponent, kept);
}

INLINED float largest(Vec x) {
  float m = x[0];
  for (int lane = 1; lane < kLanes; ++lane) m = std::max(m, x[lane]);
  return m;
}

INLINED float sum(Vec x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

// Zero-filled or uninitialised rows of whole vectors, aligned for them.
class Rows {
 public:
  Rows() = default;
  Rows(std::size_t rows, std::size_t blocks)
      : size_(rows * blocks), data_(static_cast<Vec*>(::operator new(size_ * sizeof(Vec), std::align_val_t{64}))) {}
  Vec* data() const { return data_.get(); }
  void clear() { std::memset(static_cast<void*>(data_.get()), 0, size_ * sizeof(Vec)); }

 private:
  struct Free {
    void operator()(Vec* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::size_t size_ = 0;
  std::unique_ptr<Vec, Free> data_;
};

// Packed lattice point -> number of its vertex, from 1 in order of first appearance. Open addressing.
class VertexTable {
 public:
  explicit VertexTable(std::size_t expected) {
    int bits = 10;
    while ((std::size_t{1} << bits) < 2 * expected) ++bits;
    resize(bits);
  }

  std::int32_t find_or_insert(std::uint64_t key) {
    Slot* slot = probe(key);
    if (slot->vertex == 0) {
      if (2 * (keys_.size() + 1) > slots_.size()) {
        resize(bits_ + 1);
        slot = probe(key);
      }
      keys_.push_back(key);
      slot->key = key;
      slot->vertex = static_cast<std::int32_t>(keys_.size());
    }
    return slot->vertex;
  }

  // 0 when there is no such vertex.
  std::int32_t find(std::uint64_t key) { return probe(key)->vertex; }

  const std::vector<std::uint64_t>& keys() const { return keys_; }

 private:
  struct Slot {
    std::uint64_t key = 0;
    std::int32_t vertex = 0;
  };

  Slot* probe(std::uint64_t key) {
    std::size_t at = static_cast<std::size_t>((key * 0x9E3779B97F4A7C15ull) >> (64 - bits_));
    while (slots_[at].vertex != 0 && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
    return &slots_[at];
  }

  void resize(int bits) {
    bits_ = bits;
    std::vector<Slot>(std::size_t{1} << bits).swap(slots_);
    for (std::size_t i = 0; i < keys_.size(); ++i) {
      Slot* slot = probe(keys_[i]);
      slot->key = keys_[i];
      slot->vertex = static_cast<std::int32_t>(i + 1);
    }
  }

  int bits_ = 0;
  std::vector<Slot> slots_;
  std::vector<std::uint64_t> keys_;
};

// Position and simplex of pixels in the lattice; arrays of one chunk, coordinate by coordinate.
struct Embedding {
  alignas(64) float scaled[kMaxFeatures][kChunk];   // features times the diagonal part of the embedding
  alignas(64) float nearest[kMaxCorners][kChunk];   // remainder-0 point of the enclosing simplex
  alignas(64) float residual[kMaxCorners][kChunk];  // (elevated - nearest) / (d + 1)
  alignas(64) std::int32_t rank[kMaxCorners][kChunk];  // of the residual, 0 for the largest
};

// Adams et al. 2010, section 3: elevate to the plane, round to the nearest remainder-0 point, rank the differences.
template <int D>
INLINED void embed(Embedding& chunk, int count) {
  constexpr float kSide = D + 1;
  constexpr float kInverseSide = 1.0f / (D + 1);
  for (int at = 0; at < count; at += kLanes) {
    Vec elevated[D + 1], nearest[D + 1], rank[D + 1];
    Vec tail = broadcast(0.0f);
    for (int j = D; j > 0; --j) {
      const Vec feature = *reinterpret_cast<const Vec*>(&chunk.scaled[j - 1][at]);
      elevated[j] = tail - feature * static_cast<float>(j);
      tail = tail + feature;
    }
    elevated[0] = tail;

    Vec excess = broadcast(0.0f);  // how far the rounded point is from the plane, in multiples of d + 1
    for (int i = 0; i <= D; ++i) {
      const Vec multiple = rounded(elevated[i] * kInverseSide);
      nearest[i] = multiple * kSide;
      excess = excess + multiple;
      rank[i] = broadcast(0.0f);
    }
    const Vec one = broadcast(1.0f);
    for (int i = 0; i < D; ++i) {
      for (int j = i + 1; j <= D; ++j) {
        const Vec behind = masked(one, (elevated[i] - nearest[i]) < (elevated[j] - nearest[j]));
        rank[i] = rank[i] + behind;
        rank[j] = rank[j] + (one - behind);
      }
    }
    const Vec side = broadcast(kSide);
    for (int i = 0; i <= D; ++i) {
      rank[i] = rank[i] + excess;
      const Vec up = masked(side, rank[i] < 0.0f);
      const Vec down = masked(side, rank[i] >= kSide);
      rank[i] = rank[i] + (up - down);
      nearest[i] = nearest[i] + (up - down);
      *reinterpret_cast<Vec*>(&chunk.nearest[i][at]) = nearest[i];
      *reinterpret_cast<Vec*>(&chunk.residual[i][at]) = (elevated[i] - nearest[i]) * kInverseSide;
      *reinterpret_cast<IntVec*>(&chunk.rank[i][at]) = __builtin_convertvector(rank[i], IntVec);
    }
  }
}

MULTIVERSIONED void embed_positions(Embedding& chunk, int count) { embed<kPositionFeatures>(chunk, count); }
MULTIVERSIONED void embed_colours(Embedding& chunk, int count) { embed<kMaxFeatures>(chunk, count); }

template <int B>
INLINED void blur_direction(const Vec* __restrict from, Vec* __restrict to, const std::int32_t* __restrict neighbours,
                            std::size_t vertices, std::size_t runtime_blocks) {
  const std::size_t blocks = B ? B : runtime_blocks;
  for (std::size_t v = 1; v <= vertices; ++v) {
    const Vec* before = from + neighbours[2 * v] * blocks;
    const Vec* after = from + neighbours[2 * v + 1] * blocks;
    for (std::size_t b = 0; b < blocks; ++b) {
      to[v * blocks + b] = from[v * blocks + b] + (before[b] + after[b]) * 0.5f;
    }
  }
}

MULTIVERSIONED void blur_direction(const Vec* from, Vec* to, const std::int32_t* neighbours, std::size_t vertices,
                                   std::size_t blocks) {
  switch (blocks) {
    case 1: return blur_direction<1>(from, to, neighbours, vertices, blocks);
    case 2: return blur_direction<2>(from, to, neighbours, vertices, blocks);
    case 3: return blur_direction<3>(from, to, neighbours, vertices, blocks);
    case 4: return blur_direction<4>(from, to, neighbours, vertices, blocks);
    default: return blur_direction<0>(from, to, neighbours, vertices, blocks);
  }
}

// One kernel of the CRF: which corners each pixel splats to and slices from, with which weights.
struct Lattice {
  int corners = 0;                      // d + 1, also the number of blur directions
  std::size_t vertices = 0;
  std::vector<std::int32_t> corner;     // (pixels or more, corners): vertex, from 1
  std::vector<float> weight;            // (pixels or more, corners): barycentric, times norm after normalise()
  std::vector<std::int32_t> neighbour;  // (corners, vertices + 1, 2): along each direction; 0, a row of zeros, if none
  float gain = 1.0f;                    // of the slice: the kernel's weight and the lattice's own scale
  Rows values, scratch;                 // (vertices + 1, blocks)

  void allocate(std::size_t blocks) {
    values = Rows(vertices + 1, blocks);
    scratch = Rows(vertices + 1, blocks);
    values.clear();
    scratch.clear();
  }

  // Leaves the blurred values in `values`; `scratch` may hold anything but for its row of zeros.
  void blur(std::size_t blocks) {
    for (int direction = 0; direction < corners; ++direction) {
      blur_direction(values.data(), scratch.data(), neighbour.data() + direction * 2 * (vertices + 1), vertices, blocks);
      std::swap(values, scratch);
    }
  }

  // K 1 by one splat, blur and slice of ones; then norm = 1 / sqrt(K 1) goes into the barycentric weights, which are
  // used once on the way in and once on the way out. The kernel's weight does not: splatted sums then round as they do
  // in pydensecrf, and where the iterations amplify rounding, the two libraries stay four times nearer to each other.
  void normalise(std::size_t pixels, float kernel_weight) {
    const float alpha = 1.0f / (1.0f + std::ldexp(1.0f, 1 - corners));  // Adams et al.'s scale of the slice
    gain = alpha * kernel_weight;
    std::vector<float> ones(vertices + 1, 0.0f), blurred(vertices + 1, 0.0f);
    const std::size_t entries = pixels * corners;
    for (std::size_t e = 0; e < entries; ++e) ones[corner[e]] += weight[e];
    for (int direction = 0; direction < corners; ++direction) {
      const std::int32_t* next = neighbour.data() + direction * 2 * (vertices + 1);
      for (std::size_t v = 1; v <= vertices; ++v) {
        blurred[v] = ones[v] + 0.5f * (ones[next[2 * v]] + ones[next[2 * v + 1]]);
      }
      ones.swap(blurred);
    }
    for (std::size_t i = 0; i < pixels; ++i) {
      float* own = weight.data() + i * corners;
      const std::int32_t* at = corner.data() + i * corners;
      float total = 0.0f;
      for (int k = 0; k < corners; ++k) total += own[k] * ones[at[k]];
      const float norm = 1.0f / std::sqrt(alpha * total + 1e-20f);
      for (int k = 0; k < corners; ++k) own[k] *= norm;
    }
  }
};

// D = 2: position; D = 5: position and colour.
template <int D>
Lattice build(const std::uint8_t* image, std::size_t height, std::size_t width, float sxy, float srgb) {
  constexpr int kCorners = D + 1;
  const std::size_t pixels = height * width;

  // Standard deviation of the blur in lattice units times the diagonal of the embedding (Adams et al. 2010, pp. 5-6).
  const float deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * (D + 1));
  std::vector<float> table[D];  // feature value of each column, row or colour, scaled
  for (int j = 0; j < D; ++j) {
    const float scale = static_cast<float>(1.0 / std::sqrt((j + 2) * (j + 1.0)) * deviation);
    const float sigma = j < kPositionFeatures ? sxy : srgb;
    table[j].resize(j == 0 ? width : j == 1 ? height : kColours);
    for (std::size_t i = 0; i < table[j].size(); ++i) table[j][i] = static_cast<float>(i) / sigma * scale;
  }

  // A lattice point is its first d coordinates as one mixed-radix number; the margin holds simplex corners and their
  // neighbours, so that moving along a direction is adding one number.
  constexpr double kMargin = 4.0 * kCorners;
  double low[D], capacity = 1.0;
  std::uint64_t stride[kCorners] = {}, every = 0;
  for (int i = 0; i < D; ++i) {
    double high = 0.0;
    for (int j = i; j < D; ++j) high += table[j].back();
    low[i] = std::floor(i > 0 ? -static_cast<double>(i) * table[i - 1].back() : 0.0) - kMargin;
    const double extent = std::ceil(high) + kMargin - low[i] + 1.0;
    stride[i] = static_cast<std::uint64_t>(capacity);
    capacity *= extent;
    if (!(extent < 0x1p21) || !(capacity < 0x1p62)) {
      throw std::invalid_argument("standard deviation too small: the lattice has too many cells");
    }
    every += stride[i];
  }

  const std::size_t padded = (pixels + kGroup - 1) / kGroup * kGroup;
  Lattice lattice;
  lattice.corners = kCorners;
  lattice.corner.resize(padded * kCorners);
  lattice.weight.resize(padded * kCorners);
  VertexTable table_of_vertices(pixels / 16);
  std::uint64_t last_key[kCorners];
  std::int32_t last_vertex[kCorners] = {};
  std::fill_n(last_key, kCorners, std::numeric_limits<std::uint64_t>::max());
  auto chunk = std::make_unique<Embedding>();

  std::size_t row = 0, column = 0;
  for (std::size_t start = 0; start < padded; start += kChunk) {
    const int count = static_cast<int>(std::min<std::size_t>(kChunk, padded - start));
    for (int i = 0; i < count; ++i) {
      if (start + i >= pixels) {
        for (int j = 0; j < D; ++j) chunk->scaled[j][i] = 0.0f;
        continue;
      }
      chunk->scaled[0][i] = table[0][column];
      chunk->scaled[1][i] = table[1][row];
      for (int j = kPositionFeatures; j < D; ++j) {
        chunk->scaled[j][i] = table[j][image[kColourFeatures * (start + i) + j - kPositionFeatures]];
      }
      if (++column == width) column = 0, ++row;
    }
    if constexpr (D == kPositionFeatures) {
      embed_positions(*chunk, count);
    } else {
      embed_colours(*chunk, count);
    }
    for (int i = 0; i < count; ++i) {
      std::uint64_t key = 0;
      float sorted[kCorners];
      std::uint64_t sorted_stride[kCorners];
      for (int c = 0; c < kCorners; ++c) {
        const std::int32_t rank = chunk->rank[c][i];
        sorted[rank] = chunk->residual[c][i];
        sorted_stride[rank] = stride[c];
        if (c < D) key += stride[c] * static_cast<std::uint64_t>(chunk->nearest[c][i] - static_cast<float>(low[c]));
      }
      std::int32_t* corner = lattice.corner.data() + (start + i) * kCorners;
      float* weight = lattice.weight.data() + (start + i) * kCorners;
      for (int k = 0; k < kCorners; ++k) {
        // Corner k adds k to all coordinates and takes d + 1 from the k of them with the smallest residuals.
        if (k > 0) key += every - kCorners * sorted_stride[kCorners - k];
        weight[k] = k > 0 ? sorted[D - k] - sorted[kCorners - k] : sorted[D] + (1.0f - sorted[0]);
        if (key != last_key[k]) {  // neighbouring pixels mostly share corners
          last_key[k] = key;
          last_vertex[k] = table_of_vertices.find_or_insert(key);
        }
        corner[k] = last_vertex[k];
      }
    }
  }

  const std::vector<std::uint64_t>& keys = table_of_vertices.keys();
  lattice.vertices = keys.size();
  lattice.neighbour.assign(2 * kCorners * (keys.size() + 1), 0);
  for (int direction = 0; direction < kCorners; ++direction) {
    std::int32_t* next = lattice.neighbour.data() + direction * 2 * (keys.size() + 1);
    const std::uint64_t step = kCorners * stride[direction] - every;  // d along the direction, -1 along the others
    for (std::size_t v = 1; v <= keys.size(); ++v) {
      const std::int32_t found = table_of_vertices.find(keys[v - 1] + step);
      if (found == 0) continue;
      next[2 * v] = found;
      next[2 * found + 1] = static_cast<std::int32_t>(v);
    }
  }
  return lattice;
}

// One pass over all pixels: slice every kernel, add the scores, softmax, then splat the result for the next blur.
// The last pass leaves the softmax in `scores` instead.
template <int B>
INLINED void update(std::vector<Lattice>& kernels, Vec* __restrict scores, std::size_t pixels,
                    std::size_t runtime_blocks, bool slice, bool splat) {
  const std::size_t blocks = B ? B : runtime_blocks;
  Vec in_registers[B ? B : 1];
  Rows in_memory(B ? 0 : 1, runtime_blocks);
  Vec* q = B ? in_registers : in_memory.data();
  for (std::size_t i = 0; i < pixels; ++i) {
    Vec* own = scores + i * blocks;
    for (std::size_t b = 0; b < blocks; ++b) q[b] = own[b];
    if (slice) {
      for (const Lattice& kernel : kernels) {
        const std::int32_t* corner = kernel.corner.data() + i * kernel.corners;
        const float* weight = kernel.weight.data() + i * kernel.corners;
        const Vec* values = kernel.values.data();
        for (int k = 0; k < kernel.corners; ++k) {
          const Vec* row = values + corner[k] * blocks;
          const float share = weight[k] * kernel.gain;
          for (std::size_t b = 0; b < blocks; ++b) q[b] = q[b] + row[b] * share;
        }
      }
    }
    Vec top = q[0];
    for (std::size_t b = 1; b < blocks; ++b) top = larger(top, q[b]);
    const float highest = largest(top);
    Vec total = broadcast(0.0f);
    for (std::size_t b = 0; b < blocks; ++b) {
      q[b] = exp_nonpositive(q[b] - highest);
      total = total + q[b];
    }
    const float inverse = 1.0f / sum(total);
    for (std::size_t b = 0; b < blocks; ++b) q[b] = q[b] * inverse;
    if (splat) {
      for (Lattice& kernel : kernels) {
        const std::int32_t* corner = kernel.corner.data() + i * kernel.corners;
        const float* weight = kernel.weight.data() + i * kernel.corners;
        Vec* fresh = kernel.scratch.data();
        for (int k = 0; k < kernel.corners; ++k) {
          Vec* row = fresh + corner[k] * blocks;
          for (std::size_t b = 0; b < blocks; ++b) row[b] = row[b] + q[b] * weight[k];
        }
      }
    } else {
      for (std::size_t b = 0; b < blocks; ++b) own[b] = q[b];
    }
  }
}

MULTIVERSIONED void update(std::vector<Lattice>& kernels, Vec* scores, std::size_t pixels, std::size_t blocks,
                           bool slice, bool splat) {
  switch (blocks) {
    case 1: return update<1>(kernels, scores, pixels, blocks, slice, splat);
    case 2: return update<2>(kernels, scores, pixels, blocks, slice, splat);
    case 3: return update<3>(kernels, scores, pixels, blocks, slice, splat);
    case 4: return update<4>(kernels, scores, pixels, blocks, slice, splat);
    default: return update<0>(kernels, scores, pixels, blocks, slice, splat);
  }
}

using Image = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, kColourFeatures>, nb::c_contig, nb::device::cpu>;
using Scores = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void mean_field(Image image, Scores scores, int iterations, float gaussian_sxy, float gaussian_weight,
                float bilateral_sxy, float bilateral_srgb, float bilateral_weight) {
  const std::size_t classes = scores.shape(0), height = scores.shape(1), width = scores.shape(2);
  const std::size_t pixels = height * width;
  if (image.shape(0) != height || image.shape(1) != width) throw std::invalid_argument("image and scores differ in size");
  if (classes == 0 || pixels == 0) throw std::invalid_argument("empty image or no class");
  if (pixels > std::numeric_limits<std::int32_t>::max() / (2 * kMaxCorners)) throw std::invalid_argument("too many pixels");

  const std::size_t blocks = (classes + kLanes - 1) / kLanes;
  const std::size_t channels = blocks * kLanes;
  std::vector<Lattice> kernels;
  if (iterations > 0 && gaussian_weight > 0.0f) {
    kernels.push_back(build<kPositionFeatures>(image.data(), height, width, gaussian_sxy, 1.0f));
    kernels.back().normalise(pixels, gaussian_weight);
  }
  if (iterations > 0 && bilateral_weight > 0.0f) {
    kernels.push_back(build<kMaxFeatures>(image.data(), height, width, bilateral_sxy, bilateral_srgb));
    kernels.back().normalise(pixels, bilateral_weight);
  }
  for (Lattice& kernel : kernels) kernel.allocate(blocks);

  // Pixels first, classes contiguous; the channels that only fill the last vector can never win the softmax.
  Rows rows(pixels, blocks);
  float* by_pixel = reinterpret_cast<float*>(rows.data());
  float* by_class = scores.data();
  constexpr std::size_t kTile = 64;
  for (std::size_t start = 0; start < pixels; start += kTile) {
    const std::size_t end = std::min(pixels, start + kTile);
    for (std::size_t c = 0; c < channels; ++c) {
      for (std::size_t i = start; i < end; ++i) {
        by_pixel[i * channels + c] = c < classes ? by_class[c * pixels + i] : -1e30f;
      }
    }
  }

  update(kernels, rows.data(), pixels, blocks, false, iterations > 0);
  for (int iteration = 1; iteration <= iterations; ++iteration) {
    for (Lattice& kernel : kernels) {
      std::swap(kernel.values, kernel.scratch);
      kernel.blur(blocks);
      if (iteration < iterations) kernel.scratch.clear();
    }
    update(kernels, rows.data(), pixels, blocks, true, iteration < iterations);
  }

  for (std::size_t start = 0; start < pixels; start += kTile) {
    const std::size_t end = std::min(pixels, start + kTile);
    for (std::size_t c = 0; c < classes; ++c) {
      for (std::size_t i = start; i < end; ++i) by_class[c * pixels + i] = by_pixel[i * channels + c];
    }
  }
}

}  // namespace

NB_MODULE(_permutohedral, module) {
  module.doc() = "Mean field of the fully connected CRF on the permutohedral lattice.";
  module.def("mean_field", &mean_field, nb::arg("image").noconvert(), nb::arg("scores").noconvert(),
             nb::arg("iterations"), nb::arg("gaussian_sxy"), nb::arg("gaussian_weight"), nb::arg("bilateral_sxy"),
             nb::arg("bilateral_srgb"), nb::arg("bilateral_weight"), nb::call_guard<nb::gil_scoped_release>(),
             "Replace scores, the negative unary energies (classes, height, width) as float32, by the class "
             "probabilities after the given number of mean-field updates. image: uint8 (height, width, 3).");
}
