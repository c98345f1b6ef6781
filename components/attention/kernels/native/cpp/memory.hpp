// Memory of a call.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>

namespace native {

// Floats on a cache line's boundary, with whatever was in that memory.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t floats) { grow(floats); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  float* data() const { return data_; }
  void grow(int64_t floats) {
    if (floats <= size_) return;
    std::free(data_);
    size_ = 0;
    data_ = (float*)std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64);
    if (!data_) throw std::bad_alloc();
    size_ = floats;
  }

 private:
  float* data_ = nullptr;
  int64_t size_ = 0;
};

// Pieces of one buffer, each on a cache line's boundary.
class Pieces {
 public:
  explicit Pieces(float* at) : at_(at) {}
  float* take(int64_t floats) {
    float* piece = at_;
    at_ += (floats + 15) / 16 * 16;
    return piece;
  }

 private:
  float* at_;
};

// Memory of this thread, kept from call to call: new pages would cost a fault each.
inline float* scratch(int64_t floats) {
  static thread_local Buffer kept;
  kept.grow(floats);
  return kept.data();
}

}  // namespace native
