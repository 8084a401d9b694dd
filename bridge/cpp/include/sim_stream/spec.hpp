// What a model is and takes, as data: bridge/PROTOCOL.md says what each field means.

#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace sim_stream {

// A finite number, `low` (with `open_low` above it) to `high`. `clamped`: beyond the bounds it
// counts as the nearest one. `levels`: how many values the model tells apart, 0 where it is not
// known. `taken`: how it was taken in training: "end" (at the frame that the step leads to), "mean"
// (over the time since the frame before), or "" where the weights do not say.
struct NumberField {
  std::string unit;
  double low = 0.0;
  double high = 0.0;
  bool open_low = false;
  bool integer = false;
  bool clamped = false;
  std::optional<double> by_default;
  std::int64_t levels = 0;
  std::string taken;
};

struct TextField {
  std::int64_t max_chars = 4096;
  std::optional<std::string> by_default;
};

struct ChoiceField {
  std::vector<std::string> choices;
  std::optional<std::string> by_default;
};

// `dtype`: "|u1" or "<f4". `values`: how many an element may take, from 0 on; 0: all.
struct ArrayField {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::int64_t values = 0;
};

struct Field {
  std::string name;
  bool required = false;
  std::string doc;
  std::variant<NumberField, TextField, ChoiceField, ArrayField> kind;
};

// The camera of the frames that the model was trained on; the field of view is that of the square
// frame, both ways.
struct Camera {
  double field_of_view_deg = 0.0;
  double up_m = 0.0;
  double pitch_down_deg = 0.0;
};

// A session starts from `prompt_frames[0]` to `prompt_frames[1]` frames. A step gives
// `frames_per_step`; with a lookahead of n, one of `lookaheads` (the first is the default), they
// leave n steps late. nullopt: the weights do not say.
struct StreamSpec {
  std::string model_id;
  std::string weights_sha256;
  std::int64_t fps_num = 1;
  std::int64_t fps_den = 1;
  std::array<std::int64_t, 3> frame_shape{};  // height, width, channels
  std::array<std::int64_t, 2> prompt_frames{};
  std::int64_t frames_per_step = 1;
  std::vector<std::int64_t> lookaheads{0};
  std::vector<Field> session_inputs;
  std::vector<Field> step_inputs;
  std::vector<Field> options;
  std::optional<Camera> camera;
  // Below which `Session::prompt_psnr_db` a prompt is foreign, and what the model's own world reaches.
  std::optional<double> prompt_psnr_min_db;
  std::optional<double> prompt_psnr_own_db;

  [[nodiscard]] double fps() const {
    return static_cast<double>(fps_num) / static_cast<double>(fps_den);
  }
  // Whether steps take an input of that name.
  [[nodiscard]] bool takes(std::string_view name) const {
    return std::any_of(step_inputs.begin(), step_inputs.end(),
                       [name](const Field& field) { return field.name == name; });
  }
};

}  // namespace sim_stream
