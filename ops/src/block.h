// A residual block: twice BatchNorm, unit and 3x3 convolution; a refinement; the shortcut. h is the map between the
// convolutions, y what the second one gives to the refinement.
#pragma once
#include "convolution.h"
#include "refinement.h"

namespace atac {

struct BlockOperator {
  Tensor x;
  int channels, stride;
  NormArrays norm1, norm2;
  std::unique_ptr<UnitInputs> unit1, unit2;
  const float *conv1, *conv2, *downsample;
  Shape out_shape;
  std::unique_ptr<Refinement> refinement;

  static std::string roles(const Attributes& attributes) {
    return "x" + NORM + UnitKind(attributes, "unit1").roles() + "w" + NORM + UnitKind(attributes, "unit2").roles() +
           "w" + RefinementKind(attributes).roles(attributes) + (has_downsample(attributes) ? "w" : "");
  }

  BlockOperator(Arrays& arrays, const Attributes& attributes) : x{nullptr, read_shape(arrays.peek(), true), true} {
    stride = stride_of(attributes);
    x.data = arrays.next_any();
    const unsigned in = static_cast<unsigned>(x.shape.channels);
    norm1 = next_norm(arrays, "first BatchNorm", x.shape.channels);
    unit1.reset(new UnitInputs(arrays, attributes, "unit1", x.shape.channels));
    const unsigned out = arrays.peek().empty() ? 0 : arrays.peek()[0];
    if (out == 0 || out % LANES || out > MOST_CHANNELS)
      throw Fault("the first convolution must have a multiple of 16 outputs, got the shape " + text(arrays.peek()));
    channels = static_cast<int>(out);
    out_shape = {x.shape.images, channels, (x.shape.height - 1) / stride + 1, (x.shape.width - 1) / stride + 1};
    conv1 = arrays.next("first convolution", {out, in, 3, 3});
    norm2 = next_norm(arrays, "second BatchNorm", channels);
    unit2.reset(new UnitInputs(arrays, attributes, "unit2", channels));
    conv2 = arrays.next("second convolution", {out, out, 3, 3});
    refinement.reset(new Refinement(arrays, attributes, out_shape));
    downsample = nullptr;
    if (has_downsample(attributes))
      downsample = arrays.next("shortcut's convolution", {out, in, 1, 1});
    else if (out != in || stride != 1)
      throw Fault("a block that changes the shape needs a shortcut's convolution (downsample=1)");
  }

  static bool has_downsample(const Attributes& attributes) { return number(attributes, "downsample", 0) != 0; }

  Dims output() const { return blocked_dims(out_shape); }
  size_t kept_size() const { return Kept(*this, nullptr).size; }

  // What the backward pass needs beside x: the maps, which come first because they are read in whole vectors, and what
  // the regions and the refinement save.
  struct Kept {
    float *h, *y, *first, *second, *refinement;
    size_t size;

    // Without data only the size counts.
    Kept(const BlockOperator& block, float* data) {
      const Shape& out = block.out_shape;
      const size_t to_y = block.map_size(), to_first = to_y * (block.refinement->present() ? 2 : 1);
      const size_t to_second = to_first + Region::saved_size(block.x.shape, *block.unit1->build());
      const size_t to_refinement = to_second + Region::saved_size(out, *block.unit2->build());
      const auto at = [&](size_t offset) { return data ? data + offset : nullptr; };
      h = data;
      y = at(to_y);
      first = at(to_first);
      second = at(to_second);
      refinement = at(to_refinement);
      size = to_refinement + block.refinement->saved_size(out);
    }
  };

  size_t map_size() const { return static_cast<size_t>(out_shape.images) * channels * out_shape.pixels(); }
  Tensor map(float* data) const { return {data, out_shape, true}; }

  Region first(const NormSettings& settings, Arena& arena) const {
    return Region(x, true, norm1, settings, unit1->build(), arena);
  }
  Region second(const Tensor& h, const NormSettings& settings, Arena& arena) const {
    return Region(h, true, norm2, settings, unit2->build(), arena);
  }
  Shortcut shortcut(Arena& arena) const {
    Shortcut found{x, downsample, stride};
    found.prepare(channels, arena);
    return found;
  }

  void train(const Attributes& attributes, float* out, float* kept, Arena& arena) const {
    const NormSettings settings = norm_settings(attributes);
    const Kept saved(*this, kept);
    const Tensor h = map(saved.h), y = map(saved.y), result = map(out);
    const Shortcut added = shortcut(arena);
    first(settings, arena).train(*convolution(conv1, x.shape, h, stride, {}), saved.first);
    if (!refinement->present()) {
      second(h, settings, arena).train(*convolution(conv2, out_shape, result, 1, {&added}), saved.second);
      return;
    }
    const auto gate = refinement->gate_between(y, result, settings, &added, arena);
    if (gate) gate->train(saved.refinement);
    second(h, settings, arena).train(*convolution(conv2, out_shape, y, 1, {nullptr, gate.get()}), saved.second);
    if (gate) return;
    Added ending(result, added);
    refinement->region(y, settings, arena).train(ending, saved.refinement);
  }

  void backward(const Attributes& attributes, float* dout, float* kept, Gradients& gradients, Arena& arena) const {
    const NormSettings settings = norm_settings(attributes);
    const Kept saved(*this, kept);
    const Tensor dx{gradients.next(), x.shape, true};
    const NormGradients of_norm1 = gradients.norm();
    const UnitGradients of_unit1 = unit1->gradients(gradients);
    float* of_conv1 = gradients.next();
    const NormGradients of_norm2 = gradients.norm();
    const UnitGradients of_unit2 = unit2->gradients(gradients);
    float* of_conv2 = gradients.next();
    const RefinementGradients of_refinement(*refinement, gradients);
    float* of_downsample = downsample ? gradients.next() : nullptr;

    // From the back: each part sums over the batch what its arrays and the next part need, and gives the gradient of
    // its input image by image to the convolution before it.
    const Tensor gradient = map(dout), h = map(saved.h), y = map(saved.y);
    const auto gate = refinement->gate_between(y, gradient, settings, nullptr, arena);
    std::unique_ptr<Region> local;
    if (gate) gate->start_backward(saved.refinement);
    if (refinement->kind.local) {
      Plain ending(gradient);
      local.reset(new Region(refinement->region(y, settings, arena)));
      local->backward_sums(ending, saved.refinement, NormGradients(), of_refinement.unit);
    }
    const GradientSource* of_y = gate ? gate.get() : static_cast<GradientSource*>(local.get());

    Region last = second(h, settings, arena);
    const auto ending2 = convolution(conv2, out_shape, gradient, 1, {nullptr, nullptr, of_y});
    last.backward_sums(*ending2, saved.second, of_norm2, of_unit2);
    ending2->write_gradient(of_conv2);
    if (gate) gate->finish_backward(of_refinement.gate);

    Region start = first(settings, arena);
    const auto ending1 = convolution(conv1, x.shape, map(nullptr), stride, {nullptr, nullptr, &last});
    start.backward_sums(*ending1, saved.first, of_norm1, of_unit1);
    ending1->write_gradient(of_conv1);
    const ShortcutGradient past(shortcut(arena), gradient, dx, of_downsample, arena);
    start.backward_input(dx, [&](int group, int n) { past.image(group, n); });
    past.finish();
  }
};

}  // namespace atac
