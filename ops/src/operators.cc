// The operators as MXNet sees them. In training they use and move batch statistics and have a gradient:
//
//   atac_unit   (N, C, H, W) -> the same: [BatchNorm,] unit
//   atac_stem   (N, C, H, W) -> blocks: BatchNorm that learns nothing, 3x3 convolution
//   atac_block  blocks -> blocks: a residual block, twice BatchNorm, unit, 3x3 convolution; `refine`; plus the shortcut
//   atac_head   blocks -> (N, C): BatchNorm, unit, global average pool
//
// In inference they use the running statistics, with the normalizations folded into the layers:
//
//   atac_unit_inference  the same unit
//   atac_middle_inference  (N, C, H, W) -> (N, C', H', W'): BatchNorm, unit1, 3x3 convolution, BatchNorm, unit2
//   atac_net_inference   (N, C, H, W) -> logits (N, classes): stem, blocks, head and a dense layer; `layers` says which
//                        (net.h). With `shapes` all arrays lie in one, and what follows from them is kept until MXNet
//                        changes it; without, every batch starts anew
//
// "Blocks" are (N, C/16, H, W, 16). Attributes: unit (unit1 and unit2 of a block), stride, norm, downsample, refine,
// epsilon, momentum, input_gradient (1: the stem's backward pass finds that of x, else it is 0). A unit is a name and its
// numbers: "atac 1" and "seactivation 1" (1: with the inner ReLU), "nin", "xunit", "relu", "identity", "leakyrelu 0.1",
// "prelu", "elu 1", "selu", "gelu", "swish 1" (units.h). refinement.h says what `refine` may be. The arrays follow x in
// the order of the data flow.
#if !defined(__GNUC__) || defined(__clang__) || __GNUC__ < 9
#error "the operators need GCC 9 or newer: other compilers round differently and bring an OpenMP beside MXNet's own"
#endif
#include <exception>
#include <functional>
#include <mutex>

#include "layers.h"
#include "middle.h"
#include "nag.h"
#include "net.h"

namespace {

using namespace atac;
using mxnet::ext::MXReturnValue;
using mxnet::ext::OpResource;

// ---- From MXNet's calls to the operators

// MXNet reports all messages that a library has ever added: there is one, which is replaced.
MXReturnValue failed(const std::string& sentence) {
  static std::mutex one_at_a_time;
  static std::stringstream& message = MX_ERROR_MSG;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  message.str(sentence + "\n");
  return mxnet::ext::MX_FAIL;
}

MXReturnValue guarded(const std::function<void()>& work) {
  try {
    work();
    return mxnet::ext::MX_SUCCESS;
  } catch (const std::bad_alloc&) {
    return failed("there is not enough memory for a fused operator");
  } catch (const std::exception& fault) {
    return failed(fault.what());
  }
}

const char* const NO_GRADIENT = "an operator for inference has no gradient; build the graph for training";

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

MXReturnValue types(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  return guarded([&] {
    for (int& type : *in) {
      if (type == -1) type = mxnet::ext::kFloat32;
      if (type != mxnet::ext::kFloat32) throw Fault("the fused operators compute in float32 only");
    }
    for (int& type : *out) type = mxnet::ext::kFloat32;
  });
}

// The operators of layers.h.
template <class Operator>
struct Declared {
  static MXReturnValue parse(const Attributes& attributes, int* inputs, int* outputs) {
    return guarded([&] {
      *inputs = static_cast<int>(Operator::roles(attributes).size());
      *outputs = 1;
    });
  }

  static MXReturnValue shapes(const Attributes& attributes, std::vector<Dims>* in, std::vector<Dims>* out) {
    return guarded([&] {
      const std::vector<float*> none(in->size(), nullptr);
      out->at(0) = read_operator<Operator>(attributes, *in, none).output();
    });
  }

  static Operator read(const Attributes& attributes, std::vector<MXTensor>::const_iterator first,
                       std::vector<MXTensor>::const_iterator last) {
    return read_operator<Operator>(attributes, dims_of(first, last), data_of(first, last));
  }

  static mxnet::ext::CustomOp& complete(mxnet::ext::CustomOp& op) {
    return op.setParseAttrs(parse).setInferType(types).setInferShape(shapes);
  }
};

// For inference.
template <class Operator>
struct Inference : Declared<Operator> {
  static MXReturnValue forward(const Attributes& attributes, std::vector<MXTensor>* inputs,
                               std::vector<MXTensor>* outputs, const OpResource&) {
    return guarded([&] {
      workspace().reset();
      Inference::read(attributes, inputs->cbegin(), inputs->cend())
          .infer(attributes, static_cast<float*>(outputs->at(0).data_ptr), workspace());
    });
  }

