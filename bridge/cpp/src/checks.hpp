// What a client checks before it sends: the server would refuse it, too, but a round trip later.
// All throw InvalidInput naming the field. Knows no sockets.

#pragma once

#include <optional>
#include <vector>

#include "connection.hpp"
#include "sim_stream/types.hpp"

namespace sim_stream {

// Context frames as the one array of an open or a reset.
OutgoingArray frames_array(const std::vector<Image>& frames, const ServerInfo& info);

void check_start(const StartOptions& options, std::size_t frames, const ServerInfo& info);
void check_action(const std::optional<Action>& action, const ServerInfo& info);

// The frame in a reply. Throws ProtocolError when its image is none.
Frame make_frame(Received&& received, const FrameInfo& info, std::int64_t committed_step,
                 Clock::time_point sent);

}  // namespace sim_stream
