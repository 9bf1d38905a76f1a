// A whole CIFAR net for inference, as one operator: stem, blocks, head and dense layer, image by image, so that an
// image's activations stay in the cache from the first layer to the last. What depends on the weights alone is prepared
// once.
#pragma once
#include <omp.h>

#include "layers.h"

namespace atac {

// The attribute `layers`: "NAME:ATTRIBUTE=VALUE,ATTRIBUTE=VALUE;NAME:..." in the order of the data flow, NAME being
// stem, block, head or dense. Attributes of the operator itself hold for all layers.
struct Layer {
  std::string name;
  Attributes attributes;

  size_t arrays() const {
    if (name == "stem") return StemOperator::roles(attributes).size() - 1;
    if (name == "block") return BlockOperator::roles(attributes).size() - 1;
    if (name == "head") return HeadOperator::roles(attributes).size() - 1;
    return 2;  // dense: weight and bias
  }
};

inline std::vector<Layer> layers_of(const Attributes& attributes) {
  std::vector<Layer> found;
  std::istringstream list(attribute(attributes, "layers", ""));
  for (std::string text; std::getline(list, text, ';');) {
    std::istringstream parts(text);
    Layer layer{"", attributes};
    std::getline(parts, layer.name, ':');
    for (std::string setting; std::getline(parts, setting, ',');) {
      const size_t sign = setting.find('=');
      if (sign == std::string::npos) throw Fault("layer " + layer.name + " has a setting without '=': " + setting);
      layer.attributes[setting.substr(0, sign)] = setting.substr(sign + 1);
    }
    found.push_back(layer);
  }
  const size_t count = found.size();
  bool right = count >= 3 && found[0].name == "stem" && found[count - 2].name == "head" &&
               found[count - 1].name == "dense";
  for (size_t i = 1; right && i + 2 < count; ++i) right = found[i].name == "block";
  if (!right) throw Fault("layers must be a stem, blocks, a head and a dense layer, separated by ';'");
  return found;
}

// The arrays of all layers: those behind x, or with the attribute `shapes`, "16,3,3,3;16;...", parts of the only array
// behind x.
struct NetArrays {
  std::vector<Dims> shapes;
  std::vector<float*> data;

  NetArrays(const Attributes& attributes, const std::vector<Dims>& given_shapes, const std::vector<float*>& given)
      : shapes(given_shapes), data(given) {
    if (!in_one(attributes)) return;
    if (shapes.size() != 2) throw Fault("expected 2 arrays, got " + std::to_string(shapes.size()));
    shapes.resize(1);
    data.resize(1);
    std::istringstream list(attribute(attributes, "shapes", ""));
    uint64_t used = 0;
    for (std::string text; std::getline(list, text, ';');) {
      std::istringstream numbers(text);
      Dims dims;
      uint64_t size = 1;
      for (std::string digits; std::getline(numbers, digits, ',');) {
        const double parsed = number({{"shapes", digits}}, "shapes", 0);
        if (!(parsed >= 1 && parsed < 1e9) || parsed != std::floor(parsed))
          throw Fault("attribute shapes must be whole numbers of at least 1, got '" + digits + "'");
        dims.push_back(static_cast<unsigned>(parsed));
        size *= dims.back();
        if (size > 1u << 31) throw Fault("attribute shapes has an array of more than 2^31 elements");
      }
      shapes.push_back(dims);
      data.push_back(given[1] ? given[1] + used : nullptr);
      used += size;
    }
    if (given_shapes[1].size() != 1 || given_shapes[1][0] != used)
      throw Fault("weights must have the shape (" + std::to_string(used) + "), got " + text(given_shapes[1]));
  }

  static bool in_one(const Attributes& attributes) { return attributes.count("shapes") != 0; }
};

// The layers with their arrays; images of x take `places` places.
struct NetLayers {
  std::vector<Layer> layers;
  std::unique_ptr<StemOperator> stem;
  std::vector<std::unique_ptr<BlockOperator>> blocks;
  std::unique_ptr<HeadOperator> head;
  const float *weight = nullptr, *bias = nullptr;
  unsigned outputs = 0;

  NetLayers(const Attributes& attributes, const std::vector<Dims>& given_shapes, const std::vector<float*>& given,
            unsigned places)
      : layers(layers_of(attributes)) {
    const NetArrays arrays_of(attributes, given_shapes, given);
    const std::vector<Dims>& shapes = arrays_of.shapes;
    const std::vector<float*>& data = arrays_of.data;
    Dims dims = shapes[0];
    if (!dims.empty()) dims[0] = places;
    size_t next = 1;
    for (const Layer& layer : layers) {
      // The layer's own arrays, behind what comes out of the one before.
      const size_t count = std::min(layer.arrays(), shapes.size() - next);
      std::vector<Dims> own_shapes{dims};
      std::vector<float*> own_data{nullptr};
      own_shapes.insert(own_shapes.end(), shapes.begin() + next, shapes.begin() + next + count);
      own_data.insert(own_data.end(), data.begin() + next, data.begin() + next + count);
      next += count;
      Arrays arrays(own_shapes, own_data);
      if (layer.name == "stem") {
        stem.reset(new StemOperator(arrays, layer.attributes));
        dims = stem->output();
      } else if (layer.name == "block") {
        blocks.emplace_back(new BlockOperator(arrays, layer.attributes));
        dims = blocks.back()->output();
      } else if (layer.name == "head") {
        head.reset(new HeadOperator(arrays, layer.attributes));
        dims = head->output();
      } else {
        arrays.next_any();
        outputs = arrays.peek().empty() ? 0 : arrays.peek()[0];
        if (outputs == 0)
          throw Fault("the dense layer's weight must have the shape (classes, C), got " + text(arrays.peek()));
        weight = arrays.next("the dense layer's weight", {outputs, dims[1]});
        bias = arrays.next("the dense layer's bias", {outputs});
      }
      arrays.finish();
    }
    if (next != shapes.size())
      throw Fault("expected " + std::to_string(next) + " arrays, got " + std::to_string(shapes.size()));
  }

