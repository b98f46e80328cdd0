// The loops of permutohedral_loops.hpp for one level of instruction sets: LEVEL names it, the compiler's flags set it.
//
// Nothing here may use an inline function or a template that other files use too: the linker would keep one copy for
// all, perhaps the one that only newer processors run. So there are plain pointers and an unnamed namespace.
//
// Vectors are GCC's and Clang's vector extension. Sums and products are rounded one by one while pixels are embedded,
// because their simplex hangs on the last bit; elsewhere they are fused where the processor can.

#include "permutohedral_loops.hpp"

#include <cstring>

#if defined(__FMA__)
#include <immintrin.h>
#endif

#define INLINED __attribute__((always_inline, unused)) inline  // some levels do without some of them
#define STRINGIFIED(x) #x
#define NAME_OF(x) STRINGIFIED(x)

namespace permutohedral {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 8, kWideLanes = 16;  // of a row's vectors, and of loops that do not care for rows
#elif defined(__AVX2__)
constexpr int kLanes = 8, kWideLanes = 8;
#else
constexpr int kLanes = 4, kWideLanes = 4;
#endif
constexpr int kStep = 8 / kLanes;  // vectors by which rows of more than four classes grow

typedef float Float4 __attribute__((vector_size(16)));
typedef float Float8 __attribute__((vector_size(32)));
typedef float Float16 __attribute__((vector_size(64)));
typedef std::int32_t Int4 __attribute__((vector_size(16)));
typedef std::int32_t Int8 __attribute__((vector_size(32)));
typedef std::int32_t Int16 __attribute__((vector_size(64)));
typedef std::uint32_t Bits4 __attribute__((vector_size(16)));
typedef std::uint32_t Bits8 __attribute__((vector_size(32)));
typedef std::uint32_t Bits16 __attribute__((vector_size(64)));
typedef std::int64_t Long4 __attribute__((vector_size(32)));
typedef std::int64_t Long8 __attribute__((vector_size(64)));
typedef std::int64_t Long16 __attribute__((vector_size(128)));

template <int L> struct Vectors;
template <> struct Vectors<4> { typedef Float4 Float; typedef Int4 Int; typedef Bits4 Bits; typedef Long4 Long; };
template <> struct Vectors<8> { typedef Float8 Float; typedef Int8 Int; typedef Bits8 Bits; typedef Long8 Long; };
template <> struct Vectors<16> { typedef Float16 Float; typedef Int16 Int; typedef Bits16 Bits; typedef Long16 Long; };

template <class V> INLINED V load(const float* p) { return *reinterpret_cast<const V*>(p); }
template <class V> INLINED void store(float* p, V x) { *reinterpret_cast<V*>(p) = x; }
template <class V> INLINED V broadcast(float x) { return x - V{}; }
template <class V> INLINED V larger(V a, V b) { return a > b ? a : b; }

INLINED Float4 fused(Float4 a, Float4 b, Float4 c) {
#if defined(__FMA__)
  return _mm_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}
INLINED Float8 fused(Float8 a, Float8 b, Float8 c) {
#if defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}
INLINED Float16 fused(Float16 a, Float16 b, Float16 c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

#if defined(__clang__)
#define SWAPPED(x, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#else
#define SWAPPED(x, ...) __builtin_shuffle(x, decltype(x > x){__VA_ARGS__})
#endif

// The largest lane, or the sum of all, in every lane.
INLINED Float4 largest(Float4 x) {
  x = larger(x, SWAPPED(x, 1, 0, 3, 2));
  return larger(x, SWAPPED(x, 2, 3, 0, 1));
}
INLINED Float8 largest(Float8 x) {
  x = larger(x, SWAPPED(x, 1, 0, 3, 2, 5, 4, 7, 6));
  x = larger(x, SWAPPED(x, 2, 3, 0, 1, 6, 7, 4, 5));
  return larger(x, SWAPPED(x, 4, 5, 6, 7, 0, 1, 2, 3));
}
INLINED Float4 total(Float4 x) {
  x = x + SWAPPED(x, 1, 0, 3, 2);
  return x + SWAPPED(x, 2, 3, 0, 1);
}
INLINED Float8 total(Float8 x) {
  x = x + SWAPPED(x, 1, 0, 3, 2, 5, 4, 7, 6);
  x = x + SWAPPED(x, 2, 3, 0, 1, 6, 7, 4, 5);
  return x + SWAPPED(x, 4, 5, 6, 7, 0, 1, 2, 3);
}

// Adding and subtracting 1.5 * 2^23 rounds a float below 2^22 to the nearest integer, halves to even.
constexpr float kRounder = 12582912.0f;
constexpr float kLog2E = 1.44269504f;

// 2^x for x <= 0. Below the cutoff the answer is 0: such a probability changes nothing, and its products with small
// weights would be denormal numbers, which are very slow to multiply.
template <int L>
INLINED typename Vectors<L>::Float exp2_nonpositive(typename Vectors<L>::Float x) {
  typedef typename Vectors<L>::Float Float;
  typedef typename Vectors<L>::Bits Bits;
  const Bits kept = (Bits)(x > -86.0f);
  const Float shifted = x + kRounder;  // the integer is in the last bits
  const Float r = x - (shifted - kRounder);
  Float e = broadcast<Float>(1.3276471e-3f);  // relative error below 1e-7 on [-1/2, 1/2]
  e = fused(e, r, broadcast<Float>(9.6755419e-3f));
  e = fused(e, r, broadcast<Float>(5.5507131e-2f));
  e = fused(e, r, broadcast<Float>(2.4022120e-1f));
  e = fused(e, r, broadcast<Float>(6.9314694e-1f));
  e = fused(e, r, broadcast<Float>(1.0000001f));
  return (Float)(((Bits)e + ((Bits)shifted << 23)) & kept);
}

// Adams, Baek and Davis 2010, section 3: elevate to the plane of D + 1 coordinates that sum to zero, round to the
// nearest point with remainder 0, rank the differences; the ranks give the simplex.
template <int D, class Key, int L>
INLINED void embed(Chunk& chunk, const Numbering& numbering, Key (*keys)[kChunk], int count) {
  typedef typename Vectors<L>::Float Float;
  typedef typename Vectors<L>::Int Int;
  constexpr bool kWide = sizeof(Key) == 8;
  typedef Key KeyVector __attribute__((vector_size(sizeof(Key) * L)));
  constexpr float kSide = D + 1;
  constexpr float kInverseSide = 1.0f / (D + 1);
  for (int at = 0; at < count; at += L) {
    Float elevated[D + 1], nearest[D + 1], rank[D + 1];
    Float tail = {};
    for (int j = D; j > 0; --j) {
      const Float feature = load<Float>(&chunk.scaled[j - 1][at]);
      elevated[j] = tail - feature * static_cast<float>(j);
      tail = tail + feature;
    }
    elevated[0] = tail;

    Float excess = {};  // how far the rounded point is from the plane, in multiples of D + 1
    for (int i = 0; i <= D; ++i) {
      const Float multiple = (elevated[i] * kInverseSide + kRounder) - kRounder;
      nearest[i] = multiple * kSide;
      excess = excess + multiple;
      rank[i] = Float{};
    }
    for (int i = 0; i < D; ++i) {
      for (int j = i + 1; j <= D; ++j) {
        const Int behind = (elevated[i] - nearest[i]) < (elevated[j] - nearest[j]);
        const Float one = broadcast<Float>(1.0f);
        rank[i] = rank[i] + (behind ? one : Float{});
        rank[j] = rank[j] + (behind ? Float{} : one);
      }
    }
    Float sorted[D + 1] = {};        // residuals, largest first
    KeyVector sorted_stride[D + 1] = {};
    KeyVector key = {};
    for (int i = 0; i <= D; ++i) {
      rank[i] = rank[i] + excess;
      const Float side = broadcast<Float>(kSide);
      const Float turn = (rank[i] < 0.0f ? side : Float{}) - (rank[i] >= kSide ? side : Float{});
      rank[i] = rank[i] + turn;
      nearest[i] = nearest[i] + turn;
      const Float residual = (elevated[i] - nearest[i]) * kInverseSide;
      for (int r = 0; r <= D; ++r) {
        const Int here = rank[i] == static_cast<float>(r);
        sorted[r] = sorted[r] + (here ? residual : Float{});
        if (i == D) continue;
        const Key stride = static_cast<Key>(numbering.stride[i]);
        if constexpr (kWide) {
          sorted_stride[r] += (KeyVector)__builtin_convertvector(here, typename Vectors<L>::Long) & stride;
        } else {
          sorted_stride[r] += (KeyVector)here & stride;
        }
      }
      if (i == D) continue;
      const Int steps = __builtin_convertvector(nearest[i] - numbering.low[i], Int);
      key += __builtin_convertvector(steps, KeyVector) * static_cast<Key>(numbering.stride[i]);
    }
    // Corner k adds k to all coordinates and takes D + 1 from the k of them with the smallest residuals.
    for (int k = 0; k <= D; ++k) {
      if (k > 0) key += static_cast<Key>(numbering.every) - sorted_stride[D + 1 - k] * static_cast<Key>(D + 1);
      *reinterpret_cast<KeyVector*>(&keys[k][at]) = key;
      store(&chunk.weight[k][at], k > 0 ? sorted[D - k] - sorted[D + 1 - k] : sorted[D] + (1.0f - sorted[0]));
    }
  }
}

template <int D>
INLINED void embed(Chunk& chunk, const Numbering& numbering, int count) {
  if (numbering.wide) {
    embed<D, std::uint64_t, kLanes>(chunk, numbering, chunk.wide_key, count);
  } else {
    embed<D, std::uint32_t, kWideLanes>(chunk, numbering, chunk.key, count);
  }
}

void embed_positions(Chunk& chunk, const Numbering& numbering, int count) {
  embed<kPositionFeatures>(chunk, numbering, count);
}

void embed_colours(Chunk& chunk, const Numbering& numbering, int count) {
  embed<kMaxFeatures>(chunk, numbering, count);
}

// Rows of B vectors of L lanes; B = 0: as many as `vectors` says.
template <int L, int B>
void blur_rows(const float* __restrict from, float* __restrict to, const std::int32_t* __restrict neighbours,
               std::size_t vertices, std::size_t vectors, float gain) {
  typedef typename Vectors<L>::Float Float;
  const std::size_t count = B ? B : vectors, width = count * L;
  const Float whole = broadcast<Float>(gain), half = broadcast<Float>(0.5f * gain);
  for (std::size_t v = 1; v <= vertices; ++v) {
    const float* before = from + neighbours[2 * v] * width;
    const float* after = from + neighbours[2 * v + 1] * width;
    for (std::size_t b = 0; b < count; ++b) {
      const Float both = load<Float>(before + b * L) + load<Float>(after + b * L);
      store(to + v * width + b * L, fused(both, half, load<Float>(from + v * width + b * L) * whole));
    }
  }
}

void blur(const float* from, float* to, const std::int32_t* neighbours, std::size_t vertices, std::size_t width,
          float gain) {
  if (width == 4) return blur_rows<4, 1>(from, to, neighbours, vertices, 1, gain);
  switch (width / kLanes) {
    case kStep: return blur_rows<kLanes, kStep>(from, to, neighbours, vertices, kStep, gain);
    case 2 * kStep: return blur_rows<kLanes, 2 * kStep>(from, to, neighbours, vertices, 2 * kStep, gain);
    case 3 * kStep: return blur_rows<kLanes, 3 * kStep>(from, to, neighbours, vertices, 3 * kStep, gain);
    default: return blur_rows<kLanes, 0>(from, to, neighbours, vertices, width / kLanes, gain);
  }
}

// B vectors of L lanes of a pixel's messages from one kernel.
template <int L, int B, int N>
INLINED void slice(typename Vectors<L>::Float* messages, const float* blurred, const Entry* offsets,
                   const Entry* weights) {
  typedef typename Vectors<L>::Float Float;
  for (int k = 0; k < N; ++k) {
    const float* row = blurred + std::size_t{2} * offsets[k].offset;
    const Float share = broadcast<Float>(weights[k].weight);
    for (int b = 0; b < B; ++b) messages[b] = fused(load<Float>(row + b * L), share, messages[b]);
  }
}

template <int L, int B, int N>
INLINED void splat(const typename Vectors<L>::Float* q, float* sums, const Entry* offsets, const Entry* weights) {
  typedef typename Vectors<L>::Float Float;
  for (int k = 0; k < N; ++k) {
    float* row = sums + std::size_t{2} * offsets[k].offset;
    const Float share = broadcast<Float>(weights[k].weight);
    for (int b = 0; b < B; ++b) store(row + b * L, fused(q[b], share, load<Float>(row + b * L)));
  }
}

// Scores that fill the last vector up can never win the softmax.
constexpr float kNever = -1e30f;

INLINED void take_scores(const Pass& pass, float* tile, std::size_t start, int count) {
  for (int p = 0; p < count; ++p) {
    for (std::size_t c = pass.classes; c < pass.width; ++c) tile[p * pass.width + c] = kNever;
  }
  for (std::size_t c = 0; c < pass.classes; ++c) {
    const float* plane = pass.planes + c * pass.pixels + start;
    for (int p = 0; p < count; ++p) tile[p * pass.width + c] = plane[p];
  }
}

INLINED void give_probabilities(const Pass& pass, const float* tile, std::size_t start, int count) {
  for (std::size_t c = 0; c < pass.classes; ++c) {
    float* plane = pass.planes + c * pass.pixels + start;
    for (int p = 0; p < count; ++p) plane[p] = tile[p * pass.width + c];
  }
}

// All pixels of the tile at once: it need not care where a row begins.
INLINED void exp2_tile(float* tile, std::size_t size) {
  typedef typename Vectors<kWideLanes>::Float Float;
  for (std::size_t at = 0; at < size; at += kWideLanes) {
    store(tile + at, exp2_nonpositive<kWideLanes>(load<Float>(tile + at)));
  }
}

// Rows of B vectors of L lanes, P corners of the position kernel, C of the position and colour kernel.
template <int L, int B, int P, int C>
void update_rows(const Pass& pass) {
  typedef typename Vectors<L>::Float Float;
  constexpr int kWidth = L * B, kCorners = P + C;
  const float* const position = pass.kernels[0].blurred;
  const float* const colour = pass.kernels[1].blurred;
  float* const position_sums = pass.kernels[0].sums;
  float* const colour_sums = pass.kernels[1].sums;
  alignas(64) float tile[kTile * kWidth] = {};
  for (std::size_t start = 0; start < pass.pixels; start += kTile) {
    const int count = static_cast<int>(pass.pixels - start < kTile ? pass.pixels - start : kTile);
    const Entry* const entries = pass.entries + start * 2 * kCorners;
    float* const unary = pass.unary + start * kWidth;
    if (pass.first) {
      take_scores(pass, tile, start, count);
      std::memcpy(unary, tile, count * kWidth * sizeof(float));
    }
    for (int p = 0; p < count; ++p) {
      Float q[B];
      for (int b = 0; b < B; ++b) q[b] = load<Float>(unary + p * kWidth + b * L);
      if (!pass.first) {
        const Entry* own = entries + p * 2 * kCorners;
        slice<L, B, P>(q, position, own, own + kCorners);
        slice<L, B, C>(q, colour, own + P, own + kCorners + P);
      }
      Float top = q[0];
      for (int b = 1; b < B; ++b) top = larger(top, q[b]);
      top = largest(top);
      for (int b = 0; b < B; ++b) store(tile + p * kWidth + b * L, (q[b] - top) * kLog2E);
    }
    exp2_tile(tile, kTile * kWidth);
    for (int p = 0; p < count; ++p) {
      Float q[B];
      Float sum = {};
      for (int b = 0; b < B; ++b) {
        q[b] = load<Float>(tile + p * kWidth + b * L);
        sum = sum + q[b];
      }
      const Float inverse = 1.0f / total(sum);
      for (int b = 0; b < B; ++b) q[b] = q[b] * inverse;
      if (pass.last) {
        for (int b = 0; b < B; ++b) store(tile + p * kWidth + b * L, q[b]);
      } else {
        const Entry* own = entries + p * 2 * kCorners;
        splat<L, B, P>(q, position_sums, own, own + kCorners);
        splat<L, B, C>(q, colour_sums, own + P, own + kCorners + P);
      }
    }
    if (pass.last) give_probabilities(pass, tile, start, count);
  }
}

// Rows of more vectors than there are registers for.
template <int P, int C>
void update_wide_rows(const Pass& pass) {
  typedef typename Vectors<kLanes>::Float Float;
  constexpr int kCorners = P + C;
  const std::size_t width = pass.width;
  for (std::size_t start = 0; start < pass.pixels; start += kTile) {
    const int count = static_cast<int>(pass.pixels - start < kTile ? pass.pixels - start : kTile);
    const Entry* const entries = pass.entries + start * 2 * kCorners;
    float* const unary = pass.unary + start * width;
    if (pass.first) {
      take_scores(pass, pass.tile, start, count);
      std::memcpy(unary, pass.tile, count * width * sizeof(float));
    }
    for (int p = 0; p < count; ++p) {
      const Entry* own = entries + p * 2 * kCorners;
      float* const row = pass.tile + p * width;
      Float top = broadcast<Float>(kNever);
      for (std::size_t c = 0; c < width; c += kLanes) {
        Float q = load<Float>(unary + p * width + c);
        if (!pass.first) {
          slice<kLanes, 1, P>(&q, pass.kernels[0].blurred + c, own, own + kCorners);
          slice<kLanes, 1, C>(&q, pass.kernels[1].blurred + c, own + P, own + kCorners + P);
        }
        top = larger(top, q);
        store(row + c, q);
      }
      top = largest(top);
      for (std::size_t c = 0; c < width; c += kLanes) store(row + c, (load<Float>(row + c) - top) * kLog2E);
    }
    exp2_tile(pass.tile, kTile * width);
    for (int p = 0; p < count; ++p) {
      const Entry* own = entries + p * 2 * kCorners;
      float* const row = pass.tile + p * width;
      Float sum = {};
      for (std::size_t c = 0; c < width; c += kLanes) sum = sum + load<Float>(row + c);
      const Float inverse = 1.0f / total(sum);
      for (std::size_t c = 0; c < width; c += kLanes) {
        const Float q = load<Float>(row + c) * inverse;
        if (pass.last) {
          store(row + c, q);
        } else {
          splat<kLanes, 1, P>(&q, pass.kernels[0].sums + c, own, own + kCorners);
          splat<kLanes, 1, C>(&q, pass.kernels[1].sums + c, own + P, own + kCorners + P);
        }
      }
    }
    if (pass.last) give_probabilities(pass, pass.tile, start, count);
  }
}

template <int P, int C>
void update(const Pass& pass) {
  if (pass.width == 4) return update_rows<4, 1, P, C>(pass);
  switch (pass.width / kLanes) {
    case kStep: return update_rows<kLanes, kStep, P, C>(pass);
    case 2 * kStep: return update_rows<kLanes, 2 * kStep, P, C>(pass);
    case 3 * kStep: return update_rows<kLanes, 3 * kStep, P, C>(pass);
    default: return update_wide_rows<P, C>(pass);
  }
}

void update(const Pass& pass) {
  constexpr int kPosition = kPositionFeatures + 1, kColour = kMaxFeatures + 1;
  if (pass.corners[0] && pass.corners[1]) return update<kPosition, kColour>(pass);
  if (pass.corners[0]) return update<kPosition, 0>(pass);
  return update<0, kColour>(pass);
}

bool supported() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#elif defined(__SSE4_2__)
  return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("popcnt");
#else
  return true;
#endif
}

}  // namespace

extern const Loops LEVEL;
const Loops LEVEL = {NAME_OF(LEVEL), supported, embed_positions, embed_colours, blur, update};

}  // namespace permutohedral
