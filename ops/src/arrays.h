// What MXNet hands an operator: its attributes, and its arrays in their order, read with a check of every shape.
#pragma once
#include <clocale>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "mxnet/lib_api.h"
#include "norm.h"

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

inline int stride_of(const Attributes& attributes) {
  const double wanted = number(attributes, "stride", 1);
  if (wanted != 1 && wanted != 2) throw Fault("stride must be 1 or 2");
  return static_cast<int>(wanted);
}

inline NormSettings norm_settings(const Attributes& attributes) {
  NormSettings settings;
  settings.epsilon = number(attributes, "epsilon", settings.epsilon);
  settings.momentum = number(attributes, "momentum", settings.momentum);
  return settings;
}

// The arrays of an operator in their order: x, w(eight) for what is learned, r(unning) for what training moves.
const std::string NORM = "wwrr";

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

  float* next(const std::string& name, const Dims& expected) {
    if (peek() != expected)
      throw Fault(name + " must have the shape " + text(expected) + ", got " + text(peek()));
    return data_[next_++];
  }

  float* next_any() { return peek(), data_[next_++]; }

  // The channels between two 1x1 convolutions, from the first weight, which comes next. They are at most the outer
  // ones, whose memory a tile of the inner layer takes.
  int peek_inner(const std::string& which, int channels) const {
    const unsigned c = static_cast<unsigned>(channels), inner = peek().empty() ? 0 : peek()[0];
    if (inner == 0 || inner > c)
      throw Fault(which + " first weight must have the shape (C/r, C, 1, 1) with C = " + std::to_string(c) + ", got " +
                  text(peek()));
    return static_cast<int>(inner);
  }

  void finish() const {
    if (next_ != shapes_.size())
      throw Fault("expected " + std::to_string(next_) + " arrays, got " + std::to_string(shapes_.size()));
  }

 private:
  const std::vector<Dims>& shapes_;
  const std::vector<float*>& data_;
  size_t next_ = 0;
};

// An operator from all of its arrays.
template <class Operator>
Operator read_operator(const Attributes& attributes, const std::vector<Dims>& shapes,
                       const std::vector<float*>& data) {
  Arrays arrays(shapes, data);
  Operator found(arrays, attributes);
  arrays.finish();
  return found;
}

inline NormArrays next_norm(Arrays& arrays, const std::string& name, int channels, bool affine = true) {
  const Dims dims{static_cast<unsigned>(channels)};
  NormArrays norm;
  if (affine) {
    norm.gamma = arrays.next(name + " gamma", dims);
    norm.beta = arrays.next(name + " beta", dims);
  }
  norm.running_mean = arrays.next(name + " running mean", dims);
  norm.running_var = arrays.next(name + " running variance", dims);
  return norm;
}

// Addresses of the gradients, in the order of the arrays themselves.
class Gradients {
 public:
  explicit Gradients(const std::vector<MXTensor>& outputs) : outputs_(outputs) {}

  float* next() { return static_cast<float*>(outputs_[next_++].data_ptr); }

  void skip() {  // of what has no gradient, such as running statistics
    const size_t size = static_cast<size_t>(outputs_[next_].size());
    float* data = next();
    std::fill(data, data + size, 0.0f);
  }

  NormGradients norm(bool affine = true) {
    NormGradients found;
    if (affine) {
      found.gamma = next();
      found.beta = next();
    }
    skip();
    skip();
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
