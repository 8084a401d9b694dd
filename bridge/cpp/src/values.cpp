#include "values.hpp"

#include <algorithm>
#include <cmath>

#include "codec.hpp"
#include "sim_stream/errors.hpp"
#include "words.hpp"

namespace sim_stream {
namespace {

// What a field takes, in words.
struct Allowed {
  std::string operator()(const NumberField& field) const {
    const std::string kind = field.integer ? "an integer" : "a finite number";
    const std::string low = roughly(field.low);
    const std::string high = roughly(field.high) + (field.unit.empty() ? "" : " " + field.unit);
    if (field.clamped) {
      return kind + "; " + low + ".." + high + ", clamped beyond";
    }
    return kind + ", " + (field.open_low ? "above " + low + ", at most " : low + "..") + high;
  }
  std::string operator()(const TextField& field) const {
    return "a text of at most " + std::to_string(field.max_chars) + " characters";
  }
  std::string operator()(const ChoiceField& field) const {
    std::string words;
    for (const std::string& choice : field.choices) {
      words += (words.empty() ? "" : " or ") + quoted(choice);
    }
    return words;
  }
  std::string operator()(const ArrayField& field) const {
    const std::string type = field.dtype == "|u1" ? "uint8 " : "float32 ";
    const bool all = field.values == 0;
    return type + listed(field.shape) + (all ? "" : ", values below " + std::to_string(field.values));
  }
};

// Whether a field takes a value; one of another kind it does not.
struct Takes {
  bool operator()(const NumberField& field, double number) const {
    if (!std::isfinite(number) || (field.integer && number != std::floor(number))) {
      return false;
    }
    const bool low = field.open_low ? number > field.low : number >= field.low;
    return field.clamped || (low && number <= field.high);
  }
  bool operator()(const TextField& field, const std::string& text) const {
    return wire::characters(text) <= static_cast<std::size_t>(field.max_chars);
  }
  bool operator()(const ChoiceField& field, const std::string& text) const {
    return std::find(field.choices.begin(), field.choices.end(), text) != field.choices.end();
  }
  bool operator()(const ArrayField& field, const ArrayView& array) const {
    if (array.shape() != field.shape || array.dtype() != field.dtype) {
      return false;
    }
    if (const auto* floats = std::get_if<const float*>(&array.data())) {
      return std::all_of(*floats, *floats + array.size(),
                         [](float number) { return std::isfinite(number); });
    }
    const auto* bytes = std::get<const std::uint8_t*>(array.data());
    return field.values == 0 || *std::max_element(bytes, bytes + array.size()) < field.values;
  }
  template <typename F, typename V>
  bool operator()(const F& /*field*/, const V& /*value*/) const {
    return false;
  }
};

}  // namespace

void refuse(const std::string& field, const std::string& got, const std::string& allowed) {
  throw InvalidInput(field + ": got " + got + "; allowed: " + allowed);
}

void check_values(const std::string& where, const std::vector<Field>& fields, const Inputs& given) {
  for (const auto& [name, input] : given) {
    std::string known;
    bool found = false;
    for (const Field& field : fields) {
      found = found || field.name == name;
      known += (known.empty() ? "" : ", ") + field.name;
    }
    if (!found) {
      refuse(where + "." + name, describe(input),
             known.empty() ? "nothing: this model takes none" : known);
    }
  }
  for (const Field& field : fields) {
    const auto found = given.find(field.name);
    const bool missing = found == given.end();
    if (missing ? !field.required : std::visit(Takes{}, field.kind, found->second.get())) {
      continue;
    }
    refuse(where + "." + field.name, missing ? "nothing" : describe(found->second),
           std::visit(Allowed{}, field.kind));
  }
}

}  // namespace sim_stream
