// What a caller gives, checked and as a message's fields and arrays. The server would refuse the same,
// in the same words but a round trip later. All throw InvalidInput naming the field.

#pragma once

#include <vector>

#include "messages.hpp"
#include "sim_stream/client.hpp"

namespace sim_stream {

struct PackedStart {
  wire::Start fields;
  wire::OutgoingArrays arrays;
};

struct PackedStep {
  wire::Scalars inputs;
  wire::OutgoingArrays arrays;
};

PackedStart pack_start(const std::vector<Image>& frames, const StartOptions& options,
                       const StreamSpec& spec);
PackedStep pack_step(const Inputs& inputs, const StreamSpec& spec);

void check_lookahead(const std::optional<int>& lookahead, const StreamSpec& spec);

}  // namespace sim_stream
