// Memory that is kept from one call to the next, so that a training step takes none from the system.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <new>
#include <vector>

namespace atac {

// Hands out aligned arrays that live until `reset`. Not for several threads at once.
//
// Arrays share slabs. Under the address sanitizer each has a slab of its own, of exactly its size, so that an access
// beyond its end is seen.
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
    if (count > SIZE_MAX / 2 / sizeof(T)) throw std::bad_alloc();
    const size_t bytes = APART ? count * sizeof(T) : (count * sizeof(T) + 63) / 64 * 64;
    if (APART || slabs_.empty() || used_ + bytes > slabs_.back().size) grow(bytes);
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
    if (APART || slabs_.size() > 1) {
      size_t total = 0;
      for (const Slab& slab : slabs_) {
        total += slab.size;
        std::free(slab.data);
      }
      slabs_.clear();
      if (!APART) grow(total);
    }
    used_ = 0;
  }

 private:
  struct Slab {
    char* data;
    size_t size;
  };

#ifdef __SANITIZE_ADDRESS__
  static constexpr bool APART = true;
#else
  static constexpr bool APART = false;
#endif

  void grow(size_t bytes) {
    const size_t size = APART || bytes > 1 << 16 ? bytes : 1 << 16;
    slabs_.reserve(slabs_.size() + 1);
    void* data = nullptr;
    if (posix_memalign(&data, 64, size) != 0) throw std::bad_alloc();
    slabs_.push_back({static_cast<char*>(data), size});
    used_ = 0;
  }

  std::vector<Slab> slabs_;
  size_t used_ = 0;
};

// An exception that leaves a parallel region ends the process. `run` keeps the first one, and `rethrow`, behind the
// region, throws it.
class Faults {
 public:
  template <class F>
  void run(F f) {
    try {
      f();
    } catch (...) {
#pragma omp critical(atac_faults)
      if (!first_) first_ = std::current_exception();
    }
  }

  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::exception_ptr first_;
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
