// What a session, a step or a prompt frame is given, by name: numbers, texts and arrays. Which there
// are is the model's to say (spec.hpp).

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace sim_stream {

// An array of somebody else's, C-contiguous; he keeps it until the call that it is given to returns.
class ArrayView {
 public:
  ArrayView(const std::uint8_t* data, std::vector<std::int64_t> shape)
      : data_(data), shape_(std::move(shape)) {}
  ArrayView(const float* data, std::vector<std::int64_t> shape)
      : data_(data), shape_(std::move(shape)) {}

  [[nodiscard]] const std::vector<std::int64_t>& shape() const { return shape_; }
  // Of elements.
  [[nodiscard]] std::size_t size() const {
    std::size_t elements = 1;
    for (const std::int64_t side : shape_) {
      elements *= static_cast<std::size_t>(std::max<std::int64_t>(side, 0));
    }
    return elements;
  }
  using Data = std::variant<const std::uint8_t*, const float*>;
  [[nodiscard]] const Data& data() const { return data_; }
  // As the protocol writes the elements' type.
  [[nodiscard]] const char* dtype() const {
    return std::holds_alternative<const float*>(data_) ? "<f4" : "|u1";
  }

 private:
  Data data_;
  std::vector<std::int64_t> shape_;
};

class Input {
 public:
  Input() = default;
  template <typename T, std::enable_if_t<
                            std::is_arithmetic_v<T> && !std::is_same_v<T, bool>, int> = 0>
  Input(T number) : value_(static_cast<double>(number)) {}
  Input(const char* text) : value_(std::string(text)) {}
  Input(std::string text) : value_(std::move(text)) {}
  Input(ArrayView array) : value_(std::move(array)) {}

  using Variant = std::variant<double, std::string, ArrayView>;
  [[nodiscard]] const Variant& get() const { return value_; }

 private:
  Variant value_;
};

// {{"speed_mps", 8.0}, {"weather", "rain"}, {"semantic", ArrayView(ids.data(), {24, 32})}}
using Inputs = std::map<std::string, Input>;

// The two inputs that a model of driving often has: the ego motion that leads to a frame; yaw rate
// positive to the left.
struct Action {
  double speed_mps = 0.0;
  double yaw_rate_radps = 0.0;

  operator Inputs() const {
    return {{"speed_mps", speed_mps}, {"yaw_rate_radps", yaw_rate_radps}};
  }
};

}  // namespace sim_stream
