// Superpixel discovery (Kim, dissertation 2022, table 3.1) on the bits of a similarity matrix.
//
// Discovery asks two things of a similarity: whether it is positive and whether it exceeds the threshold. Rows of the
// upper triangle come in blocks straight from a matrix product; each becomes two rows of bits while it is in the cache,
// and the lower triangle is their mirror image. The similarities themselves are never kept.
//
// When a superpixel is removed, the degree of every pixel falls by the number of removed pixels it is positively
// similar to. The removed rows are added up as bits, one binary counter per column, 256 columns at a time. Every row is
// removed once, so all rounds together read each bit once.
//
// Bits are laid out for that arithmetic: column 256 g + 8 k + l is bit k of word l of group g. Packing, counting and
// transposing are then all operations on whole vectors of eight words.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "../kernels.hpp"

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

namespace {

constexpr std::size_t kLanes = 8;
constexpr std::size_t kBits = 32;
constexpr std::size_t kGroup = kLanes * kBits;  // columns of one vector of words
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t IntVec __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t Words __attribute__((vector_size(4 * kLanes)));

// A degree no remaining pixel can have; what is still subtracted from it, or added, leaves it far above all others.
constexpr std::int32_t kRemoved = 1 << 30;

// Signs of 256 neighbouring columns and whether they exceed the threshold, as bits.
INLINED void pack_group(const float* row, float threshold, Words* positive, Words* similar) {
  Words above_zero{}, above_threshold{};  // unsigned: the last bit is where an int has its sign
  for (std::size_t k = kBits; k-- > 0;) {
    const Vec x = load<Vec>(row + kLanes * k);
    above_zero = above_zero + above_zero - (Words)(x > 0.0f);
    above_threshold = above_threshold + above_threshold - (Words)(x > threshold);
  }
  *positive = above_zero;
  *similar = above_threshold;
}

// Rows first, first + 1 ... of the upper triangle. block: the rows' similarities to columns first .. pixels - 1.
MULTIVERSIONED void pack(const float* block, std::size_t rows, std::size_t first, std::size_t pixels, float threshold,
                         Words* positive, Words* similar) {
  const std::size_t groups = (pixels + kGroup - 1) / kGroup;
  float part[kGroup];
  for (std::size_t row = first; row < first + rows; ++row, block += pixels - first) {
    for (std::size_t group = row / kGroup; group < groups; ++group) {
      const std::size_t from = std::max(row, group * kGroup), to = std::min(pixels, (group + 1) * kGroup);
      const float* values = block + (from - first);
      if (to - from < kGroup) {  // left of the diagonal and right of the last pixel there is nothing
        std::fill_n(part, kGroup, 0.0f);
        std::memcpy(part + from % kGroup, values, (to - from) * sizeof(float));
        values = part;
      }
      pack_group(values, threshold, positive + row * groups + group, similar + row * groups + group);
    }
  }
}

// Bit j of words[i] and bit i of words[j] change places, in all lanes.
INLINED void transpose(Words* words) {
  std::uint32_t mask = 0x0000ffff;
  for (std::size_t step = kBits / 2; step > 0; step /= 2, mask ^= mask << step) {
    for (std::size_t i = 0; i < kBits; i = ((i | step) + 1) & ~step) {
      const Words swapped = ((words[i] >> step) ^ words[i | step]) & mask;
      words[i] ^= swapped << step;
      words[i | step] ^= swapped;
    }
  }
}

// Sets the lower triangle from the upper one.
MULTIVERSIONED void mirror(Words* bits, std::size_t groups) {
  Words tile[kLanes][kBits];
  for (std::size_t above = 0; above < groups; ++above) {
    for (std::size_t below = above; below < groups; ++below) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        for (std::size_t k = 0; k < kBits; ++k) {
          tile[lane][k] = bits[(kGroup * above + kLanes * k + lane) * groups + below];
        }
        transpose(tile[lane]);
      }
      for (std::size_t k = 0; k < kBits; ++k) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
          Words row;
          for (std::size_t from = 0; from < kLanes; ++from) row[from] = tile[from][k][lane];
          bits[(kGroup * below + kLanes * k + lane) * groups + above] |= row;
        }
      }
    }
  }
}

// degrees[q] -= sign * (how many of the rows have bit q), for the columns of groups in which a pixel remains.
MULTIVERSIONED void subtract_rows(const Words* bits, std::size_t groups, const std::vector<std::uint32_t>& rows,
                                  const Words* remaining, std::int32_t sign, IntVec* degrees) {
  Words counter[kBits];  // counter[i]: bit i of the count of each column
  for (std::size_t group = 0; group < groups; ++group) {
    Words any = remaining[group];
    for (std::size_t lane = 1; lane < kLanes; ++lane) any[0] |= any[lane];
    if (any[0] == 0) continue;
    std::size_t digits = 0;
    for (std::size_t number = 0; number < rows.size(); ++number) {
      if ((number + 1) >> digits) counter[digits++] = Words{};
      Words carry = bits[rows[number] * groups + group];
      for (std::size_t i = 0; i < digits; ++i) {
        const Words next = counter[i] & carry;
        counter[i] ^= carry;
        carry = next;
      }
    }
    for (std::size_t k = 0; k < kBits; ++k) {
      Words count{};
      for (std::size_t i = 0; i < digits; ++i) count |= ((counter[i] >> k) & 1u) << i;
      degrees[group * kBits + k] -= (IntVec)count * sign;
    }
  }
}

