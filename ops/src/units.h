// The units by name, and their arrays among an operator's.
#pragma once
#include "arrays.h"
#include "attention.h"
#include "nin.h"
#include "seactivation.h"
#include "xunit.h"

namespace atac {

// A unit's name and the numbers behind it.
struct UnitKind {
  std::string name;
  std::vector<double> numbers;

  UnitKind(const Attributes& attributes, const std::string& which) {
    std::istringstream words(attribute(attributes, which, "identity"));
    words >> name;
    for (double value; words >> value;) numbers.push_back(value);
    if (!words.eof() || numbers.size() != entry().numbers)
      throw Fault("attribute " + which + " has " + std::to_string(numbers.size()) + " numbers behind '" + name +
                  "', which takes " + std::to_string(entry().numbers));
  }

  // Two 1x1 convolutions with a BatchNorm each.
  bool pair() const { return roles().size() == 2 + 2 * NORM.size() && !xunit(); }
  bool xunit() const { return name == "xunit"; }

  const std::string& roles() const { return entry().roles; }

 private:
  struct Entry {
    size_t numbers;
    std::string roles;
  };

  const Entry& entry() const {
    static const std::string pair = "w" + NORM + "w" + NORM;
    static const std::unordered_map<std::string, Entry> known = {
        {"identity", {0, ""}}, {"relu", {0, ""}}, {"leakyrelu", {1, ""}}, {"prelu", {0, "w"}}, {"elu", {1, ""}},
        {"selu", {0, ""}}, {"gelu", {0, ""}}, {"swish", {1, ""}}, {"atac", {1, pair}}, {"seactivation", {1, pair}},
        {"nin", {0, pair}}, {"xunit", {0, NORM + "ww" + NORM}}};
    const auto found = known.find(name);
    if (found == known.end()) throw Fault("there is no unit '" + name + "'");
    return found->second;
  }
};

// A unit's kind, sizes and arrays.
struct UnitInputs {
  UnitKind kind;
  int channels, inner = 0;  // inner: between two 1x1 convolutions
  int kernel = 0;           // side of xUnit's
  UnitArrays arrays;

  UnitInputs(Arrays& from, const Attributes& attributes, const std::string& which, int channels)
      : kind(attributes, which), channels(channels) {
    const unsigned c = static_cast<unsigned>(channels);
    if (kind.name == "prelu") arrays.slope = from.next(which + " slope", {1});
    if (kind.pair()) {
      inner = from.peek_inner(which, channels);
      arrays.weight1 = from.next(which + " first weight", {static_cast<unsigned>(inner), c, 1, 1});
      arrays.norm1 = next_norm(from, which + " first BatchNorm", inner);
      arrays.weight2 = from.next(which + " second weight", {c, static_cast<unsigned>(inner), 1, 1});
      arrays.norm2 = next_norm(from, which + " second BatchNorm", channels);
    }
    if (kind.xunit()) {
      arrays.norm1 = next_norm(from, which + " first BatchNorm", channels);
      const unsigned side = from.peek().size() == 4 ? from.peek()[2] : 0;
      if (side % 2 == 0 || side > MOST_CHANNELS)
        throw Fault(which + " kernel must have the shape (C, 1, k, k) with an odd k, got " + text(from.peek()));
      kernel = static_cast<int>(side);
      arrays.kernel = from.next(which + " kernel", {c, 1, side, side});
      arrays.bias = from.next(which + " bias", {c});
      arrays.norm2 = next_norm(from, which + " second BatchNorm", channels);
    }
  }

  std::unique_ptr<Unit> build() const {
    const auto value = [&](size_t index) { return static_cast<float>(kind.numbers[index]); };
    const PairSettings pair{channels, inner, kind.name == "nin" || (kind.pair() && kind.numbers[0] != 0)};
    if (kind.name == "atac") return std::unique_ptr<Unit>(new ATAC(pair, arrays));
    if (kind.name == "seactivation") return std::unique_ptr<Unit>(new SEActivation(pair, arrays));
    if (kind.name == "nin") return std::unique_ptr<Unit>(new NiN(pair, arrays));
    if (kind.xunit()) return std::unique_ptr<Unit>(new XUnit(channels, kernel, arrays));
    if (kind.name == "relu") return elementwise(ReLU());
    if (kind.name == "leakyrelu") return elementwise(LeakyReLU(value(0)));
    if (kind.name == "prelu") return elementwise(PReLU(arrays.slope ? *arrays.slope : 0));
    if (kind.name == "elu") return elementwise(ELU(value(0), 1));
    if (kind.name == "selu") return elementwise(ELU(1.6732632423543772f, 1.0507009873554805f));
    if (kind.name == "gelu") return elementwise(GELU());
    if (kind.name == "swish") return elementwise(Swish(value(0)));
    return elementwise(Identity());
  }

  UnitGradients gradients(Gradients& from) const {
    UnitGradients found;
    if (kind.name == "prelu") found.slope = from.next();
    if (kind.pair()) {
      found.weight1 = from.next();
      found.norm1 = from.norm();
      found.weight2 = from.next();
      found.norm2 = from.norm();
    }
    if (kind.xunit()) {
      found.norm1 = from.norm();
      found.kernel = from.next();
      found.bias = from.next();
      found.norm2 = from.norm();
    }
    return found;
  }

 private:
  template <class F>
  static std::unique_ptr<Unit> elementwise(F f) {
    return std::unique_ptr<Unit>(new Elementwise<F>(f));
  }
};

}  // namespace atac
