// Mean field of the fully connected CRF (Kraehenbuehl & Koltun, NIPS 2011) on the permutohedral lattice
// (Adams, Baek & Davis, Eurographics 2010).
//
// The features of a pixel are embedded in the plane of d+1 coordinates that sum to zero. A kernel is then applied by
// splatting values to the d+1 corners of the enclosing simplex, blurring with (1/2, 1, 1/2) along each of the d+1
// lattice directions and slicing back with the same barycentric weights. One call works on one image in one thread and
// without the GIL; callers run several images side by side.
//
// The position kernel's lattice depends on nothing but the image's size, and is kept for the next image.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <list>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "permutohedral_loops.hpp"

namespace nb = nanobind;
using namespace permutohedral;

namespace {

#if defined(X86_64_LEVELS)
const Loops* const kLevels[] = {&x86_64_v4, &x86_64_v3, &x86_64_v2, &generic};
#else
const Loops* const kLevels[] = {&generic};
#endif

std::vector<std::string> levels() {
  std::vector<std::string> names;
  for (const Loops* level : kLevels) {
    if (level->supported()) names.emplace_back(level->name);
  }
  return names;
}

const Loops& loops_of(const std::string& name) {
  for (const Loops* level : kLevels) {
    if (level->supported() && (name.empty() || name == level->name)) return *level;
  }
  throw std::invalid_argument("no such level on this processor: " + name);
}

constexpr int kColours = 256;

// pydensecrf embeds four pixels at a time and fills the last four up with zero features. The corners of those become
// vertices that hold nothing, yet values flow through them in the blur: without them, results at pixel counts that
// are no multiple of four differ by several per cent near black image corners. Published numbers have them, so have we.
constexpr std::size_t kGroup = 4;

// Uninitialised memory, aligned for vectors. Large pieces ask for large pages: zeroing them one small page at a time
// costs several milliseconds per image.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t size) : size_(size) {
    const std::size_t bytes = size * sizeof(T);
    const std::size_t alignment = bytes < kLargePage ? 64 : kLargePage;
    data_.reset(static_cast<T*>(::operator new(bytes, std::align_val_t{alignment})));
    data_.get_deleter().alignment = alignment;
#if defined(__linux__)
    if (bytes >= kLargePage) madvise(data_.get(), bytes, MADV_HUGEPAGE);
#endif
  }
  T* data() const { return data_.get(); }
  void clear() { std::memset(static_cast<void*>(data_.get()), 0, size_ * sizeof(T)); }

 private:
  static constexpr std::size_t kLargePage = std::size_t{1} << 21;
  struct Free {
    std::size_t alignment = 64;
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{alignment}); }
  };
  std::size_t size_ = 0;
  std::unique_ptr<T, Free> data_;
};

// Key of a lattice point -> number of its vertex, from 1 in order of first appearance. Open addressing.
template <class Key>
class VertexTable {
 public:
  explicit VertexTable(std::size_t expected) {
    int bits = 10;
    while ((std::size_t{1} << bits) < 2 * expected) ++bits;
    resize(bits);
  }

  std::uint32_t find_or_insert(Key key) {
    Slot* slot = probe(key);
    if (slot->vertex == 0) {
      if (2 * (keys_.size() + 1) > slots_.size()) {
        resize(bits_ + 1);
        slot = probe(key);
      }
      keys_.push_back(key);
      slot->key = key;
      slot->vertex = static_cast<std::uint32_t>(keys_.size());
    }
    return slot->vertex;
  }

  // 0 when there is no such vertex.
  std::uint32_t find(Key key) { return probe(key)->vertex; }

  const std::vector<Key>& keys() const { return keys_; }

 private:
  struct Slot {
    Key key = 0;
    std::uint32_t vertex = 0;
  };

  Slot* probe(Key key) {
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
      slot->vertex = static_cast<std::uint32_t>(i + 1);
    }
  }

  int bits_ = 0;
  std::vector<Slot> slots_;
  std::vector<Key> keys_;
};

// Where a kernel's corners and weights go among all entries of a pixel.
struct Slots {
  Entry* first;            // this kernel's first corner of the first pixel
  std::size_t to_weights;  // from a corner to its weight
  std::size_t per_pixel;
  std::uint32_t scale;     // of the offsets: half a row's width
};

