// The frames of a reply, held to what the server said of its model. Knows no sockets.

#pragma once

#include <vector>

#include "connection.hpp"
#include "sim_stream/types.hpp"

namespace sim_stream {

// Throws ProtocolError unless the reply's images are |u1 [N, H, W, 3] of the model's size, one for
// each of `infos`.
Chunk make_chunk(Received&& received, const std::vector<FrameInfo>& infos,
                 std::int64_t committed_step, Clock::time_point sent, const StreamSpec& spec);

// Throws ProtocolError where frames are missing that were `asked` for.
void require_frames(const std::vector<FrameInfo>& infos, bool asked);

}  // namespace sim_stream
