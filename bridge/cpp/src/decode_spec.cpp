#include "decode_spec.hpp"

#include <algorithm>
#include <set>

namespace sim_stream::wire {
namespace {

// The most bytes of frames that a reply can bring.
constexpr std::int64_t kReplyBytes = 64 * 1024 * 1024;
constexpr std::int64_t kArrayBytes = kI32Max;
constexpr std::int64_t kMostFrames = 256;
constexpr std::int64_t kMostLookahead = 16;
constexpr std::int64_t kTextCharacters = 4096;
constexpr std::size_t kMostFields = 14;
constexpr std::size_t kWords = 256;
constexpr double kMostPsnrDb = 99.0;

std::string read_name(const Value& value) {
  const std::string name = value.text(32);
  const auto letter = [](char c) { return c >= 'a' && c <= 'z'; };
  const auto other = [letter](char c) { return letter(c) || (c >= '0' && c <= '9') || c == '_'; };
  value.require(!name.empty() && letter(name[0]) && std::all_of(name.begin(), name.end(), other),
                "a-z, then a-z, 0-9 and _");
  return name;
}

std::optional<std::string> text_or_null(const Fields& fields, std::string_view name,
                                        std::size_t characters) {
  const auto found = fields.nullable(name);
  return found ? std::optional(found->text(characters)) : std::nullopt;
}

std::int64_t integer_or(const Fields& fields, std::string_view name, std::int64_t otherwise,
                        std::int64_t low, std::int64_t high) {
  const auto found = fields.find(name);
  return found ? found->integer(low, high) : otherwise;
}

NumberField read_number(const Fields& fields) {
  NumberField field;
  field.unit = fields.get_or<std::string>("unit", "", &Value::name);
  const Value low = fields.required("low");
  field.low = low.finite();
  field.high = fields.required("high").finite();
  low.require(field.low <= field.high, "at most `high`");
  field.open_low = fields.get_or("open_low", false, &Value::boolean);
  field.integer = fields.get_or("integer", false, &Value::boolean);
  field.clamped = fields.get_or("clamped", false, &Value::boolean);
  if (const auto by_default = fields.nullable("default")) {
    field.by_default = by_default->number();
  }
  field.levels = integer_or(fields, "levels", 0, 0, kI32Max);
  const auto taken = fields.find("taken");
  field.taken = taken ? taken->one_of({"", "end", "mean"}) : "";
  return field;
}

TextField read_text(const Fields& fields) {
  const auto characters = static_cast<std::size_t>(kTextCharacters);
  return {integer_or(fields, "max_chars", kTextCharacters, 1, kTextCharacters),
          text_or_null(fields, "default", characters)};
}

ChoiceField read_choice(const Fields& fields) {
  ChoiceField field;
  const Value choices = fields.required("choices");
  for (const Value& choice : choices.items(256)) {
    field.choices.push_back(choice.text(kWords));
  }
  choices.require(!field.choices.empty(), "one or more");
  field.by_default = text_or_null(fields, "default", kWords);
  return field;
}

ArrayField read_array(const Fields& fields) {
  ArrayField field;
  field.dtype = fields.required("dtype").one_of({"|u1", "<f4"});
  const Value shape = fields.required("shape");
  std::int64_t left = kArrayBytes / (field.dtype == "|u1" ? 1 : 4);
  for (const Value& side : shape.items(8)) {
    field.shape.push_back(side.integer(1, kI32Max));
    shape.require(field.shape.back() <= left, std::to_string(kArrayBytes) + " bytes at most");
    left /= field.shape.back();
  }
  shape.require(!field.shape.empty(), "1 to 8 sizes");
  field.values = integer_or(fields, "values", 0, 0, 256);
  return field;
}

Field read_field(const Fields& fields) {
  Field field;
  const std::string kind = fields.required("kind").one_of({"number", "text", "choice", "array"});
  field.name = read_name(fields.required("name"));
  field.required = fields.get_or("required", false, &Value::boolean);
  const auto doc = fields.find("doc");
  field.doc = doc ? doc->text(kWords) : "";
  if (kind == "number") {
    field.kind = read_number(fields);
  } else if (kind == "text") {
    field.kind = read_text(fields);
  } else if (kind == "choice") {
    field.kind = read_choice(fields);
  } else {
    field.kind = read_array(fields);
  }
  return field;
}

std::size_t arrays_among(const std::vector<Field>& fields) {
  return static_cast<std::size_t>(
      std::count_if(fields.begin(), fields.end(), [](const Field& field) {
        return std::holds_alternative<ArrayField>(field.kind);
      }));
}

std::vector<Field> read_fields(const Fields& spec, std::string_view name) {
  std::vector<Field> read;
  if (const auto found = spec.find(name)) {
    std::set<std::string> names;
    for (const Value& item : found->items(kMostFields)) {
      read.push_back(read_field(item.fields()));
      item.require(names.insert(read.back().name).second, "each name once");
    }
  }
  return read;
}

// A frame that no reply could bring, or none at all: nothing may be computed with that.
void read_frames(const Fields& fields, StreamSpec& spec) {
  const Value shape = fields.required("frame_shape");
  const auto sides = shape.items(3);
  shape.require(sides.size() == 3, "height, width, channels");
  spec.frames_per_step = integer_or(fields, "frames_per_step", 1, 1, kMostFrames);
  std::int64_t left = kReplyBytes / spec.frames_per_step;
  for (std::size_t i = 0; i < sides.size(); ++i) {
    const std::int64_t side = sides[i].count();
    shape.require(side >= 1 && side <= left, "1.." + std::to_string(kReplyBytes) + " bytes a step");
    left /= side;
    spec.frame_shape[i] = side;
  }
  shape.require(spec.frame_shape[2] == 3, "3 channels");
  const Value prompt = fields.required("prompt_frames");
  const auto bounds = prompt.items(2);
  prompt.require(bounds.size() == 2, "least, then most");
  spec.prompt_frames = {bounds[0].integer(0, kMostFrames), bounds[1].integer(0, kMostFrames)};
  prompt.require(spec.prompt_frames[0] <= spec.prompt_frames[1], "least, then most");
}

double within(const Value& value, double low, double high) {
  const double number = value.finite();
  value.require(low <= number && number <= high,
                std::to_string(low) + ".." + std::to_string(high));
  return number;
}

std::optional<double> decibels(const Fields& fields, std::string_view name) {
  const auto found = fields.nullable(name);
  return found ? std::optional(within(*found, 0.0, kMostPsnrDb)) : std::nullopt;
}

}  // namespace

StreamSpec read_spec(const Fields& fields) {
  StreamSpec spec;
  spec.model_id = fields.required("model_id").text(kWords);
  spec.weights_sha256 = fields.required("weights_sha256").text(128);
  spec.fps_num = fields.required("fps_num").integer(1, kI32Max);
  spec.fps_den = integer_or(fields, "fps_den", 1, 1, kI32Max);
  read_frames(fields, spec);
  if (const auto lookaheads = fields.find("lookaheads")) {
    spec.lookaheads.clear();
    for (const Value& lookahead : lookaheads->items(kMostLookahead + 1)) {
      spec.lookaheads.push_back(lookahead.integer(0, kMostLookahead));
    }
    lookaheads->require(!spec.lookaheads.empty(), "one or more");
  }
  spec.session_inputs = read_fields(fields, "session_inputs");
  spec.step_inputs = read_fields(fields, "step_inputs");
  spec.options = read_fields(fields, "options");
  if (arrays_among(spec.options) > 0) {
    fields.required("options").require(false, "numbers, texts and choices");
  }
  if (arrays_among(spec.session_inputs) + arrays_among(spec.step_inputs) > kMostFields) {
    fields.required("step_inputs").require(false, "14 arrays of session and step together");
  }
  if (const auto found = fields.nullable("camera")) {
    const Fields camera = found->fields();
    spec.camera = Camera{within(camera.required("field_of_view_deg"), 1.0, 179.0),
                         within(camera.required("up_m"), 0.0, 100.0),
                         within(camera.required("pitch_down_deg"), -90.0, 90.0)};
  }
  spec.prompt_psnr_min_db = decibels(fields, "prompt_psnr_min_db");
  spec.prompt_psnr_own_db = decibels(fields, "prompt_psnr_own_db");
  return spec;
}

}  // namespace sim_stream::wire
