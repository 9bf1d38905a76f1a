// What stands between a block's second convolution and the addition of its shortcut: "none"; "se", "theta_minus", "theta"
// or "theta_plus", which gate whole images (gather_excite.h); or "atac 1", LocalSE, ATAC's unit without a BatchNorm before.
#pragma once
#include "arrays.h"
#include "gather_excite.h"

namespace atac {

struct RefinementKind {
  std::string name;
  bool learned, layers, local;

  explicit RefinementKind(const Attributes& attributes) : name(attribute(attributes, "refine", "none")) {
    local = name.compare(0, 4, "atac") == 0;
    learned = name == "theta" || name == "theta_plus";
    layers = name == "se" || name == "theta_plus";
    if (local)
      UnitKind(attributes, "refine");
    else if (!gated() && name != "none")
      throw Fault("there is no refinement '" + name + "'");
  }

  // Whether the gate is one number for each channel of an image.
  bool gated() const { return learned || layers || name == "theta_minus"; }

  std::string roles(const Attributes& attributes) const {
    if (local) return UnitKind(attributes, "refine").roles();
    return std::string(learned ? "w" + NORM : "") + (layers ? "wwww" : "");
  }
};

struct Refinement {
  RefinementKind kind;
  std::unique_ptr<UnitInputs> unit;  // of LocalSE
  GateArrays gate;
  int inner = 0;

  // map: of the convolution's output.
  Refinement(Arrays& arrays, const Attributes& attributes, const Shape& map) : kind(attributes) {
    const unsigned channels = static_cast<unsigned>(map.channels);
    if (kind.local) unit.reset(new UnitInputs(arrays, attributes, "refine", map.channels));
    if (kind.learned) {
      gate.gather = arrays.take("gather", {channels, 1, static_cast<unsigned>(map.height),
                                           static_cast<unsigned>(map.width)});
      gate.norm = take_norm(arrays, "gather BatchNorm", map.channels);
    }
    if (!kind.layers) return;
    const unsigned found = arrays.peek().empty() ? 0 : arrays.peek()[0];
    if (found == 0 || found > channels)
      throw Fault("refine first weight must have the shape (C/r, C, 1, 1) with C = " + std::to_string(channels) +
                  ", got " + text(arrays.peek()));
    inner = static_cast<int>(found);
    gate.weight1 = arrays.take("refine first weight", {found, channels, 1, 1});
    gate.bias1 = arrays.take("refine first bias", {found});
    gate.weight2 = arrays.take("refine second weight", {channels, found, 1, 1});
    gate.bias2 = arrays.take("refine second bias", {channels});
  }

  bool present() const { return kind.gated() || kind.local; }

  // Floats that the backward pass needs beside the map.
  size_t saved_size(const Shape& map) const {
    if (kind.local) return Region::saved_size(map, *unit->build());
    return kind.gated() ? GatherExcite::saved_size(map) : 0;
  }

  // The gate between a map and the block's output (or its gradient), nullptr where there is none.
  std::unique_ptr<GatherExcite> gate_between(const Tensor& map, const Tensor& out, const NormSettings& settings,
                                             const Shortcut* shortcut, Arena& arena) const {
    if (!kind.gated()) return nullptr;
    return std::unique_ptr<GatherExcite>(new GatherExcite(gate, inner, settings, map, out, shortcut, arena));
  }

  Region region(const Tensor& map, const NormSettings& settings, Arena& arena) const {
    return Region(map, false, NormArrays(), settings, unit->build(), arena);
  }
};

struct RefinementGradients {
  UnitGradients unit;
  GateGradients gate;

  RefinementGradients(const Refinement& refinement, Gradients& gradients) {
    if (refinement.kind.local) unit = gradients.unit(refinement.unit->kind);
    if (refinement.kind.learned) {
      gate.gather = gradients.take();
      const NormGradients norm = gradients.norm();
      gate.gamma = norm.gamma;
      gate.beta = norm.beta;
    }
    if (!refinement.kind.layers) return;
    gate.weight1 = gradients.take();
    gate.bias1 = gradients.take();
    gate.weight2 = gradients.take();
    gate.bias2 = gradients.take();
  }
};

}  // namespace atac
