// Polynomials of a random walk's transition matrix on a grid, applied to maps (PSA, Ahn & Kwak, CVPR 2018).
//
// The matrix T has one row per pixel with an entry for each neighbour and for the pixel itself. Stored is T - I, whose
// rows sum to 0: where a pixel keeps nearly all it has, the entry of T is so near to 1 that float32 would round away
// what the pixel gives in a step, and hundreds of steps would add that up. Pixels lie in memory row by row without
// gaps, so that a neighbour is a constant shift away; entries of neighbours outside the grid are 0, and what lies at
// their shift (a pixel of the next row, or the margin around the maps) does not count. Sixteen pixels are a chunk;
// their entries are stored neighbour by neighbour and read in one forward stream, once for all maps. One call works in
// one thread and without the GIL.
//
// Vectors are GCC's and Clang's vector extension and run over pixels: the order of additions, and so every bit of the
// result, is the same whatever their width and whatever registers they become. The build switches off contraction to
// fused multiply-adds for the same reason.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "../kernels.hpp"

namespace nb = nanobind;

// One wheel for all x86-64 machines: the hot loop exists for SSE2, AVX2 and AVX-512. Each has vectors of its own size,
// since compilers take larger ones apart badly, and so the choice is ours and not that of target_clones.
#if defined(__x86_64__) && defined(__GNUC__)
#define WITH_AVX
#endif

