// The operators as MXNet sees them. Each comes twice: in training it uses and moves batch statistics and has a
// gradient, in inference it uses the running ones, with the normalizations folded into the layers.
//
//   atac_unit   (N, C, H, W) -> the same: [BatchNorm,] unit
//   atac_stem   (N, C, H, W) -> blocks: BatchNorm that learns nothing, 3x3 convolution
//   atac_block  blocks -> blocks: a residual block, twice BatchNorm, unit, 3x3 convolution, plus the shortcut
//   atac_head   blocks -> (N, C): BatchNorm, unit, global average pool
//
// "Blocks" are (N, C/16, H, W, 16). Attributes: unit (unit1 and unit2 of a block), stride, norm,
// downsample, epsilon, momentum, input_gradient (1: the stem's backward pass finds that of x, else it is 0). A
// unit is a name and its numbers: "atac 1" and "seactivation 1" (1: with the inner ReLU), "nin", "relu", "identity",
// "leakyrelu 0.1", "prelu", "elu 1", "selu", "gelu", "swish 1". The arrays follow x in the order of the data flow.
#include <exception>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "mxnet/lib_api.h"
#include "convolution.h"
#include "nag.h"
#include "nin.h"
#include "region.h"
#include "stem.h"

namespace {

using namespace atac;
using mxnet::ext::MXReturnValue;
using mxnet::ext::MXTensor;
using mxnet::ext::OpResource;
typedef std::unordered_map<std::string, std::string> Attributes;
typedef std::vector<unsigned int> Dims;

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string text(const Dims& dims) {
  std::ostringstream out;
  out << "(";
  for (size_t i = 0; i < dims.size(); ++i) out << (i ? ", " : "") << dims[i];
  out << ")";
  return out.str();
}

// ---- Attributes

std::string attribute(const Attributes& attributes, const std::string& name, const std::string& otherwise) {
  const auto found = attributes.find(name);
  return found == attributes.end() ? otherwise : found->second;
}

double number(const Attributes& attributes, const std::string& name, double otherwise) {
  const std::string value = attribute(attributes, name, "");
  if (value.empty()) return otherwise;
  try {
    size_t used;
    const double parsed = std::stod(value, &used);
    if (used == value.size()) return parsed;
  } catch (const std::logic_error&) {
  }
  throw Fault("attribute " + name + " must be a number, got '" + value + "'");
}

NormSettings norm_settings(const Attributes& attributes) {
  NormSettings settings;
  settings.epsilon = number(attributes, "epsilon", settings.epsilon);
  settings.momentum = number(attributes, "momentum", settings.momentum);
  return settings;
}

// The arrays of an operator in their order: x, w(eight) for what is learned, r(unning) for what training moves.
const std::string NORM = "wwrr";

// A unit's name and numbers.
struct UnitKind {
  std::string name;
  std::vector<double> numbers;

  UnitKind(const Attributes& attributes, const std::string& which) {
    std::istringstream words(attribute(attributes, which, "identity"));
    words >> name;
    for (double value; words >> value;) numbers.push_back(value);
    if (!words.eof() || numbers.size() != expected())
      throw Fault("attribute " + which + " has " + std::to_string(numbers.size()) + " numbers behind '" + name +
                  "', which takes " + std::to_string(expected()));
  }

  // Two 1x1 convolutions with a BatchNorm each.
  bool pair() const { return name == "atac" || name == "seactivation" || name == "nin"; }

  std::string roles() const {
    return pair() ? "w" + NORM + "w" + NORM : name == "prelu" ? "w" : "";
  }

  size_t expected() const {
    if (name == "atac" || name == "seactivation" || name == "leakyrelu" || name == "elu" || name == "swish") return 1;
    if (name == "nin" || name == "relu" || name == "identity" || name == "prelu" || name == "selu" || name == "gelu")
      return 0;
    throw Fault("there is no unit '" + name + "'");
  }
};

// ---- Arrays

// Walks over an operator's arrays in their order, compares shapes, and hands out addresses; at shape inference there
// are none.
class Arrays {
 public:
  Arrays(const std::vector<Dims>& shapes, const std::vector<float*>& data) : shapes_(shapes), data_(data) {}

  const Dims& peek() const {
    if (next_ >= shapes_.size()) throw Fault("an array is missing behind number " + std::to_string(next_));
    return shapes_[next_];
  }

  float* take(const std::string& name, const Dims& expected) {
    if (peek() != expected)
      throw Fault(name + " must have the shape " + text(expected) + ", got " + text(peek()));
    return data_[next_++];
  }

