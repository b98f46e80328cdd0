// Seeded region growing (Huang et al., CVPR 2018) and superpixel-guided growing (Kim, 2022) of a batch of label maps.
//
// A pixel conducts at most one class: its seed's, or else the most probable class if that is probable enough. One pass
// over the probabilities of the classes that compete leaves a byte per pixel. Runs of equal bytes in a row are then
// joined with the runs they touch in the row above by a union-find, and those of a component with a seed are written.
// One call works on a batch in one thread and without the GIL; callers share a batch out among threads.
//
// Vectors are GCC's and Clang's vector extension. They compare only: their width changes no result.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../kernels.hpp"

namespace nb = nanobind;

// One wheel for all x86-64 machines: the hot loop exists for SSE2 and for AVX2, the processor decides.
#if defined(__x86_64__)
#define HAS_AVX2_COPY
#endif

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte of a word is its lowest");

namespace {

// As wide as a register: the compiler takes wider ones apart, element by element.
template <int kLanes>
struct Vectors {
  typedef float Floats __attribute__((vector_size(4 * kLanes)));
  typedef std::int32_t Ints __attribute__((vector_size(4 * kLanes)));
};

constexpr std::size_t kGroup = 16;           // pixels whose classes are compared at the same time
constexpr std::size_t kChunk = 32 * kGroup;  // pixels whose classes are found before they become bytes

constexpr std::uint8_t kBackground = 0;
constexpr std::uint8_t kUnlabelled = 255;
constexpr float kLowest = -std::numeric_limits<float>::infinity();

template <typename Vector, typename Mask>
INLINED Vector either(Mask mask, Vector yes, Vector no) {
  return (Vector)(((Mask)yes & mask) | ((Mask)no & ~mask));
}

// The classes that compete in one image, ascending, with their planes of probabilities.
struct Competitors {
  std::vector<std::uint8_t> classes;
  std::vector<const float*> planes;