// The vertices of one kernel's lattice.
struct Lattice {
  int corners = 0;                      // d + 1, also the number of blur directions
  std::size_t vertices = 0;
  std::vector<std::int32_t> neighbour;  // (corners, vertices + 1, 2): along each direction; 0, a row of zeros, if none
};

// The last row's offset has to fit into an entry.
void check_offsets(const Lattice& lattice, std::uint32_t scale) {
  if ((lattice.vertices + 1) * std::uint64_t{scale} > std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("too many pixels and classes: the lattice's values cannot be numbered");
  }
}

// Adams et al.'s scale of the slice.
float scale_of_slice(int corners) { return 1.0f / (1.0f + std::ldexp(1.0f, 1 - corners)); }

// K 1 by a blur and slice of the splatted ones; then norm = 1 / sqrt(K 1) goes into the barycentric weights, which are
// used once on the way in and once on the way out. The kernel's weight does not: splatted sums then round as they do in
// pydensecrf, and where the iterations amplify rounding, the two libraries stay nearer to each other.
void normalise(const Lattice& lattice, const Slots& slots, std::size_t pixels, std::vector<float>& ones) {
  const std::size_t vertices = lattice.vertices;
  std::vector<float> blurred(vertices + 1, 0.0f);
  for (int direction = 0; direction < lattice.corners; ++direction) {
    const std::int32_t* next = lattice.neighbour.data() + direction * 2 * (vertices + 1);
    for (std::size_t v = 1; v <= vertices; ++v) {
      blurred[v] = ones[v] + 0.5f * (ones[next[2 * v]] + ones[next[2 * v + 1]]);
    }
    ones.swap(blurred);
  }
  const float scale = scale_of_slice(lattice.corners);
  for (std::size_t i = 0; i < pixels; ++i) {
    Entry* own = slots.first + i * slots.per_pixel;
    float total = 0.0f;
    for (int k = 0; k < lattice.corners; ++k) total += own[slots.to_weights + k].weight * ones[own[k].offset];
    const float norm = 1.0f / std::sqrt(scale * total + 1e-20f);
    for (int k = 0; k < lattice.corners; ++k) {
      own[slots.to_weights + k].weight *= norm;
      own[k].offset *= slots.scale;
    }
  }
}

// Features of pixels, as sums over the embedding's coordinates need them.
template <int D>
struct Features {
  std::vector<float> table[D];  // value of each column, row or colour, scaled
  Numbering numbering = {};

  Features(std::size_t height, std::size_t width, float sxy, float srgb) {
    // Standard deviation of the blur in lattice units times the diagonal of the embedding (Adams et al. 2010, p. 5-6).
    const float deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * (D + 1));
    for (int j = 0; j < D; ++j) {
      const float scale = static_cast<float>(1.0 / std::sqrt((j + 2) * (j + 1.0)) * deviation);
      const float sigma = j < kPositionFeatures ? sxy : srgb;
      table[j].resize(j == 0 ? width : j == 1 ? height : kColours);
      for (std::size_t i = 0; i < table[j].size(); ++i) table[j][i] = static_cast<float>(i) / sigma * scale;
    }

    // A key is the first d coordinates as one mixed-radix number; the margin holds simplex corners and their
    // neighbours, so that moving along a direction is adding one number.
    constexpr double kMargin = 4.0 * (D + 1);
    double capacity = 1.0;
    for (int i = 0; i < D; ++i) {
      double high = 0.0;
      for (int j = i; j < D; ++j) high += table[j].back();
      const double low = std::floor(i > 0 ? -static_cast<double>(i) * table[i - 1].back() : 0.0) - kMargin;
      const double extent = std::ceil(high) + kMargin - low + 1.0;
      numbering.low[i] = static_cast<float>(low);
      numbering.stride[i] = static_cast<std::uint64_t>(capacity);
      numbering.every += numbering.stride[i];
      capacity *= extent;
      if (!(extent < 0x1p21) || !(capacity < 0x1p62)) {
        throw std::invalid_argument("standard deviation too small: the lattice has too many cells");
      }
    }
    numbering.wide = capacity >= 0x1p32;
  }
};

