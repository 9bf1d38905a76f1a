// Memory that is kept from one call to the next, so that a training step takes none from the system.
#pragma once
#include <cstdlib>
#include <new>
#include <vector>

namespace atac {

// Hands out aligned arrays that live until `reset`. Not for several threads at once.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() {
    for (const Slab& slab : slabs_) std::free(slab.data);
  }

  template <class T>
  T* take(size_t count) {
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    if (slabs_.empty() || used_ + bytes > slabs_.back().size) grow(bytes);
    void* found = slabs_.back().data + used_;
    used_ += bytes;
    return static_cast<T*>(found);
  }

  template <class T>
  T* zeros(size_t count) {
    T* found = take<T>(count);
    for (size_t i = 0; i < count; ++i) found[i] = T();
    return found;
  }

  // Forgets everything handed out. Several slabs become one, large enough for what was asked for last time.
  void reset() {
    if (slabs_.size() > 1) {
      size_t total = 0;
      for (const Slab& slab : slabs_) {
        total += slab.size;
        std::free(slab.data);
      }
      slabs_.clear();
      grow(total);
    }
    used_ = 0;
  }

 private:
  struct Slab {
    char* data;
    size_t size;
  };

  void grow(size_t bytes) {
    const size_t size = bytes < 1 << 16 ? 1 << 16 : bytes;
    slabs_.reserve(slabs_.size() + 1);
    char* data = static_cast<char*>(std::aligned_alloc(64, size));
    if (data == nullptr) throw std::bad_alloc();
    slabs_.push_back({data, size});
    used_ = 0;
  }

  std::vector<Slab> slabs_;
  size_t used_ = 0;
};

// What one operator call needs beside its inputs and outputs; every thread that calls operators has its own.
inline Arena& workspace() {
  static thread_local Arena arena;
  return arena;
}

// What one thread of a parallel loop needs for itself.
inline Arena& scratch() {
  static thread_local Arena arena;
  return arena;
}

}  // namespace atac
