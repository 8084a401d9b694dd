// Values in a message, as Python's clients and the server write them. Whatever the locale.

#pragma once

#include <string>
#include <string_view>

#include "sim_stream/inputs.hpp"

namespace sim_stream {

// As short as reads back: 8.0, 0.1, 1e+16.
std::string exactly(double number);
// Six digits at most: 8, 0.1, 2.14748e+09.
std::string roughly(double number);
std::string quoted(std::string_view text);
std::string listed(const std::vector<std::int64_t>& shape);

// An array by type, shape and range, anything else with its type.
std::string describe(const Input& input);

}  // namespace sim_stream