// Finds the vertices and writes all pixels' entries. D = 2: position; D = 5: position and colour.
template <int D, class Key>
Lattice build(const Features<D>& features, const std::uint8_t* image, std::size_t pixels, const Slots& slots,
              const Loops& loops) {
  constexpr int kCorners = D + 1;
  const Numbering& numbering = features.numbering;
  const std::size_t padded = (pixels + kGroup - 1) / kGroup * kGroup;
  VertexTable<Key> table(pixels / 16);
  std::vector<float> ones(1, 0.0f);  // what a splat of ones gives
  Key last_key[kCorners];
  std::uint32_t last_vertex[kCorners] = {};
  std::fill_n(last_key, kCorners, std::numeric_limits<Key>::max());
  const auto chunk = std::make_unique<Chunk>();
  const auto keys = [&] {
    if constexpr (sizeof(Key) == 8) {
      return chunk->wide_key;
    } else {
      return chunk->key;
    }
  }();

  std::size_t row = 0, column = 0;
  for (std::size_t start = 0; start < padded; start += kChunk) {
    const int count = static_cast<int>(std::min<std::size_t>(kChunk, padded - start));
    const int real = static_cast<int>(std::min<std::size_t>(count, pixels - std::min(pixels, start)));
    for (int i = 0; i < real; ++i) {
      chunk->scaled[0][i] = features.table[0][column];
      chunk->scaled[1][i] = features.table[1][row];
      for (int j = kPositionFeatures; j < D; ++j) {
        chunk->scaled[j][i] = features.table[j][image[kColourFeatures * (start + i) + j - kPositionFeatures]];
      }
      if (++column == features.table[0].size()) column = 0, ++row;
    }
    for (int j = 0; j < D; ++j) std::fill(chunk->scaled[j] + real, chunk->scaled[j] + count, 0.0f);
    (D == kPositionFeatures ? loops.embed_positions : loops.embed_colours)(*chunk, numbering, count);
    for (int i = 0; i < count; ++i) {
      Entry* own = slots.first + (start + i) * slots.per_pixel;
      for (int k = 0; k < kCorners; ++k) {
        const Key key = keys[k][i];
        if (key != last_key[k]) {  // neighbouring pixels mostly share corners
          last_key[k] = key;
          last_vertex[k] = table.find_or_insert(key);
          if (last_vertex[k] == ones.size()) ones.push_back(0.0f);
        }
        if (i >= real) continue;
        own[k].offset = last_vertex[k];
        own[slots.to_weights + k].weight = chunk->weight[k][i];
        ones[last_vertex[k]] += chunk->weight[k][i];
      }
    }
  }

  const std::vector<Key>& found = table.keys();
  Lattice lattice;
  lattice.corners = kCorners;
  lattice.vertices = found.size();
  lattice.neighbour.assign(2 * kCorners * (found.size() + 1), 0);
  for (int direction = 0; direction < kCorners; ++direction) {
    std::int32_t* next = lattice.neighbour.data() + direction * 2 * (found.size() + 1);
    // d along the direction, -1 along the others
    const Key step = static_cast<Key>(kCorners * numbering.stride[direction] - numbering.every);
    for (std::size_t v = 1; v <= found.size(); ++v) {
      const std::uint32_t after = table.find(found[v - 1] + step);
      if (after == 0) continue;
      next[2 * v] = static_cast<std::int32_t>(after);
      next[2 * after + 1] = static_cast<std::int32_t>(v);
    }
  }
  check_offsets(lattice, slots.scale);
  normalise(lattice, slots, pixels, ones);
  return lattice;
}

template <int D>
Lattice build(const std::uint8_t* image, std::size_t height, std::size_t width, float sxy, float srgb,
              const Slots& slots, const Loops& loops) {
  const Features<D> features(height, width, sxy, srgb);
  const std::size_t pixels = height * width;
  if (features.numbering.wide) return build<D, std::uint64_t>(features, image, pixels, slots, loops);
  return build<D, std::uint32_t>(features, image, pixels, slots, loops);
}

