// Arrays of activations in the two layouts there are, and the loop over their images.
#pragma once
#include <algorithm>
#include <cstring>
#include <optional>

#include "kernels.h"

namespace atac {

struct Shape {
  int images = 0, channels = 0, height = 0, width = 0;

  int pixels() const { return height * width; }
  int blocks() const { return blocks_of(channels); }
  double count() const { return static_cast<double>(images) * pixels(); }  // numbers in a channel
  // Pixels that are worked on together: few enough that a tile of all channels stays in the first cache.
  int tile() const { return std::min(pixels(), std::max(16, 2048 / padded(channels))); }
};

// Activations, either (N, C, H, W) as MXNet has them, or blocked, (N, C/16, H, W, 16), which the kernels read as it is.
struct Tensor {
  float* data = nullptr;
  Shape shape;
  bool blocked = true;

  float* image(int n) const { return data + static_cast<size_t>(n) * shape.channels * shape.pixels(); }

  // The blocked image; only where `blocked`.
  View view(int n) const { return {image(n), static_cast<ptrdiff_t>(shape.pixels()) * LANES}; }

  // Some pixels of an image in blocks; `buffer` holds them if the layout has to change.
  View read(int n, int first, int count, float* buffer) const {
    if (blocked) return {view(n).at(0, first), view(n).plane};
    const View tile{buffer, static_cast<ptrdiff_t>(count) * LANES};
    if (shape.channels % LANES) std::memset(buffer, 0, sizeof(float) * shape.blocks() * tile.plane);
    each_part(count, [&](int c, int p, int end) {
      const float* from = image(n) + static_cast<size_t>(c) * shape.pixels() + first;
      float* to = tile.at(c / LANES, 0) + c % LANES;
      for (; p < end; ++p) to[p * LANES] = from[p];
    });
    return tile;
  }

  // Where to put some pixels of an image; `buffer` if the layout has to change. To be followed by `wrote`.
  View target(int n, int first, int count, float* buffer) const {
    if (blocked) return {view(n).at(0, first), view(n).plane};
    return {buffer, static_cast<ptrdiff_t>(count) * LANES};
  }

  void wrote(int n, int first, int count, View tile) const {
    if (blocked) return;
    each_part(count, [&](int c, int p, int end) {
      float* to = image(n) + static_cast<size_t>(c) * shape.pixels() + first;
      const float* from = tile.at(c / LANES, 0) + c % LANES;
      for (; p < end; ++p) to[p] = from[p * LANES];
    });
  }

 private:
  // f(channel, first pixel, end), so that the pixels of a block stay in the first cache for all of its channels.
  template <class F>
  void each_part(int count, F f) const {
    constexpr int together = 64;
    for (int b = 0; b < shape.blocks(); ++b)
      for (int p = 0; p < count; p += together)
        for (int c = b * LANES; c < std::min(b * LANES + LANES, shape.channels); ++c)
          f(c, p, std::min(p + together, count));
  }
};

// Sums are kept for each group of images and added in their order: the result does not depend on the threads. Within a
// group they may be floats, so that a group has no more than 8 images: a sum's error does not grow with the batch.
inline int groups_of(int images) { return std::max(std::min(images, 32), (images + 7) / 8); }

inline int first_of(int group, int images) {
  return static_cast<int>(static_cast<int64_t>(images) * group / groups_of(images));
}

// f(group, image) for all images, the groups in parallel. Before its first image every thread runs prepare().
template <class Prepare, class F>
void each_image(int images, Prepare prepare, F f) {
  const int groups = groups_of(images);
  Faults faults;
#pragma omp parallel
  {
    std::optional<decltype(prepare())> buffers;
    faults.run([&] {
      scratch().reset();
      buffers.emplace(prepare());
    });
#pragma omp for schedule(static, 1)
    for (int group = 0; group < groups; ++group)
      for (int n = first_of(group, images); buffers && n < first_of(group + 1, images); ++n) f(*buffers, group, n);
  }
  faults.rethrow();
}

// f(first pixel, pixels) for the tiles of an image.
template <class F>
void each_tile(const Shape& shape, F f) {
  const int tile = shape.tile();
  for (int p = 0; p < shape.pixels(); p += tile) f(p, std::min(tile, shape.pixels() - p));
}

// Sums of `size` doubles for each group of images.
struct Sums {
  double* data = nullptr;
  size_t size = 0;
  int groups = 0;

  Sums() = default;
  Sums(size_t size, int images, Arena& arena)
      : data(arena.zeros<double>(size * groups_of(images))), size(size), groups(groups_of(images)) {}

  double* of(int group) const { return data + size * group; }

  // Adds the groups up, in their order, into the first one, which is then the only one.
  double* total() {
    for (int g = 1; g < groups; ++g)
      for (size_t i = 0; i < size; ++i) data[i] += data[size * g + i];
    groups = 1;
    return data;
  }
};

}  // namespace atac