  static MXReturnValue backward(const Attributes&, std::vector<MXTensor>*, std::vector<MXTensor>*, const OpResource&) {
    return guarded([] { throw Fault(NO_GRADIENT); });
  }

  static mxnet::ext::CustomOp& complete(mxnet::ext::CustomOp& op) {
    return Declared<Operator>::complete(op).setForward(forward, "cpu").setBackward(backward, "cpu");
  }
};

// For training. What the backward pass needs stays in the operator's state: as outputs that nobody reads it would have
// gradients, which MXNet would fill with zeros in every step.
template <class Operator>
class Training : public mxnet::ext::CustomStatefulOp, public Declared<Operator> {
 public:
  explicit Training(const Attributes& attributes) : attributes_(attributes) {}

  MXReturnValue Forward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return guarded([&] {
      workspace().reset();
      kept_.reset();
      const Operator found = Training::read(attributes_, inputs->cbegin(), inputs->cend());
      size_ = found.kept_size();
      found.train(attributes_, static_cast<float*>(outputs->at(0).data_ptr), data_ = kept_.take<float>(size_),
                  workspace());
    });
  }

  // MXNet hands over the gradient of the output, the inputs and the output, and wants the gradients of the inputs.
  MXReturnValue Backward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return guarded([&] {
      workspace().reset();
      const Operator found = Training::read(attributes_, inputs->cbegin() + 1, inputs->cend() - 1);
      if (!data_ || found.kept_size() != size_)
        throw Fault("a backward pass needs the forward pass of its arrays before it");
      Gradients gradients(*outputs);
      found.backward(attributes_, static_cast<float*>(inputs->at(0).data_ptr), data_, gradients, workspace());
    });
  }

  static mxnet::ext::CustomOp& complete(mxnet::ext::CustomOp& op) {
    return Declared<Operator>::complete(op).setMutateInputs(moved).setCreateOpState(create, "cpu");
  }

 private:
  static MXReturnValue moved(const Attributes& attributes, std::vector<int>* indices) {
    return guarded([&] {
      const std::string roles = Operator::roles(attributes);
      for (size_t i = 0; i < roles.size(); ++i)
        if (roles[i] == 'r') indices->push_back(static_cast<int>(i));
    });
  }

  static MXReturnValue create(const Attributes& attributes, const mxnet::ext::MXContext&, const std::vector<Dims>&,
                              const std::vector<int>, mxnet::ext::CustomStatefulOp** state) {
    return guarded([&] { *state = mxnet::ext::CustomStatefulOp::create<Training>(attributes); });
  }

  const Attributes attributes_;
  Arena kept_;
  float* data_ = nullptr;
  size_t size_ = 0;
};

// ---- For inference, with what is prepared from the weights alone

template <class Prepared>
class State : public mxnet::ext::CustomStatefulOp {
 public:
  explicit State(const Attributes& attributes) : attributes_(attributes) {}

  MXReturnValue Forward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return guarded([&] {
      const bool keeps = Prepared::keeps(attributes_);
      const MXTensor& x = inputs->at(0);
      // What a prepared one holds for: the arrays, as they are now, and the images' size.
      std::vector<size_t> now(x.shape.begin() + 1, x.shape.end());
      for (auto array = inputs->begin() + 1; array != inputs->end(); ++array) {
        now.push_back(reinterpret_cast<size_t>(array->data_ptr));
        now.push_back(array->verID);
      }
      if (!keeps || !prepared_ || now != made_for_ || prepared_->places() < omp_get_max_threads()) {
        prepared_.reset();
        prepared_.reset(new Prepared(attributes_, dims_of(inputs->begin(), inputs->end()),
                                     data_of(inputs->begin(), inputs->end())));
        made_for_ = std::move(now);
      }
      prepared_->run(static_cast<float*>(x.data_ptr), static_cast<int>(x.shape[0]),
                     static_cast<float*>(outputs->at(0).data_ptr));
      if (!keeps) prepared_.reset();
    });
  }

  MXReturnValue Backward(std::vector<MXTensor>*, std::vector<MXTensor>*, const OpResource&) override {
    return guarded([] { throw Fault(NO_GRADIENT); });
  }

  static MXReturnValue create(const Attributes& attributes, const mxnet::ext::MXContext&, const std::vector<Dims>&,
                              const std::vector<int>, mxnet::ext::CustomStatefulOp** state) {
    return guarded([&] { *state = mxnet::ext::CustomStatefulOp::create<State>(attributes); });
  }

 private:
  const Attributes attributes_;
  std::unique_ptr<Prepared> prepared_;
  std::vector<size_t> made_for_;
};