// The position kernel's lattice for one size.
struct PositionLattice {
  std::size_t height, width;
  float sxy;
  Lattice lattice;
  Buffer<Entry> entries;  // (pixels, 2 * corners), offsets in rows

  bool is_of(std::size_t of_height, std::size_t of_width, float of_sxy) const {
    return height == of_height && width == of_width && sxy == of_sxy;
  }
  std::size_t bytes() const {
    return height * width * 2 * lattice.corners * sizeof(Entry) + lattice.neighbour.size() * sizeof(lattice.neighbour[0]);
  }
};

// The lattices used last, as many as fit into a fixed amount of memory.
class PositionLattices {
 public:
  std::shared_ptr<const PositionLattice> get(std::size_t height, std::size_t width, float sxy, const Loops& loops) {
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      if (auto kept = find(height, width, sxy)) return kept;
    }
    constexpr int kCorners = kPositionFeatures + 1;
    auto made = std::make_shared<PositionLattice>();
    made->height = height, made->width = width, made->sxy = sxy;
    made->entries = Buffer<Entry>(height * width * 2 * kCorners);
    const Slots slots{made->entries.data(), kCorners, 2 * kCorners, 1};
    made->lattice = build<kPositionFeatures>(nullptr, height, width, sxy, 1.0f, slots, loops);
    const std::lock_guard<std::mutex> guard(mutex_);
    if (auto kept = find(height, width, sxy)) return kept;  // another thread was faster
    if (made->bytes() > kMaxBytes) return made;             // it would drive out all others
    kept_.push_front(made);
    std::size_t bytes = 0;
    for (auto at = kept_.begin(); at != kept_.end();) {
      bytes += (*at)->bytes();
      at = bytes > kMaxBytes ? kept_.erase(at) : std::next(at);
    }
    return made;
  }

  std::vector<std::pair<std::size_t, std::size_t>> sizes() {
    const std::lock_guard<std::mutex> guard(mutex_);
    std::vector<std::pair<std::size_t, std::size_t>> found;
    for (const auto& lattice : kept_) found.emplace_back(lattice->height, lattice->width);
    return found;
  }

  void forget() {
    const std::lock_guard<std::mutex> guard(mutex_);
    kept_.clear();
  }

 private:
  // With the lock held.
  std::shared_ptr<const PositionLattice> find(std::size_t height, std::size_t width, float sxy) {
    for (auto at = kept_.begin(); at != kept_.end(); ++at) {
      if (!(*at)->is_of(height, width, sxy)) continue;
      kept_.splice(kept_.begin(), kept_, at);
      return kept_.front();
    }
    return nullptr;
  }

  static constexpr std::size_t kMaxBytes = std::size_t{64} << 20;
  std::mutex mutex_;
  std::list<std::shared_ptr<const PositionLattice>> kept_;
};

PositionLattices& position_lattices() {
  static PositionLattices lattices;
  return lattices;
}

// A kernel while the mean field is solved.
struct Kernel {
  const Lattice* lattice;
  float gain;  // of the slice: the kernel's weight and the lattice's own scale
  Buffer<float> values, sums;  // (vertices + 1, width)

  Kernel(const Lattice& of, float weight, std::size_t width)
      : lattice(&of),
        gain(scale_of_slice(of.corners) * weight),
        values((of.vertices + 1) * width),
        sums((of.vertices + 1) * width) {
    values.clear();
    sums.clear();
  }

  // Turns the splatted sums into blurred values and clears the sums.
  void blur(const Loops& loops, std::size_t width) {
    std::swap(values, sums);
    for (int direction = 0; direction < lattice->corners; ++direction) {
      const std::int32_t* neighbours = lattice->neighbour.data() + direction * 2 * (lattice->vertices + 1);
      loops.blur(values.data(), sums.data(), neighbours, lattice->vertices, width,
                 direction + 1 == lattice->corners ? gain : 1.0f);
      std::swap(values, sums);
    }
    sums.clear();
  }
};

