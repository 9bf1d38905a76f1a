// What MXNet hands an operator: its attributes, and its arrays in their order, read with a check of every shape.
#pragma once
#include <clocale>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "attention.h"
#include "mxnet/lib_api.h"
#include "nin.h"
#include "region.h"
#include "seactivation.h"
#include "xunit.h"

namespace atac {

typedef std::unordered_map<std::string, std::string> Attributes;
typedef std::vector<unsigned int> Dims;
using mxnet::ext::MXTensor;

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string text(const Dims& dims) {
  std::ostringstream out;
  out << "(";
  for (size_t i = 0; i < dims.size(); ++i) out << (i ? ", " : "") << dims[i];
  out << ")";
  return out.str();
}

// ---- Attributes

inline std::string attribute(const Attributes& attributes, const std::string& name, const std::string& otherwise) {
  const auto found = attributes.find(name);
  return found == attributes.end() ? otherwise : found->second;
}

inline double number(const Attributes& attributes, const std::string& name, double otherwise) {
  static const locale_t neutral = newlocale(LC_ALL_MASK, "C", nullptr);  // std::stod would follow the user's
  const std::string value = attribute(attributes, name, "");
  if (value.empty()) return otherwise;
  char* end;
  const double parsed = strtod_l(value.c_str(), &end, neutral);
  if (*end != '\0' || end != value.c_str() + value.size())
    throw Fault("attribute " + name + " must be a number, got '" + value + "'");
  return parsed;
}

inline NormSettings norm_settings(const Attributes& attributes) {
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
    if (name == "xunit") return NORM + "ww" + NORM;
    return pair() ? "w" + NORM + "w" + NORM : name == "prelu" ? "w" : "";
  }

  size_t expected() const {
    if (name == "atac" || name == "seactivation" || name == "leakyrelu" || name == "elu" || name == "swish") return 1;
    if (name == "nin" || name == "xunit" || name == "relu" || name == "identity" || name == "prelu" || name == "selu" || name == "gelu")
      return 0;
    throw Fault("there is no unit '" + name + "'");
  }
};

// ---- Arrays

constexpr uint64_t MOST_NUMBERS = INT32_MAX;  // in an array, as in MXNet itself
constexpr unsigned MOST_CHANNELS = 1 << 16;

// The same dims; Fault where an array of them would be too large for the operators' (and MXNet's) counting.
inline const Dims& checked(const Dims& dims, const char* name) {
  uint64_t size = 1;
  for (unsigned d : dims) {
    size *= d;
    if (size > MOST_NUMBERS) throw Fault(std::string(name) + " has 2^31 elements or more: " + text(dims));
  }
  return dims;
}

// Walks over an operator's arrays in their order, compares shapes, and hands out addresses; at shape inference there
// are none.
class Arrays {
 public:
  Arrays(const std::vector<Dims>& shapes, const std::vector<float*>& data) : shapes_(shapes), data_(data) {
    for (const Dims& dims : shapes) checked(dims, "an array");
  }

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

inline NormArrays take_norm(Arrays& arrays, const std::string& name, int channels, bool affine = true) {
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
  int kernel = 0;  // side of xUnit's
  UnitArrays arrays;

  UnitInputs(Arrays& from, const Attributes& attributes, const std::string& which, int channels)
      : kind(attributes, which) {
    if (kind.name == "prelu") arrays.slope = from.take(which + " slope", {1});
    if (kind.name == "xunit") take_xunit(from, which, channels);
    if (!kind.pair()) return;
    const unsigned c = static_cast<unsigned>(channels), inner = from.peek().empty() ? 0 : from.peek()[0];
    if (inner == 0 || inner > c)  // memory for a tile of the inner layer is that of the outer ones
      throw Fault(which + " first weight must have the shape (C/r, C, 1, 1) with C = " + std::to_string(c) + ", got " +
                  text(from.peek()));
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
    if (kind.name == "xunit") return std::unique_ptr<Unit>(new XUnit(pair.channels, kernel, arrays));
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
  void take_xunit(Arrays& from, const std::string& which, int channels) {
    const unsigned c = static_cast<unsigned>(channels);
    pair.channels = channels;
    arrays.norm1 = take_norm(from, which + " first BatchNorm", channels);
    const unsigned side = from.peek().size() == 4 ? from.peek()[2] : 0;
    if (side % 2 == 0 || side > MOST_CHANNELS)
      throw Fault(which + " kernel must have the shape (C, 1, k, k) with an odd k, got " + text(from.peek()));
    kernel = static_cast<int>(side);
    arrays.kernel = from.take(which + " kernel", {c, 1, side, side});
    arrays.bias = from.take(which + " bias", {c});
    arrays.norm2 = take_norm(from, which + " second BatchNorm", channels);
  }

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
    const bool xunit = kind.name == "xunit";
    if (!kind.pair() && !xunit) return found;
    if (!xunit) found.weight1 = take();
    const NormGradients first = norm();
    if (xunit) {
      found.kernel = take();
      found.bias = take();
    } else {
      found.weight2 = take();
    }
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

inline Dims plain_dims(const Shape& s) {
  return checked({static_cast<unsigned>(s.images), static_cast<unsigned>(s.channels), static_cast<unsigned>(s.height),
                  static_cast<unsigned>(s.width)}, "the result");
}

inline Dims blocked_dims(const Shape& s) {
  return checked({static_cast<unsigned>(s.images), static_cast<unsigned>(s.channels / LANES),
                  static_cast<unsigned>(s.height), static_cast<unsigned>(s.width), LANES}, "the result");
}

inline Shape read_shape(const Dims& dims, bool blocked) {
  const char* wanted = blocked ? "x must be in blocks of channels, (N, C/16, H, W, 16), got " :
                                 "x must be (N, C, H, W), got ";
  if (dims.size() != (blocked ? 5 : 4) || (blocked && dims[4] != LANES)) throw Fault(wanted + text(dims));
  for (unsigned d : dims)
    if (d == 0) throw Fault("x has no elements or an unknown shape: " + text(dims));
  if (checked(dims, "x")[1] > MOST_CHANNELS / (blocked ? LANES : 1))
    throw Fault("x has more than " + std::to_string(MOST_CHANNELS) + " channels: " + text(dims));
  return {static_cast<int>(dims[0]), static_cast<int>(dims[1] * (blocked ? LANES : 1)), static_cast<int>(dims[2]),
          static_cast<int>(dims[3])};
}

}  // namespace atac