namespace {

constexpr std::size_t kLanes = 16;        // pixels of a chunk
constexpr std::size_t kMapsTogether = 6;  // twelve sums in AVX2's sixteen registers
constexpr std::size_t kBand = 64;         // chunks whose entries stay in the second-level cache for all groups of maps
constexpr float kLeast = 1e-20f;          // smaller entries change nothing, and denormal products are very slow
typedef float Four __attribute__((vector_size(16)));
typedef float Eight __attribute__((vector_size(32)));
typedef float Sixteen __attribute__((vector_size(64)));

template <class Vec>
INLINED void store(float* p, Vec v) {
  std::memcpy(p, &v, sizeof v);
}

// T - I: for each chunk of pixels, for each neighbour, the chunk's entries.
struct Transitions {
  std::size_t chunks;
  std::vector<std::ptrdiff_t> shifts;  // where the neighbours are; the pixel itself comes first
  std::size_t reach;                   // the largest shift
  Zeros<float> entries;
};

// One term of the recurrence: next = scale * T current - keep * next, total += coefficient * next.
struct Term {
  float scale, keep, coefficient;
};

template <class Vec, std::size_t K>
INLINED void advance(const float* __restrict entries, const std::vector<std::ptrdiff_t>& shifts,
                     const float* __restrict current, float* __restrict next, float* __restrict total,
                     std::size_t plane, Term term) {
  constexpr std::size_t kWidth = sizeof(Vec) / sizeof(float), kParts = kWidth < kLanes ? 2 : 1;
  for (std::size_t first = 0; first < kLanes; first += kParts * kWidth) {
    Vec sums[K][kParts] = {};
    const float* entry = entries + first;
    for (const std::ptrdiff_t shift : shifts) {
      Vec factors[kParts];
#pragma GCC unroll 2
      for (std::size_t part = 0; part < kParts; ++part) factors[part] = load<Vec>(entry + part * kWidth);
      const float* from = current + first + shift;
#pragma GCC unroll 6
      for (std::size_t k = 0; k < K; ++k) {
#pragma GCC unroll 2
        for (std::size_t part = 0; part < kParts; ++part) {
          sums[k][part] += factors[part] * load<Vec>(from + k * plane + part * kWidth);
        }
      }
      entry += kLanes;
    }
#pragma GCC unroll 6
    for (std::size_t k = 0; k < K; ++k) {
#pragma GCC unroll 2
      for (std::size_t part = 0; part < kParts; ++part) {
        const std::size_t at = k * plane + first + part * kWidth;
        const Vec value = term.scale * (load<Vec>(current + at) + sums[k][part]) - term.keep * load<Vec>(next + at);
        store(next + at, value);
        if (term.coefficient != 0.0f) store(total + at, load<Vec>(total + at) + term.coefficient * value);
      }
    }
  }
}

// One application of T to all maps, `plane` floats apart.
template <class Vec>
INLINED void apply(const Transitions& transitions, const float* current, float* next, float* total, std::size_t maps,
                   std::size_t plane, Term term) {
  const std::vector<std::ptrdiff_t>& shifts = transitions.shifts;
  const std::size_t groups = (maps + kMapsTogether - 1) / kMapsTogether;
  for (std::size_t start = 0; start < transitions.chunks; start += kBand) {
    const std::size_t end = std::min(start + kBand, transitions.chunks);
    for (std::size_t group = 0; group < groups; ++group) {
      const std::size_t first = group * maps / groups, count = (group + 1) * maps / groups - first;
      for (std::size_t chunk = start; chunk < end; ++chunk) {
        const float* entries = transitions.entries.data() + chunk * shifts.size() * kLanes;
        const std::size_t at = first * plane + chunk * kLanes;
        const float* from = current + at;
        float *to = next + at, *sum = total + at;
        switch (count) {
          case 1: advance<Vec, 1>(entries, shifts, from, to, sum, plane, term); break;
          case 2: advance<Vec, 2>(entries, shifts, from, to, sum, plane, term); break;
          case 3: advance<Vec, 3>(entries, shifts, from, to, sum, plane, term); break;
          case 4: advance<Vec, 4>(entries, shifts, from, to, sum, plane, term); break;
          case 5: advance<Vec, 5>(entries, shifts, from, to, sum, plane, term); break;
          default: advance<Vec, 6>(entries, shifts, from, to, sum, plane, term);
        }
      }
    }
  }
}

using Apply = void(const Transitions&, const float*, float*, float*, std::size_t, std::size_t, Term);

void apply_by_four(const Transitions& transitions, const float* current, float* next, float* total, std::size_t maps,
                   std::size_t plane, Term term) {
  apply<Four>(transitions, current, next, total, maps, plane, term);
}

#ifdef WITH_AVX
__attribute__((target("avx2"))) void apply_by_eight(const Transitions& transitions, const float* current, float* next,
                                                    float* total, std::size_t maps, std::size_t plane, Term term) {
  apply<Eight>(transitions, current, next, total, maps, plane, term);
}

__attribute__((target("avx512f"))) void apply_by_sixteen(const Transitions& transitions, const float* current,
                                                         float* next, float* total, std::size_t maps,
                                                         std::size_t plane, Term term) {
  apply<Sixteen>(transitions, current, next, total, maps, plane, term);
}
#endif

Apply* chosen_apply() {
#ifdef WITH_AVX
  if (__builtin_cpu_supports("avx512f")) return apply_by_sixteen;
  if (__builtin_cpu_supports("avx2")) return apply_by_eight;
#endif
  return apply_by_four;
}

using Planes = nb::ndarray<const float, nb::numpy, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

// Entries of W become entries of T - I: rows divided by their sums, in a pixel's own place minus the sum of the others.
void normalise(Transitions& transitions, const double* sums) {
  float* entries = transitions.entries.data();
  const std::size_t taps = transitions.shifts.size();
  for (std::size_t chunk = 0; chunk < transitions.chunks; ++chunk) {
    double inverses[kLanes], given[kLanes];
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      inverses[lane] = 1.0 / sums[chunk * kLanes + lane];
      given[lane] = 0.0;
    }
    float* own = entries;
    entries += kLanes;
    for (std::size_t tap = 1; tap < taps; ++tap, entries += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        const float entry = static_cast<float>(entries[lane] * inverses[lane]);
        entries[lane] = entry < kLeast ? 0.0f : entry;
        given[lane] += entries[lane];
      }
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) own[lane] = static_cast<float>(-given[lane]);
  }
}

