// The operators: each reads its arrays (with or without addresses), and says the shape of its output and how many
// floats it keeps from the forward pass to the backward pass of a training step.
#pragma once
#include "block.h"
#include "stem.h"

namespace atac {

struct UnitOperator {
  Tensor x;
  bool has_norm;
  NormArrays norm;
  std::unique_ptr<UnitInputs> unit;

  static bool with_norm(const Attributes& attributes) { return number(attributes, "norm", 0) != 0; }
  static std::string roles(const Attributes& attributes) {
    return "x" + std::string(with_norm(attributes) ? NORM : "") + UnitKind(attributes, "unit").roles();
  }

  UnitOperator(Arrays& arrays, const Attributes& attributes)
      : x{nullptr, read_shape(arrays.peek(), false), false}, has_norm(with_norm(attributes)) {
    x.data = arrays.next_any();
    if (has_norm) norm = next_norm(arrays, "BatchNorm", x.shape.channels);
    unit.reset(new UnitInputs(arrays, attributes, "unit", x.shape.channels));
  }

  Dims output() const { return plain_dims(x.shape); }
  size_t kept_size() const { return Region::saved_size(x.shape, *unit->build()); }

  Region region(const Attributes& attributes, Arena& arena) const {
    return Region(x, has_norm, norm, norm_settings(attributes), unit->build(), arena);
  }

  void train(const Attributes& attributes, float* out, float* kept, Arena& arena) const {
    Plain ending(Tensor{out, x.shape, false});
    region(attributes, arena).train(ending, kept);
  }

  void infer(const Attributes& attributes, float* out, Arena& arena) const {
    Plain ending(Tensor{out, x.shape, false});
    region(attributes, arena).infer(ending);
  }

  void backward(const Attributes& attributes, float* dout, float* kept, Gradients& gradients, Arena& arena) const {
    const Tensor dx{gradients.next(), x.shape, false};
    const NormGradients of_norm = has_norm ? gradients.norm() : NormGradients();
    const UnitGradients of_unit = unit->gradients(gradients);
    Plain ending(Tensor{dout, x.shape, false});
    Region all = region(attributes, arena);
    all.backward_sums(ending, kept, of_norm, of_unit);
    all.backward_input(dx, [](int, int) {});
  }
};

struct StemOperator {
  Shape in;
  int channels;
  const float *x, *weight;
  NormArrays norm;

  static std::string roles(const Attributes&) { return "xwrrw"; }

  StemOperator(Arrays& arrays, const Attributes&) : in(read_shape(arrays.peek(), false)) {
    x = arrays.next_any();
    const float* beta = arrays.next("BatchNorm beta", {static_cast<unsigned>(in.channels)});
    norm = next_norm(arrays, "BatchNorm", in.channels, false);
    norm.beta = beta;
    const unsigned outputs = arrays.peek().empty() ? 0 : arrays.peek()[0];
    if (outputs == 0 || outputs % LANES || outputs > MOST_CHANNELS)
      throw Fault("weight must have a multiple of 16 outputs, got the shape " + text(arrays.peek()));
    channels = static_cast<int>(outputs);
    weight = arrays.next("weight", {outputs, static_cast<unsigned>(in.channels), 3, 3});
  }

  Dims output() const { return blocked_dims({in.images, channels, in.height, in.width}); }
  size_t kept_size() const { return Stem::saved_size(in); }

  // Over an output, or in the backward pass its gradient.
  Stem stem(const Attributes& attributes, float* out, Arena& arena) const {
    return Stem(x, in, out, channels, weight, norm, norm_settings(attributes), arena);
  }

  void train(const Attributes& attributes, float* out, float* kept, Arena& arena) const {
    stem(attributes, out, arena).train(kept);
  }

  void backward(const Attributes& attributes, float* dout, float* kept, Gradients& gradients, Arena& arena) const {
    // The images of a training need no gradient, and MXNet does not say whether anyone wants one.
    float* dx = nullptr;
    number(attributes, "input_gradient", 0) != 0 ? void(dx = gradients.next()) : gradients.skip();
    gradients.skip();  // beta is a constant here
    gradients.norm(false);
    stem(attributes, dout, arena).backward(kept, gradients.next(), dx);
  }
};

struct HeadOperator {
  Tensor x;
  NormArrays norm;
  std::unique_ptr<UnitInputs> unit;

  static std::string roles(const Attributes& attributes) { return "x" + NORM + UnitKind(attributes, "unit").roles(); }

  HeadOperator(Arrays& arrays, const Attributes& attributes) : x{nullptr, read_shape(arrays.peek(), true), true} {
    x.data = arrays.next_any();
    norm = next_norm(arrays, "BatchNorm", x.shape.channels);
    unit.reset(new UnitInputs(arrays, attributes, "unit", x.shape.channels));
  }

  Dims output() const { return {static_cast<unsigned>(x.shape.images), static_cast<unsigned>(x.shape.channels)}; }
  size_t kept_size() const { return Region::saved_size(x.shape, *unit->build()); }

  Region region(const Attributes& attributes, Arena& arena) const {
    return Region(x, true, norm, norm_settings(attributes), unit->build(), arena);
  }

  void train(const Attributes& attributes, float* out, float* kept, Arena& arena) const {
    Pool ending(out, x.shape);
    region(attributes, arena).train(ending, kept);
  }

  void backward(const Attributes& attributes, float* dout, float* kept, Gradients& gradients, Arena& arena) const {
    const Tensor dx{gradients.next(), x.shape, true};
    const NormGradients of_norm = gradients.norm();
    const UnitGradients of_unit = unit->gradients(gradients);
    Pool ending(dout, x.shape);
    Region all = region(attributes, arena);
    all.backward_sums(ending, kept, of_norm, of_unit);
    all.backward_input(dx, [](int, int) {});
  }
};

}  // namespace atac