  // How many arrays the operator takes.
  static size_t arrays(const Attributes& attributes) {
    size_t count = 1;
    if (NetArrays::in_one(attributes)) return 2;
    for (const Layer& layer : layers_of(attributes)) count += layer.arrays();
    return count;
  }
};

// A net over the weights of one moment, ready for images of one size. A thread's image has a place of its own in every
// map.
class PreparedNet {
 public:
  PreparedNet(const Attributes& attributes, const std::vector<Dims>& shapes, const std::vector<float*>& data)
      : places_(omp_get_max_threads()), net_(attributes, shapes, data, static_cast<unsigned>(places_)) {
    const Attributes& settings = net_.layers[0].attributes;
    const Shape in{places_, net_.stem->channels, net_.stem->in.height, net_.stem->in.width};
    Tensor x = map(in, 0);
    stem_.reset(new Stem(net_.stem->stem(settings, x.data, arena_)));
    stem_->prepare();
    int turn = 0;
    for (size_t i = 0; i < net_.blocks.size(); ++i) {
      BlockOperator& block = *net_.blocks[i];
      const NormSettings norm = norm_settings(net_.layers[i + 1].attributes);
      block.x = x;
      const Tensor h = map(block.out_shape, 2), out = map(block.out_shape, turn = 1 - turn);
      shortcuts_.emplace_back(new Shortcut(block.shortcut(arena_)));
      const Shortcut& added = *shortcuts_.back();
      const Refinement& refinement = *block.refinement;
      add(block.first(norm, arena_), convolution(block.conv1, x.shape, h, block.stride, {}));
      if (refinement.present()) {
        const Tensor y = map(block.out_shape, 3);
        gates_.push_back(refinement.gate_between(y, out, norm, &added, arena_));
        if (gates_.back()) gates_.back()->infer();
        add(block.second(h, norm, arena_),
            convolution(block.conv2, block.out_shape, y, 1, {nullptr, gates_.back().get()}));
        if (refinement.kind.local)
          add(refinement.region(y, norm, arena_), std::unique_ptr<Ending>(new Added(out, added)));
      } else {
        add(block.second(h, norm, arena_), convolution(block.conv2, block.out_shape, out, 1, {&added}));
      }
      x = out;
    }
    net_.head->x = x;
    pooled_ = arena_.take<float>(static_cast<size_t>(places_) * x.shape.channels);
    add(net_.head->region(net_.layers[net_.layers.size() - 2].attributes, arena_),
        std::unique_ptr<Ending>(new Pool(pooled_, x.shape)));
  }

  static bool keeps(const Attributes& attributes) { return NetArrays::in_one(attributes); }
  int places() const { return places_; }

  // Images (N, C, H, W) to logits (N, outputs).
  void run(const float* x, int images, float* logits) const {
    const size_t size = static_cast<size_t>(net_.stem->in.channels) * net_.stem->in.pixels();
    Faults faults;
#pragma omp parallel for schedule(static) if (images > 1)
    for (int n = 0; n < images; ++n)
      faults.run([&] {
        const int place = omp_get_thread_num();
        stem_->image(x + n * size, place);
        for (const Stage& stage : stages_) stage.region->image(*stage.ending, place);
        dense(place, logits + static_cast<size_t>(n) * net_.outputs);
      });
    faults.rethrow();
  }

 private:
  struct Stage {
    std::unique_ptr<Region> region;
    std::unique_ptr<Ending> ending;
  };

  void add(Region region, std::unique_ptr<Ending> ending) {
    stages_.push_back({std::unique_ptr<Region>(new Region(std::move(region))), std::move(ending)});
    stages_.back().region->prepare(*stages_.back().ending);
  }

  // One of four maps of a shape, which take turns: a block's input and output, what is between its convolutions, and what
  // comes before its refinement.
  Tensor map(const Shape& shape, int which) {
    for (const auto& known : maps_)
      if (known.first == which && known.second.shape.channels == shape.channels &&
          known.second.shape.height == shape.height && known.second.shape.width == shape.width)
        return known.second;
    const size_t size = static_cast<size_t>(shape.images) * shape.channels * shape.pixels();
    maps_.emplace_back(which, Tensor{arena_.take<float>(size), shape, true});
    return maps_.back().second;
  }

  void dense(int place, float* logits) const {
    const int channels = net_.head->x.shape.channels;
    const float* in = pooled_ + static_cast<size_t>(place) * channels;
    for (unsigned o = 0; o < net_.outputs; ++o) {
      const float* weights = net_.weight + static_cast<size_t>(o) * channels;
      V sum{};
      for (int c = 0; c < channels; c += LANES) sum += load(weights + c) * load(in + c);
      logits[o] = net_.bias[o] + sum_of(sum);
    }
  }

  const int places_;
  NetLayers net_;
  Arena arena_;
  std::unique_ptr<Stem> stem_;
  std::vector<std::unique_ptr<Shortcut>> shortcuts_;
  std::vector<std::unique_ptr<GatherExcite>> gates_;
  std::vector<Stage> stages_;
  std::vector<std::pair<int, Tensor>> maps_;
  float* pooled_ = nullptr;
};

}  // namespace atac
