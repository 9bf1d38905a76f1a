// Maps with a border of zeros, their tiles in the domain of minimal filtering, and a 3x3 filter of stride 1 over them.
#pragma once
#include <stdexcept>

#include "winograd.h"

namespace atac {

// A map with a border of zeros: a pixel above and left of it, and below and right as many as whole tiles need.
struct Frame {
  int height, width;

  explicit Frame(const Shape& map) : height(map.height), width(map.width) {}

  int tile_rows() const { return (height + winograd::TILE - 1) / winograd::TILE; }
  int tile_columns() const { return (width + winograd::TILE - 1) / winograd::TILE; }
  int tiles() const { return tile_rows() * tile_columns(); }
  ptrdiff_t line() const { return static_cast<ptrdiff_t>(tile_columns() * winograd::TILE + 2) * LANES; }
  ptrdiff_t plane() const { return (tile_rows() * winograd::TILE + 2) * line(); }
  // Of the frame's own row and column: the map's first pixel is (1, 1).
  ptrdiff_t offset(int row, int column) const { return row * line() + static_cast<ptrdiff_t>(column) * LANES; }

  void clear_border(int blocks, float* frame) const {
    const int rows = tile_rows() * winograd::TILE + 2;
    for (int b = 0; b < blocks; ++b)
      for (int row = 0; row < rows; ++row) {
        float* from = frame + b * plane() + offset(row, 0);
        const bool inside = row > 0 && row <= height;
        std::memset(from, 0, sizeof(float) * (inside ? LANES : line()));
        if (inside) std::memset(from + offset(0, width + 1), 0, sizeof(float) * (line() - offset(0, width + 1)));
      }
  }

  // Puts some pixels of a map in their place.
  void put(View pixels, int blocks, int first, int count, float* frame) const {
    for (int b = 0; b < blocks; ++b)
      for (int p = 0; p < count;) {
        const int row = (first + p) / width, column = (first + p) % width;
        const int run = std::min(count - p, width - column);
        std::memcpy(frame + b * plane() + offset(row + 1, column + 1), pixels.at(b, p), sizeof(float) * LANES * run);
        p += run;
      }
  }
};

// Tiles of a map in the transformed domain: for each of the 36 points, the blocks, and of each the tiles side by side.
struct Tiles {
  float* data = nullptr;
  int blocks = 0, capacity = 0;

  Tiles(float* data, int blocks, int capacity) : data(data), blocks(blocks), capacity(capacity) {}

  // A line more than the tiles, or the points would all fall on the same places of a cache.
  ptrdiff_t plane() const { return static_cast<ptrdiff_t>(capacity + 1) * LANES; }
  ptrdiff_t step() const { return blocks * plane(); }
  size_t size() const { return static_cast<size_t>(winograd::POINTS) * step(); }
  float* at(int point, int block, int tile) const {
    return data + point * step() + block * plane() + static_cast<ptrdiff_t>(tile) * LANES;
  }

  // Transforms tiles of a frame, from number `first` on, to places from `to` on.
  template <class T>
  void fill(const float* frame, const Frame& shape, int first, int count, int to) const {
    constexpr int border = T::IN == winograd::TILE;  // a gradient has no neighbours
    for (int b = 0; b < blocks; ++b)
      for (int t = 0; t < count; ++t) {
        const int row = (first + t) / shape.tile_columns() * winograd::TILE + border;
        const int column = (first + t) % shape.tile_columns() * winograd::TILE + border;
        const float* from = frame + b * shape.plane() + shape.offset(row, column);
        float* target = at(0, b, to + t);
        winograd::transform<T>([&](int i, int j) { return load(from + i * shape.line() + j * LANES); },
                               [&](int i, int j, V v) { store(target + (i * winograd::SIDE + j) * step(), v); });
      }
  }
};

// A 3x3 convolution of frames with stride 1, from packed weights: forward, and with the transposed weights backward.
class Filter {
 public:
  static constexpr int TOGETHER = 16;  // tiles, so that a point's products stay in the first cache

