// The 3x3 convolution behind a unit, with what follows it in a block: padding 1, channels in multiples of 16. With
// stride 1 it is computed by minimal filtering, else directly.
#pragma once
#include <memory>

#include "ending.h"
#include "filter.h"
#include "gather_excite.h"

namespace atac {

// What stands behind a convolution; nullptr for what does not.
struct Behind {
  const Shortcut* shortcut = nullptr;  // forward: added to the output
  GatherExcite* gate = nullptr;        // forward: takes the output
  const GradientSource* source = nullptr;  // backward: gives the output's gradient, of which there is no map then
};

class Convolution : public Ending {
 public:
  // In the backward pass `out` is the output's gradient; with a source only its shape counts.
  Convolution(const float* weight, const Shape& in, const Tensor& out, const Behind& behind)
      : weight_(weight), in_(in), out_(out), in_frame_(in), out_frame_(out.shape), behind_(behind) {}

  size_t image_floats(bool backward) const override {
    const bool source = backward && behind_.source;
    return own_offset(backward) + own_floats(backward) + (source ? map_floats() + behind_.source->source_floats() : 0);
  }

  // The borders stay zero from here on.
  void start(float* floats) const override {
    in_frame_.clear_border(in_.blocks(), floats);
    if (backward_) out_frame_.clear_border(out_.shape.blocks(), floats + in_floats());
  }

  View tile(int, int, int count, float*, float* buffer) const override {
    return {buffer, static_cast<ptrdiff_t>(count) * LANES};
  }

  void put(int, int first, int count, View y, float* floats) const override {
    in_frame_.put(y, in_.blocks(), first, count, floats);
  }

  void finish(int image, float* floats) const override {
    const View out = out_.view(image);
    forward(floats, out, behind_.shortcut ? behind_.shortcut->forward(image, out_.shape, out) : View{nullptr, 0},
            floats + own_offset(false));
    if (behind_.gate) behind_.gate->image(image);
  }

  void finish_forward() override {
    if (behind_.gate) behind_.gate->finish();
  }

  bool wants_output() const override { return true; }

  void start_backward(Arena& arena) override {
    backward_ = true;
    partial_ = arena.take<float>(groups_of(in_.images) * gradient_size());
  }

  View gradient(int group, int image, float* floats) const override {
    float* framed = floats + in_floats();
    const View dy{framed + out_floats(), static_cast<ptrdiff_t>(in_.pixels()) * LANES};
    out_frame_.put(output_gradient(group, image, floats + own_offset(true) + own_floats(true)), out_.shape.blocks(), 0,
                   out_.shape.pixels(), framed);
    input_gradient(framed, dy, floats + own_offset(true));
    return dy;
  }

  void image_gradients(int group, int image, float* floats) const override {
    add_gradient(floats, floats + in_floats(), image - first_of(group, in_.images),
                 image + 1 == first_of(group + 1, in_.images), gradient_of(group), floats + own_offset(true));
  }

  // Writes the gradient of the weight: the groups' sums, in their order.
  void write_gradient(float* gradient) const {
    const int groups = groups_of(in_.images);
#pragma omp parallel for schedule(static)
    for (int block = 0; block < out_.shape.blocks() * in_.blocks() * 9; ++block)
      for (int lane_in = 0; lane_in < LANES; ++lane_in) {
        const size_t at = (static_cast<size_t>(block) * LANES + lane_in) * LANES;
        double total[LANES] = {};
        for (int group = 0; group < groups; ++group) add_to(total, load(gradient_of(group) + at));
        const int tap = block % 9, in = block / 9 % in_.blocks() * LANES + lane_in, out = block / 9 / in_.blocks();
        for (int lane = 0; lane < LANES; ++lane)
          gradient[(static_cast<size_t>(out * LANES + lane) * in_.channels + in) * 9 + tap] =
              static_cast<float>(total[lane]);
      }
  }

 protected:
  // What a thread needs beside the frames.
  virtual size_t own_floats(bool backward) const = 0;

  // An image from its frame; init is nullptr for none.
  virtual void forward(const float* frame, View out, View init, float* own) const = 0;

  // The gradient of an image from that of its output, in a frame.
  virtual void input_gradient(const float* frame, View dy, float* own) const = 0;

  // Adds an image, of which both frames are given, to the gradient of a group: sums of (output block, input block, tap,
  // input lane, output lane). The images of a group come in their order, `number` counts them from 0; the sums need not
  // be there before the last.
  virtual void add_gradient(const float* in, const float* dout, int number, bool last, float* sums,
                            float* own) const = 0;