  Competitors(const bool* present, const float* probabilities, std::size_t all, std::size_t pixels) {
    for (std::size_t c = 0; c < all; ++c) {
      if (c != kBackground && !present[c]) continue;
      classes.push_back(static_cast<std::uint8_t>(c));
      planes.push_back(probabilities + c * pixels);
    }
  }
};

// The thresholds of background and foreground.
struct Thresholds {
  float background, foreground;
  float of(int label) const { return label == kBackground ? background : foreground; }
};

template <typename Label>
INLINED bool is_label(Label seed, std::size_t classes) {
  return seed == kUnlabelled || (seed >= 0 && static_cast<std::size_t>(seed) < classes);
}

// Tells the caller of the first seed that is no label.
template <typename Label>
[[noreturn]] void reject_seeds(const Label* seeds, std::size_t classes) {
  while (is_label(*seeds, classes)) ++seeds;
  throw std::invalid_argument("seed label " + std::to_string(*seeds) + " is none of the classes 0.." +
                              std::to_string(classes - 1) + " and not " + std::to_string(kUnlabelled));
}

// Seeds as bytes. Returns whether they all fit.
template <typename Label>
bool read_seeds(const Label* seeds, std::size_t pixels, std::uint8_t* bytes) {
  Label bits = 0;
  for (std::size_t i = 0; i < pixels; ++i) {
    bits |= seeds[i];
    bytes[i] = static_cast<std::uint8_t>(seeds[i]);
  }
  return bits >= 0 && bits <= kUnlabelled;
}

// The most probable of the competing classes (the lowest on ties) of kGroup pixels if its probability reaches the
// threshold, or else kUnlabelled. NaN compares false, so it never competes.
template <int kLanes>
INLINED void sure_classes(const Competitors& competitors, std::size_t at, const Thresholds& thresholds,
                          std::int32_t* labels) {
  using Floats = typename Vectors<kLanes>::Floats;
  using Ints = typename Vectors<kLanes>::Ints;
  constexpr int kVectors = kGroup / kLanes;
  const Floats zero = {};
  const Ints nothing = (Ints)zero + kUnlabelled;
  Floats best[kVectors];
  Ints label[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    best[v] = zero + kLowest;
    label[v] = nothing;
  }
  for (std::size_t k = 0; k < competitors.planes.size(); ++k) {
    const float* plane = competitors.planes[k] + at;
    const Ints competitor = (Ints)zero + competitors.classes[k];
    for (int v = 0; v < kVectors; ++v) {
      const Floats p = load<Floats>(plane + v * kLanes);
      const Ints larger = p > best[v];
      best[v] = either(larger, p, best[v]);
      label[v] = either(larger, competitor, label[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    const Ints background = label[v] == kBackground;
    const Floats threshold = either(background, zero + thresholds.background, zero + thresholds.foreground);
    label[v] = either((Ints)(best[v] >= threshold), label[v], nothing);
    std::memcpy(labels + v * kLanes, &label[v], sizeof(Ints));
  }
}

// The same of one pixel.
INLINED std::int32_t sure_class(const Competitors& competitors, std::size_t at, const Thresholds& thresholds) {
  float best = kLowest;
  std::int32_t label = kUnlabelled;
  for (std::size_t k = 0; k < competitors.planes.size(); ++k) {
    if (!(competitors.planes[k][at] > best)) continue;
    best = competitors.planes[k][at];
    label = competitors.classes[k];
  }
  return best >= thresholds.of(label) ? label : kUnlabelled;
}

// The class each pixel conducts: its seed's, or else the one it is sure of.
template <int kLanes>
INLINED void conducting_by(const Competitors& competitors, const std::uint8_t* seeds, std::size_t pixels,
                           const Thresholds& thresholds, std::uint8_t* conducting) {
  std::int32_t labels[kChunk];
  for (std::size_t start = 0; start < pixels; start += kChunk) {
    const std::size_t count = std::min(kChunk, pixels - start);
    std::size_t at = 0;
    for (; at + kGroup <= count; at += kGroup) {
      sure_classes<kLanes>(competitors, start + at, thresholds, labels + at);
    }
    for (; at < count; ++at) labels[at] = sure_class(competitors, start + at, thresholds);
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint8_t seed = seeds[start + i], sure = static_cast<std::uint8_t>(labels[i]);
      conducting[start + i] = seed == kUnlabelled ? sure : seed;
    }
  }
}

#ifdef HAS_AVX2_COPY
__attribute__((target("avx2"))) void conducting_avx2(const Competitors& competitors, const std::uint8_t* seeds,
                                                     std::size_t pixels, const Thresholds& thresholds,
                                                     std::uint8_t* conducting) {
  conducting_by<8>(competitors, seeds, pixels, thresholds, conducting);
}
#endif

void conducting_classes(const Competitors& competitors, const std::uint8_t* seeds, std::size_t pixels,
                        const Thresholds& thresholds, std::uint8_t* conducting) {
#ifdef HAS_AVX2_COPY
  if (__builtin_cpu_supports("avx2")) return conducting_avx2(competitors, seeds, pixels, thresholds, conducting);
#endif
  conducting_by<4>(competitors, seeds, pixels, thresholds, conducting);
}

// The first position from `at` on that does not hold `value`, or `end`.
INLINED std::int32_t first_other(const std::uint8_t* bytes, std::int32_t at, std::int32_t end, std::uint8_t value) {
  const std::uint64_t pattern = value * 0x0101010101010101ull;
  for (; at + 8 <= end; at += 8) {
    const std::uint64_t difference = load<std::uint64_t>(bytes + at) ^ pattern;
    if (difference) return at + __builtin_ctzll(difference) / 8;
  }
  while (at < end && bytes[at] == value) ++at;
  return at;
}

// Pixels begin..end-1 of one row, all of which conduct `label`.
struct Run {
  std::int32_t begin, end;
  std::int32_t parent;  // a run of the same component, itself or an earlier one
  std::uint8_t label;
  bool seeded;
};

INLINED std::int32_t root_of(Run* runs, std::int32_t run) {
  while (runs[run].parent != run) {
    runs[run].parent = runs[runs[run].parent].parent;
    run = runs[run].parent;
  }
  return run;
}

INLINED void join(Run* runs, std::int32_t one, std::int32_t other) {
  one = root_of(runs, one);
  other = root_of(runs, other);
  if (one < other) std::swap(one, other);
  runs[one].parent = other;
}

// Finds all runs and joins those that touch, diagonals included. Returns their number.
std::int32_t find_runs(const std::uint8_t* conducting, const std::uint8_t* seeds, std::int32_t height,
                       std::int32_t width, Run* runs) {
  std::int32_t count = 0, above = 0, above_end = 0;
  for (std::int32_t row = 0; row < height; ++row) {
    const std::int32_t row_end = (row + 1) * width;
    const std::int32_t first = count;
    for (std::int32_t at = row * width; at < row_end;) {
      const std::uint8_t label = conducting[at];
      const std::int32_t end = first_other(conducting, at, row_end, label);
      if (label != kUnlabelled) {
        runs[count] = {at, end, count, label, first_other(seeds, at, end, kUnlabelled) < end};
        while (above < above_end && runs[above].end + width < at) ++above;
        for (std::int32_t r = above; r < above_end && runs[r].begin + width <= end; ++r) {
          if (runs[r].label == label) join(runs, count, r);
        }
        ++count;
      }
      at = end;
    }
    above = first;
    above_end = count;
  }
  return count;
}

// Writes the components that hold a seed; everything else stays unlabelled.
template <typename Label>
void write_labels(Run* runs, std::int32_t count, std::int32_t pixels, Label* labels) {
  for (std::int32_t r = 0; r < count; ++r) {
    runs[r].parent = runs[runs[r].parent].parent;  // parents come first, so theirs is a root already
    runs[runs[r].parent].seeded |= runs[r].seeded;
  }
  std::int32_t at = 0;
  for (std::int32_t r = 0; r < count; ++r) {
    if (!runs[runs[r].parent].seeded) continue;
    std::fill(labels + at, labels + runs[r].begin, static_cast<Label>(kUnlabelled));
    std::fill(labels + runs[r].begin, labels + runs[r].end, static_cast<Label>(runs[r].label));
    at = runs[r].end;
  }
  std::fill(labels + at, labels + pixels, static_cast<Label>(kUnlabelled));
}

template <typename Label>
using Maps = nb::ndarray<Label, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Probabilities = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Present = nb::ndarray<const bool, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <typename Label>
void grow_regions(Maps<const Label> seeds, Probabilities probabilities, Present present, Maps<Label> labels,
                  float background_threshold, float foreground_threshold) {
  const std::size_t classes = probabilities.shape(1);
  const std::size_t pixels = seeds.shape(1) * seeds.shape(2);
  if (pixels > std::numeric_limits<std::int32_t>::max()) throw std::invalid_argument("maps of more than 2^31 pixels");
  const Thresholds thresholds{background_threshold, foreground_threshold};
  const std::unique_ptr<std::uint8_t[]> seed_bytes(new std::uint8_t[pixels]);
  const std::unique_ptr<std::uint8_t[]> conducting(new std::uint8_t[pixels]);
  const std::unique_ptr<Run[]> runs(new Run[pixels]);  // one per pixel at worst; memory that is not used costs nothing
  for (std::size_t image = 0; image < seeds.shape(0); ++image) {
    const Competitors competitors(present.data() + image * classes, probabilities.data() + image * classes * pixels,
                                  classes, pixels);
    const Label* own_seeds = seeds.data() + image * pixels;
    if (!read_seeds(own_seeds, pixels, seed_bytes.get())) reject_seeds(own_seeds, classes);
    conducting_classes(competitors, seed_bytes.get(), pixels, thresholds, conducting.get());
    const std::int32_t count =
        find_runs(conducting.get(), seed_bytes.get(), static_cast<std::int32_t>(seeds.shape(1)),
                  static_cast<std::int32_t>(seeds.shape(2)), runs.get());
    // A seed conducts whatever it says, so a strange one is the label of a run.
    if (!std::all_of(runs.get(), runs.get() + count, [=](const Run& run) { return is_label(run.label, classes); })) {
      reject_seeds(own_seeds, classes);
    }
    write_labels(runs.get(), count, static_cast<std::int32_t>(pixels), labels.data() + image * pixels);
  }
}

// Adds the probabilities of pixels begin..end-1 to the sums of one superpixel. In double precision the sum of a
// superpixel's floats is exact but for its last bits: a mean on the threshold itself is not above it.
void add_run(const Competitors& competitors, std::size_t begin, std::size_t end, double* sums) {
  const std::size_t count = competitors.planes.size();
  const float* const* planes = competitors.planes.data();
  std::size_t k = 0;
  for (; k + 4 <= count; k += 4) {  // runs are short: four independent sums at a time
    double a = 0, b = 0, c = 0, d = 0;
    for (std::size_t at = begin; at < end; ++at) {
      a += planes[k][at];
      b += planes[k + 1][at];
      c += planes[k + 2][at];
      d += planes[k + 3][at];
    }
    sums[k] += a;
    sums[k + 1] += b;
    sums[k + 2] += c;
    sums[k + 3] += d;
  }
  for (; k < count; ++k) {
    double sum = 0;
    for (std::size_t at = begin; at < end; ++at) sum += planes[k][at];
    sums[k] += sum;
  }
}

// Sums and winners of the superpixels of one image; the buffers are used again for the next.
template <typename Label, typename Id>
class Superpixels {
 public:
  explicit Superpixels(std::size_t count) : sizes_(count), winners_(count) {}

  void grow(const Label* seeds, const Competitors& competitors, const Id* superpixels, std::size_t pixels,
            const Thresholds& thresholds, Label* labels) {
    add_up(seeds, competitors, superpixels, pixels);
    choose(competitors, thresholds);
    for (std::size_t i = 0; i < pixels; ++i) {
      const bool free = seeds[i] == kUnlabelled && superpixels[i] >= 0;
      labels[i] = free ? winners_[static_cast<std::size_t>(superpixels[i])] : seeds[i];
    }
  }

 private:
  // Runs of one superpixel's unseeded pixels; they may go on in the next row.
  void add_up(const Label* seeds, const Competitors& competitors, const Id* superpixels, std::size_t pixels) {
    const std::size_t width = competitors.planes.size();
    std::fill(sizes_.begin(), sizes_.end(), 0);
    sums_.assign(sizes_.size() * width, 0.0);
    const Id count = static_cast<Id>(sizes_.size());
    for (std::size_t at = 0; at < pixels;) {
      const Id id = superpixels[at];
      if (id >= count) {
        throw std::invalid_argument("superpixel " + std::to_string(id) + ", but superpixel_count is " +
                                    std::to_string(count));
      }
      std::size_t end = at + 1;
      if (seeds[at] == kUnlabelled && id >= 0) {
        while (end < pixels && superpixels[end] == id && seeds[end] == kUnlabelled) ++end;
        sizes_[id] += end - at;
        add_run(competitors, at, end, sums_.data() + id * width);
      }
      at = end;
    }
  }

  // The class of the largest mean takes a superpixel if its mean is above the threshold.
  void choose(const Competitors& competitors, const Thresholds& thresholds) {
    const std::size_t width = competitors.planes.size();
    for (std::size_t s = 0; s < sizes_.size(); ++s) {
      winners_[s] = kUnlabelled;
      if (sizes_[s] == 0) continue;
      float best = kLowest;
      std::uint8_t label = kUnlabelled;
      for (std::size_t k = 0; k < width; ++k) {
        const float mean = static_cast<float>(sums_[s * width + k] / static_cast<double>(sizes_[s]));
        if (mean > best) {
          best = mean;
          label = competitors.classes[k];
        }
      }
      if (best > thresholds.of(label)) winners_[s] = label;
    }
  }

  std::vector<std::size_t> sizes_;
  std::vector<double> sums_;  // (superpixels, competing classes)
  std::vector<std::uint8_t> winners_;
};

template <typename Label, typename Id>
void grow_superpixels(Maps<const Label> seeds, Probabilities probabilities, Maps<const Id> superpixels,
                      Present present, Maps<Label> labels, std::size_t superpixel_count, float background_threshold,
                      float foreground_threshold) {
  const std::size_t classes = probabilities.shape(1);
  const std::size_t pixels = seeds.shape(1) * seeds.shape(2);
  const Thresholds thresholds{background_threshold, foreground_threshold};
  Superpixels<Label, Id> cells(superpixel_count);
  for (std::size_t image = 0; image < seeds.shape(0); ++image) {
    const Label* own_seeds = seeds.data() + image * pixels;
    const Competitors competitors(present.data() + image * classes, probabilities.data() + image * classes * pixels,
                                  classes, pixels);
    const auto strange = [=](Label seed) { return !is_label(seed, classes); };
    if (std::any_of(own_seeds, own_seeds + pixels, strange)) reject_seeds(own_seeds, classes);
    cells.grow(own_seeds, competitors, superpixels.data() + image * pixels, pixels, thresholds,
               labels.data() + image * pixels);
  }
}

template <typename Label, typename Id>
void define_grow_superpixels(nb::module_& module) {
  module.def("grow_superpixels", &grow_superpixels<Label, Id>, nb::arg("seeds").noconvert(),
             nb::arg("probabilities").noconvert(), nb::arg("superpixels").noconvert(), nb::arg("present").noconvert(),
             nb::arg("labels").noconvert(), nb::arg("superpixel_count"), nb::arg("background_threshold"),
             nb::arg("foreground_threshold"), nb::call_guard<nb::gil_scoped_release>(),
             "Fill labels with the grown seeds; superpixels: int32 or int64 like seeds, otherwise as grow_regions.");
}

template <typename Label>
void define(nb::module_& module) {
  module.def("grow_regions", &grow_regions<Label>, nb::arg("seeds").noconvert(), nb::arg("probabilities").noconvert(),
             nb::arg("present").noconvert(), nb::arg("labels").noconvert(), nb::arg("background_threshold"),
             nb::arg("foreground_threshold"), nb::call_guard<nb::gil_scoped_release>(),
             "Fill labels with the grown seeds; both uint8, int32 or int64 (batch, height, width). probabilities: "
             "float32 (batch, classes, height, width). present: bool (batch, classes).");
  define_grow_superpixels<Label, std::int32_t>(module);
  define_grow_superpixels<Label, std::int64_t>(module);
}

}  // namespace

NB_MODULE(_region_growing, module) {
  module.doc() = "Region growing of a batch of label maps.";
  define<std::uint8_t>(module);
  define<std::int32_t>(module);
  define<std::int64_t>(module);
}