using Image = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, kColourFeatures>, nb::c_contig, nb::device::cpu>;
using Scores = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void mean_field(Image image, Scores scores, int iterations, float gaussian_sxy, float gaussian_weight,
                float bilateral_sxy, float bilateral_srgb, float bilateral_weight, const std::string& level) {
  const std::size_t classes = scores.shape(0), height = scores.shape(1), width = scores.shape(2);
  const std::size_t pixels = height * width;
  if (image.shape(0) != height || image.shape(1) != width) throw std::invalid_argument("image and scores differ in size");
  if (classes == 0 || pixels == 0) throw std::invalid_argument("empty image or no class");
  if (pixels > std::numeric_limits<std::int32_t>::max() / (2 * kMaxCorners)) throw std::invalid_argument("too many pixels");
  const Loops& loops = loops_of(level);

  const std::size_t row = row_width(classes);
  const std::uint32_t scale = static_cast<std::uint32_t>(row / 2);
  const bool position = iterations > 0 && gaussian_weight > 0.0f, colour = iterations > 0 && bilateral_weight > 0.0f;

  Pass pass = {};
  pass.corners[0] = position ? kPositionFeatures + 1 : 0;
  pass.corners[1] = colour ? kMaxFeatures + 1 : 0;
  const std::size_t corners = pass.corners[0] + pass.corners[1];
  const Buffer<Entry> entries(std::max<std::size_t>(1, pixels * 2 * corners));
  std::shared_ptr<const PositionLattice> position_lattice;
  Lattice colour_lattice;
  if (position) {
    position_lattice = position_lattices().get(height, width, gaussian_sxy, loops);
    check_offsets(position_lattice->lattice, scale);
    const Entry* from = position_lattice->entries.data();
    Entry* to = entries.data();
    for (std::size_t i = 0; i < pixels; ++i, to += 2 * corners) {
      for (int k = 0; k < pass.corners[0]; ++k) to[k].offset = (from++)->offset * scale;
      for (int k = 0; k < pass.corners[0]; ++k) to[corners + k] = *from++;
    }
  }
  if (colour) {
    const Slots slots{entries.data() + pass.corners[0], corners, 2 * corners, scale};
    colour_lattice = build<kMaxFeatures>(image.data(), height, width, bilateral_sxy, bilateral_srgb, slots, loops);
  }
  std::vector<std::pair<int, Kernel>> kernels;
  if (position) kernels.emplace_back(0, Kernel(position_lattice->lattice, gaussian_weight, row));
  if (colour) kernels.emplace_back(1, Kernel(colour_lattice, bilateral_weight, row));

  const Buffer<float> unary(pixels * row), tile(kTile * row);
  pass.entries = entries.data();
  pass.unary = unary.data();
  pass.planes = scores.data();
  pass.tile = tile.data();
  pass.pixels = pixels;
  pass.classes = classes;
  pass.width = row;
  const int passes = kernels.empty() ? 0 : iterations;
  for (int iteration = 0; iteration <= passes; ++iteration) {
    for (auto& [number, kernel] : kernels) {
      if (iteration > 0) kernel.blur(loops, row);
      pass.kernels[number] = {kernel.values.data(), kernel.sums.data()};
    }
    pass.first = iteration == 0;
    pass.last = iteration == passes;
    loops.update(pass);
  }
}

}  // namespace

NB_MODULE(_permutohedral, module) {
  module.doc() = "Mean field of the fully connected CRF on the permutohedral lattice.";
  module.def("mean_field", &mean_field, nb::arg("image").noconvert(), nb::arg("scores").noconvert(),
             nb::arg("iterations"), nb::arg("gaussian_sxy"), nb::arg("gaussian_weight"), nb::arg("bilateral_sxy"),
             nb::arg("bilateral_srgb"), nb::arg("bilateral_weight"), nb::arg("level") = "",
             nb::call_guard<nb::gil_scoped_release>(),
             "Replace scores, the negative unary energies (classes, height, width) as float32, by the class "
             "probabilities after the given number of mean-field updates. image: uint8 (height, width, 3). level: "
             "one of levels(), the processor's best by default.");
  module.def("kept", [] { return position_lattices().sizes(); },
             "Heights and widths of the position lattices that are kept, those used last first.");
  module.def("forget", [] { position_lattices().forget(); }, "Forget the position lattices that are kept.");
  module.def("levels", &levels, "Levels of instruction sets that this processor has, the best first.");
}