  float weight_at(int output, int input, int tap) const {
    return weight_[(static_cast<size_t>(output) * in_.channels + input) * 9 + tap];
  }
  // Of an output block, an input block and a tap.
  size_t gradient_at(int out, int in, int tap) const {
    return ((static_cast<size_t>(out) * in_.blocks() + in) * 9 + tap) * LANES * LANES;
  }
  size_t gradient_size() const { return gradient_at(out_.shape.blocks(), 0, 0); }

  const float* weight_;
  Shape in_;
  Tensor out_;
  Frame in_frame_, out_frame_;

 private:
  size_t in_floats() const { return static_cast<size_t>(in_frame_.plane()) * in_.blocks(); }
  size_t out_floats() const { return static_cast<size_t>(out_frame_.plane()) * out_.shape.blocks(); }
  size_t map_floats() const { return static_cast<size_t>(out_.shape.channels) * out_.shape.pixels(); }
  size_t own_offset(bool backward) const {
    if (!backward) return in_floats();
    return in_floats() + out_floats() + static_cast<size_t>(in_.pixels()) * LANES * in_.blocks();
  }
  View output_gradient(int group, int image, float* floats) const {
    if (!behind_.source) return out_.view(image);
    const View found{floats, static_cast<ptrdiff_t>(out_.shape.pixels()) * LANES};
    behind_.source->gradient(group, image, found, floats + map_floats());
    return found;
  }
  float* gradient_of(int group) const { return partial_ + group * gradient_size(); }

  Behind behind_;
  bool backward_ = false;
  float* partial_ = nullptr;
};

// Tap by tap, at any stride.
class DirectConvolution : public Convolution {
 public:
  DirectConvolution(const float* weight, const Shape& in, const Tensor& out, int stride, const Behind& behind)
      : Convolution(weight, in, out, behind), stride_(stride) {}

  void start_forward(Arena& arena) override {
    forward_ = Packed(out_.shape.channels, 9 * in_.blocks(), LANES, LANES, arena);
    for (int index = 0; index < forward_.taps; ++index)
      forward_.offsets[index] = index / 9 * in_frame_.plane() + in_frame_.offset(index % 9 / 3, index % 3);
    forward_.fill([&](int output, int index, int lane) {
      return weight_at(output, index / 9 * LANES + lane, index % 9);
    });
  }

  void start_backward(Arena& arena) override {
    Convolution::start_backward(arena);
    // Rows and columns of the input fall into stride x stride classes; each meets its own taps of the output.
    for (int row = 0; row < stride_; ++row)
      for (int column = 0; column < stride_; ++column) {
        std::vector<int> taps;
        for (int tap = 0; tap < 9; ++tap)
          if ((row + 1 - tap / 3) % stride_ == 0 && (column + 1 - tap % 3) % stride_ == 0) taps.push_back(tap);
        const int count = static_cast<int>(taps.size());
        Packed packed(in_.channels, count * out_.shape.blocks(), LANES, LANES, arena);
        for (int index = 0; index < packed.taps; ++index) {
          const int tap = taps[index % count];
          const int from_row = (row + 1 - tap / 3) / stride_ + 1, from_column = (column + 1 - tap % 3) / stride_ + 1;
          packed.offsets[index] = index / count * out_frame_.plane() + out_frame_.offset(from_row, from_column);
        }
        packed.fill([&](int input, int index, int lane) {
          return weight_at(index / count * LANES + lane, input, taps[index % count]);
        });
        back_.push_back(std::move(packed));
      }
  }

 protected:
  size_t own_floats(bool) const override { return 0; }

  void forward(const float* frame, View out, View init, float*) const override {
    const Shape& shape = out_.shape;
    for (int group = 0; group < forward_.groups(); ++group)
      for (int row = 0; row < shape.height; ++row)
        multiply(forward_, group, frame + in_frame_.offset(row * stride_, 0), stride_ * LANES, shape.width,
                 View{out.at(0, row * shape.width), out.plane}, LANES,
                 View{init.data ? init.at(0, row * shape.width) : nullptr, init.plane}, LANES);
  }

  void input_gradient(const float* frame, View dy, float*) const override {
    for (int row = 0; row < in_.height; ++row)
      for (int column = 0; column < std::min(stride_, in_.width); ++column) {
        const Packed& taps = back_[row % stride_ * stride_ + column];
        for (int group = 0; group < taps.groups(); ++group)
          multiply(taps, group, frame + out_frame_.offset(row / stride_, 0), LANES,
                   (in_.width - column + stride_ - 1) / stride_,
                   View{dy.at(0, row * in_.width + column), dy.plane}, stride_ * LANES, View{nullptr, 0}, 0);
      }
  }

