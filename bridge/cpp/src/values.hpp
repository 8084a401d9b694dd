// The one check of inputs and options: by the model's spec, in the same words as the server.

#pragma once

#include <string>
#include <vector>

#include "sim_stream/inputs.hpp"
#include "sim_stream/spec.hpp"

namespace sim_stream {

// Unknown, missing, of another kind, shape or range: InvalidInput that names `where`.NAME.
void check_values(const std::string& where, const std::vector<Field>& fields, const Inputs& given);

// Throws InvalidInput.
[[noreturn]] void refuse(const std::string& field, const std::string& got,
                         const std::string& allowed);

}  // namespace sim_stream