// T - I of the weights of pairs (pixel, pixel + offset), which count both ways, and 1 for the pixel itself.
Transitions transitions_of(const Planes& weights, const std::int32_t* offsets) {
  const std::ptrdiff_t height = weights.shape(1), width = weights.shape(2), pixels = height * width;
  const std::size_t pairs = weights.shape(0), taps = 2 * pairs + 1;
  const std::size_t chunks = (pixels + kLanes - 1) / kLanes;
  Transitions transitions{chunks, {0}, 0, Zeros<float>(chunks * taps * kLanes)};
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    const std::ptrdiff_t shift = offsets[2 * pair] * width + offsets[2 * pair + 1];
    transitions.shifts.insert(transitions.shifts.end(), {shift, -shift});
    transitions.reach = std::max<std::size_t>(transitions.reach, std::abs(shift));
  }

  std::vector<double> sums(chunks * kLanes, 1.0);
  Zeros<float> padded(transitions.reach + chunks * kLanes + transitions.reach);
  float* plane = padded.data() + transitions.reach;
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    const std::ptrdiff_t dy = offsets[2 * pair], dx = offsets[2 * pair + 1], shift = transitions.shifts[2 * pair + 1];
    const std::ptrdiff_t left = std::max<std::ptrdiff_t>(0, -dx), right = width - std::max<std::ptrdiff_t>(0, dx);
    std::fill_n(plane, pixels, 0.0f);
    for (std::ptrdiff_t y = std::max<std::ptrdiff_t>(0, -dy); y < height - std::max<std::ptrdiff_t>(0, dy); ++y) {
      const float* row = weights.data() + pair * pixels + y * width;
      if (left < right) std::copy_n(row + left, right - left, plane + y * width + left);
    }
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
      const float* forward = plane + chunk * kLanes;
      const float* backward = forward - shift;
      float* entries = transitions.entries.data() + (chunk * taps + 2 * pair + 1) * kLanes;
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        entries[lane] = forward[lane];
        entries[kLanes + lane] = backward[lane];
        sums[chunk * kLanes + lane] += static_cast<double>(forward[lane]) + backward[lane];
      }
    }
  }
  normalise(transitions, sums.data());
  return transitions;
}

using Offsets = nb::ndarray<const std::int32_t, nb::numpy, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Coefficients = nb::ndarray<const float, nb::numpy, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<float, nb::numpy, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void walk(Planes maps, Planes weights, Offsets offsets, Coefficients coefficients, Result result) {
  const std::size_t count = maps.shape(0), pixels = maps.shape(1) * maps.shape(2);
  for (int side = 1; side < 3; ++side) {
    if (weights.shape(side) != maps.shape(side)) throw std::invalid_argument("maps and weights differ in size");
  }
  for (int side = 0; side < 3; ++side) {
    if (result.shape(side) != maps.shape(side)) throw std::invalid_argument("maps and result differ in shape");
  }
  if (offsets.shape(0) != weights.shape(0)) throw std::invalid_argument("offsets and weights differ in number");
  if (coefficients.shape(0) == 0) throw std::invalid_argument("no coefficients");

  const Transitions transitions = transitions_of(weights, offsets.data());
  const std::size_t margin = (transitions.reach + kLanes - 1) / kLanes * kLanes;
  const std::size_t plane = transitions.chunks * kLanes + margin;  // the margin after a map is the next one's before it
  const std::size_t size = count * plane + margin;
  Zeros<float> current(size), next(size), total(size);
  float *z = current.data() + margin, *other = next.data() + margin, *sum = total.data() + margin;
  for (std::size_t map = 0; map < count; ++map) {
    const float* from = maps.data() + map * pixels;
    std::copy_n(from, pixels, z + map * plane);
    for (std::size_t i = 0; i < pixels; ++i) sum[map * plane + i] = coefficients.data()[0] * from[i];
  }
  Apply* const apply_once = chosen_apply();
  for (std::size_t degree = 1; degree < coefficients.shape(0); ++degree) {
    const float again = degree == 1 ? 0.0f : 1.0f;
    apply_once(transitions, z, other, sum, count, plane, Term{1.0f + again, again, coefficients.data()[degree]});
    std::swap(z, other);
  }
  for (std::size_t map = 0; map < count; ++map) {
    std::copy_n(sum + map * plane, pixels, result.data() + map * pixels);
  }
}

}  // namespace

NB_MODULE(_random_walk, module) {
  module.doc() = "Polynomials of a random walk's transition matrix on a grid, applied to maps.";
  module.def("walk", &walk, nb::arg("maps").noconvert(), nb::arg("weights").noconvert(), nb::arg("offsets").noconvert(),
             nb::arg("coefficients").noconvert(), nb::arg("result").noconvert(),
             nb::call_guard<nb::gil_scoped_release>(),
             "Write the sum of coefficients[k] * T_k(T) maps into result. maps: float32 (maps, height, width), finite. "
             "T: the transition matrix of weights (offsets, height, width) of each pixel and pixel + offset, 1 for the "
             "pixel itself; weights of pairs that leave the grid do not count. T_k: Chebyshev polynomials. offsets: "
             "int32 (offsets, 2), (dy, dx).");
}