  float* take_any() { return peek(), data_[next_++]; }

  void finish() const {
    if (next_ != shapes_.size())
      throw Fault("expected " + std::to_string(next_) + " arrays, got " + std::to_string(shapes_.size()));
  }

 private:
  const std::vector<Dims>& shapes_;
  const std::vector<float*>& data_;
  size_t next_ = 0;
};

NormArrays take_norm(Arrays& arrays, const std::string& name, int channels, bool affine = true) {
  const Dims dims{static_cast<unsigned>(channels)};
  NormArrays norm;
  if (affine) {
    norm.gamma = arrays.take(name + " gamma", dims);
    norm.beta = arrays.take(name + " beta", dims);
  }
  norm.running_mean = arrays.take(name + " running mean", dims);
  norm.running_var = arrays.take(name + " running variance", dims);
  return norm;
}

// A unit's kind, sizes and arrays.
struct UnitInputs {
  UnitKind kind;
  PairSettings pair{};
  UnitArrays arrays;

  UnitInputs(Arrays& from, const Attributes& attributes, const std::string& which, int channels)
      : kind(attributes, which) {
    if (kind.name == "prelu") arrays.slope = from.take(which + " slope", {1});
    if (!kind.pair()) return;
    const unsigned c = static_cast<unsigned>(channels), inner = from.peek().empty() ? 0 : from.peek()[0];
    if (inner == 0) throw Fault(which + " first weight must have the shape (C/r, C, 1, 1), got " + text(from.peek()));
    pair = {channels, static_cast<int>(inner), kind.name == "nin" || kind.numbers[0] != 0};
    arrays.weight1 = from.take(which + " first weight", {inner, c, 1, 1});
    arrays.norm1 = take_norm(from, which + " first BatchNorm", pair.inner);
    arrays.weight2 = from.take(which + " second weight", {c, inner, 1, 1});
    arrays.norm2 = take_norm(from, which + " second BatchNorm", channels);
  }

  std::unique_ptr<Unit> build() const {
    const auto value = [&](size_t index) { return static_cast<float>(kind.numbers[index]); };
    if (kind.name == "atac") return std::unique_ptr<Unit>(new ATAC(pair, arrays));
    if (kind.name == "seactivation") return std::unique_ptr<Unit>(new SEActivation(pair, arrays));
    if (kind.name == "nin") return std::unique_ptr<Unit>(new NiN(pair, arrays));
    if (kind.name == "relu") return elementwise(ReLU());
    if (kind.name == "leakyrelu") return elementwise(LeakyReLU(value(0)));
    if (kind.name == "prelu") return elementwise(PReLU(arrays.slope ? *arrays.slope : 0));
    if (kind.name == "elu") return elementwise(ELU(value(0), 1));
    if (kind.name == "selu") return elementwise(ELU(1.6732632423543772f, 1.0507009873554805f));
    if (kind.name == "gelu") return elementwise(GELU());
    if (kind.name == "swish") return elementwise(Swish(value(0)));
    return elementwise(Identity());
  }

 private:
  template <class F>
  static std::unique_ptr<Unit> elementwise(F f) {
    return std::unique_ptr<Unit>(new Elementwise<F>(f));
  }
};

// Addresses of the gradients, in the order of the arrays themselves.
class Gradients {
 public:
  explicit Gradients(const std::vector<MXTensor>& outputs) : outputs_(outputs) {}

  float* take() { return static_cast<float*>(outputs_[next_++].data_ptr); }

  void skip() {  // of what has no gradient, such as running statistics
    const size_t size = static_cast<size_t>(outputs_[next_].size());
    float* data = take();
    std::fill(data, data + size, 0.0f);
  }

  NormGradients norm(bool affine = true) {
    NormGradients found;
    if (affine) {
      found.gamma = take();
      found.beta = take();
    }
    skip();
    skip();
    return found;
  }

  UnitGradients unit(const UnitKind& kind) {
    UnitGradients found;
    if (kind.name == "prelu") found.slope = take();
    if (!kind.pair()) return found;
    found.weight1 = take();
    const NormGradients first = norm();
    found.weight2 = take();
    const NormGradients second = norm();
    found.gamma1 = first.gamma;
    found.beta1 = first.beta;
    found.gamma2 = second.gamma;
    found.beta2 = second.beta;
    return found;
  }

