// The comparison of a spec with what a vector's `spec` map says.

#pragma once

#include "vectors.hpp"

struct CheckKind {
  const Map& expected;

  void operator()(const sim_stream::NumberField& field) const {
    CHECK(text(expected, "kind") == "number");
    CHECK(field.unit == text(expected, "unit"));
    CHECK(field.low == expected.at("low").as<double>());
    CHECK(field.high == expected.at("high").as<double>());
    CHECK(field.open_low == expected.at("open_low").as<bool>());
    CHECK(field.integer == expected.at("integer").as<bool>());
    CHECK(field.clamped == expected.at("clamped").as<bool>());
    CHECK(field.by_default == maybe<double>(expected, "default"));
    CHECK(field.levels == number(expected, "levels"));
    CHECK(field.taken == text(expected, "taken"));
  }
  void operator()(const sim_stream::TextField& field) const {
    CHECK(text(expected, "kind") == "text");
    CHECK(field.max_chars == number(expected, "max_chars"));
    CHECK(field.by_default == maybe<std::string>(expected, "default"));
  }
  void operator()(const sim_stream::ChoiceField& field) const {
    CHECK(text(expected, "kind") == "choice");
    CHECK(field.choices == expected.at("choices").as<std::vector<std::string>>());
    CHECK(field.by_default == maybe<std::string>(expected, "default"));
  }
  void operator()(const sim_stream::ArrayField& field) const {
    CHECK(text(expected, "kind") == "array");
    CHECK(field.dtype == text(expected, "dtype"));
    CHECK(field.shape == expected.at("shape").as<std::vector<std::int64_t>>());
    CHECK(field.values == number(expected, "values"));
  }
};

inline void check_fields(const std::vector<sim_stream::Field>& fields, const Map& spec,
                         const char* name) {
  const auto expected = spec.at(name).as<std::vector<Map>>();
  REQUIRE(fields.size() == expected.size());
  for (std::size_t i = 0; i < fields.size(); ++i) {
    CHECK(fields[i].name == text(expected[i], "name"));
    CHECK(fields[i].required == expected[i].at("required").as<bool>());
    CHECK(fields[i].doc == text(expected[i], "doc"));
    std::visit(CheckKind{expected[i]}, fields[i].kind);
  }
}

inline void check_spec(const sim_stream::StreamSpec& spec, const Map& expected) {
  CHECK(spec.model_id == text(expected, "model_id"));
  CHECK(spec.weights_sha256 == text(expected, "weights_sha256"));
  CHECK(spec.fps_num == number(expected, "fps_num"));
  CHECK(spec.fps_den == number(expected, "fps_den"));
  CHECK(spec.frame_shape == expected.at("frame_shape").as<std::array<std::int64_t, 3>>());
  CHECK(spec.prompt_frames == expected.at("prompt_frames").as<std::array<std::int64_t, 2>>());
  CHECK(spec.frames_per_step == number(expected, "frames_per_step"));
  CHECK(spec.lookaheads == expected.at("lookaheads").as<std::vector<std::int64_t>>());
  check_fields(spec.session_inputs, expected, "session_inputs");
  check_fields(spec.step_inputs, expected, "step_inputs");
  check_fields(spec.options, expected, "options");
  const auto camera = maybe<Map>(expected, "camera");
  REQUIRE(spec.camera.has_value() == camera.has_value());
  if (camera) {
    CHECK(spec.camera->field_of_view_deg == camera->at("field_of_view_deg").as<double>());
    CHECK(spec.camera->up_m == camera->at("up_m").as<double>());
    CHECK(spec.camera->pitch_down_deg == camera->at("pitch_down_deg").as<double>());
  }
  CHECK(spec.prompt_psnr_min_db == maybe<double>(expected, "prompt_psnr_min_db"));
  CHECK(spec.prompt_psnr_own_db == maybe<double>(expected, "prompt_psnr_own_db"));
}