namespace whole {

MXReturnValue parse(const Attributes& attributes, int* inputs, int* outputs) {
  return guarded([&] {
    *inputs = static_cast<int>(NetLayers::arrays(attributes));
    *outputs = 1;
  });
}

MXReturnValue shapes(const Attributes& attributes, std::vector<Dims>* in, std::vector<Dims>* out) {
  return guarded([&] {
    const std::vector<float*> none(in->size(), nullptr);
    read_shape(in->at(0), false);
    const unsigned images = in->at(0)[0];
    out->at(0) = {images, NetLayers(attributes, *in, none, images).outputs};
  });
}

}  // namespace whole

// ---- The update of many weights at once: atac_nag(weight, gradient, momentum, weight, ...) to (weight, momentum,
// weight, ...). Attributes: count, lr, momentum, rescale (of the gradients) and decays, one for each weight.
//
// It updates in place if its outputs are the arrays themselves (out=). MXNet hands over a copy of an array in oneDNN's
// layout; an update of the copy would be lost, whereas such an output ends in an error.

namespace nag {

size_t count(const Attributes& attributes) {
  const double found = number(attributes, "count", 0);
  if (found < 1 || found > 1e6 || found != std::floor(found)) throw Fault("count must be a whole number of at least 1");
  return static_cast<size_t>(found);
}

MXReturnValue parse(const Attributes& attributes, int* inputs, int* outputs) {
  return guarded([&] {
    *inputs = static_cast<int>(3 * count(attributes));
    *outputs = static_cast<int>(2 * count(attributes));
  });
}

MXReturnValue shapes(const Attributes&, std::vector<Dims>* in, std::vector<Dims>* out) {
  return guarded([&] {
    for (size_t i = 0; i < in->size(); ++i)
      if (in->at(i) != in->at(i / 3 * 3))
        throw Fault("array " + std::to_string(i) + " must have its weight's shape " + text(in->at(i / 3 * 3)) +
                    ", got " + text(in->at(i)));
    for (size_t i = 0; i < out->size(); ++i) out->at(i) = in->at(i / 2 * 3);
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
    const std::vector<float*> out = data_of(outputs->begin(), outputs->end());
    for (size_t i = 0; i < decays.size(); ++i)
      nag_update(data[3 * i], data[3 * i + 1], data[3 * i + 2], out[2 * i], out[2 * i + 1],
                 static_cast<size_t>((*inputs)[3 * i].size()), lr, momentum, decays[i], rescale);
  });
}

MXReturnValue backward(const Attributes&, std::vector<MXTensor>*, std::vector<MXTensor>*, const OpResource&) {
  return guarded([] { throw Fault("an update has no gradient"); });
}

}  // namespace nag

mxnet::ext::CustomOp& add(const char* name) {
  return mxnet::ext::Registry<mxnet::ext::CustomOp>::get()->add(name);
}

const bool registered = (Training<UnitOperator>::complete(add("atac_unit")),
                         Inference<UnitOperator>::complete(add("atac_unit_inference")),
                         Training<StemOperator>::complete(add("atac_stem")),
                         Training<BlockOperator>::complete(add("atac_block")),
                         Training<HeadOperator>::complete(add("atac_head")),
                         Declared<MiddleOperator>::complete(add("atac_middle_inference"))
                             .setCreateOpState(State<PreparedMiddle>::create, "cpu"),
                         add("atac_net_inference")
                             .setParseAttrs(whole::parse)
                             .setInferType(types)
                             .setInferShape(whole::shapes)
                             .setCreateOpState(State<PreparedNet>::create, "cpu"),
                         add("atac_nag")
                             .setParseAttrs(nag::parse)
                             .setInferType(types)
                             .setInferShape(nag::shapes)
                             .setForward(nag::forward, "cpu")
                             .setBackward(nag::backward, "cpu"),
                         true);

}  // namespace

MXReturnValue initialize(int version) {
  if (version >= 10900 && version < 20000) return mxnet::ext::MX_SUCCESS;
  return failed("built for MXNet 1.9, loaded by version " + std::to_string(version));
}