 private:
  const std::vector<MXTensor>& outputs_;
  size_t next_ = 0;
};

Dims plain_dims(const Shape& s) {
  return {static_cast<unsigned>(s.images), static_cast<unsigned>(s.channels), static_cast<unsigned>(s.height),
          static_cast<unsigned>(s.width)};
}

Dims blocked_dims(const Shape& s) {
  return {static_cast<unsigned>(s.images), static_cast<unsigned>(s.channels / LANES), static_cast<unsigned>(s.height),
          static_cast<unsigned>(s.width), LANES};
}

Shape read_shape(const Dims& dims, bool blocked) {
  const char* wanted = blocked ? "x must be in blocks of channels, (N, C/16, H, W, 16), got " :
                                 "x must be (N, C, H, W), got ";
  if (dims.size() != (blocked ? 5 : 4) || (blocked && dims[4] != LANES)) throw Fault(wanted + text(dims));
  uint64_t product = 1;
  for (unsigned d : dims) {
    if (d == 0) throw Fault("x has no elements or an unknown shape: " + text(dims));
    product *= d;
    if (product > 1u << 31) throw Fault("x has more than 2^31 elements: " + text(dims));
  }
  return {static_cast<int>(dims[0]), static_cast<int>(dims[1] * (blocked ? LANES : 1)), static_cast<int>(dims[2]),
          static_cast<int>(dims[3])};
}

// ---- The four operators. Each reads its arrays (with or without addresses), and says the shapes of its outputs; the
// first output is the result, the others, in training, are what the backward pass needs.

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
    if (training) found.push_back({static_cast<unsigned>(Region::saved_size(x.shape, *unit->build()))});
    return found;
  }

  Region region(const Attributes& attributes, Arena& arena) const {
    return Region(x, has_norm, norm, norm_settings(attributes), unit->build(), arena);
  }

  void forward(const Attributes& attributes, const std::vector<float*>& out, bool training, Arena& arena) const {
    Region found = region(attributes, arena);
    Plain ending(Tensor{out[0], x.shape, false});
    training ? found.train(ending, out[1]) : found.infer(ending);
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
    if (outputs == 0 || outputs % LANES)
      throw Fault("weight must have a multiple of 16 outputs, got the shape " + text(arrays.peek()));
    channels = static_cast<int>(outputs);
    weight = arrays.take("weight", {outputs, static_cast<unsigned>(in.channels), 3, 3});
  }

  std::vector<Dims> outputs(bool training) const {
    std::vector<Dims> found{blocked_dims({in.images, channels, in.height, in.width})};
    if (training) found.push_back({static_cast<unsigned>(Stem::saved_size(in))});
    return found;
  }

  void forward(const Attributes& attributes, const std::vector<float*>& out, bool training, Arena& arena) const {
    Stem stem(x, in, out[0], channels, weight, norm, norm_settings(attributes), arena);
    training ? stem.train(out[1]) : stem.infer();
  }

  void backward(const Attributes& attributes, const std::vector<float*>& dout, const std::vector<float*>& out,
                Gradients& gradients, Arena& arena) const {
    // The images of a training need no gradient, and MXNet does not say whether anyone wants one.
    float* dx = nullptr;
    number(attributes, "input_gradient", 0) != 0 ? void(dx = gradients.take()) : gradients.skip();
    gradients.skip();  // beta is a constant here
    gradients.norm(false);
    Stem stem(x, in, dout[0], channels, weight, norm, norm_settings(attributes), arena);
    stem.backward(out[1], gradients.take(), dx);
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
    if (out == 0 || out % LANES)
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
    found.push_back({static_cast<unsigned>(saved1() + Region::saved_size(out_shape, *unit2->build()))});
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

  void forward(const Attributes& attributes, const std::vector<float*>& out, bool training, Arena& arena) const {
    const NormSettings settings = norm_settings(attributes);
    const size_t size = static_cast<size_t>(out_shape.images) * channels * out_shape.pixels();
    const Tensor h{training ? out[1] : arena.take<float>(size), out_shape, true};
    const Shortcut added = shortcut(arena);
    const auto ending1 = convolution(conv1, x.shape, h, stride, nullptr);
    const auto ending2 = convolution(conv2, out_shape, Tensor{out[0], out_shape, true}, 1, &added);
    Region region1 = first(settings, arena);
    training ? region1.train(*ending1, out[2]) : region1.infer(*ending1);
    Region region2 = second(h, settings, arena);
    training ? region2.train(*ending2, out[2] + saved1()) : region2.infer(*ending2);
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
    if (training) found.push_back({static_cast<unsigned>(Region::saved_size(x.shape, *unit->build()))});
    return found;
  }

  Region region(const Attributes& attributes, Arena& arena) const {
    return Region(x, true, norm, norm_settings(attributes), unit->build(), arena);
  }

  void forward(const Attributes& attributes, const std::vector<float*>& out, bool training, Arena& arena) const {
    Region found = region(attributes, arena);
    Pool ending(out[0], x.shape);
    training ? found.train(ending, out[1]) : found.infer(ending);
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

// ---- From MXNet's calls to the operators

MXReturnValue guarded(const std::function<void()>& work) {
  try {
    work();
    return mxnet::ext::MX_SUCCESS;
  } catch (const std::exception& fault) {
    MX_ERROR_MSG << fault.what() << std::endl;
    return mxnet::ext::MX_FAIL;
  }
}

std::vector<Dims> dims_of(std::vector<MXTensor>::const_iterator first, std::vector<MXTensor>::const_iterator last) {
  std::vector<Dims> found;
  for (; first != last; ++first) found.emplace_back(first->shape.begin(), first->shape.end());
  return found;
}

std::vector<float*> data_of(std::vector<MXTensor>::const_iterator first, std::vector<MXTensor>::const_iterator last) {
  std::vector<float*> found;
  for (; first != last; ++first) found.push_back(static_cast<float*>(first->data_ptr));
  return found;
}

// One of the four operators, for training (with a gradient) or for inference.
template <class Operator, bool TRAINING, int TRAINING_OUTPUTS>
struct Glue {
  static constexpr int OUTPUTS = TRAINING ? TRAINING_OUTPUTS : 1;

  static MXReturnValue parse(const Attributes& attributes, int* inputs, int* outputs) {
    return guarded([&] {
      *inputs = static_cast<int>(Operator::roles(attributes).size());
      *outputs = OUTPUTS;
    });
  }

  static MXReturnValue types(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
    return guarded([&] {
      for (int& type : *in) {
        if (type == -1) type = mxnet::ext::kFloat32;
        if (type != mxnet::ext::kFloat32) throw Fault("the fused operators compute in float32 only");
      }
      for (int& type : *out) type = mxnet::ext::kFloat32;
    });
  }

  static MXReturnValue shapes(const Attributes& attributes, std::vector<Dims>* in, std::vector<Dims>* out) {
    return guarded([&] {
      const std::vector<float*> none(in->size(), nullptr);
      Arrays arrays(*in, none);
      const Operator found(arrays, attributes);
      arrays.finish();
      *out = found.outputs(TRAINING);
    });
  }

  static MXReturnValue moved(const Attributes& attributes, std::vector<int>* indices) {
    return guarded([&] {
      const std::string roles = Operator::roles(attributes);
      for (size_t i = 0; TRAINING && i < roles.size(); ++i)
        if (roles[i] == 'r') indices->push_back(static_cast<int>(i));
    });
  }

  static MXReturnValue forward(const Attributes& attributes, std::vector<MXTensor>* inputs,
                               std::vector<MXTensor>* outputs, const OpResource&) {
    return guarded([&] {
      workspace().reset();
      const std::vector<Dims> shapes = dims_of(inputs->begin(), inputs->end());
      const std::vector<float*> data = data_of(inputs->begin(), inputs->end());
      Arrays arrays(shapes, data);
      const Operator found(arrays, attributes);
      arrays.finish();
      found.forward(attributes, data_of(outputs->begin(), outputs->end()), TRAINING, workspace());
    });
  }

  // MXNet hands over the gradients of the outputs, the inputs and the outputs, and wants those of the inputs.
  static MXReturnValue backward(const Attributes& attributes, std::vector<MXTensor>* inputs,
                                std::vector<MXTensor>* outputs, const OpResource&) {
    return guarded([&] {
      if (!TRAINING) throw Fault("an operator for inference has no gradient; build the graph for training");
      workspace().reset();
      const auto first = inputs->cbegin() + OUTPUTS, last = inputs->cend() - OUTPUTS;
      const std::vector<Dims> shapes = dims_of(first, last);
      const std::vector<float*> data = data_of(first, last);
      Arrays arrays(shapes, data);
      const Operator found(arrays, attributes);
      arrays.finish();
      Gradients gradients(*outputs);
      found.backward(attributes, data_of(inputs->cbegin(), first), data_of(last, inputs->cend()), gradients,
                     workspace());
    });
  }

  static mxnet::ext::CustomOp& complete(mxnet::ext::CustomOp& op) {
    return op.setParseAttrs(parse).setInferType(types).setInferShape(shapes).setMutateInputs(moved)
        .setForward(forward, "cpu").setBackward(backward, "cpu");
  }
};

// ---- The update of many weights at once: atac_nag(weight, gradient, momentum, weight, ...), in place. Attributes:
// count, lr, momentum, rescale (of the gradients) and decays, one for each weight.

namespace nag {

size_t count(const Attributes& attributes) {
  const double found = number(attributes, "count", 0);
  if (found < 1 || found > 1e6 || found != std::floor(found)) throw Fault("count must be a whole number of at least 1");
  return static_cast<size_t>(found);
}

MXReturnValue parse(const Attributes& attributes, int* inputs, int* outputs) {
  return guarded([&] {
    *inputs = static_cast<int>(3 * count(attributes));
    *outputs = 1;
  });
}

MXReturnValue types(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  return guarded([&] {
    for (int type : *in)
      if (type != mxnet::ext::kFloat32) throw Fault("the fused operators compute in float32 only");
    out->at(0) = mxnet::ext::kFloat32;
  });
}

MXReturnValue shapes(const Attributes&, std::vector<Dims>* in, std::vector<Dims>* out) {
  return guarded([&] {
    for (size_t i = 0; i < in->size(); ++i)
      if (in->at(i) != in->at(i / 3 * 3))
        throw Fault("array " + std::to_string(i) + " must have its weight's shape " + text(in->at(i / 3 * 3)) +
                    ", got " + text(in->at(i)));
    out->at(0) = {1};
  });
}

MXReturnValue moved(const Attributes& attributes, std::vector<int>* indices) {
  return guarded([&] {
    for (size_t i = 0; i < count(attributes); ++i)
      for (size_t which : {0, 2}) indices->push_back(static_cast<int>(3 * i + which));
  });
}

MXReturnValue forward(const Attributes& attributes, std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs,
                      const OpResource&) {
  return guarded([&] {
    std::istringstream words(attribute(attributes, "decays", ""));
    std::vector<float> decays;
    for (double value; words >> value;) decays.push_back(static_cast<float>(value));
    if (decays.size() != count(attributes))
      throw Fault("decays must be " + std::to_string(count(attributes)) + " numbers, got " +
                  std::to_string(decays.size()));
    const auto setting = [&](const char* name) { return static_cast<float>(number(attributes, name, 0)); };
    const float lr = setting("lr"), momentum = setting("momentum"), rescale = setting("rescale");
    const std::vector<float*> data = data_of(inputs->begin(), inputs->end());
    for (size_t i = 0; i < decays.size(); ++i)
      nag_update(data[3 * i], data[3 * i + 1], data[3 * i + 2], static_cast<size_t>((*inputs)[3 * i].size()), lr,
                 momentum, decays[i], rescale);
    *static_cast<float*>(outputs->at(0).data_ptr) = 0;
  });
}

MXReturnValue backward(const Attributes&, std::vector<MXTensor>*, std::vector<MXTensor>*, const OpResource&) {
  return guarded([] { throw Fault("an update has no gradient"); });
}

}  // namespace nag

mxnet::ext::CustomOp& add(const char* name) {
  return mxnet::ext::Registry<mxnet::ext::CustomOp>::get()->add(name);
}

template <class Operator, int TRAINING_OUTPUTS>
bool register_both(const char* training, const char* inference) {
  Glue<Operator, true, TRAINING_OUTPUTS>::complete(add(training));
  Glue<Operator, false, TRAINING_OUTPUTS>::complete(add(inference));
  return true;
}

const bool registered = register_both<UnitOperator, 2>("atac_unit", "atac_unit_inference") &&
                        register_both<StemOperator, 2>("atac_stem", "atac_stem_inference") &&
                        register_both<BlockOperator, 3>("atac_block", "atac_block_inference") &&
                        register_both<HeadOperator, 2>("atac_head", "atac_head_inference") &&
                        (add("atac_nag")
                             .setParseAttrs(nag::parse)
                             .setInferType(nag::types)
                             .setInferShape(nag::shapes)
                             .setMutateInputs(nag::moved)
                             .setForward(nag::forward, "cpu")
                             .setBackward(nag::backward, "cpu"),
                         true);

}  // namespace

MXReturnValue initialize(int version) {
  if (version >= 10900 && version < 20000) return mxnet::ext::MX_SUCCESS;
  MX_ERROR_MSG << "built for MXNet 1.9, loaded by version " << version << std::endl;
  return mxnet::ext::MX_FAIL;
}
