// The operators: each reads its arrays (with or without addresses) and says the shapes of its outputs. The first output is
// the result, the others, in training, are what the backward pass needs.
#pragma once
#include "arrays.h"
#include "convolution.h"
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
    x.data = arrays.take_any();
    if (has_norm) norm = take_norm(arrays, "BatchNorm", x.shape.channels);
    unit.reset(new UnitInputs(arrays, attributes, "unit", x.shape.channels));
  }

  std::vector<Dims> outputs(bool training) const {
    std::vector<Dims> found{plain_dims(x.shape)};
    if (training) found.push_back(saved_dims(Region::saved_size(x.shape, *unit->build())));
    return found;
  }

  Region region(const Attributes& attributes, Arena& arena) const {
    return Region(x, has_norm, norm, norm_settings(attributes), unit->build(), arena);
  }

  void train(const Attributes& attributes, const std::vector<float*>& out, Arena& arena) const {
    Plain ending(Tensor{out[0], x.shape, false});
    region(attributes, arena).train(ending, out[1]);
  }

  void infer(const Attributes& attributes, const std::vector<float*>& out, Arena& arena) const {
    Plain ending(Tensor{out[0], x.shape, false});
    region(attributes, arena).infer(ending);
  }

  void backward(const Attributes& attributes, const std::vector<float*>& dout, const std::vector<float*>& out,
                Gradients& gradients, Arena& arena) const {
    const Tensor dx{gradients.take(), x.shape, false};
    const NormGradients of_norm = has_norm ? gradients.norm() : NormGradients();
    const UnitGradients of_unit = gradients.unit(unit->kind);
    Plain ending(Tensor{dout[0], x.shape, false});
    region(attributes, arena).backward(ending, out[1], dx, of_norm, of_unit, [](int, int) {});
  }
};

struct StemOperator {
  Shape in;
  int channels;
  const float *x, *weight;
  NormArrays norm;

  static std::string roles(const Attributes&) { return "xwrrw"; }

  StemOperator(Arrays& arrays, const Attributes&) : in(read_shape(arrays.peek(), false)) {
    x = arrays.take_any();
    const float* beta = arrays.take("BatchNorm beta", {static_cast<unsigned>(in.channels)});
    norm = take_norm(arrays, "BatchNorm", in.channels, false);
    norm.beta = beta;
    const unsigned outputs = arrays.peek().empty() ? 0 : arrays.peek()[0];
    if (outputs == 0 || outputs % LANES || outputs > MOST_CHANNELS)
      throw Fault("weight must have a multiple of 16 outputs, got the shape " + text(arrays.peek()));
    channels = static_cast<int>(outputs);
    weight = arrays.take("weight", {outputs, static_cast<unsigned>(in.channels), 3, 3});
  }

  std::vector<Dims> outputs(bool training) const {
    std::vector<Dims> found{blocked_dims({in.images, channels, in.height, in.width})};
    if (training) found.push_back(saved_dims(Stem::saved_size(in)));
    return found;
  }

  // Over an output, or in the backward pass its gradient.
  Stem stem(const Attributes& attributes, float* out, Arena& arena) const {
    return Stem(x, in, out, channels, weight, norm, norm_settings(attributes), arena);
  }

  void train(const Attributes& attributes, const std::vector<float*>& out, Arena& arena) const {
    stem(attributes, out[0], arena).train(out[1]);
  }

  void backward(const Attributes& attributes, const std::vector<float*>& dout, const std::vector<float*>& out,
                Gradients& gradients, Arena& arena) const {
    // The images of a training need no gradient, and MXNet does not say whether anyone wants one.
    float* dx = nullptr;
    number(attributes, "input_gradient", 0) != 0 ? void(dx = gradients.take()) : gradients.skip();
    gradients.skip();  // beta is a constant here
    gradients.norm(false);
    stem(attributes, dout[0], arena).backward(out[1], gradients.take(), dx);
  }
};

struct BlockOperator {
  Tensor x;
  int channels, stride;
  NormArrays norm1, norm2;
  std::unique_ptr<UnitInputs> unit1, unit2;
  const float *conv1, *conv2, *downsample;
  Shape out_shape;

  static std::string roles(const Attributes& attributes) {
    return "x" + NORM + UnitKind(attributes, "unit1").roles() + "w" + NORM + UnitKind(attributes, "unit2").roles() +
           "w" + (has_downsample(attributes) ? "w" : "");
  }

