// What the compiled kernels share.
//
// All of it is local to the file that includes it: kernels are compiled for several sets of instructions, and of a
// function with external linkage the linker keeps any one copy.

#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

#define INLINED __attribute__((always_inline)) inline

namespace {

// A value or vector that lies anywhere in memory.
template <typename T>
INLINED T load(const void* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Zeros, aligned for whole vectors, which std::allocator does not see to for such types.
template <typename T>
class Zeros {
 public:
  explicit Zeros(std::size_t size)
      : data_(static_cast<T*>(::operator new(size * sizeof(T), std::align_val_t{kAlignment}))) {
    std::memset(static_cast<void*>(data_.get()), 0, size * sizeof(T));
  }
  T* data() const { return data_.get(); }
  T& operator[](std::size_t index) const { return data_.get()[index]; }

 private:
  static constexpr std::size_t kAlignment = 64;
  struct Free {
    void operator()(T* data) const { ::operator delete(data, std::align_val_t{kAlignment}); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace
