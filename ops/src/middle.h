// The middle of a bottleneck for inference, as one operator: BatchNorm, unit, 3x3 convolution, BatchNorm, unit. Its input
// and output are in MXNet's layout, between 1x1 convolutions of MXNet.
#pragma once
#include <omp.h>

#include "convolution.h"
#include "units.h"

namespace atac {

struct MiddleOperator {
  Shape in, out;
  NormArrays norm1, norm2;
  std::unique_ptr<UnitInputs> unit1, unit2;
  const float* weight;
  int stride;

  static std::string roles(const Attributes& attributes) {
    return "x" + NORM + UnitKind(attributes, "unit1").roles() + "w" + NORM + UnitKind(attributes, "unit2").roles();
  }

  MiddleOperator(Arrays& arrays, const Attributes& attributes) : in(read_shape(arrays.peek(), false)) {
    arrays.next_any();
    stride = stride_of(attributes);
    norm1 = next_norm(arrays, "first BatchNorm", in.channels);
    unit1.reset(new UnitInputs(arrays, attributes, "unit1", in.channels));
    const unsigned channels = static_cast<unsigned>(in.channels), outputs = arrays.peek().empty() ? 0 : arrays.peek()[0];
    if (outputs == 0 || outputs % LANES || channels % LANES || outputs > MOST_CHANNELS)
      throw Fault("the convolution must have multiples of 16 inputs and outputs, got the shape " + text(arrays.peek()));
    weight = arrays.next("the convolution", {outputs, channels, 3, 3});
    out = {in.images, static_cast<int>(outputs), (in.height - 1) / stride + 1,
           (in.width - 1) / stride + 1};
    norm2 = next_norm(arrays, "second BatchNorm", out.channels);
    unit2.reset(new UnitInputs(arrays, attributes, "unit2", out.channels));
  }

  Dims output() const { return plain_dims(out); }
};

// The operator over the weights of one moment, ready for images of one size. A thread's image has a place of its own in
// every map.
class PreparedMiddle {
 public:
  PreparedMiddle(const Attributes& attributes, const std::vector<Dims>& shapes, const std::vector<float*>& data)
      : places_(omp_get_max_threads()), operator_(read_operator<MiddleOperator>(attributes, shapes, data)) {
    in_ = map(operator_.in);
    between_ = map(operator_.out);
    out_ = map(operator_.out);
    const NormSettings settings = norm_settings(attributes);
    first_.reset(new Region(in_, true, operator_.norm1, settings, operator_.unit1->build(), arena_));
    second_.reset(new Region(between_, true, operator_.norm2, settings, operator_.unit2->build(), arena_));
    convolution_ = convolution(operator_.weight, in_.shape, between_, operator_.stride, {});
    plain_.reset(new Plain(out_));
    first_->prepare(*convolution_);
    second_->prepare(*plain_);
  }

  static bool keeps(const Attributes&) { return true; }
  int places() const { return places_; }

  void run(float* x, int images, float* out) const {
    const Tensor from = plain(x, operator_.in, images), to = plain(out, operator_.out, images);
    Faults faults;
#pragma omp parallel for schedule(static) if (images > 1)
    for (int n = 0; n < images; ++n)
      faults.run([&] {
        const int place = omp_get_thread_num();
        from.read(n, 0, from.shape.pixels(), in_.image(place));
        first_->image(*convolution_, place);
        second_->image(*plain_, place);
        to.wrote(n, 0, to.shape.pixels(), out_.view(place));
      });
    faults.rethrow();
  }

 private:
  static Tensor plain(float* data, Shape shape, int images) {
    shape.images = images;
    return {data, shape, false};
  }

  Tensor map(Shape shape) {
    shape.images = places_;
    return {arena_.take<float>(static_cast<size_t>(places_) * shape.channels * shape.pixels()), shape, true};
  }

  const int places_;
  MiddleOperator operator_;
  Arena arena_;
  Tensor in_, between_, out_;
  std::unique_ptr<Region> first_, second_;
  std::unique_ptr<Convolution> convolution_;
  std::unique_ptr<Plain> plain_;
};

}  // namespace atac