  Filter() = default;

  // weight(output, input, tap)
  template <class F>
  Filter(int outputs, int inputs, const Frame& map, F weight, Arena& arena)
      : map_(map), inputs_(blocks_of(inputs)), together_(std::min(TOGETHER, map.tiles())) {
    const int blocks = blocks_of(outputs);
    const int group = blocks % 4 == 0 && together_ <= ACCUMULATORS / 4 ? 4 : blocks % 2 == 0 ? 2 : 1;
    packed_ = Packed(outputs, inputs_, LANES, LANES, group, winograd::POINTS, arena);
    for (int b = 0; b < inputs_; ++b) packed_.offsets[b] = b * Tiles(nullptr, inputs_, together_).plane();
#pragma omp parallel for schedule(static)
    for (int index = 0; index < blocks * inputs; ++index) {
      const int block = index / inputs, input = index % inputs;
      float taps[9][LANES];
      for (int lane = 0; lane < LANES; ++lane)
        for (int tap = 0; tap < 9; ++tap) taps[tap][lane] = weight(block * LANES + lane, input, tap);
      const size_t place = (static_cast<size_t>(input) * group + block % group) * LANES;
      winograd::transform<winograd::Weight>(
          [&](int i, int j) { return load(taps[i * 3 + j]); },
          [&](int i, int j, V v) { store(packed_.weights(block / group, i * winograd::SIDE + j) + place, v); });
    }
  }

  size_t floats() const {
    if (packed_.data == nullptr) throw std::logic_error("a convolution's memory was asked for before its start");
    return data(nullptr).size() + products(nullptr).size();
  }

  // out = init + the convolution of a frame; init is nullptr for none.
  void apply(const float* frame, View out, View init, float* floats) const {
    const Tiles from = data(floats), to = products(floats + from.size());
    for (int first = 0; first < map_.tiles(); first += together_) {
      const int count = std::min(together_, map_.tiles() - first);
      from.fill<winograd::Data>(frame, map_, first, count, 0);
      for (int index = 0; index < packed_.groups(); ++index) {
        for (int point = 0; point < winograd::POINTS; ++point)
          multiply(packed_, packed_.weights(index, point), from.at(point, 0, 0), LANES, count,
                   View{to.at(point, 0, 0), to.plane()}, LANES, View{nullptr, 0}, 0);
        for (int b = 0; b < packed_.group; ++b)
          for (int t = 0; t < count; ++t)
            write(to.at(0, b, t), to.step(), index * packed_.group + b, first + t, out, init);
      }
    }
  }

 private:
  Tiles data(float* floats) const { return Tiles(floats, inputs_, together_); }
  Tiles products(float* floats) const { return Tiles(floats, packed_.group, together_); }

  void write(const float* from, ptrdiff_t step, int block, int tile, View out, View init) const {
    const int row = tile / map_.tile_columns() * winograd::TILE, column = tile % map_.tile_columns() * winograd::TILE;
    const int first = row * map_.width + column;
    const int rows = map_.height - row, columns = map_.width - column;  // that are left of the map
    const auto read = [&](int i, int j) { return load(from + (i * winograd::SIDE + j) * step); };
    const auto put = [&](int i, int j, V v) {
      const int pixel = first + i * map_.width + j;
      store(out.at(block, pixel), init.data ? v + load(init.at(block, pixel)) : v);
    };
    if (rows >= winograd::TILE && columns >= winograd::TILE)
      winograd::transform<winograd::Result>(read, put);
    else
      winograd::transform<winograd::Result>(read, [&](int i, int j, V v) {
        if (i < rows && j < columns) put(i, j, v);
      });
  }

  Frame map_{Shape()};
  int inputs_ = 0, together_ = 0;
  Packed packed_;
};

}  // namespace atac