  BlockOperator(Arrays& arrays, const Attributes& attributes) : x{nullptr, read_shape(arrays.peek(), true), true} {
    const double wanted = number(attributes, "stride", 1);
    if (wanted != 1 && wanted != 2) throw Fault("stride must be 1 or 2");
    stride = static_cast<int>(wanted);
    x.data = arrays.take_any();
    const unsigned in = static_cast<unsigned>(x.shape.channels);
    norm1 = take_norm(arrays, "first BatchNorm", x.shape.channels);
    unit1.reset(new UnitInputs(arrays, attributes, "unit1", x.shape.channels));
    const unsigned out = arrays.peek().empty() ? 0 : arrays.peek()[0];
    if (out == 0 || out % LANES || out > MOST_CHANNELS)
      throw Fault("the first convolution must have a multiple of 16 outputs, got the shape " + text(arrays.peek()));
    channels = static_cast<int>(out);
    conv1 = arrays.take("first convolution", {out, in, 3, 3});
    norm2 = take_norm(arrays, "second BatchNorm", channels);
    unit2.reset(new UnitInputs(arrays, attributes, "unit2", channels));
    conv2 = arrays.take("second convolution", {out, out, 3, 3});
    downsample = nullptr;
    if (has_downsample(attributes))
      downsample = arrays.take("shortcut's convolution", {out, in, 1, 1});
    else if (out != in || stride != 1)
      throw Fault("a block that changes the shape needs a shortcut's convolution (downsample=1)");
    out_shape = {x.shape.images, channels, (x.shape.height - 1) / stride + 1, (x.shape.width - 1) / stride + 1};
  }

  static bool has_downsample(const Attributes& attributes) { return number(attributes, "downsample", 0) != 0; }

  std::vector<Dims> outputs(bool training) const {
    std::vector<Dims> found{blocked_dims(out_shape)};
    if (!training) return found;
    found.push_back(found[0]);
    found.push_back(saved_dims(saved1() + Region::saved_size(out_shape, *unit2->build())));
    return found;
  }

  size_t saved1() const { return Region::saved_size(x.shape, *unit1->build()); }

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

  void train(const Attributes& attributes, const std::vector<float*>& out, Arena& arena) const {
    const NormSettings settings = norm_settings(attributes);
    const Tensor h{out[1], out_shape, true};
    const Shortcut added = shortcut(arena);
    first(settings, arena).train(*convolution(conv1, x.shape, h, stride, nullptr), out[2]);
    second(h, settings, arena)
        .train(*convolution(conv2, out_shape, Tensor{out[0], out_shape, true}, 1, &added), out[2] + saved1());
  }

  void backward(const Attributes& attributes, const std::vector<float*>& dout, const std::vector<float*>& out,
                Gradients& gradients, Arena& arena) const {
    const NormSettings settings = norm_settings(attributes);
    const Tensor dx{gradients.take(), x.shape, true};
    const NormGradients of_norm1 = gradients.norm();
    const UnitGradients of_unit1 = gradients.unit(unit1->kind);
    float* of_conv1 = gradients.take();
    const NormGradients of_norm2 = gradients.norm();
    const UnitGradients of_unit2 = gradients.unit(unit2->kind);
    float* of_conv2 = gradients.take();
    float* of_downsample = downsample ? gradients.take() : nullptr;

    const size_t size = static_cast<size_t>(out_shape.images) * channels * out_shape.pixels();
    const Tensor gradient{dout[0], out_shape, true}, h{out[1], out_shape, true};
    const Tensor dh{arena.take<float>(size), out_shape, true};
    const auto ending2 = convolution(conv2, out_shape, gradient, 1, nullptr);
    second(h, settings, arena)
        .backward(*ending2, out[2] + saved1(), dh, of_norm2, of_unit2, [](int, int) {});
    ending2->write_gradient(of_conv2);

    const auto ending1 = convolution(conv1, x.shape, dh, stride, nullptr);
    const ShortcutGradient past(shortcut(arena), gradient, dx, of_downsample, arena);
    first(settings, arena)
        .backward(*ending1, out[2], dx, of_norm1, of_unit1, [&](int group, int n) { past.image(group, n); });
    ending1->write_gradient(of_conv1);
    past.finish();
  }
};

struct HeadOperator {
  Tensor x;
  NormArrays norm;
  std::unique_ptr<UnitInputs> unit;

  static std::string roles(const Attributes& attributes) { return "x" + NORM + UnitKind(attributes, "unit").roles(); }

  HeadOperator(Arrays& arrays, const Attributes& attributes) : x{nullptr, read_shape(arrays.peek(), true), true} {
    x.data = arrays.take_any();
    norm = take_norm(arrays, "BatchNorm", x.shape.channels);
    unit.reset(new UnitInputs(arrays, attributes, "unit", x.shape.channels));
  }

  std::vector<Dims> outputs(bool training) const {
    std::vector<Dims> found{{static_cast<unsigned>(x.shape.images), static_cast<unsigned>(x.shape.channels)}};
    if (training) found.push_back(saved_dims(Region::saved_size(x.shape, *unit->build())));
    return found;
  }

  Region region(const Attributes& attributes, Arena& arena) const {
    return Region(x, true, norm, norm_settings(attributes), unit->build(), arena);
  }

  void train(const Attributes& attributes, const std::vector<float*>& out, Arena& arena) const {
    Pool ending(out[0], x.shape);
    region(attributes, arena).train(ending, out[1]);
  }

  void backward(const Attributes& attributes, const std::vector<float*>& dout, const std::vector<float*>& out,
                Gradients& gradients, Arena& arena) const {
    const Tensor dx{gradients.take(), x.shape, true};
    const NormGradients of_norm = gradients.norm();
    const UnitGradients of_unit = gradients.unit(unit->kind);
    Pool ending(dout[0], x.shape);
    region(attributes, arena).backward(ending, out[1], dx, of_norm, of_unit, [](int, int) {});
  }
};

}  // namespace atac
