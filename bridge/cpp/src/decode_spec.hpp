// The spec of a hello_ok, held to all that a spec must be.

#pragma once

#include "fields.hpp"
#include "sim_stream/spec.hpp"

namespace sim_stream::wire {

// Throws ProtocolError.
StreamSpec read_spec(const Fields& fields);

}  // namespace sim_stream::wire
