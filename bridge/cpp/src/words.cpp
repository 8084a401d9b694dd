#include "words.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace sim_stream {
namespace {

constexpr std::size_t kShown = 200;  // characters of a value

template <typename... How>
std::string written(double number, How... how) {
  std::array<char, 64> room{};
  const auto done = std::to_chars(room.data(), room.data() + room.size(), number, how...);
  return {room.data(), done.ptr};
}

// Its first code points.
std::string start_of(const std::string& text, std::size_t characters) {
  std::size_t end = 0;
  while (end < text.size()) {
    const bool begins = (static_cast<unsigned char>(text[end]) & 0xc0) != 0x80;
    if (begins && characters-- == 0) {
      break;
    }
    ++end;
  }
  return text.substr(0, end);
}

struct Describe {
  std::string operator()(double number) const { return exactly(number) + " (float)"; }
  std::string operator()(const std::string& text) const {
    return start_of(quoted(text), kShown) + " (str)";
  }
  std::string operator()(const ArrayView& array) const {
    const std::string shape = listed(array.shape());
    const std::size_t size = array.size();
    if (const auto* floats = std::get_if<const float*>(&array.data())) {
      const bool finite = std::all_of(*floats, *floats + size,
                                      [](float number) { return std::isfinite(number); });
      return "float32 " + shape + (finite ? "" : ", not all finite");
    }
    const auto* bytes = std::get<const std::uint8_t*>(array.data());
    return "uint8 " + shape +
           (size == 0 ? ""
                      : ", values up to " + std::to_string(*std::max_element(bytes, bytes + size)));
  }
};

}  // namespace

std::string exactly(double number) {
  if (!std::isfinite(number)) {
    return std::isnan(number) ? "nan" : number > 0 ? "inf" : "-inf";
  }
  const std::string scientific = written(number, std::chars_format::scientific);
  const int exponent = std::stoi(scientific.substr(scientific.find('e') + 1));
  if (exponent < -4 || exponent >= 16) {
    return scientific;
  }
  const std::string fixed = written(number, std::chars_format::fixed);
  return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
}

std::string roughly(double number) { return written(number, std::chars_format::general, 6); }

std::string quoted(std::string_view text) {
  const bool single = text.find('\'') != std::string_view::npos;
  const char quote = single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string words(1, quote);
  for (const char byte : text) {
    const auto code = static_cast<unsigned char>(byte);
    if (byte == quote || byte == '\\') {
      words += {'\\', byte};
    } else if (byte == '\n' || byte == '\r' || byte == '\t') {
      words += {'\\', byte == '\n' ? 'n' : byte == '\r' ? 'r' : 't'};
    } else if (code < 0x20 || code == 0x7f) {
      constexpr std::string_view kDigits = "0123456789abcdef";
      words += {'\\', 'x', kDigits[code / 16], kDigits[code % 16]};
    } else {
      words += byte;
    }
  }
  return words + quote;
}

std::string listed(const std::vector<std::int64_t>& shape) {
  std::string words = "[";
  for (const std::int64_t side : shape) {
    words += (words.size() > 1 ? ", " : "") + std::to_string(side);
  }
  return words + "]";
}

std::string describe(const Input& input) { return std::visit(Describe{}, input.get()); }

}  // namespace sim_stream