  void add_gradient(const float* in, const float* dout, int number, bool, float* sums, float*) const override {
    const Shape& shape = out_.shape;
    const int rows = std::max(1, 256 / shape.width);  // so many that their gradients stay in the first cache
    if (number == 0) std::memset(sums, 0, sizeof(float) * gradient_size());
    for (int row = 0; row < shape.height; row += rows)
      for (int o = 0; o < shape.blocks(); ++o)
        for (int b = 0; b < in_.blocks(); ++b)
          for (int tap = 0; tap < 9; ++tap)
            outer(LANES, in + b * in_frame_.plane() + in_frame_.offset(row * stride_ + tap / 3, tap % 3),
                  stride_ * in_frame_.line(), stride_ * LANES,
                  dout + o * out_frame_.plane() + out_frame_.offset(row + 1, 1), out_frame_.line(), LANES,
                  std::min(rows, shape.height - row), shape.width, sums + gradient_at(o, b, tap));
  }

 private:
  int stride_;
  Packed forward_;
  std::vector<Packed> back_;
};

// Stride 1, by minimal filtering.
class FilteredConvolution : public Convolution {
 public:
  using Convolution::Convolution;

  void start_forward(Arena& arena) override {
    filter_ = Filter(out_.shape.channels, in_.channels, in_frame_,
                     [&](int output, int input, int tap) { return weight_at(output, input, tap); }, arena);
  }

  void start_backward(Arena& arena) override {
    Convolution::start_backward(arena);
    filter_ = Filter(in_.channels, out_.shape.channels, in_frame_,
                     [&](int input, int output, int tap) { return weight_at(output, input, 8 - tap); }, arena);
  }

 protected:
  size_t own_floats(bool backward) const override {
    if (!backward) return filter_.floats();
    return filter_.floats() + inputs(nullptr).size() + gradients(nullptr).size() + sums_size();
  }

  void forward(const float* frame, View out, View init, float* own) const override {
    filter_.apply(frame, out, init, own);
  }

  void input_gradient(const float* frame, View dy, float* own) const override {
    filter_.apply(frame, dy, View{nullptr, 0}, own);
  }

  // Tiles are collected over the images of a group until there are so many that adding their products pays.
  void add_gradient(const float* in, const float* dout, int number, bool last, float* gradient,
                    float* own) const override {
    const Tiles data = inputs(own + filter_.floats()), slopes = gradients(data.data + data.size());
    float* sums = slopes.data + slopes.size();
    if (number == 0) std::memset(sums, 0, sizeof(float) * sums_size());
    int filled = static_cast<int>(static_cast<int64_t>(number) * in_frame_.tiles() % data.capacity);
    for (int tile = 0; tile < in_frame_.tiles();) {
      const int count = std::min(data.capacity - filled, in_frame_.tiles() - tile);
      data.fill<winograd::Data>(in, in_frame_, tile, count, filled);
      slopes.fill<winograd::Gradient>(dout, out_frame_, tile, count, filled);
      filled += count;
      tile += count;
      if (filled < data.capacity && !(last && tile == in_frame_.tiles())) continue;
      for (int point = 0; point < winograd::POINTS; ++point)
        for (int o = 0; o < slopes.blocks; ++o)
          for (int i = 0; i < data.blocks; ++i)
            outer(LANES, data.at(point, i, 0), 0, LANES, slopes.at(point, o, 0), 0, LANES, 1, filled,
                  sums + sum_at(point, o, i));
      filled = 0;
    }
    if (!last) return;
    for (int o = 0; o < slopes.blocks; ++o)
      for (int i = 0; i < data.blocks; ++i)
        for (int lane = 0; lane < LANES; ++lane)
          winograd::transform<winograd::WeightGradient>(
              [&](int row, int column) {
                return load(sums + sum_at(row * winograd::SIDE + column, o, i) + lane * LANES);
              },
              [&](int row, int column, V v) {
                store(gradient + gradient_at(o, i, row * 3 + column) + lane * LANES, v);
              });
  }

 private:
  static constexpr int COLLECTED = 16;  // tiles

  Tiles inputs(float* floats) const { return Tiles(floats, in_.blocks(), COLLECTED); }
  Tiles gradients(float* floats) const { return Tiles(floats, out_.shape.blocks(), COLLECTED); }
  size_t sum_at(int point, int out, int in) const {
    return ((static_cast<size_t>(point) * out_.shape.blocks() + out) * in_.blocks() + in) * LANES * LANES;
  }
  size_t sums_size() const { return sum_at(winograd::POINTS, 0, 0); }

  Filter filter_;
};

inline std::unique_ptr<Convolution> convolution(const float* weight, const Shape& in, const Tensor& out, int stride,
                                                const Behind& behind) {
  if (stride == 1) return std::unique_ptr<Convolution>(new FilteredConvolution(weight, in, out, behind));
  return std::unique_ptr<Convolution>(new DirectConvolution(weight, in, out, stride, behind));
}

}  // namespace atac