MULTIVERSIONED void count_bits(const Words* bits, std::size_t rows, std::size_t groups, std::int32_t sign,
                               std::int32_t* degrees) {
  for (std::size_t row = 0; row < rows; ++row) {
    std::int32_t count = 0;
    for (std::size_t group = 0; group < groups; ++group) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        count += __builtin_popcount(bits[row * groups + group][lane]);
      }
    }
    degrees[row] = sign * count;
  }
}

MULTIVERSIONED std::size_t index_of_smallest(const std::int32_t* values, std::size_t count) {
  std::int32_t smallest = std::numeric_limits<std::int32_t>::max();
  for (std::size_t i = 0; i < count; ++i) smallest = std::min(smallest, values[i]);
  return static_cast<std::size_t>(std::find(values, values + count, smallest) - values);
}

using Block = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Labels = nb::ndarray<std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

class SimilarityBits {
 public:
  SimilarityBits(std::size_t pixels, float threshold)
      : pixels_(pixels),
        groups_((pixels + kGroup - 1) / kGroup),
        threshold_(threshold),
        positive_(groups_ * kGroup * groups_),
        similar_(groups_ * kGroup * groups_) {}

  void add_rows(Block block) {
    if (block.shape(0) > pixels_ - added_ || block.shape(1) != pixels_ - added_) {
      throw std::invalid_argument("the block does not continue the upper triangle");
    }
    pack(block.data(), block.shape(0), added_, pixels_, threshold_, positive_.data(), similar_.data());
    added_ += block.shape(0);
    if (added_ < pixels_) return;
    for (Words* bits : {positive_.data(), similar_.data()}) {
      for (std::size_t i = 0; i < pixels_; ++i) set(bits + i * groups_, i);
      mirror(bits, groups_);
    }
  }

  void partition(Labels labels, bool highest_first) const {
    if (added_ != pixels_ || labels.shape(0) != pixels_) throw std::invalid_argument("rows or labels are missing");
    const std::int32_t sign = highest_first ? -1 : 1;
    const Zeros<IntVec> degrees(groups_ * kBits);  // times sign, so that the seed always has the smallest
    std::int32_t* degree = reinterpret_cast<std::int32_t*>(degrees.data());
    count_bits(positive_.data(), pixels_, groups_, sign, degree);
    const Zeros<Words> remaining(groups_);
    for (std::size_t i = 0; i < pixels_; ++i) set(remaining.data(), i);

    std::vector<std::uint32_t> members;
    std::size_t left = pixels_;
    for (std::int32_t label = 0; left > 0; ++label) {
      const std::size_t seed = index_of_smallest(degree, pixels_);
      members.clear();
      for (std::size_t group = 0; group < groups_; ++group) {
        const Words found = similar_[seed * groups_ + group] & remaining[group];
        remaining[group] ^= found;
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
          for (std::uint32_t bits = found[lane]; bits != 0; bits &= bits - 1) {
            members.push_back(static_cast<std::uint32_t>(kGroup * group + kLanes * __builtin_ctz(bits) + lane));
          }
        }
      }
      left -= members.size();
      subtract_rows(positive_.data(), groups_, members, remaining.data(), sign, degrees.data());
      for (const std::uint32_t member : members) {
        labels.data()[member] = label;
        degree[member] = kRemoved;
      }
    }
  }

 private:
  static void set(Words* row, std::size_t column) {
    row[column / kGroup][column % kLanes] |= 1u << (column % kGroup / kLanes);
  }

  std::size_t pixels_, groups_, added_ = 0;
  float threshold_;
  Zeros<Words> positive_, similar_;  // row by row; rows and columns are filled up to whole groups
};

}  // namespace

NB_MODULE(_superpixel, module) {
  module.doc() = "Superpixel discovery on the bits of a similarity matrix.";
  nb::class_<SimilarityBits>(module, "SimilarityBits")
      .def(nb::init<std::size_t, float>(), nb::arg("pixels"), nb::arg("threshold"))
      .def("add_rows", &SimilarityBits::add_rows, nb::arg("block").noconvert(),
           nb::call_guard<nb::gil_scoped_release>(),
           "Take the next rows of the upper triangle: float32 (rows, pixels - rows taken before). Entries left of the "
           "diagonal are not read, those on it count as 1.")
      .def("partition", &SimilarityBits::partition, nb::arg("labels").noconvert(), nb::arg("highest_first"),
           nb::call_guard<nb::gil_scoped_release>(),
           "Fill labels, int32 (pixels,), with the number of each pixel's superpixel, from 0 in order of discovery.");
}
